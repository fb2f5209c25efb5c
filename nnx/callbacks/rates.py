"""Callbacks that change the learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from nnx import checks
from nnx.callbacks.callback import Callback, Model
from nnx.callbacks.monitor import Monitor
from nnx.errors import InputTypeError


class LearningRateSchedule(Callback):
    """Set the learning rate of each epoch, or of each step.

    Args:
        schedule: a function from the epoch, counted from 0, to the learning rate; see `nnx.schedules`.
        by: "epoch"; or "step": then the function gets the number of updates that the optimizer has done, over all
            fits, and a small network's steps take some microseconds longer.
    """

    def __init__(self, schedule: Callable[[int], float], by: str = "epoch") -> None:
        if not callable(schedule):
            raise InputTypeError(f"LearningRateSchedule: schedule={schedule!r}: expected a function from epoch to rate")
        fault = checks.call_fault(schedule, 0)
        if fault is not None:
            raise InputTypeError(f"LearningRateSchedule: {schedule!r:.60} cannot be called as schedule(epoch): {fault}")
        self.schedule, self.by = schedule, checks.choice(by, "LearningRateSchedule: by", ("epoch", "step"))

    def on_epoch_begin(self, model: Model, epoch: int) -> None:
        """Set the learning rate of the epoch."""
        if self.by == "epoch":
            model.optimizer.learning_rate = self.schedule(epoch)


def rate_by_step(callbacks: Iterable[Callback]) -> Callable[[int], float] | None:
    """Return the schedule of the last callback that sets a rate for each step; None if there is none."""
    by_step = [one for one in callbacks if isinstance(one, LearningRateSchedule) and one.by == "step"]
    return by_step[-1].schedule if by_step else None


class ReduceOnPlateau(Monitor):
    """Lower the learning rate when a quantity has not improved for some epochs.

    Args:
        monitor: the quantity to watch. factor: the rate is multiplied by this, which is below 1. patience: the number
            of epochs without improvement after which that happens. min_delta: a change counts as an improvement only
            if it is larger than this.
        cooldown: the number of epochs after a change in which nothing is counted. minimum: the lowest rate.
        mode: see `Monitor`.
    """

    def __init__(
        self, monitor: str = "val_loss", factor: float = 0.5, patience: int = 5, min_delta: float = 0.0,
        cooldown: int = 0, minimum: float = 0.0, mode: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__(monitor, mode)
        self.factor = checks.real(factor, "ReduceOnPlateau: factor", high=1.0, open_low=True)
        self.patience = checks.integer(patience, "ReduceOnPlateau: patience")
        self.min_delta = checks.real(min_delta, "ReduceOnPlateau: min_delta")
        self.cooldown = checks.integer(cooldown, "ReduceOnPlateau: cooldown", low=0)
        self.minimum = checks.real(minimum, "ReduceOnPlateau: minimum")
        self._since = 0  # epochs without improvement are counted after this one

    def on_fit_begin(self, model: Model) -> None:
        """Forget earlier fits."""
        super().on_fit_begin(model)
        self._since = model.epochs_done - 1

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Remember the best epoch, or lower the rate."""
        if self.improved(epoch, logs, self.min_delta):
            self._since = max(self._since, epoch)
        elif epoch - self._since >= self.patience:
            optimizer = model.optimizer
            lower = max(optimizer.learning_rate * self.factor, self.minimum)
            if lower < optimizer.learning_rate:
                optimizer.learning_rate = lower
            self._since = epoch + self.cooldown
