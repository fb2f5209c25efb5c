"""Samples that a fit trains on: arrays in memory here, rows that are read during the fit in read_samples.py.

The two differ only in how they are checked and in what makes batches of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nnx import targets
from nnx.callbacks import Callback
from nnx.callbacks.labels_stay import watched
from nnx.data.arrays import Arrays, no_targets
from nnx.distributed.shares import Shares
from nnx.errors import InputError
from nnx.training.batches import Batches
from nnx.training.beside import Alone
from nnx.training.evaluation import tolerance_of
from nnx.training.held_out import first_held_out
from nnx.training.streamed_batches import batches_for
from nnx.training.trainer import Trainer

if TYPE_CHECKING:
    from nnx.training.trainable import Trainable


@dataclass(frozen=True)
class Options:
    """A fit's arguments other than its data, checked; see `Sequential.fit`.

    Attributes:
        batch: rows of a step; None: all. every: how many batches make one update. shares: how processes divide batches.
        beside: what it shares with fits of other models.
    """

    trainer: Trainer
    shares: Shares | None
    epochs: int
    batch: int | None
    every: int
    shuffle: bool
    callbacks: Sequence[Callback]
    verbose: Any
    class_weight: Any
    beside: Alone

    def check_accumulate(self, rows: int) -> None:
        """Refuse `accumulate` if all `rows` make a single batch."""
        if self.every > 1 and (self.batch is None or self.batch >= rows):
            raise InputError(
                f"fit: accumulate={self.every} mini-batches make one update, but all {rows} samples are one batch; "
                "give a smaller batch_size"
            )


class Samples(Protocol):
    """What a fit trains on. Its methods are called in this order; `close` too if there is an error after `begin`."""

    def hold_out(self, share: Any, validation_data: Any) -> Any:
        """Hold out the last samples, by validation_split, and return the validation data."""

    def check(self) -> None:
        """Refuse data that do not fit the model or each other, before anything is changed."""

    def begin(self) -> None:
        """Prepare to make batches; for a regression, set how near an output must be to count as right."""

    @property
    def batch(self) -> int:
        """The number of rows in a step."""

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that must be the same on all processes, by name."""

    def callbacks(self) -> list[Callback]:
        """Return the callbacks of the fit, with one that watches the labels if needed."""

    def batches(self, each_epoch: bool) -> Batches:
        """Return the batches; `each_epoch`: whether something is to be done after each epoch."""

    def close(self) -> None:
        """Close files and end reading."""


class InMemory:
    """Samples in arrays; see `Samples`. Labels are copied."""

    def __init__(self, model: Trainable, given: Arrays, how: Options) -> None:
        if given.y is None:
            raise no_targets("fit", given.x)
        self._model, self._how = model, how
        self._x = model._inputs(given.x, "fit: x")
        self._y = model._host_targets(given.y, self._x, "fit")
        self._given = targets.given(model._from_device(given.y), "fit: y")
        self._labels = self._y if model.loss.counted(self._given) is None else self._given.reshape(-1).copy()
        self._users, self._sample_weight = given.y, given.weights
        self._weights: np.ndarray | None = None

    def hold_out(self, share: Any, validation_data: Any) -> list[Any]:
        """See `Samples`."""
        first, weight = first_held_out(share, validation_data, len(self._x)), self._sample_weight
        weights = [] if weight is None else [self._model._checked_weights(weight, len(self._x), "fit")]
        out = [a[first:] for a in (self._x, self._given, *weights)]
        self._x, self._y, self._given, *weights = (a[:first] for a in (self._x, self._y, self._given, *weights))
        self._sample_weight = weights[0] if weights else None
        return out

    def check(self) -> None:
        """See `Samples`."""
        given, classes = self._sample_weight, self._how.class_weight
        self._weights = self._model._weights(self._given, self._y, "fit", given, classes)
        self._how.check_accumulate(len(self._x))

    def begin(self) -> None:
        """See `Samples`."""
        if self._model.loss.metric == "regression":
            self._how.trainer.set_tolerance(tolerance_of(self._y, self._weights))

    @property
    def batch(self) -> int:
        """See `Samples`."""
        return min(self._how.batch or len(self._x), len(self._x))

    @property
    def facts(self) -> dict[str, Any]:
        """See `Samples`."""
        return {"x": self._x, "y": self._y, "weights": self._weights}

    def callbacks(self) -> list[Callback]:
        """See `Samples`."""
        return watched(self._how.callbacks, self._users, self._labels)

    def batches(self, each_epoch: bool) -> Batches:
        """See `Samples`."""
        how = self._how
        data = how.trainer, self._x, self._y, self.batch, how.shuffle, each_epoch
        return batches_for(*data, self._weights, how.every)

    def close(self) -> None:
        """See `Samples`."""
