"""Source: rows in shards, known by their numbers.

Whoever trains asks for the rows of a chunk of an epoch (`Order.rows`), and reads those, or its share of them, in
whatever order they stand (`Source.read`).
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

WINDOW = 64 << 20  # bytes of rows that are in memory, as the model takes them, where no number of rows is given
BLOCKS = 32  # of a window at least, where files can be cut into them: rows of so many places are shuffled together
SKIP = 64 << 10  # bytes that are not wanted, between others that are: more take longer to read than to leave out
NUMBER = 8  # bytes of a number that is not known yet


class Piece(NamedTuple):
    """Some of the rows that were asked for.

    Attributes:
        places: where they stand among those asked for. arrays: they. shard: where from. rows: their numbers in it.
    """

    places: np.ndarray
    arrays: Arrays
    shard: Shard
    rows: np.ndarray

    def where(self, i: int, part: int = 0) -> str:
        """Say where the ith of them is stored: its inputs, its target (part 1), or its weight (2)."""
        return self.shard.where(int(self.rows[i]), part)


class Source:
    """Rows in shards; `nnx.data.shards` makes one.

    Attributes:
        rows: how many. width: inputs of each. targets: shape of a row's target; None: there are none.
        weighted: whether samples have weights. starts: of blocks: their first rows, then the number of all.
        whole: rows that can only be read at once, at most.
        window: how many rows may be in memory while others are read: half of them are those that steps take.
        who: the call that evaluates them, for messages.
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
        largest = int(np.diff(self._starts).max())  # what is read at once is not read twice
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
        """Let the window be what WINDOW holds of rows of that size, unless a number of rows was given."""
        if self.given_window is None:
            self.window = max(self._least, WINDOW // max(1, bytes_of_row))

    # ---- parts -------------------------------------------------------------------------------------------------------

    def part(self, first: int, stop: int) -> Source:
        """Return the rows from one on up to another."""
        return self._of(self._first + first, stop - first, self._gone)

    def head(self, rows: int) -> Source:
        """Return the first rows, up to so many."""
        return self.part(0, min(rows, self.rows))

    def for_validation(self, who: str, epochs: int) -> Source:
        """Return the same rows, to be evaluated by a fit after each of so many epochs."""
        if self.targets is None:
            raise InputTypeError(f"{who}: {self} have no targets; expected y too, as ('x.npy', 'y.npy')")
        other = self._of(self._first, self.rows, self._gone)
        other.who = who
        return other

    def without(self, rows: np.ndarray) -> Source:
        """Return all rows but some, given by their numbers; not of a `part`."""
        return self._of(0, self.rows - len(rows), np.union1d(self._gone, self._numbers(np.asarray(rows, np.int64))))

    def _of(self, first: int, rows: int, gone: np.ndarray) -> Source:
        other = object.__new__(Source)
        other.__dict__.update(self.__dict__)
        other._first, other.rows, other._gone = first, rows, gone
        left = self._starts - np.searchsorted(gone, self._starts)
        other.starts = np.unique(np.clip(left - first, 0, rows))
        return other

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers that rows have among all that are stored."""
        rows = rows + self._first
        if not len(self._gone):
            return rows
        return rows + np.searchsorted(self._gone - np.arange(len(self._gone)), rows, side="right")

    def facts(self) -> dict[str, Any]:
        """Return what tells these rows from others, by name: folders may have other names elsewhere."""
        files = {
            f"file {number}": f"{os.path.basename(shard.name)}, {shard.rows:,} rows of {shard.width} numbers"
            for number, shard in enumerate(self.shards, 1)
        }
        return {**files, "the rows to take": [self._first, self.rows, self._gone]}

    # ---- reading -----------------------------------------------------------------------------------------------------

    def read(self, rows: np.ndarray, inputs: bool = True, room: Sequence[Room] = NO_ROOM) -> Iterator[Piece]:
        """Read rows, given by their numbers in any order, block by block; with `room`, a piece holds until the next."""
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
        """Return rows, or all, as arrays in memory, in the type in which they are stored."""
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
        """Return the numbers of some rows at places that stand evenly among all."""
        firsts = np.linspace(0, max(0, self.rows - rows), places).astype(np.int64)
        numbers: np.ndarray = np.unique(firsts[:, None] + np.arange(min(rows, self.rows)))
        return numbers

    def blocks(self, inputs: bool = True, some: slice = slice(None)) -> Iterator[Piece]:
        """Read all rows in their order, block by block; or those of `some` blocks alone, by their numbers."""
        for first, stop in list(pairwise(self.starts.tolist()))[some]:
            yield from self.read(np.arange(first, stop), inputs)

    def blocks_of(self, part: int, parts: int) -> slice:
        """Return which blocks are a part's, if they are divided into so many."""
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
    """Say how rows come from disk, for `History.streamed`.

    Args:
        streams: see nnx/data/order.py; 0: in order.
    """
    words = f"{source} are read from disk, {chunk:,} rows ({readable(chunk * bytes_of_row)}) at a time"
    if processes == 1:
        return words
    if streams % processes == 0 and (streams or source.whole == 1):
        return f"{words}, of which each of {processes} processes reads its own"
    if streams > 1:
        return f"{words}, in {streams} streams, of which each of {processes} processes reads those that it has rows of"
    return f"{words}, of which each of {processes} processes takes its own"
