"""Header detection: whether a first line holds names, judged by its own cells and by the cells below them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .columns import Column, is_missing
from .written import SHARE, is_number, numbers_in

LABEL_NAMES = ("label", "class", "target", "y")  # in order of preference, in upper or lower case
LOOKS = 1000  # cells that are looked at to decide whether a column holds numbers
MANY = 5  # integers in order are names of columns if there are so many


def is_header(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Return whether a first line holds names.

    Args:
        first: its cells. below: the columns without it.
    """
    if again := equal_rows(first, below):  # from files that were joined, or a sample that occurs twice
        gone = set(again)
        below = [[cell for row, cell in enumerate(column) if row not in gone] for column in below]
    pairs = list(zip(first, below, strict=True))
    if any(cell.lower() in LABEL_NAMES and cell not in column for cell, column in pairs):
        return True
    if counts_columns(first):
        if first[-1] == str(len(first) - 1 - (not first[0])) and (len(first) > MANY or not first[0]):
            return True
        fresh = all(cell not in column for cell, column in pairs)
        return fresh and not all(cell.isdecimal() for column in below for cell in column)
    words = [(cell, column) for cell, column in pairs if not (is_number(cell) or is_missing(cell) or _as(cell, column))]
    values = sum(cell in column for cell, column in words)  # a name is seldom also a value
    above_numbers = sum(_are_numbers(column) for _, column in words)
    if above_numbers or values:
        return above_numbers > values
    return bool(words) and (not any(map(is_number, first)) or _counts_up(first))


def equal_rows(first: Sequence[str], below: Sequence[Sequence[str]]) -> list[int]:
    """Return the numbers of the rows that are equal to the first line."""
    if not below:
        return []
    starts = (row for row, cell in enumerate(below[0]) if cell == first[0])
    return [row for row in starts if all(column[row] == cell for column, cell in zip(below, first, strict=True))]


def counts_columns(first: Sequence[str]) -> bool:
    """Return whether a line is 0, 1, 2 ..., as pandas writes for a frame without names, or 1, 2, 3 ..."""
    cells = list(first[1:] if not first[0] else first)
    return len(first) > 1 and any(cells == [str(i + start) for i in range(len(cells))] for start in (0, 1))


def _counts_up(first: Sequence[str]) -> bool:
    """Return whether the numbers of a line increase by 1, like years as names of columns."""
    numbers = [int(cell) for cell in first if cell.isdecimal() and len(cell) < 16]
    return len(numbers) > 2 and all(b - a == 1 for a, b in pairwise(numbers))


def _as(cell: str, column: Sequence[str]) -> bool:
    """Return whether a cell is a number in the unit of those below it, such as 12 kg above 13 kg."""
    return cell[:1] in "-+(0123456789" and not np.isnan(numbers_in(Column("", [*column[:LOOKS], cell])).values[-1])


def _are_numbers(column: Sequence[str]) -> bool:
    read = Column("", column[:LOOKS])
    numbers = int((~np.isnan(numbers_in(read).values)).sum())
    return numbers > 0 and numbers >= SHARE * int((~read.missing).sum())


def label_places(names: Sequence[str]) -> list[int]:
    """Return the indices of columns with names that labels usually have, in order of preference."""
    lower = [name.lower() for name in names]
    return [lower.index(name) for name in LABEL_NAMES if name in lower]
