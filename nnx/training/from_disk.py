"""Supply of rows from shards on disk; each of several processes that share batches reads only its own rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nnx.data.order import Order, streams_of
from nnx.data.source import Piece, Source, described
from nnx.data.stored import Room
from nnx.distributed.shares import Shares
from nnx.training.batches import taken_of
from nnx.training.converting import Converter
from nnx.training.supply import Filled, Stopped, own_of


class FromDisk:
    """Rows of shards, in an order that is a function of seed and epoch; see `Supply`.

    Args:
        source: the rows. convert: checks and converts them. batch: rows of a step. every: how many batches make one
            update; a chunk holds all of them. seed, shuffle: of the order. shares: how processes divide a batch.
    """

    def __init__(
        self, source: Source, convert: Converter, batch: int, every: int, seed: int, shuffle: bool,
        shares: Shares | None = None,
    ) -> None:  # fmt: skip
        self._source, self._convert, self._seed, self._shuffle = source, convert, seed, shuffle
        self._shares = shares
        piece = next(source.read(np.arange(1)))
        first = convert.all(*piece.arrays, piece.where)
        self.like = [a[:0] for a in first]
        size = sum(a.nbytes for a in first)
        source.fit_window(size)
        self.rows: int | None = source.rows
        self.batch, self.expected = batch, float(-(-source.rows // batch))
        update = batch * min(every, int(self.expected))
        self.chunk = max(1, source.window // 2 // update) * update
        self.room = self.chunk
        if shares is not None:  # room for one more: of a smaller last batch this process may have one row more
            self.room = self.chunk // batch * taken_of(shares, batch) + 1
        processes = 1 if shares is None else shares.comm.size
        self.reason = described(source, self.chunk, size, processes, streams_of(source, self.chunk) if shuffle else 0)
        self.facts = {**source.facts(), "the window": source.window}
        self._order: tuple[int, Order] | None = None
        self._rooms = [Room() for _ in range(3)]

    def fill(self, epoch: int, chunk: int, out: Sequence[np.ndarray], stopped: Callable[[], bool]) -> Filled:
        """See `Supply`. Rows keep the order in which they come from disk: steps gather them in the right order."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, Order(self._source, self.batch, self.chunk, self._seed, epoch, self._shuffle)
        rows = self._order[1].rows(chunk)
        own = own_of(self._shares, len(rows), self.batch)
        order, done = np.empty(len(own), np.int64), 0
        try:
            for room, array in zip(self._rooms, out[:2], strict=False):
                room.aim(array)
            for piece in self._read(rows[own], stopped):
                end = done + len(piece.places)
                x, y, *weights = self._convert.all(*piece.arrays, piece.where)
                for array, part in ((out[0], x), (out[1], y)):
                    if not np.may_share_memory(array, part):  # else it was read to the right place already
                        array[done:end] = part
                if weights:
                    out[2][own[piece.places]] = weights[0]
                order[piece.places] = np.arange(done, end)
                done = end
                for room in self._rooms:
                    room.first = done
            if len(out) > 2 and len(own) < len(rows):
                self._weigh(rows, np.delete(np.arange(len(rows)), own), out[2], stopped)
        finally:
            for room in self._rooms:
                room.close()
        return Filled(len(rows), (chunk + 1) * self.chunk >= self._source.rows, order)

    def _weigh(self, rows: np.ndarray, others: np.ndarray, out: np.ndarray, stopped: Callable[[], bool]) -> None:
        """Write the weights of other processes' rows, at their places."""
        for room in self._rooms:
            room.aim(None)
        for piece in self._read(rows[others], stopped, inputs=False):
            out[others[piece.places]] = self._convert.apart(*piece.arrays, piece.where)[1]

    def _read(self, rows: np.ndarray, stopped: Callable[[], bool], inputs: bool = True) -> Iterator[Piece]:
        for piece in self._source.read(rows, inputs, self._rooms):
            if stopped():
                raise Stopped
            yield piece

    def close(self) -> None:
        """See `Supply`."""
