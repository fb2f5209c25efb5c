"""Mini-batches of a fit, from samples that are all on the device.

A step gathers its rows from arrays on the device, using an order of rows and a cursor that are arrays there too
(`Feed`). It does the same for samples that are streamed to the device (streamed_batches.py) or read while training
(read_batches.py); only the contents of these arrays, and the order, differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnx import rng
from nnx.backends import Backend
from nnx.distributed.shares import Shares
from nnx.kernels.step_state import CURSOR
from nnx.training.factors import Factors
from nnx.training.parts import divided
from nnx.training.step import HISTORY, Feed
from nnx.training.trainer import Trainer

Array = Any
ORDER = 1 << 17  # rows whose shuffled order is drawn at a time; always at least those of one epoch


class Batches:
    """The batches of a fit, from samples that are all on the device.

    The order of their rows is drawn on the host, for a block of epochs at a time.

    Args:
        step: the trainer that takes the batches. x, y: inputs and prepared targets, NumPy arrays. sizes: the number of
            rows of each step of an epoch. shuffle: whether to draw an order for each epoch. each_epoch: whether a block
            must be a single epoch. factors: of the samples (nnx/weights.py); None: all count alike.

    Attributes:
        feeds: where steps take their rows from: a feed of the full batch size, and one for an epoch's smaller last
            batch, if there is one.
        epochs: the number of epochs in a block. end: the number of the last epoch of the fit, plus 1.
        reason: why samples are streamed, or None.
    """

    feeds: list[Feed]
    reason: str | None = None
    end = 0

    def __init__(
        self, step: Trainer, x: np.ndarray, y: np.ndarray, sizes: np.ndarray, shuffle: bool, each_epoch: bool,
        factors: Factors | None,
    ) -> None:  # fmt: skip
        self._prepare(step, sizes, shuffle, factors)
        self._data = [self._backend.asarray(a, a.dtype.name) for a in (x, y)]
        self._order: Array = None
        self.epochs = 1 if each_epoch else HISTORY
        if len(sizes) > 1:  # a single batch needs no order: its gradient is a sum over all rows
            # There is one factor for each row, so the array can hold those of one epoch only.
            self.epochs = 1 if each_epoch or factors is not None else max(1, ORDER // len(x))
            self._order = self._backend.zeros(max(1, self.epochs * self._taken), "int64")
        if factors is not None:
            factors.draw(0, np.arange(len(x)))
            self._data.append(self._backend.asarray(factors.by_row.copy()))
        self.feeds = self._feeds()

    def _prepare(self, step: Trainer, sizes: np.ndarray, shuffle: bool, factors: Factors | None) -> None:
        self._backend: Backend = step.backend
        self._counters, self._seed = step.counters, step.network.seed
        self._of_steps, self._shuffle, self._factors = sizes, shuffle, factors
        self._rows = int(sizes.sum())
        self._shares = step.shares
        self._own = None if self._shares is None else own_places(self._shares, sizes)
        self._taken = self._rows if self._own is None else len(self._own)  # by this process, in an epoch

    @property
    def sizes(self) -> np.ndarray:
        """Rows of each step of an epoch, float64."""
        return self._of_steps

    @property
    def weighted(self) -> bool:
        """Whether samples count differently."""
        return self._factors is not None

    @property
    def steps(self) -> float:
        """The number of steps in an epoch."""
        return len(self._of_steps)

    @property
    def expected(self) -> float:
        """The expected number of steps in an epoch, for showing progress; inf: it is not known."""
        return self.steps

    def _feeds(self) -> list[Feed]:
        if self._order is None:
            whole = feed_of(self._data)
            return [whole if self._shares is None else divided(whole, self._shares)]
        source = (*self._data[:2], self._order, *self._data[2:])
        feeds = []
        for size in dict.fromkeys((self.sizes[0], self.sizes[-1])):
            batch = [self._backend.zeros((int(size), *a.shape[1:]), a.dtype) for a in self._data]
            feed = feed_of(batch, source)
            feeds.append(feed if self._shares is None else divided(feed, self._shares))
        return feeds

    def block(self, first: int, epochs: int) -> Iterator[tuple[Feed, int]]:
        """Yield, for the steps of some epochs in order, a feed and the number of steps that can run on it in one call.

        Args:
            first: the number of the first epoch. epochs: how many there are.
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
        """Return the steps of some epochs as (feed, steps), neighbouring steps of one size together."""
        steps = len(self.sizes)
        if len(self.feeds) == 1:
            return [(self.feeds[0], epochs * steps)]
        return epochs * [(self.feeds[0], steps - 1), (self.feeds[1], 1)]

    def begin(self, first: int, epochs: int) -> None:
        """Prepare the order of rows for some epochs, and go to their first step."""
        if self._order is None:
            return
        order = np.concatenate([self._drawn(epoch) for epoch in range(first, first + epochs)])
        self._order[: epochs * self._taken] = self._backend.asarray(order, "int64")
        if self._factors is not None:
            self._data[2][...] = self._backend.asarray(self._factors.by_row)
        self._counters[CURSOR] = 0

    def _ready(self, step: int) -> int:
        """Prepare a step of the block; return how many steps from there on are ready."""
        return HISTORY

    def fetch(self) -> None:
        """Do the host's work that can be done while the device computes: here nothing."""

    def close(self) -> None:
        """End work that goes on beside the steps: here nothing."""

    def shares(self, epoch: int) -> np.ndarray:
        """Return the weight of each step in an epoch's mean: its number of rows, or the sum of its batch's weights."""
        if self._factors is None:
            return self.sizes
        if len(self.sizes) == 1:
            return self._factors.shares[0]
        self._factors.scales.pop(epoch)
        return self._factors.shares.pop(epoch)

    def scale(self, epoch: int, batch: int) -> float:
        """Return the factor from a part's loss and hits, which are shares of its batch's, to the part's own means."""
        factors = self._factors
        return 1.0 if factors is None or len(self.sizes) == 1 else float(factors.scales[epoch][batch])

    def total(self, shares: np.ndarray) -> float:
        """Return the weight of all samples of an epoch together, from its `shares`."""
        return float(self._rows if self._factors is None else shares[self._factors.last].sum())

    def _drawn(self, epoch: int) -> np.ndarray:
        """Return the order of rows of an epoch, a function of (seed, epoch)."""
        order: np.ndarray
        if self._shuffle:
            order = rng.generator(self._seed, rng.SHUFFLE, epoch).permutation(self._rows)
        else:
            order = np.arange(self._rows)
        if self._factors is not None:
            self._factors.draw(epoch, order)
        return order if self._own is None else order[self._own]


def own_places(shares: Shares, sizes: np.ndarray) -> np.ndarray:
    """Return the indices into an epoch's order that this process takes, in the order in which it takes them."""
    first = (np.cumsum(sizes) - sizes).astype(np.int64)
    own = {size: shares.rows(int(size)) for size in (sizes[0], sizes[-1])}
    return np.concatenate([begin + own[size] for begin, size in zip(first, sizes, strict=True)])


def taken_of(shares: Shares | None, batch: int) -> int:
    """Return how many rows of a batch this process takes."""
    return batch if shares is None else len(shares.rows(batch))


def most_taken(shares: Shares | None, sizes: np.ndarray) -> int:
    """Return the most rows that this process takes of a batch; of a smaller last batch it may take one more."""
    return max(taken_of(shares, int(size)) for size in (sizes[0], sizes[-1]))


def feed_of(batch: list[Array], source: tuple[Array, ...] | None = None) -> Feed:
    """Return a feed made of the arrays (inputs, targets) or (inputs, targets, factors)."""
    return Feed(batch[0], batch[1], source, factors=batch[2] if len(batch) > 2 else None)
