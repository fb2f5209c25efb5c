"""Table assembly: which lines of a source are titles, names of columns, samples, or none of these."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from nnx.errors import FileFormatError

from .columns import Column, Rows, numbered
from .header import counts_columns, equal_rows, is_header

TOTALS = ("total", "totals", "grand total", "sum", "average", "mean")
ENOUGH = 3  # a last row can be one of totals only if there are so many other rows

Cells = Sequence[Sequence[str]]


def assemble(
    source: str,
    first: Sequence[str],
    below: Cells,
    at: Callable[[int], str],
    header: bool | None,
    *,
    known: Collection[str] = (),
    notes: Sequence[str] = (),
    decimal: str = "",
) -> Rows:
    """Return a table.

    Args:
        source: its name, for messages. first: the cells of the first line. below: the columns without the first line.
        at: returns in words the place of a row below, counted from 0; the first line is -1.
        header: whether the first line holds names; None decides by that line and by those below.
        known: the first line holds names if half of these are in it.
        notes, decimal: see `Rows`.

    Raises:
        FileFormatError: there are no samples, or two columns have the same name.
    """
    if titles := _titles(first, below) if header is not False else 0:
        notes = (*notes, f"{at(-1)}: {first[0]!r} stands above the table, and is left out")
        first, below = [column[titles - 1] for column in below], [column[titles:] for column in below]
        at = partial(_further, at, titles)
    looks = header is not False and is_header(first, below)
    given = header is not None
    if header is None:
        header = (bool(known) and 2 * len(set(known) & set(first)) >= len(set(known))) or looks
    cells = below if header else [[cell, *column] for cell, column in zip(first, below, strict=True)]
    start, count = (0 if header else -1), len(cells[0])
    skipped, said = _no_samples(first if looks else (), cells, lambda row: at(row + start))
    kept = [row for row in range(count) if row not in skipped] if skipped else range(count)
    if not kept:
        raise FileFormatError(f"{source}: the file has a header and no rows, expected a line for each sample")
    if header and not given and counts_columns(first):
        said.append(f"the first line, {','.join(first[:3])} ..., is taken for names; --no-header says otherwise")
    names = _names(f"{source}, {at(-1)}", first) if header else numbered(len(first))
    filled = [i for i, column in enumerate(cells) if (header and first[i]) or any(column)]
    if not header:  # a comma at the end of each line makes a last column of blanks
        filled = list(range(1 + max(filled, default=0)))
    columns = (
        Column(
            names[i],
            cells[i] if not skipped else [cells[i][row] for row in kept],
            nameless=bool(header) and not first[i],
        )
        for i in filled
    )
    return Rows(source, tuple(columns), bool(header), lambda row: at(kept[row] + start), (*notes, *said), decimal)


def _titles(first: Sequence[str], below: Cells) -> int:
    """Return how many lines are above the line of names: titles, which fill only the first cell, and blank lines."""
    if len(first) < 3 or not first[0] or any(first[1:]):
        return 0
    count = next((row for row, cells in enumerate(zip(*below, strict=True)) if any(cells[1:])), None)
    if count is None:
        return 0
    names = [column[count] for column in below]
    return count + 1 if all(names) and is_header(names, [column[count + 1 :] for column in below]) else 0


def _further(at: Callable[[int], str], lines: int, row: int) -> str:
    return at(row + lines)


def _no_samples(head: Sequence[str], cells: Cells, at: Callable[[int], str]) -> tuple[set[int], list[str]]:
    """Return the rows that are not samples (blank, a repeated header, totals at the end), and notes about them."""
    notes = []
    blank = [row for row, cell in enumerate(cells[0]) if not cell and not any(column[row] for column in cells)]
    again = equal_rows(head, cells) if head else []
    if blank:
        notes.append(f"{len(blank)} row{'s' * (len(blank) > 1)} without a filled cell left out")
    if again:
        notes.append(f"the header stands in the file {len(again) + 1} times; it counts once")
    skipped = {*blank, *again}
    last = next((row for row in reversed(range(len(cells[0]))) if row not in skipped), None)
    if last is not None and last - len(skipped) >= ENOUGH and (word := _totals(cells, last)):
        notes.append(f"{at(last)} is left out: {word!r} says that it sums up the others")
        skipped.add(last)
    return skipped, notes


def _totals(cells: Cells, row: int) -> str:
    """Return the word, such as "total", which shows that a row sums up the others; "" if there is none."""
    filled = [column for column in cells if column[row]]
    word = filled[0][row] if filled else ""
    alone = word.casefold().rstrip(":") in TOTALS and filled[0].count(word) == 1
    return word if alone and len(filled) > 1 else ""


def _names(place: str, first: Sequence[str]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    for column, name in enumerate(first):
        if name and (before := seen.setdefault(name, column)) != column:
            raise FileFormatError(
                f"{place}: columns {before + 1} and {column + 1} are both called {name!r} in the header, "
                "expected different names; rename one"
            )
    return tuple(name or f"column {i + 1}" for i, name in enumerate(first))
