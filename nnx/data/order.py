"""The order of rows in an epoch, made so that each of several processes needs to read only its own rows."""

from __future__ import annotations

import numpy as np

from nnx import rng

from .parts import PARTS, span
from .source import Source


class Order:
    """The order in which an epoch takes rows: a function of the rows, the seed and the epoch, computed chunk by chunk.

    The blocks of all files are shuffled, and the sequence of their rows is cut into streams, one for each part of a
    batch (nnx/data/parts.py). A part of a batch takes rows of its own stream only, so a process that has the same part
    of every batch reads only that stream. The rows that a stream gives to a chunk are shuffled. So no more than a
    chunk needs to be in memory, any chunk can be computed without those before it, and the order does not depend on
    the number of processes.

    Args:
        source: the rows. batch: rows of a batch. chunk: rows of a chunk, whole batches. seed, epoch: what the order is
            a function of. shuffle: whether to shuffle at all.

    Attributes:
        streams: how many there are: PARTS, or fewer if a chunk cannot hold a row group of each.
    """

    def __init__(self, source: Source, batch: int, chunk: int, seed: int, epoch: int, shuffle: bool) -> None:
        self._rows, self._batch, self._chunk, self._shuffle = source.rows, batch, chunk, shuffle
        self._starts, self._seed, self._epoch = source.starts, seed, epoch
        self.streams = streams_of(source, chunk)
        if shuffle:
            self._blocks = rng.generator(seed, rng.SHUFFLE, epoch).permutation(len(self._starts) - 1)
            self._ends = np.cumsum(np.diff(self._starts)[self._blocks])
            lengths = [self._taken(self._rows, stream) for stream in range(self.streams)]
            self._begins = np.cumsum(lengths) - lengths

    def rows(self, number: int) -> np.ndarray:
        """Return the numbers of a chunk's rows, in order."""
        low, high = number * self._chunk, min((number + 1) * self._chunk, self._rows)
        if not self._shuffle:
            return np.arange(low, high)
        random = rng.generator(self._seed, rng.WINDOW, (self._epoch << 24) + number)
        rows = np.empty(high - low, np.int64)
        for stream in range(self.streams):
            places = self._places(high - low, stream)
            if len(places):
                begin = int(self._begins[stream]) + self._taken(low, stream)
                rows[places] = random.permutation(self._shuffled(begin, begin + len(places)))
        return rows

    def _taken(self, rows: int, stream: int) -> int:
        """Return how many of an epoch's first `rows` rows come from a stream."""
        full, tail = divmod(rows, self._batch)
        (first, end), (begin, stop) = (span(size, stream, self.streams) for size in (self._batch, tail))
        return full * (end - first) + stop - begin

    def _places(self, rows: int, stream: int) -> np.ndarray:
        """Return the indices of a stream's rows in a chunk of so many rows."""
        full, tail = divmod(rows, self._batch)
        (first, end), (begin, stop) = (span(size, stream, self.streams) for size in (self._batch, tail))
        whole = np.arange(full)[:, None] * self._batch + np.arange(first, end)
        return np.concatenate([whole.reshape(-1), full * self._batch + np.arange(begin, stop)])

    def _shuffled(self, low: int, high: int) -> np.ndarray:
        """Return the rows at positions `low` to `high` of the sequence of shuffled blocks."""
        first, last = (int(np.searchsorted(self._ends, row, side="right")) for row in (low, high - 1))
        blocks = [np.arange(self._starts[b], self._starts[b + 1]) for b in self._blocks[first : last + 1]]
        skipped = low - (int(self._ends[first - 1]) if first else 0)
        return np.concatenate(blocks)[skipped : skipped + high - low]


def streams_of(source: Source, chunk: int) -> int:
    """Return how many streams there are; fewer if a chunk cannot hold a block that is only read whole for each."""
    if source.whole == 1:
        return PARTS
    return next(n for n in range(PARTS, 0, -1) if n == 1 or (PARTS % n == 0 and n * source.whole <= chunk))
