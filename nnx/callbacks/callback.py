"""The base of callbacks, and the interface by which they know the model that is trained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from nnx.arguments import explain_init
from nnx.backends import Backend
from nnx.distributed import Communicator
from nnx.history import History
from nnx.owner import Owner
from nnx.settings import is_own


class Model(Protocol):
    """The part of a model's interface that a fit and its callbacks use: see `Sequential`."""

    _owner: Owner
    backend: Backend
    metadata: dict[str, Any]
    epochs_done: int
    stop_training: bool
    eager_reason: str | None
    replay_reason: str | None

    @property
    def optimizer(self) -> Any:
        """The optimizer."""

    def parameters(self) -> dict[str, Any]:
        """Return every parameter by its layer's index and its name."""

    def set_parameters(self, values: Any) -> None:
        """Copy values into all parameters."""

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Return the outputs for x."""

    def evaluate(self, x: Any, y: Any, batch_size: int | None = None, sample_weight: Any = None) -> dict[str, float]:
        """Return the mean loss over x and y, and the metrics."""

    def scores(
        self, x: Any, y: Any, batch_size: int | None, sample_weight: Any = None, *, comm: Communicator
    ) -> dict[str, float]:
        """Return what `evaluate` returns, computed by several processes together."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file."""


class Callback:
    """The base of all callbacks. `epoch` is counted from 0; `logs` holds the epoch's losses and metrics.

    Setting `model.stop_training = True` ends the fit after the epoch. `Sequential.fit` says what else a callback may do
    with the model; `Model` is the type for annotations.

    If a callback defines `on_batch_begin` or `on_batch_end`, each training step is a call of its own. For small
    networks this costs most of what running many steps in one call saves; docs/extending.md has figures.
    """

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if is_own(cls):
            explain_init(cls)

    def on_fit_begin(self, model: Model) -> None:
        """Called before the first epoch."""

    def on_epoch_begin(self, model: Model, epoch: int) -> None:
        """Called before each epoch."""

    def on_batch_begin(self, model: Model, batch: int) -> None:
        """Called before each training step. `batch` is counted from 0 in each epoch."""

    def on_batch_end(self, model: Model, batch: int, logs: Mapping[str, float]) -> None:
        """Called after each training step. `logs` holds the mini-batch's loss, and its accuracy if there is one."""

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Called after each epoch."""

    def on_fit_end(self, model: Model, history: History) -> None:
        """Called after the last epoch, also if Ctrl-C ended the fit."""


def copied_parameters(model: Model) -> dict[str, np.ndarray]:
    """Return copies of a model's parameters, for `set_parameters` to put back."""
    return {name: np.array(model.backend.to_numpy(a)) for name, a in model.parameters().items()}


def watches_batches(callback: Callback) -> bool:
    """Return whether a callback defines a method that is called before or after each training step."""
    names = ("on_batch_begin", "on_batch_end")
    return any(name in vars(callback) or getattr(type(callback), name) is not getattr(Callback, name) for name in names)
