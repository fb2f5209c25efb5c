"""A table as it was read, before it is interpreted: columns of text, or of numbers if the source has types.

Every source is converted to this form: CSV is text anyway; of Excel, Parquet, JSON and frames, everything but numbers
becomes text. So one set of rules decides what a column means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.errors import InputError

BLANKS = " \t\r\n\v\f\xa0\ufeff"
EXCEL_ERRORS = ("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A")
NOT_A_NUMBER = ("nan", "-nan", "+nan", "nan(ind)", "-nan(ind)", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan")  # C's
# Placeholders for missing values, in upper or lower case; \N is that of MySQL and PostgreSQL.
PLACEHOLDERS = frozenset(
    {"", "na", "n/a", "n.a.", "#na", "<na>", "nat", "null", "(null)", "none", "\\n", "?", "-", "--", "..", ".",
     *NOT_A_NUMBER, *(error.casefold() for error in EXCEL_ERRORS)}
)  # fmt: skip
CODE = re.compile("0[0-9]+|-?[0-9]{16,}")  # digits that may be a name: 007, or more digits than float64 holds exactly
CODES = re.compile(f"^(?:{CODE.pattern})$", re.MULTILINE)  # the same in cells joined by line ends
LONGEST_PLACEHOLDER = max(map(len, PLACEHOLDERS))
LONGEST = 40  # characters of a cell that are shown
EXACT = 2.0**53  # float64 holds integers up to this exactly


class Column:
    """A column of a table.

    Args:
        name: its name. text: [N] cells without blanks around them. numbers: [N] float64, nan where one is missing.
            One of the two is given. nameless: whether the file names its columns, but not this one.
    """

    def __init__(
        self,
        name: str,
        text: Sequence[str] | None = None,
        numbers: NDArray[np.float64] | None = None,
        nameless: bool = False,
    ) -> None:
        self.name, self.numbers, self.nameless = name, numbers, nameless
        if text is not None:
            self.text = list(text)

    def __len__(self) -> int:
        return len(self.text) if self.numbers is None else len(self.numbers)

    @cached_property
    def text(self) -> list[str]:
        """The cells as text, integers without a decimal point."""
        return list(map(digits_of, [] if self.numbers is None else self.numbers.tolist()))

    @cached_property
    def _distinct(self) -> tuple[list[str], NDArray[np.int64]]:
        values = list(dict.fromkeys(self.text))
        index = {value: i for i, value in enumerate(values)}
        return values, np.fromiter(map(index.__getitem__, self.text), np.int64, len(self.text))

    @property
    def values(self) -> list[str]:
        """The distinct cells, in the order of their first occurrence."""
        return self._distinct[0]

    @property
    def codes(self) -> NDArray[np.int64]:
        """For each cell [N], its index in `values`."""
        return self._distinct[1]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How often each of `values` occurs."""
        return np.bincount(self.codes, minlength=len(self.values))

    @cached_property
    def plain(self) -> NDArray[np.float64] | None:
        """The cells as numbers, found quickly; None unless all are numbers as programs write them, and none a code."""
        if self.numbers is not None:
            return None
        try:
            numbers = np.array(list(map(float, self.text)), dtype=np.float64)
        except ValueError:
            return None
        cells = "\n".join(self.text)  # one search in all cells is faster than one in each
        # float() accepts 1_000, as in Python source; in a table that is not a number
        odd = np.isnan(numbers).any() or "_" in cells or CODES.search(cells)
        return None if odd else numbers

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """For each cell [N], whether it is blank or holds a placeholder."""
        if self.numbers is not None:
            return np.isnan(self.numbers)
        if self.plain is not None:
            return np.zeros(len(self), dtype=bool)
        return self.holes[self.codes]

    @cached_property
    def holes(self) -> NDArray[np.bool_]:
        """For each of `values`, whether it stands for a missing value."""
        return np.array([is_missing(value) for value in self.values], dtype=bool)

    @cached_property
    def parsed(self) -> dict[tuple[str, str | None], Any]:
        """A cache of `numbers_in`, by its arguments decimal mark and unit, since parsing takes the most time."""
        return {}


def digits_of(number: float) -> str:
    """Return a number as text, an integer without a decimal point; "" for nan."""
    if number != number:
        return ""
    return str(int(number)) if number == number // 1 and abs(number) < EXACT else repr(number)


def is_missing(cell: str) -> bool:
    """Return whether a cell stands for a missing value."""
    return len(cell) <= LONGEST_PLACEHOLDER and cell.casefold() in PLACEHOLDERS


@dataclass(frozen=True, eq=False)
class Rows:
    """A table as it was read.

    Attributes:
        source: the name of the file or other source, for messages. columns: all of the same length.
        named: whether the source has names for its columns; if not, they are "column 1", "column 2" ...
        at: returns in words the place of a row, such as "line 7". notes: what was decided while reading.
        decimal: the decimal mark used in the source, for columns that do not show theirs; "" if unknown.
    """

    source: str
    columns: tuple[Column, ...]
    named: bool
    at: Callable[[int], str]
    notes: tuple[str, ...] = ()
    decimal: str = ""

    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(column.name for column in self.columns))

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def place(self, row: int, column: int) -> str:
        """Return in words the place of a cell."""
        name = f" ({self.names[column]!r})" if self.named else ""
        return f"{self.source}, {self.at(row)}, column {column + 1}{name}"

    def noting(self, *notes: str) -> Rows:
        """Return the same table with additional notes."""
        return replace(self, notes=(*self.notes, *notes))

    def find(self, wanted: str | int, said: Callable[[str | int], str]) -> int:
        """Return the index of a column by its name, or else by its position: 1 is the first, -1 the last.

        Args:
            wanted: the name or position. said: turns it into text for messages, such as "label='y'".

        Raises:
            InputError: there is no such column.
        """
        if isinstance(wanted, str) and wanted in self.names:
            return self.names.index(wanted)
        position, count = _whole(wanted), len(self.columns)
        if not isinstance(wanted, str) and self.named and str(wanted) in self.names:
            raise InputError(
                f"{said(wanted)}: {self.source} has a column of that name, so this may be a name or a position; "
                f"say {said(str(wanted))} for the name, or name another column by its name"
            )
        if position is not None and 1 <= abs(position) <= count:
            return position - 1 if position > 0 else count + position
        if position is not None:
            raise InputError(f"{said(wanted)}: {self.source} has {count} columns, counted from 1; -1 is the last one")
        lower = {name.casefold(): name for name in reversed(self.names)}
        near = [lower[key] for key in get_close_matches(str(wanted).casefold(), lower, 1)] if self.named else []
        there = f"the columns are {few(self.names)}" if self.named else (
            f"the file has no header; name one of its {count} columns by its position, 1 to {count}"
        )  # fmt: skip
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{said(wanted)}: there is no such column in {self.source}; {there}{hint}")


def _whole(wanted: str | int) -> int | None:
    try:
        return int(wanted)
    except ValueError:
        return None


def like(rows: Sized) -> str:
    """Return words for how many more rows there are besides the first."""
    return f", like {len(rows) - 1} more" if len(rows) > 1 else ""


def not_finite(x: NDArray[np.float64]) -> tuple[int, int] | None:
    """Return row and column of the first number that is not finite; None if all are."""
    finite = np.isfinite(x)
    return None if finite.all() else divmod(int(np.argmin(finite)), x.shape[1])


def numbered(count: int) -> tuple[str, ...]:
    """Return names for `count` columns that have none."""
    return tuple(f"column {i + 1}" for i in range(count))


def short(cell: str) -> str:
    """Return a cell for a message, shortened if it is long."""
    return repr(cell) if len(cell) <= LONGEST else f"{cell[:LONGEST]!r}..."


def few(names: Sequence[str]) -> str:
    """Return at most ten names as text."""
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
