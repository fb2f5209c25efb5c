"""Data sets of `nnx train` that are read while training: folders of shards, .npy files, and large Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nnx.checks import choice
from nnx.cli.metadata import Metadata, constant
from nnx.data.arrays import Arrays
from nnx.data.found import PARQUET, found
from nnx.data.parts import PARTS, span
from nnx.data.pieces import NO_ROOM, RowGroups, Shard
from nnx.data.source import Source
from nnx.data.stored import Room
from nnx.datasets.columns import digits_of
from nnx.datasets.target import MOST_CLASSES
from nnx.distributed import current
from nnx.errors import FileFormatError, InputError

LARGE = 256 << 20  # from so many bytes on, a Parquet file is not read as a whole
APART = 20_000  # the most rows that are held out, and that represent the training rows if all would be too many
FEWEST = 5  # at least so many rows, since a fifth is held out
MOST = 10_000  # the most classes


def is_on_disk(path: Path) -> bool:
    """Return whether the rows at a path are to be read while a network trains."""
    if path.is_dir() or path.suffix == ".npy":
        return True
    return path.suffix.lower() in PARQUET and path.is_file() and path.stat().st_size > LARGE


def opened(path: Path, label: str | None) -> Source:
    """Return the rows at a path. The labels of x.npy are in y.npy beside it."""
    if path.suffix != ".npy" or not path.exists():
        return found(path, label, None, learning=True)
    beside = path.with_name(f"y{path.name[1:]}")
    if not path.name.startswith("x"):
        raise InputError(f"{path}: where its labels are cannot be told by its name; call the files x.npy and y.npy")
    if not beside.exists():
        raise InputError(
            f"{path}: its labels are looked for in {beside.name} beside it, and there is no such file; call the files "
            "x.npy and y.npy, or put them into a folder"
        )
    return found([(path, beside)], label, None, learning=True)


def asked(path: Path, columns: Sequence[str], width: int) -> Source:
    """Return rows to predict from; of tables, the columns with the given names, if there are any."""
    source = found(path, "" if columns else None, None, learning=False)
    tables = [shard for shard in source.shards if isinstance(shard, RowGroups)]
    if columns and tables:
        for table in tables:
            table.take(columns)
        source = Source(tables)
    if source.width != width:
        raise FileFormatError(f"{path}: a row holds {source.width} numbers, but the network takes {width}")
    return source


class Scaled:
    """A shard in a network's units, with class indices as labels; see `Shard`."""

    def __init__(self, shard: Shard, metadata: Metadata, values: np.ndarray) -> None:
        self._shard, self._metadata, self._values = shard, metadata, values
        self.name, self.rows, self.width, self.weighted = shard.name, shard.rows, shard.width, shard.weighted
        self.whole = shard.whole
        scaled: tuple[int, ...] = () if metadata.classes else (1,)
        self.targets = None if shard.targets is None else scaled
        self.ends, self.where = shard.ends, shard.where

    def read(self, first: int, count: int, inputs: bool = True, room: Sequence[Room] = NO_ROOM) -> Arrays:
        """See `Shard`."""
        x, y, weights = self._shard.read(first, count, inputs, room)
        if self.targets is not None:
            flat = y.reshape(-1)
            y = np.searchsorted(self._values, flat) if self._metadata.classes else flat[:, None]
            y = self._metadata.scale_target(y)
        return Arrays(self._metadata.scale(x) if inputs else x, y, weights)


def scaled(source: Source, metadata: Metadata, values: np.ndarray) -> Source:
    """Return rows in a network's units; `values` are the labels of the classes, in order."""
    return Source([Scaled(shard, metadata, values) for shard in source.shards], source.given_window)


class Found(NamedTuple):
    """A data set in a network's units.

    Attributes:
        title, metadata: see `Problem`. rows: the training rows. some: a sample of them. test: a fifth of all rows, at
            most APART.
    """

    title: str
    metadata: Metadata
    rows: Source
    some: Arrays
    test: Arrays


def prepared(path: Path, label: str | None, task: str, seed: int) -> Found:
    """Read all rows once, hold some out, and return them in a network's units."""
    source = opened(path, label)
    if source.targets not in ((), (1,)):
        there = "no labels" if source.targets is None else f"labels of shape {source.targets} for each row"
        raise InputError(f"{path}: there are {there}, expected one for each row, as in y_0.npy beside x_0.npy")
    if source.rows < FEWEST:
        raise InputError(f"{path}: {source.rows} rows, expected {FEWEST} or more: a fifth is held out for the test")
    values = _classes(source, choice(task, "--task", ("auto", "classification", "regression")))
    out = drawn(source, seed)
    first = source.shards[0]
    columns = tuple(first.columns) if isinstance(first, RowGroups) else ()
    classes = tuple(map(digits_of, values.tolist()))
    metadata = _measured(source.without(out), Metadata("classification" if classes else "regression", columns, classes))
    whole = scaled(source, metadata, values)
    test, rest = whole.load(out), whole.without(out)
    some = rest.load(rest.sample(APART, 1))
    kind = f"{len(classes)} classes" if classes else "numbers to predict"
    title = f"{source.width} column{'s' * (source.width != 1)}, {kind}; on disk"
    return Found(title, metadata, rest, some, test)


def drawn(source: Source, seed: int) -> np.ndarray:
    """Return the numbers of a random fifth of the rows, at most APART, in ascending order."""
    count = max(1, min(source.rows // 5, APART))
    return np.sort(np.random.default_rng(seed).choice(source.rows, count, replace=False))


def _classes(source: Source, task: str) -> np.ndarray:
    """Return all distinct labels, in order; none for regression. See `target.encode`."""
    values = np.empty(0)
    for piece in source.blocks(inputs=False):
        y = piece.arrays.y
        assert y is not None
        if not np.isfinite(y).all():
            row = int(np.flatnonzero(~np.isfinite(y.reshape(-1)))[0])
            raise FileFormatError(f"{piece.where(row, 1)}: the label is {y.reshape(-1)[row]}; expected a finite number")
        values = values if task == "regression" else np.union1d(values, y)
        if task == "auto" and (len(values) > MOST_CLASSES or (values != np.floor(values)).any()):
            task, values = "regression", np.empty(0)
        if len(values) > MOST:
            raise InputError(f"{source}: more than {MOST:,} classes; for numbers to predict, say --task regression")
    if len(values) == 1:
        raise FileFormatError(f"{source}: all labels are {values[0]:g}, expected at least two classes")
    return values


class Moments(NamedTuple):
    """Statistics of the columns of some rows; the label is the last column.

    Attributes:
        rows: how many there are. mean, squares: the mean of each column, and the sum of squares around it.
        low, high: the smallest and the largest of all inputs. exact: whether they are float64.
    """

    rows: int
    mean: np.ndarray
    squares: np.ndarray
    low: float
    high: float
    exact: bool

    def with_(self, other: Moments) -> Moments:
        """Return the statistics of both sets of rows together."""
        rows, way = self.rows + other.rows, other.mean - self.mean
        squares = self.squares + other.squares + way**2 * (self.rows * other.rows / max(rows, 1))
        mean = self.mean + way * (other.rows / max(rows, 1))
        return Moments(
            rows, mean, squares, min(self.low, other.low), max(self.high, other.high), self.exact and other.exact
        )


def _measured(source: Source, metadata: Metadata) -> Metadata:
    """Return metadata with mean and standard deviation of all columns; see `Metadata.fitted`.

    Blocks are combined in fixed parts, whichever process reads them, so the result is the same for any number of
    processes.
    """
    comm = current()
    with comm.sharing():
        mine = {part: _moments(source, part) for part in range(*span(PARTS, comm.rank, comm.size))}
    found = {part: moments for theirs in comm.gather(mine) for part, moments in theirs.items()}
    whole = reduce(Moments.with_, (found[part] for part in range(PARTS)))
    mean, std = whole.mean, constant(whole.mean, np.sqrt(whole.squares / whole.rows), whole.exact)
    target = (float(mean[-1]), float(std[-1])) if metadata.task == "regression" else (0.0, 1.0)
    return metadata.of(tuple(mean[:-1].tolist()), tuple(std[:-1].tolist()), target, (whole.low, whole.high))


def _moments(source: Source, part: int) -> Moments:
    """Return the statistics of the rows in one part of the blocks."""
    nothing = np.zeros(source.width + 1)
    found = Moments(0, nothing, nothing, np.inf, -np.inf, True)
    for piece in source.blocks(some=source.blocks_of(part, PARTS)):
        x, y, _ = piece.arrays
        assert y is not None
        a = np.column_stack([x, y.reshape(-1)]).astype(np.float64)
        if not np.isfinite(a).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(a))[0])
            raise FileFormatError(f"{piece.where(row)}, column {column} is {a[row, column]}; expected a finite number")
        mean, inputs = a.mean(axis=0), a[:, :-1]
        squares, exact = ((a - mean) ** 2).sum(axis=0), x.dtype == np.float64
        found = found.with_(Moments(len(a), mean, squares, float(inputs.min()), float(inputs.max()), exact))
    return found
