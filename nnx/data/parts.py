"""Parts of rows that stand one after the other, as even as can be.

Part p of P has the rows from p / P on up to (p + 1) / P of them, rounded down. So a part of 2 is, row for row, 6 parts
of 12, and what is dealt out to 12 is dealt out to each number of processes that divides them.
"""

from __future__ import annotations

PARTS = 12  # of a batch where they must not depend on the processes: 1, 2, 3, 4, 6 and 12 processes divide it


def span(rows: int, part: int, parts: int) -> tuple[int, int]:
    """Return the first row of a part of so many rows, and the one behind its last."""
    return rows * part // parts, rows * (part + 1) // parts
