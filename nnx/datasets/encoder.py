"""Encoders: what becomes of one column of a table, learned from the rows that are trained on, applied to any.

What is learned here is little and plain: a median for blanks, the names of a category. (scikit-learn's transformers do
the same, but must be there to predict, and take more code to be written as JSON than this has.) Numbers stay float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.checks import choice
from nnx.errors import FileFormatError

from .columns import Column, Rows, is_missing, like, short
from .kinds import (
    CATEGORY,
    DATE,
    DROPPED,
    FLAG,
    NUMBER,
    TEXT,
    USED,
    Understood,
    dates_in,
    flags_in,
)  # fmt: skip
from .written import SHARE, numbers_in

MOST_LEVELS = 64  # names of a category that get a column each
RARE = 5  # rows of a name that tell something about it; fewer in small tables
OTHER = "(other)"
YEAR, WEEK = 365.2425, 7.0
CYCLES = {"year": YEAR, "week": WEEK, "day": 1.0}  # of a date, in days
KINDS = (*USED, "constant", "id", TEXT, "empty", DROPPED)


@dataclass(frozen=True)
class Encoder:
    """What becomes of a column.

    Attributes:
        name: of the column. kind: see kinds.py; one that is not used has no features, but for that a cell is blank.
        fill: what stands for a blank: the median. blank: whether a feature says that a cell was blank.
        levels: a category's names that get a feature each. other: whether all others together get one.
        decimal: the decimal mark. unit: of numbers; None, in files of earlier versions, is any. format: of a date.
        cycles: of a date, which say where in the year, week or day it is.
        binary: whether a number was 0 or 1 in all rows, so that True and False mean the same.
        why: in words, why it is left out.
    """

    name: str
    kind: str
    fill: float = 0.0
    blank: bool = False
    levels: tuple[str, ...] = ()
    other: bool = False
    decimal: str = "."
    format: str = ""
    cycles: tuple[str, ...] = ()
    why: str = ""
    unit: str | None = None
    binary: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """The names of what it becomes."""
        own: tuple[str, ...] = ()
        if self.kind in (NUMBER, FLAG, DATE):
            turns = (f"{self.name}, {turn} of the {cycle}" for cycle in self.cycles for turn in ("sine", "cosine"))
            own = (self.name, *turns)
        elif self.kind == CATEGORY:
            own = tuple(f"{self.name}={level}" for level in (*self.levels, *((OTHER,) if self.other else ())))
        return (*own, f"{self.name} is missing") if self.blank else own

    @property
    def measured(self) -> tuple[bool, ...]:
        """Which features are amounts, to be centred and scaled; the others are 0 or 1."""
        return tuple(self.kind in (NUMBER, DATE) and i == 0 for i in range(len(self.features)))

    def encode(self, column: Column, decimal: str = "") -> NDArray[np.float64]:
        """Return [N, features], all finite. See `values` for the arguments."""
        if self.kind == CATEGORY:
            parts = [_one_hot(column, self.levels, self.other)]
        elif self.kind in (NUMBER, FLAG, DATE):
            values = self.values(column, decimal)
            filled = np.where(np.isnan(values), self.fill, values)
            angles = [2 * np.pi * filled / CYCLES[cycle] for cycle in self.cycles]
            parts = [filled[:, None], *(np.column_stack([np.sin(a), np.cos(a)]) for a in angles)]
        else:
            values, parts = np.zeros(0), []
        if self.blank:
            blank = np.isnan(values) if self.kind in (NUMBER, FLAG, DATE) else column.missing
            parts.append(blank[:, None].astype(np.float64))
        return np.hstack(parts) if parts else np.empty((len(column), 0))

    def values(self, column: Column, decimal: str = "") -> NDArray[np.float64]:
        """Return a column as numbers [N], nan where one is missing or cannot be read.

        Args:
            column: the column. decimal: the decimal mark of the file that it is in; "" is that of the training file.
        """
        if self.kind == NUMBER:
            numbers = numbers_in(column, decimal or self.decimal, self.unit).values
            return np.where(np.isnan(numbers), flags_in(column), numbers) if self.binary else numbers
        return flags_in(column) if self.kind == FLAG else dates_in(column, self.format)[0]

    def check(self, column: Column, rows: Rows, at: int) -> list[str]:
        """Refuse a column that is of another kind than in training; return what is to be said of a few cells.

        Args:
            column: the column. rows, at: the table it is in, and where, for messages.
        """
        filled = ~column.missing
        if self.kind not in USED:
            return []
        blank = int(len(column) - filled.sum())
        notes = [f"{self.name!r} is missing in {blank:,} of {len(column):,} rows, in training in none"]
        notes = notes if blank > (1 - SHARE) * len(column) and not self.blank else []
        if self.kind == CATEGORY:
            return [*notes, *self._new_names(column, rows, at)]
        odd = np.flatnonzero(filled & np.isnan(self.values(column, rows.decimal)))
        if not len(odd):
            return notes
        cell, place = column.text[odd[0]], rows.place(int(odd[0]), at)
        if len(odd) > (1 - SHARE) * filled.sum():
            unit = f" in {self.unit}" if self.unit else ""
            what = {NUMBER: f"a number{unit}", FLAG: "true or false", DATE: f"a date ({self.format})"}[self.kind]
            raise FileFormatError(f"{place}: {short(cell)} is not {what}, expected one as in training")
        return [*notes, f"{place}: {short(cell)} is taken for missing{like(odd)}"]

    def _new_names(self, column: Column, rows: Rows, at: int) -> list[str]:
        new = [i for i, value in enumerate(column.values) if value not in self.levels and not is_missing(value)]
        if not new:
            return []
        first, count = column.values[new[0]], int(column.counts[new].sum())
        every = count == int((~column.missing).sum())
        if every and _are_numbers(column) and not _are_numbers(Column("", self.levels)):
            place = rows.place(int(np.argmax(column.codes == new[0])), at)
            raise FileFormatError(
                f"{place}: {short(first)} is a number, expected a name as in training, such as {short(self.levels[0])}"
            )
        more = f" (and {len(new) - 1} more)" if len(new) > 1 else ""
        where = f"in {count:,} of {len(column):,} rows"
        return [f"{self.name!r} is {short(first)}{more} {where}, not or hardly seen in training"]


def _are_numbers(column: Column) -> bool:
    return len(column) > 0 and not np.isnan(numbers_in(column).values[~column.missing]).any()


def _one_hot(column: Column, levels: Sequence[str], other: bool) -> NDArray[np.float64]:
    index = {level: i for i, level in enumerate(levels)}
    rest, none = len(levels), len(levels) + 1  # the place of all others, and of what has none
    places = [none if is_missing(v) else index.get(v, rest) for v in column.values]
    return np.eye(len(levels) + 2)[np.array(places, dtype=np.int64)][column.codes][:, : len(levels) + other]


def learn(found: Understood, rows: NDArray[np.bool_] | None = None) -> Encoder:
    """Learn from some rows what is to become of a column; from all of them where none are given."""
    column = found.column
    rows = np.ones(len(column), dtype=bool) if rows is None else rows
    blank = column.missing if found.numbers is None else np.isnan(found.numbers)
    tells = bool(blank[rows].any() and not blank[rows].all())
    if found.kind == CATEGORY:
        counts = np.bincount(column.codes[rows], minlength=len(column.values))
        least = max(1, min(RARE, int(rows.sum()) // 50))
        named = [(-int(n), v) for v, n in zip(column.values, counts, strict=True) if n and not is_missing(v)]
        levels = tuple(sorted(v for n, v in sorted(named)[:MOST_LEVELS] if -n >= least))
        return Encoder(column.name, CATEGORY, blank=tells, levels=levels, other=len(levels) < len(named))
    if found.kind not in USED:
        return Encoder(column.name, found.kind, blank=tells and found.kind == TEXT, why=found.why)
    assert found.numbers is not None
    seen = found.numbers[rows & ~blank]
    fill = float(np.median(seen)) if len(seen) else 0.0
    cycles = _cycles(seen) if found.kind == DATE else ()
    binary = found.kind == NUMBER and set(seen.tolist()) == {0.0, 1.0}
    return Encoder(
        column.name, found.kind, fill, tells, decimal=found.decimal, format=found.format, cycles=cycles,
        unit=found.unit if found.kind == NUMBER else None, binary=binary,
    )  # fmt: skip


def _cycles(days: NDArray[np.float64]) -> tuple[str, ...]:
    """Return the cycles of which some dates see two or more, and not all at the same moment."""
    span = float(np.ptp(days)) if len(days) else 0.0
    return tuple(name for name, length in CYCLES.items() if span > 2 * length and np.ptp(days % length) > length / 100)


def read_encoder(given: Any) -> Encoder:
    """Return the encoder that JSON describes; see `Preparation.read`."""
    encoder = Encoder(**given)
    for name in ("name", "decimal", "format", "why", "unit"):
        if not isinstance(getattr(encoder, name), str) and (name, encoder.unit) != ("unit", None):
            raise TypeError(f"{name} is no text")
    choice(encoder.kind, "kind", KINDS)
    choice(encoder.decimal, "decimal", (".", ","))
    fill = float(encoder.fill)
    if not np.isfinite(fill):
        raise ValueError("what is filled in must be finite")
    for cycle in encoder.cycles:
        choice(cycle, "cycle", CYCLES)
    return Encoder(
        encoder.name, encoder.kind, fill, bool(encoder.blank), tuple(map(str, encoder.levels)), bool(encoder.other),
        encoder.decimal, encoder.format, tuple(encoder.cycles), encoder.why, encoder.unit, bool(encoder.binary),
    )  # fmt: skip
