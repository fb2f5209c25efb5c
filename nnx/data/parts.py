"""Division of consecutive rows into parts of nearly equal size.

Of N rows, part p of P begins at row N * p / P, rounded down. So one part of 2 consists of exactly the same rows as 6
parts of 12, and a division into 12 parts is also one for every number of processes that divides 12.
"""

from __future__ import annotations

PARTS = 12  # of a batch, if results must not depend on the number of processes: 1, 2, 3, 4, 6 or 12


def span(rows: int, part: int, parts: int) -> tuple[int, int]:
    """Return the first row of a part, and the row after its last one."""
    return rows * part // parts, rows * (part + 1) // parts
