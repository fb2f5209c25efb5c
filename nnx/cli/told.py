"""The report on how a table was understood: complete for `nnx data`, in brief for `nnx train`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from nnx.backends.printable import printable
from nnx.datasets.columns import is_missing
from nnx.datasets.encoder import Encoder
from nnx.datasets.kinds import CATEGORY, DATE, FLAG, NUMBER, TEXT, Understood
from nnx.datasets.preparation import Preparation
from nnx.datasets.understanding import Reading
from nnx.datasets.written import example

WIDTH = 80  # columns of a line if there is no terminal
NAME, LAST = 24, 30  # the greatest width of the table's first column, the smallest of its last
LEAST = 12  # names are cut to no less than this to make room for the last column
PLAIN = Console(file=io.StringIO(), width=WIDTH)  # used for wrapping lines
MOST = 8  # the most names that are listed
PLURALS = {NUMBER: "numbers", FLAG: "true or false", CATEGORY: "categories", DATE: "dates"}


@dataclass(frozen=True, eq=False)
class Told:
    """The report on a table.

    Attributes:
        reading: its interpretation. preparation: how its columns become features.
    """

    reading: Reading
    preparation: Preparation

    def label(self) -> str:
        """Return in words which column is learned, and as what."""
        target, place = self.reading.target, self.reading.place + 1
        name = f"{self.reading.label!r} (column {place})" if self.reading.rows.named else f"column {place}"
        if target.task == "regression":
            low, high = float(target.y.min()), float(target.y.max())
            written = example(self.reading.rows.columns[place - 1], target.y.reshape(-1).astype(np.float64))
            what = f"numbers from {_number(low)} to {_number(high)}" + (f" ({written})" if written else "")
        else:
            counts = np.bincount(target.y, minlength=len(target.classes))
            most = sorted(range(len(counts)), key=lambda i: -counts[i])[:MOST]
            what = f"{len(counts)} classes: " + ", ".join(
                f"{target.classes[i]} ({counts[i]:,})" for i in sorted(most)
            ) + (" ..." if len(counts) > MOST else "")  # fmt: skip
        return f"{name}, {self.reading.chosen}: {what}"

    def brief(self) -> Iterator[tuple[str, ...]]:
        """Yield labelled texts: what is learned, from what, what is left out, and notes."""
        yield "learns", self.label()
        for number, kind in enumerate(PLURALS):
            names = [encoder.name for encoder in self.preparation.columns if encoder.kind == kind]
            if names:
                first = all(e.kind not in list(PLURALS)[:number] for e in self.preparation.columns)
                yield "from" if first else "", f"{PLURALS[kind]}: {_few(names)}"
        left = [
            f"{e.name} ({e.why}{'; whether it is there is used' if e.blank else ''})"
            for e in self.preparation.columns
            if e.kind not in PLURALS
        ]
        if left:
            yield "left out", "; ".join(left[:MOST]) + (f"; and {len(left) - MOST} more" if len(left) > MOST else "")
        for text in self.reading.notes:
            yield "note", text

    def doubt(self) -> str:
        """Return a note if the last column was chosen as the label, but the first one looks more like one; else ""."""
        first = self.reading.found[0]
        if self.reading.rows.named or self.reading.chosen != "the last column" or first.kind not in (CATEGORY, FLAG):
            return ""
        if any(found.kind in (CATEGORY, FLAG) for found in self.reading.found[1:]):
            return ""
        if self.reading.target.task == "classification" and not _all_numbers(self.reading.target.classes):
            return ""
        last = self.reading.place + 1
        return f"note: column {last}, the last one, is taken for the label; if it is the first, say --label 1"

    def table(self, width: int = WIDTH) -> Iterator[str]:
        """Yield the lines of a table of all columns; if `width` is small, the last column goes below the others."""
        head = ("column", "kind", "missing", "distinct", "what becomes of it")
        encoders = iter(self.preparation.columns)
        rows = dict(zip(self.reading.places, (self._row(f, next(encoders)) for f in self.reading.found), strict=True))
        rows[self.reading.place] = self._label_row()
        cells = [head, *([printable(cell) for cell in rows[i]] for i in sorted(rows))]
        most = max(NAME, width // 3)
        widths = [min(most, max(cell_len(row[i]) for row in cells)) for i in range(4)]
        narrow = width - sum(widths[1:]) - 8 - LAST  # the room for names if the last column is beside the others
        widths[0] = min(widths[0], narrow) if narrow >= LEAST else max(1, min(widths[0], narrow + 2 + LAST))
        start, last = " " * 2, width - 2
        if beside := width - sum(widths) - 8 >= LAST:
            start, last = " " * (sum(widths) + 8), width - sum(widths) - 8
        for row in cells:
            line = "  ".join(_fit(cell, w, i in (2, 3)) for i, (cell, w) in enumerate(zip(row, widths, strict=False)))
            lines = Text(row[4]).wrap(PLAIN, last)
            if beside:
                yield f"{line}  {lines.pop(0)}".rstrip()
            else:
                yield line.rstrip()
            yield from (f"{start}{more}".rstrip() for more in lines)

    def _row(self, found: Understood, encoder: Encoder) -> tuple[str, ...]:
        missing = int(found.column.missing.sum()) + len(found.odd)
        what = becomes(encoder) + (f" ({found.why})" if found.kind in (NUMBER, CATEGORY) and found.why else "")
        return found.column.name, found.kind, f"{missing:,}" if missing else "", f"{found.distinct:,}", what

    def _label_row(self) -> tuple[str, ...]:
        column, target = self.reading.rows.columns[self.reading.place], self.reading.target
        distinct = len(np.unique(target.y))
        kind = "classes" if target.classes else "number"
        return column.name, kind, "", f"{distinct:,}", "the label"


def becomes(encoder: Encoder) -> str:
    """Return in words what a column becomes."""
    parts = {
        NUMBER: "a number", FLAG: "1 and 0", DATE: "days since 1970",
        CATEGORY: f"{len(encoder.features) - encoder.blank} features",
    }.get(encoder.kind, f"left out: {encoder.why}")  # fmt: skip
    if encoder.kind == TEXT and encoder.blank:
        return f"whether it is there ({encoder.why})"
    if encoder.cycles:
        parts += f", time of {', '.join(encoder.cycles)}"
    if encoder.blank:
        parts += " + whether it is missing"
    return parts


def _all_numbers(names: tuple[str, ...]) -> bool:
    return all(name.lstrip("-").replace(".", "", 1).isdecimal() for name in names if not is_missing(name))


def _few(names: list[str]) -> str:
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.2f}"


def _fit(text: str, width: int, right: bool) -> str:
    text = text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank
