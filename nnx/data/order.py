"""Order: which rows an epoch takes after which, so that each of several processes need read its own alone."""

from __future__ import annotations

import numpy as np

from nnx import rng
from nnx.distributed.shares import PARTS, span

from .source import Source


class Order:
    """The order in which an epoch takes rows: a function of the rows, the seed and the epoch, known chunk by chunk.

    All blocks are shuffled, and what they hold, one after the other, is cut into streams, one for each part of a batch
    (nnx/distributed/shares.py): a batch's part has rows of its own stream, so whoever has that part of all batches
    reads that stream alone. What a stream gives to a chunk is shuffled. So no more than a chunk need be in memory, any
    chunk can be had without those before it, and nothing depends on how many processes there are.

    Args:
        batch: rows of a batch. chunk: rows of a chunk: whole batches.

    Attributes:
        streams: how many: fewer than PARTS where a chunk would not hold a row group of each.
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
        """Return the rows of a chunk, in order."""
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
        """Return how many of an epoch's first rows are of a stream."""
        full, tail = divmod(rows, self._batch)
        (first, end), (begin, stop) = (span(size, stream, self.streams) for size in (self._batch, tail))
        return full * (end - first) + stop - begin

    def _places(self, rows: int, stream: int) -> np.ndarray:
        """Return where the rows of a stream stand in a chunk of so many."""
        full, tail = divmod(rows, self._batch)
        (first, end), (begin, stop) = (span(size, stream, self.streams) for size in (self._batch, tail))
        whole = np.arange(full)[:, None] * self._batch + np.arange(first, end)
        return np.concatenate([whole.reshape(-1), full * self._batch + np.arange(begin, stop)])

    def _shuffled(self, low: int, high: int) -> np.ndarray:
        """Return the rows at some places, were shuffled blocks put one after the other."""
        first, last = (int(np.searchsorted(self._ends, row, side="right")) for row in (low, high - 1))
        blocks = [np.arange(self._starts[b], self._starts[b + 1]) for b in self._blocks[first : last + 1]]
        skipped = low - (int(self._ends[first - 1]) if first else 0)
        return np.concatenate(blocks)[skipped : skipped + high - low]


def streams_of(source: Source, chunk: int) -> int:
    """Return of how many streams a chunk takes its rows: what can only be read as a whole would be read by each."""
    if source.whole == 1:
        return PARTS
    return next(n for n in range(PARTS, 0, -1) if n == 1 or (PARTS % n == 0 and n * source.whole <= chunk))
