"""From a table's columns to the numbers that a network takes, as learned from the rows it is trained on.

What is learned here is little and plain: a median for blanks, the names of a category. It is written as JSON, so that a
model's file holds all that it takes to predict. (scikit-learn's transformers do the same, but must be there to predict,
and take more code to be written as JSON than this has.) Numbers stay float64 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.checks import choice
from nnx.errors import FileFormatError, InputError

from .columns import Column, Rows, few, is_missing, short
from .kinds import (
    CATEGORY,
    DATE,
    DROPPED,
    FLAG,
    NUMBER,
    SHARE,
    TEXT,
    USED,
    Understood,
    dates_in,
    flags_in,
    numbers_in,
)  # fmt: skip

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
        decimal: the decimal mark. format: of a date. cycles: of a date, which say where in the year, week or day it is.
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

    def encode(self, column: Column) -> NDArray[np.float64]:
        """Return [N, features], all finite."""
        if self.kind == CATEGORY:
            parts = [_one_hot(column, self.levels, self.other)]
        elif self.kind in (NUMBER, FLAG, DATE):
            values = self.values(column)
            filled = np.where(np.isnan(values), self.fill, values)
            angles = [2 * np.pi * filled / CYCLES[cycle] for cycle in self.cycles]
            parts = [filled[:, None], *(np.column_stack([np.sin(a), np.cos(a)]) for a in angles)]
        else:
            values, parts = np.zeros(0), []
        if self.blank:
            blank = np.isnan(values) if self.kind in (NUMBER, FLAG, DATE) else column.missing
            parts.append(blank[:, None].astype(np.float64))
        return np.hstack(parts) if parts else np.empty((len(column), 0))

    def values(self, column: Column) -> NDArray[np.float64]:
        """Return a column as numbers [N], nan where one is missing or cannot be read."""
        if self.kind == NUMBER:
            return numbers_in(column, self.decimal)[0]
        return flags_in(column) if self.kind == FLAG else dates_in(column, self.format)[0]

    def check(self, column: Column, rows: Rows, at: int) -> list[str]:
        """Refuse a column that is of another kind than in training; return what is to be said of a few cells.

        Args:
            column: the column. rows, at: the table it is in, and where, for messages.
        """
        filled = ~column.missing
        if self.kind == CATEGORY:
            new = [value for value in column.values if value not in self.levels and not is_missing(value)]
            more = f" (and {len(new) - 1} more)" if len(new) > 1 else ""
            return [f"{self.name!r} is {short(new[0])}{more}, not or hardly seen in training"] if new else []
        if self.kind not in USED:
            return []
        odd = np.flatnonzero(filled & np.isnan(self.values(column)))
        if not len(odd):
            return []
        cell, place = column.text[odd[0]], rows.place(int(odd[0]), at)
        if len(odd) > (1 - SHARE) * filled.sum():
            what = {NUMBER: "a number", FLAG: "true or false", DATE: f"a date ({self.format})"}[self.kind]
            raise FileFormatError(f"{place}: {short(cell)} is not {what}, expected one as in training")
        return [
            f"{place}: {short(cell)} is taken for missing" + (f", like {len(odd) - 1} more" if len(odd) > 1 else "")
        ]


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
    return Encoder(
        column.name, found.kind, fill, tells, decimal=found.decimal, format=found.format, cycles=cycles
    )  # fmt: skip


def _cycles(days: NDArray[np.float64]) -> tuple[str, ...]:
    """Return the cycles of which some dates see two or more, and not all at the same moment."""
    span = float(np.ptp(days)) if len(days) else 0.0
    return tuple(name for name, length in CYCLES.items() if span > 2 * length and np.ptp(days % length) > length / 100)


# ---- all columns -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preparation:
    """What becomes of a table.

    Attributes:
        columns: of each column of the file, in order, but for the label. label: its name, or "". place: where it was.
        named: whether the columns had names; if not, they are taken by position.
        labels: what stood in the label's column, of classes in a file without names: it is told by them.
    """

    columns: tuple[Encoder, ...]
    label: str = ""
    place: int = 0
    named: bool = True
    labels: tuple[str, ...] = ()

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, in order."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def measured(self) -> tuple[bool, ...]:
        """Which features are amounts, to be centred and scaled."""
        return tuple(measured for column in self.columns for measured in column.measured)

    @property
    def used(self) -> tuple[Encoder, ...]:
        """The columns that become features."""
        return tuple(column for column in self.columns if column.features)

    def encode(self, columns: Sequence[Column]) -> NDArray[np.float64]:
        """Return features [N, F] of the columns that are used, in their order."""
        return np.hstack([encoder.encode(column) for encoder, column in zip(self.used, columns, strict=True)])

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it, and as `read` takes it."""
        plain = {field: value for field, value in asdict(Encoder("", "")).items() if field not in ("name", "kind")}
        columns = [{k: v for k, v in asdict(c).items() if k not in plain or v != plain[k]} for c in self.columns]
        about = {"label": self.label, "place": self.place, "named": self.named, "labels": list(self.labels)}
        return {"columns": columns, **about}

    @classmethod
    def read(cls, given: Any) -> Preparation:
        """Return what `to_json` wrote.

        Raises:
            TypeError, ValueError, LookupError, AttributeError, InputError: it is something else.
        """
        columns = tuple(_read(column) for column in given["columns"])
        names = [column.name for column in columns]
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name")
        place = int(given["place"])
        if not 0 <= place <= len(columns):
            raise ValueError("the label is in no column")
        labels = tuple(map(str, given["labels"]))
        return cls(columns, str(given["label"]), place, bool(given["named"]), labels)


def _read(given: Any) -> Encoder:
    encoder = Encoder(**given)
    for name in ("name", "decimal", "format", "why"):
        if not isinstance(getattr(encoder, name), str):
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
        encoder.decimal, encoder.format, tuple(encoder.cycles), encoder.why,
    )  # fmt: skip


# ---- finding the columns of another file -----------------------------------------------------------------------------


def match(preparation: Preparation, rows: Rows) -> tuple[list[int], list[str]]:
    """Return where the columns that are used stand in another table, and what is to be said of it.

    Raises:
        FileFormatError: some are missing, or names would have to be guessed.
    """
    wanted = [column.name for column in preparation.used]
    if preparation.named:
        if not rows.named:
            every = [column.name for column in preparation.columns]
            if len(rows.columns) > len(every):
                every.insert(preparation.place, preparation.label)
            raise FileFormatError(
                f"{rows.source}: the first line holds no names, but the network was trained on columns with names; "
                f"begin the file with the line: {','.join(every)}; or, if its first line holds names, say so (--header)"
            )
        places = {name: i for i, name in enumerate(rows.names)}
        known = {preparation.label, *(column.name for column in preparation.columns)}
        extra = [name for name in rows.names if name not in known]
        if missing := [name for name in wanted if name not in places]:
            raise FileFormatError(missing_columns(rows, missing, len(wanted), extra))
        return [places[name] for name in wanted], [f"not seen in training, and left alone: {', '.join(extra)}"] * bool(
            extra
        )
    return _by_position(preparation, rows), []


def missing_columns(rows: Rows, missing: Sequence[str], expected: int, extra: Sequence[str]) -> str:
    """Say which columns are missing, and which are there instead."""
    return (
        f"{rows.source}: {few(missing)} {'is' if len(missing) == 1 else 'are'} not among the columns "
        f"({few(rows.names)}), expected all {expected} features of the training file; add the missing ones"
        + (f" (there but not expected: {few(extra)})" if extra else "")
    )


def _by_position(preparation: Preparation, rows: Rows) -> list[int]:
    """Return where columns without names are: all of them as in training, or all but the label."""
    count, there = len(preparation.columns), len(rows.columns)
    every = list(range(there))
    if there == count + 1 and preparation.label:
        del every[preparation.place]
        _check_labels(preparation, rows)
    if len(every) != count:
        raise FileFormatError(
            f"{rows.source}: there are {there} columns, expected {count} without names as in training, "
            f"{'and at most a label besides' if preparation.label else 'and no other'}"
        )
    return [place for place, column in zip(every, preparation.columns, strict=True) if column.features]


def _check_labels(preparation: Preparation, rows: Rows) -> None:
    """Refuse a column that stands where the label did, but holds others than in training: columns may have shifted."""
    known, column = set(preparation.labels), rows.columns[preparation.place]
    strange = next((value for value in column.values if known and value not in known and not is_missing(value)), None)
    if strange is not None:
        raise FileFormatError(
            f"{rows.source}: column {preparation.place + 1} should be the label, as in training, but {short(strange)} "
            "is none; leave the label out, or give the same columns"
        )


def prepare(preparation: Preparation, rows: Rows) -> tuple[NDArray[np.float64], list[str]]:
    """Return features [N, F] of another table, and what is to be said of it.

    Raises:
        FileFormatError: its columns do not fit.
    """
    places, notes = match(preparation, rows)
    if not len(rows):
        raise FileFormatError(f"{rows.source}: there are no rows")
    for encoder, place in zip(preparation.used, places, strict=True):
        notes += encoder.check(rows.columns[place], rows, place)
    x = preparation.encode([rows.columns[place] for place in places])
    refuse_infinite(x, preparation, rows, places)
    return x, notes


def refuse_infinite(x: NDArray[np.float64], preparation: Preparation, rows: Rows, places: Sequence[int]) -> None:
    """Refuse features that are infinite."""
    finite = np.isfinite(x)
    if finite.all():
        return
    row, feature = divmod(int(np.argmin(finite)), x.shape[1])
    owners = [place for encoder, place in zip(preparation.used, places, strict=True) for _ in encoder.features]
    raise FileFormatError(
        f"{rows.place(row, owners[feature])}: the cell is {x[row, feature]}, expected a finite number; fill it in or "
        "remove the row"
    )


def nothing_left(rows: Rows, preparation: Preparation) -> InputError:
    """Return the error that no column of a table can be used."""
    reasons = "; ".join(f"{column.name!r}: {column.why}" for column in preparation.columns[:10])
    return FileFormatError(
        f"{rows.source}: no column is left to learn from ({reasons or 'there is a single column, the label'}); "
        "keep some of them in spite of that (--keep), or give a table with features and a label"
    )
