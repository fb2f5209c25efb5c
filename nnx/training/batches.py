"""Batches of a fit: samples all on the device, or streamed to it while it computes.

Either way a step gathers its rows from arrays on the device, by an order and a cursor that are there too (`Feed`). What
differs is what stands in those arrays, and in which order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnx import rng
from nnx.backends.streaming import Stream
from nnx.kernels.step_state import CURSOR
from nnx.training.step import HISTORY, Feed, Trainer

if TYPE_CHECKING:
    from nnx.model.sequential import Sequential

Array = Any
ORDER = 1 << 17  # rows of shuffled order drawn at a time, or one epoch's


class Samples:
    """All samples on the device; the order of their rows is drawn on the host, for a block of epochs at a time.

    Args:
        x, y: inputs and prepared targets, NumPy arrays. batch: rows of a step.
        each_epoch: whether a block must be a single epoch.

    Attributes:
        epochs: of a block. reason: why samples are streamed, or None.
    """

    reason: str | None = None

    def __init__(
        self, model: Sequential, trainer: Trainer, x: np.ndarray, y: np.ndarray, batch: int, shuffle: bool,
        each_epoch: bool,
    ) -> None:  # fmt: skip
        self._model, self._trainer, self._backend = model, trainer, model.backend
        self._rows, self._shuffle = len(x), shuffle
        self._x, self._y = self._backend.asarray(x), self._backend.asarray(y, y.dtype.name)
        self._order: Array = None
        self.epochs = 1 if each_epoch else HISTORY
        if batch < len(x):  # a single batch needs no order: its gradient is a sum over all rows
            self.epochs = 1 if each_epoch else max(1, ORDER // len(x))
            self._order = self._backend.zeros(self.epochs * len(x), "int64")

    def feed(self, rows: int) -> Feed:
        """Return where a step of so many rows takes them from."""
        if self._order is None:
            return Feed(self._x, self._y)
        x, y = (self._backend.zeros((rows, *a.shape[1:]), a.dtype) for a in (self._x, self._y))
        return Feed(x, y, (self._x, self._y, self._order))

    def begin(self, first: int, epochs: int) -> None:
        """Be ready for the first step of some epochs."""
        if self._order is None:
            return
        order = np.concatenate([self._drawn(epoch) for epoch in range(first, first + epochs)])
        self._order[: epochs * self._rows] = self._backend.asarray(order, "int64")
        self._trainer.counters[CURSOR] = 0

    def ready(self, step: int) -> int:
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
        return rng.generator(self._model.seed, rng.SHUFFLE, epoch).permutation(self._rows)


class StreamedSamples(Samples):
    """Samples that stay on the host, and go to the device in chunks, rows in the order of the epoch.

    The device has room for two chunks. While steps take theirs from one of them, the host gathers the next chunk's rows
    and sends them to the other. Steps read on from row to row, so they are the very steps that `Samples` gives.
    """

    epochs = 1  # of a block

    def __init__(
        self, model: Sequential, trainer: Trainer, stream: Stream, batch: int, rows: int, shuffle: bool
    ) -> None:
        self._model, self._trainer, self._backend = model, trainer, model.backend
        self._rows, self._shuffle, self._stream = rows, shuffle, stream
        self._x, self._y = stream.arrays
        self._order = self._backend.asarray(np.arange(2 * stream.rows), "int64")
        self._steps = stream.rows // batch  # of a chunk
        self._half = 1  # the one that steps read
        self._here: tuple[int, int] | None = None  # epoch and chunk that they read
        self._next: tuple[int, int] | None = None  # epoch and chunk in the other half
        self._epoch = -1, np.empty(0, np.int64)  # whose order was drawn last, and that order
        self.reason = stream.reason

    def begin(self, first: int, epochs: int) -> None:
        """Be ready for the first step of an epoch."""
        self._turn_to((first, 0))

    def ready(self, step: int) -> int:
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
        self._trainer.counters[CURSOR] = self._half * self._stream.rows

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


def samples_for(
    model: Sequential, trainer: Trainer, x: np.ndarray, y: np.ndarray, batch: int, shuffle: bool, each_epoch: bool
) -> Samples:
    """Return samples on the device where they fit; streamed where they do not, and are not a single batch."""
    stream = model.backend.stream([x, y], batch) if batch < len(x) else None
    if stream is None:
        return Samples(model, trainer, x, y, batch, shuffle, each_epoch)
    return StreamedSamples(model, trainer, stream, batch, len(x), shuffle)
