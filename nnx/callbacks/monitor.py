"""Monitors: callbacks that watch one quantity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from nnx import checks
from nnx.callbacks.callback import Callback, Model
from nnx.errors import InputError, InputTypeError
from nnx.history import History
from nnx.kernels.user_warnings import warn
from nnx.measures import larger_is_better
from nnx.owner import Owner


class Monitor(Callback):
    """Watches one quantity, and remembers the best epoch.

    Args:
        monitor: "loss", "accuracy", "val_loss", "val_accuracy", "val_f1", ...
        mode: "min" if smaller values are better, "max" if larger ones are; "auto" works for nnx's own metrics.
    """

    def __init__(self, monitor: str, mode: str = "auto") -> None:
        if not isinstance(monitor, str):
            raise InputTypeError(f"{type(self).__name__}: monitor={monitor!r}: expected a name such as 'val_loss'")
        self.monitor, self.mode = monitor, checks.choice(mode, f"{type(self).__name__}: mode", ("auto", "min", "max"))
        self.best = math.inf
        self.best_epoch = -1
        self._watched: Owner | None = None  # the owner of the model whose fit this watches

    def on_fit_begin(self, model: Model) -> None:
        """Forget earlier fits."""
        self.best, self.best_epoch = math.inf, model.epochs_done - 1
        self._watched = model._owner

    def on_fit_end(self, model: Model, history: History) -> None:
        """Become free for another fit."""
        self._watched = None

    def expect_free(self, owner: Owner) -> None:
        """Raise InputError if a running fit already uses this callback. A fit calls it before it begins."""
        watched = self._watched
        if watched is not None and watched is not owner and watched.holder is not None:
            raise InputError(
                f"{type(self).__name__}: it watches another fit just now; give each fit one of its own, such as "
                "copy.deepcopy(callback)"
            )

    def check(self, measured: Iterable[str]) -> None:
        """Raise InputError if the quantity is not measured, or its mode unknown. A fit calls it before it begins."""
        if self.monitor not in measured:
            raise InputError(
                f"{type(self).__name__}: monitor={self.monitor!r} is not measured; expected one of "
                f"{', '.join(measured)}" + ("; give fit() validation_data" if self.monitor.startswith("val_") else "")
            )
        if self.mode == "auto" and larger_is_better(self.monitor) is None:
            raise InputError(
                f"{type(self).__name__}: whether {self.monitor!r} is better when larger is not known; say "
                "mode='max' or mode='min'"
            )

    def improved(self, epoch: int, logs: Mapping[str, float], by: float = 0.0) -> bool:
        """Return whether this epoch is the best so far, by more than `by`; if so, remember it."""
        self.check(logs)
        larger = larger_is_better(self.monitor) if self.mode == "auto" else self.mode == "max"
        value = -logs[self.monitor] if larger else logs[self.monitor]
        if math.isnan(value) and not self.monitor.endswith("loss"):  # a loss that is nan is always a fault
            warn(
                f"{type(self).__name__}: {self.monitor!r} is nan, which is no improvement (auc takes samples of "
                "two classes to measure, r2 two samples)",
                UserWarning,
            )
        if not value < self.best - by:
            return False
        self.best, self.best_epoch = value, epoch
        return True
