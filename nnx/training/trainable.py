"""Trainable network: a network with a loss, an optimizer and metrics, and the trainer made of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from nnx import checks, targets, weights
from nnx.arguments import explained
from nnx.backends import Backend
from nnx.backends.base import on_its_device
from nnx.casting import check_lost
from nnx.errors import InputError, InputTypeError
from nnx.layers import Layer
from nnx.losses import Loss
from nnx.measures import Metric
from nnx.measures import checked as checked_metrics
from nnx.model.network import Network
from nnx.model.validation import check_ending, check_loss, check_optimizer
from nnx.optimizers import Optimizer
from nnx.owner import alone, changing
from nnx.settings import assignable
from nnx.training.scoring import Scoring
from nnx.training.trainer import Trainer

Array = Any


class Trainable(Network):
    """A network with, once compiled, loss, optimizer, metrics and training state; see `Sequential`."""

    _facts: ClassVar[Mapping[str, str]] = {
        **Network._facts,
        "metrics": "use model.compile(loss, optimizer, metrics=[...])",
    }

    _names = ("metadata", "epochs_done", "stop_training", "eager_reason", "replay_reason")
    _results = frozenset(_names)

    def __init__(self, *layers: Layer, **arguments: Any) -> None:
        self.metadata: dict[str, Any] = {}
        self.epochs_done = 0
        self.stop_training = False
        self.eager_reason: str | None = None
        self.replay_reason: str | None = None
        self._loss: Any = None  # a Loss and an Optimizer, once compiled
        self._optimizer: Any = None
        self._trainer: Trainer | None = None
        self._scoring: Scoring | None = None
        self.metrics: tuple[Metric, ...] = ()
        super().__init__(*layers, **arguments)

    def _unknown(self, name: str) -> str:
        if name in assignable(type(self.optimizer)):
            return f"{self} takes no attribute {name!r}: did you mean model.optimizer.{name}?"
        return super()._unknown(name)

    # ---- loss and optimizer ------------------------------------------------------------------------------------------

    @explained
    @alone
    @changing
    @on_its_device
    def compile(self, loss: Loss, optimizer: Optimizer, metrics: Any = ("accuracy",)) -> Self:
        """Set the loss, the optimizer and the metrics; return the model.

        The model takes copies of loss and optimizer, and the optimizer starts anew, with all moments 0.

        Args:
            loss: such as `CategoricalCrossEntropy()`. optimizer: such as `Adam(0.01)`.
            metrics: a list. "accuracy" is the share of right outputs: those of the right class; for binary
                cross-entropy, those on the right side of 0.5; for regression, those within std(y) / 250 of the target
                (chapter 17). In evaluation and validation there can also be, as defined in nnx.metrics, "precision",
                "recall", "f1", "auc", "balanced_accuracy" and "top_5" (or another number) for classes, and "mae",
                "rmse" and "r2" for regression; and functions f(y_true, y_pred) of your own, which are called once with
                all targets and all outputs of `predict`, and listed by their names.

        Raises:
            InputError: an argument cannot be used, or does not fit the layers or the loss; nothing was changed.
        """
        self._check_loss(loss)
        _check_optimizer(optimizer)
        metrics = checked_metrics(metrics, loss.metric)
        if self.flat.size == 0:
            raise InputError("compile: no layer has parameters, so there is nothing to train; add a Dense layer")
        self._loss, self._optimizer = copy.deepcopy(loss), copy.deepcopy(optimizer)
        self.__dict__.update(metrics=metrics)
        self._trainer = None
        self._begin()
        self._compiled("compile").outdated = not self.trainable  # everything else was just checked
        return self

    def _check_loss(self, loss: Any) -> None:
        checks.instance(loss, Loss, "loss", "CategoricalCrossEntropy()")
        if type(loss) is Loss:
            raise InputTypeError(f"compile: {loss}: expected one of the classes made from Loss")
        check_loss(loss)
        check_ending(self.layers[-1], loss)

    @property
    def loss(self) -> Any:
        """The loss; None before `compile`."""
        return self._loss

    @loss.setter
    @alone
    @changing
    @on_its_device
    def loss(self, loss: Loss) -> None:
        self._compiled("loss")
        self._check_loss(loss)
        self._loss = copy.deepcopy(loss)
        self._renew()

    @property
    def optimizer(self) -> Any:
        """The optimizer; None before `compile`. One that is assigned starts anew."""
        return self._optimizer

    @optimizer.setter
    @alone
    @changing
    @on_its_device
    def optimizer(self, optimizer: Optimizer) -> None:
        self._compiled("optimizer")
        _check_optimizer(optimizer)
        self._optimizer = copy.deepcopy(optimizer)
        self._begin()

    # ---- the trainer -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start the optimizer anew, with all moments 0."""
        self.optimizer.counters[:] = 0
        self.optimizer.reserve_moments(self.flat)
        for name in ("first", "second", "gradients", *self.flat.names):
            getattr(self.flat, name)[...] = 0
        self._renew()

    def _renew(self) -> None:
        """Make a trainer for the model as it is now."""
        tolerance = self._trainer.tolerance if self._trainer is not None else 0.0
        self._scoring = None
        self._trainer = Trainer(self, self.loss, self.optimizer, self.metrics)
        self._trainer.set_tolerance(tolerance)

    @on_its_device
    def _allocate(self, backend: Backend, dtype: str) -> None:
        super()._allocate(backend, dtype)
        if self.loss is not None:
            self.optimizer.reserve_moments(self.flat)
            self._renew()

    def _untrained(self) -> None:
        if self.optimizer is not None:
            self.optimizer.counters[:] = 0

    def _forget(self) -> None:
        super()._forget()
        self._scoring = None

    def settings_changed(self) -> None:
        """Mark recordings as outdated: called when a setting or a method of a layer, loss or optimizer changes."""
        super().settings_changed()
        if self._trainer is not None:
            self._trainer.outdated = True

    def _compiled(self, what: str) -> Trainer:
        if self._trainer is None:
            raise InputError(
                f"{what}: the model has no loss and no optimizer yet; call model.compile(loss=..., optimizer=...) first"
            )
        return self._trainer

    def _trainable(self, what: str) -> Trainer:
        """Return the trainer, updated to all present settings; raise InputError before `compile`."""
        trainer = self._compiled(what)
        trainer.refresh()
        return trainer

    def scoring(self) -> Scoring:
        """Return the `Scoring` for all present settings; raise InputError if the model cannot be evaluated."""
        scoring = self._scoring
        if scoring is None:
            self._compiled("evaluate").check()
            scoring = Scoring(self.inference(), self.loss, self.metrics)
            if scoring.native is not None:  # all parts are nnx's own, which notify the model of every change
                self._scoring = scoring
        return scoring

    # ---- targets -----------------------------------------------------------------------------------------------------

    def _targets(self, y: Any, x: np.ndarray, who: str) -> Array:
        """Return targets as the loss takes them, an array of the backend, checked against x and the outputs."""
        target = self._host_targets(y, x, who)
        return self.backend.asarray(target, target.dtype)

    def _host_targets(self, y: Any, x: np.ndarray, who: str) -> np.ndarray:
        """Return targets as the loss takes them, a NumPy array, checked against x and the outputs."""
        width = self._output_width(x)
        given = targets.given(self._from_device(y), f"{who}: y")
        if not given.shape or given.shape[0] != len(x):
            raise InputError(f"{who}: x has {len(x)} rows, y has shape {given.shape}; expected one target for each row")
        target = np.ascontiguousarray(self.loss.host_targets(given, (len(x), width), self.dtype))
        if target.size == given.size and target.dtype.kind == "f":
            check_lost(target, given.reshape(target.shape), y, f"{who}: y")
        return target

    def _output_width(self, x: np.ndarray) -> int:
        """Return the number of outputs for each row."""
        if self.n_outputs is not None:
            return self.n_outputs
        with self.inference().layers_alone():  # a user-defined layer's width may show only in its output
            return int(self.inference().outputs(x[:1]).shape[1])

    def _weights(
        self, y: Any, target: np.ndarray, who: str, sample_weight: Any = None, class_weight: Any = None
    ) -> np.ndarray | None:
        """Return the weight of each sample, float64 [N], 0 for labels that the loss ignores; None if all are alike."""
        samples, classes, counted = None, None, self.loss.counted(y)
        if sample_weight is not None:
            samples = self._checked_weights(sample_weight, len(target), who)
        if class_weight is not None:
            classes = weights.of_classes(class_weight, *self._classes(target, who), who, counted)
        return weights.product(who, samples, classes, counted)

    def _checked_weights(self, sample_weight: Any, samples: int, who: str) -> np.ndarray:
        return weights.checked(self._from_device(sample_weight), samples, who)

    def _factors(self, counts: np.ndarray | None) -> Array:
        """Return the factors for weights: an array of the backend [N, 1], on average 1; None for None."""
        if counts is None:
            return None
        return self.backend.asarray(weights.normalized(counts, [len(counts)])[:, None], self.dtype)

    def _classes(self, target: np.ndarray, who: str, width: int | None = None) -> tuple[np.ndarray, range]:
        """Return the class of each sample, int64 [N], and all classes; `width` is their number, if it is known."""
        if self.loss.metric == "categorical" and target.ndim == 1:
            return target, range(width or self.n_outputs or int(target.max()) + 1)
        smoothing = getattr(self.loss, "label_smoothing", 0.0)
        one = 1 - smoothing + smoothing / target.shape[-1]  # the target of the true class; exactly 1 without smoothing
        categorical, rounding = self.loss.metric == "categorical", 1e-5 if smoothing else 0
        if categorical and np.allclose(target.max(axis=1), one, rtol=rounding, atol=0):
            return target.argmax(axis=1), range(target.shape[1])
        if self.loss.metric in ("binary", "logits") and target.shape[1] == 1 and np.all((target == 0) | (target == 1)):
            return target[:, 0].astype(np.int64), range(2)
        raise InputError(
            f"{who}: class_weight was given, but y of {self.loss} names no single class for each sample; give "
            "sample_weight instead"
        )

    # ---- copying, pickling and loading -------------------------------------------------------------------------------

    @alone
    @changing
    @on_its_device
    def resume(self, iterations: int, tolerance: float) -> None:
        """Continue after `iterations` steps of the optimizer: for a model that was loaded or moved."""
        trainer = self._compiled("resume")
        self.optimizer.counters[:] = (iterations, 0, 0)
        trainer.counters[...] = self.backend.asarray(self.optimizer.counters, "int64")
        trainer.set_tolerance(tolerance)

    def _contents(self) -> dict[str, Any]:
        return {
            **super()._contents(),
            "_trainer": None,
            "_scoring": None,
            "_tolerance": None if self._trainer is None else self._trainer.tolerance,
            "_counters": None if self.optimizer is None else self.optimizer.counters.copy(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        tolerance, counters = state.pop("_tolerance"), state.pop("_counters")
        if counters is not None:
            state["_optimizer"].counters[:] = counters
        super().__setstate__(state)
        if self._trainer is not None:
            self._trainer.set_tolerance(tolerance)


def _check_optimizer(optimizer: Any) -> None:
    checks.instance(optimizer, Optimizer, "optimizer", "Adam(0.01)")
    if type(optimizer) is Optimizer:
        raise InputTypeError(f"compile: {optimizer}: expected one of the classes made from Optimizer")
    check_optimizer(optimizer)
