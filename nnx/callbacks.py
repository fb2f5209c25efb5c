"""Callbacks at the end of an epoch, or of a mini-batch: stop early, save, log, change the learning rate."""

from __future__ import annotations

import csv
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from types import BuiltinFunctionType
from typing import Any, Protocol

import numpy as np

from nnx import checks
from nnx.backends import Backend
from nnx.distributed import Communicator, current
from nnx.errors import InputError, InputTypeError
from nnx.files import as_path, check_folder, refuse_other_format
from nnx.history import History
from nnx.measures import larger_is_better
from nnx.owner import Owner
from nnx.settings import written

FILLED_IN = re.compile(r"\{[A-Za-z_]\w*(?::[^{}]*)?\}")  # {epoch:02d}, as other libraries' callbacks take it


class Model(Protocol):
    """What a fit and its callbacks know of the model that is trained: see `Sequential`."""

    _owner: Owner
    backend: Backend
    metadata: dict[str, Any]
    epochs_done: int
    stop_training: bool
    eager_reason: str | None
    replay_reason: str | None

    @property
    def optimizer(self) -> Any:
        """What moves the parameters."""

    def parameters(self) -> dict[str, Any]:
        """Return every parameter by its layer's number and its name."""

    def set_parameters(self, values: Any) -> None:
        """Copy values into all parameters."""

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Return the outputs for x."""

    def evaluate(self, x: Any, y: Any, batch_size: int | None = None, sample_weight: Any = None) -> dict[str, float]:
        """Return the mean loss over x and y, and the metrics."""

    def scores(
        self, x: Any, y: Any, batch_size: int | None, sample_weight: Any = None, *, comm: Communicator
    ) -> dict[str, float]:
        """Return the same, worked out by several processes."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file."""


class Callback:
    """The base of all callbacks. `epoch` counts from 0; `logs` holds the epoch's losses and metrics.

    Setting `model.stop_training = True` ends the fit after the epoch. What else a callback may do with the model:
    `Sequential.fit`; what it is annotated with: `Model`.

    Where one defines `on_batch_begin` or `on_batch_end` each step is a call of its own, which costs small networks
    most of what replaying many in one call saves; docs/extending.md has figures.
    """

    def on_fit_begin(self, model: Model) -> None:
        """Do something before the first epoch."""

    def on_epoch_begin(self, model: Model, epoch: int) -> None:
        """Do something before an epoch."""

    def on_batch_begin(self, model: Model, batch: int) -> None:
        """Do something before a training step. `batch` counts from 0 in each epoch."""

    def on_batch_end(self, model: Model, batch: int, logs: Mapping[str, float]) -> None:
        """Do something after a training step. `logs` holds the mini-batch's loss, and accuracy where there is one."""

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Do something after an epoch."""

    def on_fit_end(self, model: Model, history: History) -> None:
        """Do something after the last epoch, also where the fit was interrupted."""


def copied_parameters(model: Model) -> dict[str, np.ndarray]:
    """Return copies of a model's parameters, for `set_parameters` to put back."""
    return {name: np.array(model.backend.to_numpy(a)) for name, a in model.parameters().items()}


def watches_batches(callback: Callback) -> bool:
    """Tell whether a callback does something before or after each training step."""
    names = ("on_batch_begin", "on_batch_end")
    return any(name in vars(callback) or getattr(type(callback), name) is not getattr(Callback, name) for name in names)


class LabelsStay(Callback):
    """Ends a fit whose labels somebody changes: it goes by a copy of them, and would never take notice.

    Args:
        given: labels as `fit` was given them. taken: the copy, int64 [N].
    """

    def __init__(self, given: np.ndarray, taken: np.ndarray) -> None:
        self._given, self._taken = given, taken

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Compare the two."""
        given = self._given.reshape(-1)
        changed = np.flatnonzero(given != self._taken)
        if changed.size:
            row = int(changed[0])
            raise InputError(
                f"fit: y was changed while it trained: row {row} is {given[row]}, was {self._taken[row]}. A fit goes "
                f"by the labels that it was given, and did so up to epoch {epoch + 1}; change them between two fits"
            )


def check_callbacks(callbacks: Any) -> None:
    """Refuse what is no list of callbacks."""
    if not isinstance(callbacks, Sequence):
        raise InputTypeError(f"fit: callbacks={callbacks!r}; expected a list, such as [nnx.callbacks.EarlyStopping()]")
    for callback in callbacks:
        checks.instance(callback, Callback, "fit: a callback", "callbacks.EarlyStopping()")
        check_methods(callback)
    if sum(isinstance(callback, WeightAverage) for callback in callbacks) > 1:
        raise InputError("fit: two callbacks take the mean of weights: give one WeightAverage")


def check_methods(callback: Callback) -> None:
    """Refuse methods that no fit would call, and those that do not take what it gives them."""
    who, known = type(callback).__name__, {name: method for name, method in vars(Callback).items() if name[:3] == "on_"}
    for name in [name for name in dir(callback) if name.startswith("on_") and written(callback, name)]:
        if name not in known:
            alike = get_close_matches(name.replace("train_", ""), [*known, "on_begin", "on_end"], 1, 0.75)
            near = alike[0].replace("on_begin", "on_fit_begin").replace("on_end", "on_fit_end") if alike else None
            raise InputError(
                f"fit: the callback {who} has a method {name}, which is called at no time"
                + (f"; did you mean {near}? " if near else ". ")
                + f"These are: {', '.join(known)}; give helpers of yours other names"
            )
        given = [one for one in signature(known[name]).parameters if one != "self"]
        try:
            signature(getattr(callback, name)).bind(*given)
        except (TypeError, ValueError):  # a built-in function does not say what it takes
            if not isinstance(getattr(callback, name), BuiltinFunctionType):
                raise InputTypeError(
                    f"fit: the callback {who} is called as {name}({', '.join(given)}), which it does not take; write "
                    f"def {name}(self, {', '.join(given)})"
                ) from None


def check_monitors(callbacks: Iterable[Callback], measured: Sequence[str], owner: Owner) -> None:
    """Refuse to watch what is not measured, two fits at once, and to write where nothing can be written."""
    for callback in callbacks:
        if isinstance(callback, Monitor):
            callback.check(measured)
            callback.expect_free(owner)
        if isinstance(callback, ModelCheckpoint | CSVLogger) and current().leads:  # of several processes one writes
            check_folder(callback.path)
            if isinstance(callback, CSVLogger):
                callback.check_columns(measured)


def watched(callbacks: Iterable[Callback], given: object, taken: np.ndarray) -> list[Callback]:
    """Return a fit's callbacks and, since they may change arrays, one that looks after its labels."""
    some = list(callbacks)
    if some and isinstance(given, np.ndarray) and taken.ndim == 1 and given.size == taken.size:
        some.append(LabelsStay(given, taken))
    return some


class Monitor(Callback):
    """Watches one quantity, and knows which epoch was best.

    Args:
        monitor: "loss", "accuracy", "val_loss", "val_accuracy", "val_f1", ...
        mode: whether it is better when smaller, "min", or larger, "max"; "auto" knows it of nnx's own metrics.
    """

    def __init__(self, monitor: str, mode: str = "auto") -> None:
        if not isinstance(monitor, str):
            raise InputTypeError(f"{type(self).__name__}: monitor={monitor!r}: expected a name such as 'val_loss'")
        self.monitor, self.mode = monitor, checks.choice(mode, f"{type(self).__name__}: mode", ("auto", "min", "max"))
        self.best = math.inf
        self.best_epoch = -1
        self._watched: Owner | None = None  # whose fit this watches

    def on_fit_begin(self, model: Model) -> None:
        """Forget earlier fits."""
        self.best, self.best_epoch = math.inf, model.epochs_done - 1
        self._watched = model._owner

    def on_fit_end(self, model: Model, history: History) -> None:
        """Be free for another fit."""
        self._watched = None

    def expect_free(self, owner: Owner) -> None:
        """Refuse to watch two fits at once. A fit asks before it begins."""
        watched = self._watched
        if watched is not None and watched is not owner and watched.holder is not None:
            raise InputError(
                f"{type(self).__name__}: it watches another fit just now; give each fit one of its own, such as "
                "copy.deepcopy(callback)"
            )

    def check(self, measured: Iterable[str]) -> None:
        """Refuse to watch what is not measured. A fit asks before it begins."""
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
        """Tell whether this epoch is the best so far, by more than `by`; note it if so."""
        self.check(logs)
        larger = larger_is_better(self.monitor) if self.mode == "auto" else self.mode == "max"
        value = -logs[self.monitor] if larger else logs[self.monitor]
        if math.isnan(value) and not self.monitor.endswith("loss"):  # that of a loss has no harmless reason
            warnings.warn(
                f"{type(self).__name__}: {self.monitor!r} is nan, which is no improvement (auc takes samples of "
                "two classes to measure, r2 two samples)",
                stacklevel=2,
            )
        if not value < self.best - by:
            return False
        self.best, self.best_epoch = value, epoch
        return True


class EarlyStopping(Monitor):
    """Stop when a quantity has not improved for some epochs.

    Args:
        monitor: what to watch. patience: epochs without improvement after which to stop.
        min_delta: what counts as an improvement. restore_best: end with the best epoch's parameters.
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


class ModelCheckpoint(Monitor):
    """Save the model after an epoch; a killed process loses at most what came after.

    Args:
        path: the file, in the format of `Sequential.save`.
        monitor: with a name, save only when that quantity has improved; None: after every epoch.
        every: save after every so many epochs, and at the end. mode: see `Monitor`.
    """

    def __init__(
        self, path: str | os.PathLike[str], monitor: str | None = None, every: int = 1, mode: str = "auto"
    ) -> None:
        super().__init__("loss" if monitor is None else monitor, mode)
        self.path, self.only_best = as_path("ModelCheckpoint", path), monitor is not None
        if blank := FILLED_IN.search(self.path.name):
            raise InputError(
                f"ModelCheckpoint({str(path)!r}): {blank[0]} is not filled in, the one file is written again and "
                "again; for a file an epoch, call model.save(...) in on_epoch_end of a callback of your own"
            )
        refuse_other_format(f"ModelCheckpoint({str(path)!r})", self.path)
        self.every = checks.integer(every, "ModelCheckpoint: every")
        self._saved_epoch = -1

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Save, if it is time."""
        due = self.improved(epoch, logs) if self.only_best else (epoch + 1) % self.every == 0
        if due:
            self._save(model)

    def on_fit_end(self, model: Model, history: History) -> None:
        """Save the last epoch, where nothing but time decides; not the middle of an epoch."""
        super().on_fit_end(model, history)
        if not self.only_best and history.complete and self._saved_epoch != model.epochs_done:
            self._save(model)

    def _save(self, model: Model) -> None:
        model.save(self.path)
        self._saved_epoch = model.epochs_done


class CSVLogger(Callback):
    """Write each epoch's values to a CSV file, a line at once, so that a killed process keeps all lines before.

    Args:
        path: the file. append: go on with a file that is there, instead of beginning anew.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path, self.append = as_path("CSVLogger", path), checks.flag(append, "CSVLogger: append")
        self._begun = False

    def check_columns(self, measured: Sequence[str]) -> None:
        """Refuse to go on with a file of other columns. A fit asks before it begins."""
        if not (self.append and self.path.is_file()):
            return
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            names = next(csv.reader(file), [])
        if names and names != ["epoch", *measured]:
            raise InputError(
                f"CSVLogger: {self.path} has the columns {', '.join(names)}, this fit writes "
                f"epoch, {', '.join(measured)}; name another file, or say append=False to begin it anew"
            )

    def on_fit_begin(self, model: Model) -> None:
        """Begin the file, so that one that cannot be written fails before training does."""
        if not current().leads:  # of several processes one writes
            return
        self._begun = self.append and self.path.exists() and self.path.stat().st_size > 0
        with self.path.open("ab+" if self._begun else "wb") as file:
            if self._begun:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # an earlier process was killed, or its disk was full, within a line
                    file.write(b"\r\n")

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Append a line."""
        if not current().leads:
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if not self._begun:
                writer.writerow(["epoch", *logs])
                self._begun = True
            writer.writerow([epoch, *(repr(float(value)) for value in logs.values())])


class LearningRateSchedule(Callback):
    """Set the learning rate of each epoch, or of each step.

    Args:
        schedule: a function from the epoch, counted from 0, to the learning rate; see `nnx.schedules`.
        by: "epoch"; or "step": then it is given the number of updates that the optimizer has done, over all fits, and
            a small network's steps take some microseconds more.
    """

    def __init__(self, schedule: Callable[[int], float], by: str = "epoch") -> None:
        if not callable(schedule):
            raise InputTypeError(f"LearningRateSchedule: schedule={schedule!r}: expected a function from epoch to rate")
        self.schedule, self.by = schedule, checks.choice(by, "LearningRateSchedule: by", ("epoch", "step"))

    def on_epoch_begin(self, model: Model, epoch: int) -> None:
        """Set the epoch's rate."""
        if self.by == "epoch":
            model.optimizer.learning_rate = self.schedule(epoch)


def rate_by_step(callbacks: Iterable[Callback]) -> Callable[[int], float] | None:
    """Return the function that gives each step's rate, if there is one: the last one counts, as of epochs."""
    by_step = [one for one in callbacks if isinstance(one, LearningRateSchedule) and one.by == "step"]
    return by_step[-1].schedule if by_step else None


class ReduceOnPlateau(Monitor):
    """Lower the learning rate when a quantity has not improved for some epochs.

    Args:
        monitor: what to watch. factor: what the rate is multiplied by, below 1. patience: epochs without improvement
            after which that is done. min_delta: what counts as an improvement.
        cooldown: epochs after a change that do not count as without improvement. minimum: no rate is lower.
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
        self._since = 0  # the epoch after which those without improvement are counted

    def on_fit_begin(self, model: Model) -> None:
        """Forget earlier fits."""
        super().on_fit_begin(model)
        self._since = model.epochs_done - 1

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Note the best epoch, or lower the rate."""
        if self.improved(epoch, logs, self.min_delta):
            self._since = max(self._since, epoch)
        elif epoch - self._since >= self.patience:
            optimizer = model.optimizer
            lower = max(optimizer.learning_rate * self.factor, self.minimum)
            if lower < optimizer.learning_rate:
                optimizer.learning_rate = lower
            self._since = epoch + self.cooldown


class WeightAverage(Callback):
    """Train as ever, and end with the mean of the parameters over the steps (Polyak and Juditsky, 1992).

    In the mean each step has `decay` times the weight of the next one; it begins with the first step, so no start has
    to be forgotten. Validation, and callbacks after an epoch, see the mean in the parameters' place, and what they save
    is that; training goes on with the parameters as they are. A fit that ends by an error leaves these. What a callback
    assigns to parameters after an epoch is therefore assigned to the mean; before one, to what is trained.

    Args:
        decay: from 0 to 1; with 1 all steps count alike. start: epochs of the fit before the first one that counts.
    """

    def __init__(self, decay: float = 0.999, start: int = 0) -> None:
        self.decay = checks.real(decay, "WeightAverage: decay")
        if self.decay > 1:
            raise InputError(f"WeightAverage: decay={decay!r}: expected a number from 0 to 1")
        self.start = checks.integer(start, "WeightAverage: start", low=0)
