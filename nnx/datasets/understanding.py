"""Interpretation of a table: which column is the label, and of which kind every other one is."""

from __future__ import annotations

import shlex
import unicodedata
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nnx.errors import FileFormatError, InputError

from .columns import Column, Rows, like, short
from .encoder import learn
from .header import label_places
from .kinds import CATEGORY, DROPPED, NAME, Understood, dates_in, understand
from .preparation import Preparation, encoded, nothing_left
from .target import Target, encode
from .written import numbers_in

TURNED = {f"%{a}{mark}%{b}": f"%{b}{mark}%{a}" for a, b in ("md", "dm") for mark in "/.-"}  # 1/2/2024


@dataclass(frozen=True)
class Wishes:
    """What the user said about a table's columns, by names or positions (1 is the first, -1 the last).

    Attributes:
        label: the column to learn. task: "auto", "classification" or "regression". drop: columns not to use.
        keep: columns to use although they look like ids or free text. categorical: columns whose numbers are names.
        on_command_line: whether errors name command-line options instead of Python's arguments.
    """

    label: str | int | None = None
    task: str = "auto"
    drop: tuple[str | int, ...] = ()
    keep: tuple[str | int, ...] = ()
    categorical: tuple[str | int, ...] = ()
    on_command_line: bool = False

    def argument(self, name: str) -> str:
        """Return the name of an argument as the user knows it, in Python or on the command line."""
        return f"--{name}" if self.on_command_line else name

    def said(self, name: str, value: str | int) -> str:
        """Return an argument with its value as the user wrote it."""
        return f"--{name} {shlex.quote(str(value))}" if self.on_command_line else f"{name}={value!r}"

    @property
    def name_it(self) -> str:
        """Advice for the case that no label, or the wrong one, was found."""
        return f"name the label: {'--label NAME' if self.on_command_line else 'label=...'}"


@dataclass(frozen=True, eq=False)
class Reading:
    """A table with its interpretation, before anything is learned from it.

    Attributes:
        rows: as read. target: the labels. place: the index of the label's column. chosen: why it is the label.
        found: the other columns, in order, each with its kind.
    """

    rows: Rows
    target: Target
    place: int
    chosen: str
    found: tuple[Understood, ...]

    label: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.rows.names[self.place])

    @property
    def places(self) -> list[int]:
        """The indices of the columns in `found`: all but the label's."""
        return [i for i in range(len(self.rows.columns)) if i != self.place]

    def learn(self, part: NDArray[np.bool_] | None = None) -> tuple[Preparation, NDArray[np.float64]]:
        """Return the preparation, learned from a part of the rows (bool [N]), and the features of all rows [N, F].

        Raises:
            FileFormatError: no column can be used, or a number is infinite.
        """
        tells = self.target.task == "classification" and not self.rows.named
        labels = tuple(self.rows.columns[self.place].values) if tells else ()
        columns = tuple(learn(found, part) for found in self.found)
        preparation = Preparation(columns, self.label, self.place, self.rows.named, labels)
        if not preparation.features:
            raise nothing_left(self.rows, preparation)
        used = [place for place, column in zip(self.places, preparation.columns, strict=True) if column.features]
        return preparation, encoded(preparation, self.rows, used)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user: what was decided, and which cells are not of their column's kind."""
        odd = []
        for place, found in zip(self.places, self.found, strict=True):
            if found.odd:
                cell = found.column.text[found.odd[0]]
                odd.append(
                    f"{self.rows.at(found.odd[0])}, column {place + 1} ({found.column.name!r}): {short(cell)} is no "
                    f"{found.kind}, and taken for missing{like(found.odd)}"
                )
        return (*self.rows.notes, *odd, *self._doubts())

    def _doubts(self) -> list[str]:
        """Return notes on classes and dates that may have been misunderstood."""
        seen: dict[str, str] = {}
        doubts = [
            f"{seen[key]!r} and {name!r} are two classes; if they mean the same, write them alike"
            for name in self.target.classes
            if seen.setdefault(key := _plainly(name), name) != name
        ]
        if self.target.task == "regression" and self.target.y.min() == self.target.y.max():
            doubts.append(f"all labels are {short(self.rows.columns[self.place].text[0])}: there is nothing to learn")
        for found in self.found:
            if found.kind == CATEGORY and found.why:
                doubts.append(f"{found.column.name!r} is taken for a category: {found.why}")
            if found.numbers is not None and (turned := TURNED.get(found.format[:5])):
                days, _ = dates_in(found.column, turned + found.format[5:])
                if not np.isnan(days[~np.isnan(found.numbers)]).any():
                    order = "month, day" if found.format.startswith("%m") else "day, month"
                    doubts.append(
                        f"{found.column.name!r} could have day and month in either order: read as {order}; dates as "
                        "2024-12-31 leave no doubt"
                    )
        return doubts


def _plainly(name: str) -> str:
    """Return a name in a form in which case, the encoding of accents, and blanks make no difference."""
    normal = unicodedata.normalize("NFKC", name).casefold()
    return "".join(char for char in normal if not char.isspace() and unicodedata.category(char) != "Cf")


def understood(rows: Rows, wishes: Wishes) -> Reading:
    """Return the interpretation of a table.

    Raises:
        FileFormatError: the labels cannot be used. InputError: a column that the user named does not exist.
    """
    if len(rows.columns) < 2:
        raise FileFormatError(
            f"{rows.source}: there is a single column, expected features and a label; "
            f"separate the columns by commas, semicolons or tabs"
        )
    place, chosen = _label(rows, wishes)
    sets = {
        name: {rows.find(wanted, partial(wishes.said, name)) for wanted in getattr(wishes, name)}
        for name in ("drop", "keep", "categorical")
    }
    for name, places in sets.items():
        if place in places:
            raise InputError(
                f"{wishes.argument(name)}: {rows.names[place]!r} is the label; name another column, or another label"
            )
    if both := sets["drop"] & (sets["keep"] | sets["categorical"]):
        raise InputError(f"{wishes.argument('drop')}: {rows.names[min(both)]!r} is to be used, too; say one of the two")
    try:
        target = encode(rows.columns[place], wishes.task, lambda row: rows.place(row, place), rows.decimal)
    except FileFormatError as error:
        if wishes.label is not None:
            raise
        name = repr(rows.names[place]) if rows.named else rows.names[place]
        raise FileFormatError(
            f"{error}. {name} was taken for the label ({chosen}); to learn another, {wishes.name_it}"
        ) from None  # fmt: skip
    if wishes.label is None and target.task == "regression":
        _refuse_row_numbers(rows, place, wishes)
    found = tuple(
        _understood(column, rows.decimal, i, sets) for i, column in enumerate(rows.columns) if i != place
    )  # fmt: skip
    _refuse_other_headers(rows, target, found)
    return Reading(rows, target, place, chosen, found)


def _refuse_row_numbers(rows: Rows, place: int, wishes: Wishes) -> None:
    if understand(rows.columns[place], rows.decimal).kind == NAME:
        raise FileFormatError(
            f"{rows.source}: the last column, {rows.names[place]!r}, numbers the rows, so it is hardly what is to be "
            f"learned; {wishes.name_it}"
        )


def _refuse_other_headers(rows: Rows, target: Target, found: tuple[Understood, ...]) -> None:
    """Refuse a second header: a row of words where all others have numbers or dates, whose label is unique."""
    typed = [set(each.odd) for each in found if each.numbers is not None]
    for row in sorted(set.intersection(*typed)) if typed else []:
        cells = [column.text[row] for column in rows.columns]
        alone = target.task == "regression" or (target.y == target.y[row]).sum() == 1
        if alone and np.isnan(numbers_in(Column("", cells)).values).all():
            raise FileFormatError(
                f"{rows.source}, {rows.at(row)}: the cells ({', '.join(map(short, cells[:3]))} ...) are of another "
                "kind than those of all other rows, as in a second header; remove this row, or what is above it if "
                "the table begins here"
            )


def _understood(column: Column, decimal: str, place: int, sets: dict[str, set[int]]) -> Understood:
    if place in sets["drop"]:
        return Understood(column, DROPPED, why="as you said")
    wish = CATEGORY if place in sets["categorical"] else "keep" if place in sets["keep"] else ""
    return understand(column, decimal, wish)


def _label(rows: Rows, wishes: Wishes) -> tuple[int, str]:
    """Return the index of the column of labels, and why it is that one."""
    if wishes.label is not None:
        return rows.find(wishes.label, partial(wishes.said, "label")), "as you said"
    candidates = label_places(rows.names if rows.named else ())
    if candidates:
        others = "".join(f", before {rows.names[place]!r}" for place in candidates[1:2])
        return candidates[0], f"by its name{others}"
    return len(rows.columns) - 1, "the last column"
