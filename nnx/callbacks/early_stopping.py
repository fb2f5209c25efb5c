"""Early stopping: end a fit when it no longer improves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnx import checks
from nnx.callbacks.callback import Model, copied_parameters
from nnx.callbacks.monitor import Monitor
from nnx.history import History


class EarlyStopping(Monitor):
    """Stop when a quantity has not improved for some epochs.

    Args:
        monitor: the quantity to watch. patience: the number of epochs without improvement after which to stop.
        min_delta: a change counts as an improvement only if it is larger than this. restore_best: whether to end with
            the parameters of the best epoch.
        mode: see `Monitor`.
    """

    def __init__(
        self, monitor: str = "val_loss", patience: int = 10, min_delta: float = 0.0, restore_best: bool = True,
        mode: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__(monitor, mode)
        self.patience = checks.integer(patience, "EarlyStopping: patience")
        self.min_delta = checks.real(min_delta, "EarlyStopping: min_delta")
        self.restore_best = checks.flag(restore_best, "EarlyStopping: restore_best")
        self._parameters: dict[str, np.ndarray] | None = None

    def on_fit_begin(self, model: Model) -> None:
        """Forget earlier fits."""
        super().on_fit_begin(model)
        self._parameters = None

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Note the best epoch, or stop."""
        if self.improved(epoch, logs, self.min_delta):
            if self.restore_best:
                self._parameters = copied_parameters(model)
        elif epoch - self.best_epoch >= self.patience:
            model.stop_training = True

    def on_fit_end(self, model: Model, history: History) -> None:
        """Put the best parameters back."""
        super().on_fit_end(model, history)
        if self._parameters is not None:
            model.set_parameters(self._parameters)
            self._parameters = None
