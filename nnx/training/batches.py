"""Mini-batches of a fit: samples all on the device, or streamed to it while it computes.

Either way a step gathers its rows from arrays on the device, by an order and a cursor that are there too (`Feed`). What
differs is what stands in those arrays, and in which order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnx import rng
from nnx.backends import Backend
from nnx.backends.streaming import Stream
from nnx.kernels.step_state import CURSOR
from nnx.training.step import HISTORY, Feed, TrainingStep

Array = Any
ORDER = 1 << 17  # rows of shuffled order drawn at a time, or one epoch's


class Batches:
    """The batches of epochs, from samples that are all on the device.

    The order of their rows is drawn on the host, for a block of epochs at a time.

    Args:
        step: what takes them. x, y: inputs and prepared targets, NumPy arrays. batch: rows of a step.
        each_epoch: whether a block must be a single epoch.

    Attributes:
        sizes: rows of each step of an epoch, float64.
        feeds: what steps take their rows from: one feed of the full size, and one for what an epoch ends with.
        epochs: of a block. reason: why samples are streamed, or None.
    """

    reason: str | None = None

    def __init__(
        self, step: TrainingStep, x: np.ndarray, y: np.ndarray, batch: int, shuffle: bool, each_epoch: bool
    ) -> None:
        self._prepare(step, len(x), batch, shuffle)
        self._x, self._y = self._backend.asarray(x), self._backend.asarray(y, y.dtype.name)
        self._order: Array = None
        self.epochs = 1 if each_epoch else HISTORY
        if batch < len(x):  # a single batch needs no order: its gradient is a sum over all rows
            self.epochs = 1 if each_epoch else max(1, ORDER // len(x))
            self._order = self._backend.zeros(self.epochs * len(x), "int64")
        self.feeds = self._feeds()

    def _prepare(self, step: TrainingStep, rows: int, batch: int, shuffle: bool) -> None:
        self._backend: Backend = step.backend
        self._counters, self._seed = step.counters, step.network.seed
        self._rows, self._shuffle = rows, shuffle
        self.sizes = np.full(-(-rows // batch), float(batch))
        self.sizes[-1] = rows - batch * (len(self.sizes) - 1)

    def _feeds(self) -> list[Feed]:
        if self._order is None:
            return [Feed(self._x, self._y)]
        feeds = []
        for size in dict.fromkeys((self.sizes[0], self.sizes[-1])):
            x, y = (self._backend.zeros((int(size), *a.shape[1:]), a.dtype) for a in (self._x, self._y))
            feeds.append(Feed(x, y, (self._x, self._y, self._order)))
        return feeds

    def block(self, first: int, epochs: int) -> Iterator[tuple[Feed, int]]:
        """Yield what the steps of some epochs take, in order: a feed, and how many steps may take it at once.

        Args:
            first: the number of the first of them.
        """
        self.begin(first, epochs)
        done = 0
        for feed, steps in self._runs(epochs):
            end = done + steps
            while done < end:
                ready = min(end - done, self._ready(done))
                yield feed, ready
                done += ready

    def _runs(self, epochs: int) -> list[tuple[Feed, int]]:
        """Return the steps of some epochs, as many of one size as come together."""
        steps = len(self.sizes)
        if len(self.feeds) == 1:
            return [(self.feeds[0], epochs * steps)]
        return epochs * [(self.feeds[0], steps - 1), (self.feeds[1], 1)]

    def begin(self, first: int, epochs: int) -> None:
        """Be ready for the first step of some epochs."""
        if self._order is None:
            return
        order = np.concatenate([self._drawn(epoch) for epoch in range(first, first + epochs)])
        self._order[: epochs * self._rows] = self._backend.asarray(order, "int64")
        self._counters[CURSOR] = 0

    def _ready(self, step: int) -> int:
        """Be ready for a step of the block; return for how many from there on."""
        return HISTORY

    def fetch(self) -> None:
        """Do what there is to do on the host while the device computes."""

    def close(self) -> None:
        """End what goes on beside the steps."""

    def _drawn(self, epoch: int) -> np.ndarray:
        """Return the order of rows of an epoch, a function of (seed, epoch)."""
        if not self._shuffle:
            return np.arange(self._rows)
        return rng.generator(self._seed, rng.SHUFFLE, epoch).permutation(self._rows)


class StreamedBatches(Batches):
    """The same from samples that stay on the host, and go to the device in chunks, rows in the order of the epoch.

    The device has room for two chunks. While steps take theirs from one of them, the host gathers the next chunk's rows
    and sends them to the other. Steps read on from row to row, so they are the very steps that `Batches` gives.
    """

    epochs = 1  # of a block

    def __init__(self, step: TrainingStep, stream: Stream, rows: int, batch: int, shuffle: bool) -> None:
        self._prepare(step, rows, batch, shuffle)
        self._stream = stream
        self._x, self._y = stream.arrays
        self._order = self._backend.asarray(np.arange(2 * stream.rows), "int64")
        self._steps = stream.rows // batch  # of a chunk
        self._half = 1  # the one that steps read
        self._here: tuple[int, int] | None = None  # epoch and chunk that they read
        self._next: tuple[int, int] | None = None  # epoch and chunk in the other half
        self._epoch = -1, np.empty(0, np.int64)  # whose order was drawn last, and that order
        self.reason = stream.reason
        self.feeds = self._feeds()

    def begin(self, first: int, epochs: int) -> None:
        """Be ready for the first step of an epoch."""
        self._turn_to((first, 0))

    def _ready(self, step: int) -> int:
        """Be ready for a step of the epoch; return how many there are in its chunk from there on."""
        assert self._here is not None
        chunk, done = divmod(step, self._steps)
        if chunk != self._here[1]:
            self._turn_to((self._here[0], chunk))
        return self._steps - done

    def fetch(self) -> None:
        """Send the chunk that comes after the one at hand."""
        assert self._here is not None
        epoch, chunk = self._here
        last = (chunk + 1) * self._stream.rows >= self._rows
        self._send((epoch + 1, 0) if last else (epoch, chunk + 1))

    def close(self) -> None:
        """Wait for the chunk on its way: nothing may be copied into memory that is given back."""
        self._stream.close()

    def _turn_to(self, chunk: tuple[int, int]) -> None:
        """Let steps read a chunk from its first row on."""
        if chunk != self._here:
            self._send(chunk)
            self._stream.leave(self._half)
            self._half = 1 - self._half
            self._stream.enter(self._half)
            self._here, self._next = chunk, None
        self._counters[CURSOR] = self._half * self._stream.rows

    def _send(self, chunk: tuple[int, int]) -> None:
        """Send a chunk to the half that steps do not read, unless it is there."""
        if chunk == self._next:
            return
        epoch, number = chunk
        if epoch != self._epoch[0]:
            self._epoch = epoch, self._drawn(epoch)
        begin = number * self._stream.rows
        self._stream.fill(1 - self._half, self._epoch[1][begin : begin + self._stream.rows])
        self._next = chunk


def batches_for(
    step: TrainingStep, x: np.ndarray, y: np.ndarray, batch: int, shuffle: bool, each_epoch: bool
) -> Batches:
    """Return samples on the device where they fit; streamed where they do not, and are not a single batch."""
    stream = step.backend.stream([x, y], batch) if batch < len(x) else None
    if stream is None:
        return Batches(step, x, y, batch, shuffle, each_epoch)
    return StreamedBatches(step, stream, len(x), batch, shuffle)
