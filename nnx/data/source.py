"""Source: rows in shards, known by their numbers, and the order in which an epoch takes them.

Whoever trains asks for the rows of a part of an epoch (`Order.rows`), and reads those, or its share of them, in
whatever order they stand (`Source.read`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from nnx import rng
from nnx.backends.memory import readable
from nnx.errors import InputError, InputTypeError

from .arrays import Arrays
from .pieces import NO_ROOM, Shard
from .stored import Room

WINDOW = 64 << 20  # bytes of rows that are in memory, as the model takes them, where no number of rows is given
BLOCKS = 32  # of a window at least, where files can be cut into them: rows of so many places are shuffled together
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
        window: how many rows may be in memory while others are read: half of them are those that steps take.
    """

    def __init__(self, shards: Sequence[Shard], window: int | None = None) -> None:
        first = shards[0]
        for shard in shards[1:]:
            _check_alike(first, shard)
        self.shards, self.width, self.targets, self.weighted = list(shards), first.width, first.targets, first.weighted
        self._begins = np.concatenate([[0], np.cumsum([shard.rows for shard in shards])])
        most = WINDOW if window is None else max(1, window // BLOCKS)
        blocks = [begin + shard.ends(most) for begin, shard in zip(self._begins[:-1], shards, strict=True)]
        self._starts = np.concatenate([[0], *blocks])
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

    # ---- reading -----------------------------------------------------------------------------------------------------

    def read(self, rows: np.ndarray, inputs: bool = True, room: Sequence[Room] = NO_ROOM) -> Iterator[Piece]:
        """Read rows, given by their numbers in any order, block by block; with `room`, a piece holds until the next."""
        numbers = self._numbers(np.asarray(rows, np.int64))
        order = np.argsort(numbers)
        numbers = numbers[order]
        each_once = bool((np.diff(numbers) > 0).all())
        blocks = np.searchsorted(self._starts, numbers, side="right")
        begins = np.flatnonzero(np.diff(blocks, prepend=-1))
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

    def blocks(self, inputs: bool = True) -> Iterator[Piece]:
        """Read all rows in their order, block by block."""
        for first, stop in pairwise(self.starts.tolist()):
            yield from self.read(np.arange(first, stop), inputs)


class Order:
    """The order in which an epoch takes rows: a function of the rows, the seed and the epoch, known part by part.

    All blocks are shuffled; in that order, rows are shuffled within parts. So no more than a part need be in memory,
    and any part can be taken without those before it.

    Args:
        part: rows of a part.
    """

    def __init__(self, source: Source, part: int, seed: int, epoch: int, shuffle: bool) -> None:
        self._rows, self._part, self._seed, self._epoch, self._shuffle = source.rows, part, seed, epoch, shuffle
        self._starts = source.starts
        if shuffle:
            self._blocks = rng.generator(seed, rng.SHUFFLE, epoch).permutation(len(self._starts) - 1)
            self._ends = np.cumsum(np.diff(self._starts)[self._blocks])

    def rows(self, number: int) -> np.ndarray:
        """Return the rows of a part, in order."""
        low, high = number * self._part, min((number + 1) * self._part, self._rows)
        if not self._shuffle:
            return np.arange(low, high)
        first, last = (int(np.searchsorted(self._ends, row, side="right")) for row in (low, high - 1))
        blocks = [np.arange(self._starts[b], self._starts[b + 1]) for b in self._blocks[first : last + 1]]
        skipped = low - (int(self._ends[first - 1]) if first else 0)
        some = np.concatenate(blocks)[skipped : skipped + high - low]
        random = rng.generator(self._seed, rng.WINDOW, (self._epoch << 24) + number)
        return np.asarray(random.permutation(some))


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


def described(source: Source, part: int, bytes_of_row: int) -> str:
    """Say how rows come from disk, for `History.streamed`."""
    return f"{source} are read from disk, {part:,} rows ({readable(part * bytes_of_row)}) at a time"
