"""Source: the rows of several shards under common numbers.

Training asks which rows a chunk of an epoch has (`Order.rows`), and reads all of them, or one process's share, in the
order in which they are stored (`Source.read`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from nnx.backends.memory import readable
from nnx.errors import InputError, InputTypeError

from .arrays import Arrays
from .parts import span
from .pieces import NO_ROOM, Shard
from .stored import Room

WINDOW = 64 << 20  # bytes of converted rows in memory, if no number of rows is given
BLOCKS = 32  # at least so many blocks in a window, if files can be divided: rows from so many places are mixed
SKIP = 64 << 10  # a gap of up to so many bytes between wanted rows is read too: skipping it would take longer
NUMBER = 8  # bytes assumed for a number whose type is not known yet


class Piece(NamedTuple):
    """Some of the rows that were asked for.

    Attributes:
        places: their indices among the rows asked for. arrays: their contents. shard: the shard that they are from.
        rows: their numbers in that shard.
    """

    places: np.ndarray
    arrays: Arrays
    shard: Shard
    rows: np.ndarray

    def where(self, i: int, part: int = 0) -> str:
        """Return in words where the ith of them is stored: its inputs (part 0), target (1) or weight (2)."""
        return self.shard.where(int(self.rows[i]), part)


class Source:
    """Rows in shards; `nnx.data.shards` makes one.

    Attributes:
        rows: how many there are. width: inputs of each. targets: shape of a row's target; None: there are no targets.
        weighted: whether samples have weights. starts: the first row of each block, then the number of all rows.
        whole: the rows of the largest block that can only be read as a whole.
        window: how many rows may be in memory; steps take one half while the other half is read.
        who: the call that evaluates the rows, for messages.
    """

    who = "evaluate"

    def __init__(self, shards: Sequence[Shard], window: int | None = None) -> None:
        first = shards[0]
        for shard in shards[1:]:
            _check_alike(first, shard)
        self.shards, self.width, self.targets, self.weighted = list(shards), first.width, first.targets, first.weighted
        self._begins = np.concatenate([[0], np.cumsum([shard.rows for shard in shards])])
        most = WINDOW if window is None else max(1, window // BLOCKS)
        blocks = [begin + shard.ends(most) for begin, shard in zip(self._begins[:-1], shards, strict=True)]
        self._starts = np.concatenate([[0], *blocks])
        self.whole = max(shard.whole for shard in shards)
        self._first, self._gone = 0, np.empty(0, np.int64)
        self.rows, self.starts = int(self._begins[-1]), self._starts
        largest = int(np.diff(self._starts).max())  # a block is not divided, so that none is read twice
        self._least = 2 * largest
        self.given_window = window
        self.window = max(self._least, window or WINDOW // (NUMBER * (self.width + 1)))

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        return f"<nnx.data.Source of {self}>"

    def __str__(self) -> str:
        files = f"{len(self.shards):,} files" if len(self.shards) > 1 else self.shards[0].name
        return f"{self.rows:,} rows in {files}"

    def fit_window(self, bytes_of_row: int) -> None:
        """Set the window to the number of rows of this size that WINDOW holds, unless one was given."""
        if self.given_window is None:
            self.window = max(self._least, WINDOW // max(1, bytes_of_row))

    # ---- parts -------------------------------------------------------------------------------------------------------

    def part(self, first: int, stop: int) -> Source:
        """Return the rows from `first` up to, but without, `stop`."""
        return self._of(self._first + first, stop - first, self._gone)

    def head(self, rows: int) -> Source:
        """Return the first rows, at most `rows`."""
        return self.part(0, min(rows, self.rows))

    def for_validation(self, who: str, epochs: int) -> Source:
        """Return the same rows as validation data of a fit, evaluated after each of `epochs` epochs."""
        if self.targets is None:
            raise InputTypeError(f"{who}: {self} have no targets; expected y too, as ('x.npy', 'y.npy')")
        other = self._of(self._first, self.rows, self._gone)
        other.who = who
        return other

    def without(self, rows: np.ndarray) -> Source:
        """Return all rows except some, given by their numbers. It cannot be called on a `part`."""
        return self._of(0, self.rows - len(rows), np.union1d(self._gone, self._numbers(np.asarray(rows, np.int64))))

    def _of(self, first: int, rows: int, gone: np.ndarray) -> Source:
        other = object.__new__(Source)
        other.__dict__.update(self.__dict__)
        other._first, other.rows, other._gone = first, rows, gone
        left = self._starts - np.searchsorted(gone, self._starts)
        other.starts = np.unique(np.clip(left - first, 0, rows))
        return other

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers of rows, which may be of a `part`, among all stored rows."""
        rows = rows + self._first
        if not len(self._gone):
            return rows
        return rows + np.searchsorted(self._gone - np.arange(len(self._gone)), rows, side="right")

    def facts(self) -> dict[str, Any]:
        """Return facts by which processes compare their rows; without paths, which may differ between machines."""
        files = {
            f"file {number}": f"{os.path.basename(shard.name)}, {shard.rows:,} rows of {shard.width} numbers"
            for number, shard in enumerate(self.shards, 1)
        }
        return {**files, "the rows to take": [self._first, self.rows, self._gone]}

    # ---- reading -----------------------------------------------------------------------------------------------------

    def read(self, rows: np.ndarray, inputs: bool = True, room: Sequence[Room] = NO_ROOM) -> Iterator[Piece]:
        """Read rows, given by their numbers in any order, block by block; with `room`, the next piece reuses memory."""
        numbers = self._numbers(np.asarray(rows, np.int64))
        order = np.argsort(numbers)
        numbers = numbers[order]
        gaps = np.diff(numbers, prepend=-1)
        each_once = bool((gaps > 0).all())
        blocks = np.searchsorted(self._starts, numbers, side="right")
        apart = np.diff(blocks, prepend=-1) > 0
        if self.whole == 1:
            apart |= gaps > 1 + SKIP // (NUMBER * (self.width + 1))
        begins = np.flatnonzero(apart)
        shards = np.searchsorted(self._begins, numbers[begins], side="right") - 1
        for shard, begin, end in zip(shards.tolist(), begins.tolist(), [*begins[1:].tolist(), len(rows)], strict=False):
            wanted = numbers[begin:end] - self._begins[shard]
            first, count = int(wanted[0]), int(wanted[-1] - wanted[0]) + 1
            arrays = self.shards[shard].read(first, count, inputs, room)
            if count != len(wanted) or not each_once:
                arrays = arrays.take(wanted - first)
            yield Piece(order[begin:end], arrays, self.shards[shard], wanted)

    def load(self, rows: np.ndarray | None = None) -> Arrays:
        """Return some rows, or all, as arrays in memory, in the type in which they are stored."""
        rows = np.arange(self.rows) if rows is None else rows
        out: list[np.ndarray] = []
        for piece in self.read(rows):
            given = [a for a in piece.arrays if a is not None]
            for i, a in enumerate(given):
                if len(out) == i:
                    out.append(np.empty((len(rows), *a.shape[1:]), a.dtype))
                elif np.result_type(out[i], a) != out[i].dtype:  # shards of several types
                    out[i] = out[i].astype(np.result_type(out[i], a))
                out[i][piece.places] = a
        return Arrays(*out)

    def sample(self, places: int = 16, rows: int = 16) -> np.ndarray:
        """Return the numbers of some rows, `rows` at each of `places` evenly spaced places."""
        firsts = np.linspace(0, max(0, self.rows - rows), places).astype(np.int64)
        numbers: np.ndarray = np.unique(firsts[:, None] + np.arange(min(rows, self.rows)))
        return numbers

    def blocks(self, inputs: bool = True, some: slice = slice(None)) -> Iterator[Piece]:
        """Read all rows in order, block by block; or only the blocks in the slice `some`."""
        for first, stop in list(pairwise(self.starts.tolist()))[some]:
            yield from self.read(np.arange(first, stop), inputs)

    def blocks_of(self, part: int, parts: int) -> slice:
        """Return the slice of blocks of one part, if the blocks are divided into `parts`."""
        return slice(*span(len(self.starts) - 1, part, parts))


def _check_alike(first: Shard, other: Shard) -> None:
    if other.width != first.width:
        raise InputError(f"{other.name} has {other.width} features, {first.name} {first.width}; expected as many")
    if other.targets != first.targets:
        raise InputError(
            f"{other.name}: a row's target has the shape {other.targets}, that of {first.name} {first.targets}; "
            "expected the same"
        )
    if other.weighted != first.weighted:
        raise InputTypeError(f"{other.name} and {first.name}: expected weights for both or for none")


def described(source: Source, chunk: int, bytes_of_row: int, processes: int, streams: int) -> str:
    """Return in words how rows come from disk, for `History.streamed`.

    Args:
        streams: see nnx/data/order.py; 0: the rows come in their stored order.
    """
    words = f"{source} are read from disk, {chunk:,} rows ({readable(chunk * bytes_of_row)}) at a time"
    if processes == 1:
        return words
    if streams % processes == 0 and (streams or source.whole == 1):
        return f"{words}, of which each of {processes} processes reads its own"
    if streams > 1:
        return f"{words}, in {streams} streams, of which each of {processes} processes reads those that it has rows of"
    return f"{words}, of which each of {processes} processes takes its own"
