"""Encoders: how one column of a table becomes features; learned from the rows that are trained on, applied to any rows.

Little is learned: a median for blanks, the names of a category. (scikit-learn's transformers do the same, but would
have to be installed for predicting, and writing them as JSON would take more code than this file has.) Numbers stay
float64.
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

MOST_LEVELS = 64  # the most names of a category that get a feature each
RARE = 5  # a name gets a feature only if it has so many rows; fewer in small tables
OTHER = "(other)"
YEAR, WEEK = 365.2425, 7.0
CYCLES = {"year": YEAR, "week": WEEK, "day": 1.0}  # the periods of a date's cyclic features, in days
KINDS = (*USED, "constant", "id", TEXT, "empty", DROPPED)


@dataclass(frozen=True)
class Encoder:
    """How a column becomes features.

    Attributes:
        name: of the column. kind: see kinds.py; a column that is not used has at most the feature for blanks.
        fill: the value in the place of blanks: the median. blank: whether a feature says that a cell was blank.
        levels: the names of a category that get a feature each. other: whether all other names get one together.
        decimal: the decimal mark. unit: of numbers; None, in files of earlier versions, means any. format: of a date.
        cycles: the cyclic features of a date: its place in the year, the week or the day.
        binary: whether all numbers were 0 or 1, so that True and False are accepted too.
        why: in words, why the column is left out.
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
        """The names of its features."""
        own: tuple[str, ...] = ()
        if self.kind in (NUMBER, FLAG, DATE):
            turns = (f"{self.name}, {turn} of the {cycle}" for cycle in self.cycles for turn in ("sine", "cosine"))
            own = (self.name, *turns)
        elif self.kind == CATEGORY:
            own = tuple(f"{self.name}={level}" for level in (*self.levels, *((OTHER,) if self.other else ())))
        return (*own, f"{self.name} is missing") if self.blank else own

    @property
    def measured(self) -> tuple[bool, ...]:
        """For each feature, whether it is an amount, to be centred and scaled, and not just 0 or 1."""
        return tuple(self.kind in (NUMBER, DATE) and i == 0 for i in range(len(self.features)))

    def encode(self, column: Column, decimal: str = "") -> NDArray[np.float64]:
        """Return a column's features [N, F], all finite. See `values` for the arguments."""
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
            column: the column. decimal: the decimal mark of its file; "": that of the training file.
        """
        if self.kind == NUMBER:
            numbers = numbers_in(column, decimal or self.decimal, self.unit).values
            return np.where(np.isnan(numbers), flags_in(column), numbers) if self.binary else numbers
        return flags_in(column) if self.kind == FLAG else dates_in(column, self.format)[0]

    def check(self, column: Column, rows: Rows, at: int) -> list[str]:
        """Refuse a column of another kind than in training; return notes about single cells.

        Args:
            column: the column. rows, at: its table, and its index there, for messages.
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
    rest, none = len(levels), len(levels) + 1  # the indices of all other names, and of cells without a feature
    places = [none if is_missing(v) else index.get(v, rest) for v in column.values]
    return np.eye(len(levels) + 2)[np.array(places, dtype=np.int64)][column.codes][:, : len(levels) + other]


def learn(found: Understood, rows: NDArray[np.bool_] | None = None) -> Encoder:
    """Return the encoder of a column, learned from the rows given as a mask, or from all rows."""
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
    """Return the cycles of which the dates cover at least two, unless all dates are at the same point of the cycle."""
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
