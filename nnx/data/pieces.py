"""Shards: files that belong together, of which rows are read block by block."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nnx.backends.printable import printable
from nnx.datasets.header import LABEL_NAMES
from nnx.datasets.needs import optional
from nnx.errors import FileFormatError, InputError

from .arrays import Arrays
from .stored import Room, Rows

BLOCK = 1 << 20  # bytes that are read at once: enough that seeking takes less time than reading
CACHED = 1 << 18  # bytes that fit in a core's second-level cache

NO_ROOM: tuple[Room, ...] = ()


class Shard(Protocol):
    """Rows in files.

    Attributes:
        name: of the file with the inputs. rows: how many there are. whole: the rows of the largest block that can only
            be read as a whole. width: inputs of a row. targets: shape of a row's target; None: there are no targets.
            weighted: whether there are weights.
    """

    name: str
    rows: int
    whole: int
    width: int
    targets: tuple[int, ...] | None
    weighted: bool

    def ends(self, most: int) -> np.ndarray:
        """Return the row after the last one of each block, int64; blocks have at most `most` rows if possible."""

    def read(self, first: int, count: int, inputs: bool = True, room: Sequence[Room] = NO_ROOM) -> Arrays:
        """Return `count` rows of one block, from the row `first` on.

        Args:
            inputs: whether to read the inputs; else they come as an array without columns.
            room: memory for inputs, targets and weights; empty: new arrays.
        """

    def where(self, row: int, part: int = 0) -> str:
        """Return in words the place of a row's inputs (part 0), target (1) or weight (2)."""


class Parts:
    """A shard of arrays with a row for each sample; see `Shard`. A sample of several axes is flattened to one row."""

    whole = 1

    def __init__(self, x: Rows, y: Rows | None = None, weights: Rows | None = None) -> None:
        self._parts = [x, y, weights]
        self.name, self.rows, self.width = x.name, x.rows, math.prod(x.shape)
        self.targets, self.weighted = None if y is None else y.shape, weights is not None
        if len({part.rows for part in self._parts if part is not None}) > 1:
            counts = " and ".join(f"{part.name} has {part.rows:,}" for part in self._parts if part is not None)
            raise InputError(f"{counts} rows; expected as many, one of each for each sample")
        if not x.shape:
            raise InputError(
                f"{x.name}: its shape is ({x.rows},), expected [samples, features]; for one feature, save "
                "x.reshape(-1, 1); for targets, give them with their inputs, as [(x, y)]"
            )
        self._bytes = sum(math.prod(part.shape) * part.dtype.itemsize for part in self._parts if part is not None)

    def ends(self, most: int) -> np.ndarray:
        """See `Shard`."""
        block = max(1, min(most, BLOCK // max(1, self._bytes)))
        ends = np.arange(block, self.rows + block, block, dtype=np.int64)
        ends[-1] = self.rows
        return ends

    def read(self, first: int, count: int, inputs: bool = True, room: Sequence[Room] = NO_ROOM) -> Arrays:
        """See `Shard`."""
        wanted = zip(self._parts if inputs else [None, *self._parts[1:]], room or 3 * [None], strict=True)
        x, y, weights = (None if part is None else part.read(first, count, place) for part, place in wanted)
        return Arrays(np.empty((count, 0)) if x is None else x.reshape(count, -1), y, weights)

    def where(self, row: int, part: int = 0) -> str:
        """See `Shard`."""
        place = self._parts[part]
        return f"{self.name if place is None else place.name}, row {row:,}"


class RowGroups:
    """A shard of numbers in a Parquet file, read a row group at a time; see `Shard`.

    Args:
        path: the file. label: the column of targets; None: the one called "label", "class", "target" or "y"; "": none.
        learning: whether there must be a column of targets.
    """

    weighted = False

    def __init__(self, path: Path, label: str | None, learning: bool) -> None:
        self.name, self._path = printable(path), path.absolute()  # the current folder may change
        self._arrow = optional("pyarrow", "parquet", "reading Parquet files")
        self._stamp = self._stamped()
        with self._opened(0) as file:
            schema = file.schema_arrow
            names = _columns(self.name, schema)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        self._ends = np.cumsum(np.array(counts, np.int64))
        self.rows, self.whole = int(sum(counts)), max(counts, default=0)
        if self.rows == 0:
            raise FileFormatError(f"{path}: it has no rows, expected one for each sample")
        for name in names:
            kind, types = schema.field(name).type, self._arrow.types
            if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
                raise FileFormatError(
                    f"{path}: column {name!r} holds {kind}; only tables of numbers are read in parts: take the column "
                    "out or make numbers of it, or read the table as a whole by nnx.datasets.load_table"
                )
        self._label = _label(path, names, label, learning)
        self._names = [name for name in names if name != self._label]
        self.columns, self.width = self._names, len(self._names)
        self.targets: tuple[int, ...] | None = () if self._label else None
        if not self._names:
            raise FileFormatError(f"{path}: it has no column but {self._label!r}; expected columns to learn from")

    def take_order(self, other: RowGroups) -> None:
        """Read the columns in the order of another file, if they have the same names."""
        there, here = {*other._names, other._label}, {*self._names, self._label}
        if there != here or other._label != self._label:
            raise InputError(
                f"{self.name} has the columns {_few(self._names)}, with the label {self._label!r}, and {other.name} "
                f"{_few(other._names)}, with {other._label!r}; expected the same; leave out "
                f"{_few(sorted(there ^ here)) or 'one of the files'}, or say label=..."
            )
        self.columns = self._names = other._names

    def take(self, columns: Sequence[str]) -> None:
        """Read these columns, in this order, and no others."""
        missing = [name for name in columns if name not in self._names]
        if missing:
            raise FileFormatError(
                f"{self.name}: there is no column {missing[0]!r}, expected {_few(columns)} (it has {_few(self._names)})"
            )
        self.columns = self._names = list(columns)
        self.width = len(self._names)

    def read(self, first: int, count: int, inputs: bool = True, room: Sequence[Room] = NO_ROOM) -> Arrays:
        """See `Shard`."""
        group = int(np.searchsorted(self._ends, first, side="right"))
        begin = int(self._ends[group - 1]) if group else 0
        columns = [*(self._names if inputs else []), *([self._label] if self._label else [])]
        with self._opened(first) as file:
            table = self._group(file, group, columns, first).slice(first - begin, count)
            parts = [self._numbers(table.column(name), name, first) for name in columns]
        y = parts.pop() if self._label else None
        x = np.empty((count, len(parts)), np.result_type(*parts) if parts else "f4")
        rows = max(1, CACHED // max(1, x.itemsize * len(parts)))  # so many that all their columns fit in the cache
        for begin in range(0, count, rows):
            some = slice(begin, begin + rows)
            for i, part in enumerate(parts):
                x[some, i] = part[some]
        return Arrays(x, y)

    def where(self, row: int, part: int = 0) -> str:
        """See `Shard`."""
        return f"{self.name}, row {row:,}"

    def ends(self, most: int) -> np.ndarray:
        """See `Shard`: a block is a row group, which can only be read as a whole."""
        return self._ends

    def _group(self, file: Any, group: int, columns: list[str], first: int) -> Any:
        try:
            return file.read_row_group(group, columns=columns, use_threads=False)
        except Exception as error:  # whatever a damaged file makes of it
            raise FileFormatError(f"{self.name}, row {first:,}: it cannot be read: {error}") from error

    def _numbers(self, column: Any, name: str, first: int) -> np.ndarray:
        if column.null_count:
            row = first + int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise FileFormatError(
                f"{self.name}, row {row:,}: column {name!r} holds no number; fill it in or drop the row"
            )
        return np.asarray(column.to_numpy())

    def _stamped(self) -> tuple[int, int]:
        found = os.stat(self._path)
        return found.st_size, found.st_mtime_ns

    def _opened(self, row: int) -> Any:
        parquet = optional("pyarrow.parquet", "parquet", "reading Parquet files")
        try:
            if self._stamped() != self._stamp:
                raise ValueError("it was changed while it was in use; begin anew when nobody writes to it")
            return parquet.ParquetFile(self._path, pre_buffer=False, page_checksum_verification=True)
        except Exception as error:  # whatever a damaged file makes of it
            raise FileFormatError(f"{self.name}, row {row:,}: it cannot be read: {error}") from error


def _columns(name: str, schema: Any) -> list[str]:
    """Return the columns of a table, without the index columns that pandas writes."""
    twice = [column for column in schema.names if schema.names.count(column) > 1]
    if twice:
        raise FileFormatError(f"{name}: several columns are called {twice[0]!r}, expected one; rename them")
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    return [column for column in schema.names if column not in index]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _label(path: Path, names: Sequence[str], label: str | None, learning: bool) -> str:
    """Return the name of the column of targets; "" if there is none."""
    if label is None:
        lower = {name.lower(): name for name in names}
        label = next((lower[name] for name in LABEL_NAMES if name in lower), None if learning else "")
        if label is None:
            raise InputError(f"{path}: which column is to be learned? Say label=..., one of {_few(names)}")
    if label and label not in names:
        raise InputError(f"{path}: label={label!r}: there is no such column, expected one of {_few(names)}")
    return label
