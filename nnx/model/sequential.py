"""A model: a network, what trains it, and what can be done with both (chapter 18)."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from nnx import checks, targets
from nnx.backends import Backend, resolve
from nnx.backends.base import on_its_device
from nnx.callbacks import Callback, check_callbacks, check_monitors, watched
from nnx.casting import check_lost
from nnx.errors import InputError, InputTypeError
from nnx.files import existing_file
from nnx.history import History
from nnx.kernels.step_state import LOSS, PENALTY
from nnx.layers import Layer
from nnx.losses import Loss
from nnx.model import checkpoint
from nnx.model.network import ROWS, Network
from nnx.model.summary import summarize
from nnx.model.validation import check_ending, check_loss
from nnx.optimizers import Optimizer
from nnx.output import say
from nnx.owner import alone, changing, reading
from nnx.settings import assignable
from nnx.training.evaluation import mean_scores, tolerance_of
from nnx.training.fit import Fit, explain
from nnx.training.trainer import Eager, Trainer

Array = Any
METRICS = ("accuracy",)


class Sequential(Network):
    """Layers in a row, trained, used and saved.

    Args:
        layers: in order. Each may belong to one model only.
        backend: a backend or its name; a list, as "cupy,numba"; "auto", the best that works. None: the active one.
            Resolved once, here.
        dtype: "float32" or "float64".
        precision: "full"; or "tf32" or "bf16", where large products of float32 may round what they multiply, on a GPU
            (docs/gpu.md). None: what the backend does by itself. Parameters and all else stay as dtype says.
        seed: of the weights, the order of rows and the dropout masks.

    Attributes:
        layers: a tuple; assign another one to exchange layers. Those that stay keep their parameters.
        backend: resolved; `resolution.reason` says why it is this one.
        precision: what was asked for, or None; `backend.precision` is what it has.
        loss, optimizer, metrics: what `compile` was given; copies of its own. Assigning a loss or an optimizer copies
            it too.
        epochs_done: epochs trained so far, over all fits.
        eager_reason: why the last `fit` did not replay its steps, or None.
        replay_reason: why it replayed them one operation at a time on a backend that can do better, or None.
        metadata: anything that JSON can hold, saved along with the model.

    Raises:
        InputError: layers do not fit together, or an argument cannot be used.
        BackendUnavailable: the backend does not work here.
    """

    _names = ("metadata", "epochs_done", "stop_training", "eager_reason", "replay_reason")
    _results = frozenset(_names)
    _facts: ClassVar[Mapping[str, str]] = {
        **Network._facts,
        "metrics": "use model.compile(loss, optimizer, metrics=[...])",
    }

    def __init__(
        self, *layers: Layer, backend: Any = None, dtype: str = "float32", precision: str | None = None, seed: int = 0
    ) -> None:
        self._loss: Any = None  # a Loss and an Optimizer, once compiled
        self._optimizer: Any = None
        self._trainer: Trainer | None = None
        self.metrics: tuple[str, ...] = ()
        self.metadata: dict[str, Any] = {}
        self.epochs_done = 0
        self.stop_training = False
        self.eager_reason: str | None = None
        self.replay_reason: str | None = None
        super().__init__(*layers, backend=backend, dtype=dtype, precision=precision, seed=seed)

    def __repr__(self) -> str:
        return f"<Sequential {' -> '.join(map(str, self.layers))}, {self.dtype} on {self.backend.name}>"

    # ---- loss and optimizer ------------------------------------------------------------------------------------------

    @alone
    @changing
    @on_its_device
    def compile(self, loss: Loss, optimizer: Optimizer, metrics: Any = ("accuracy",)) -> Sequential:
        """Say what is minimised and how. The model takes copies, and starts the optimizer anew.

        Args:
            loss: such as `CategoricalCrossEntropy()`. optimizer: such as `Adam(0.01)`.
            metrics: [] or ["accuracy"]: the share of right classes; of outputs on the right side of 0.5 for binary
                cross-entropy; of outputs within std(y) / 250 of the target for regression (chapter 17).
        """
        self._check_loss(loss)
        _check_optimizer(optimizer)
        if not isinstance(metrics, list | tuple) or any(m not in METRICS for m in metrics):
            raise InputError(f"compile: metrics={metrics!r}; expected [] or ['accuracy']")
        if self.flat.size == 0:
            raise InputError("compile: no layer has parameters, so there is nothing to train; add a Dense layer")
        self._loss, self._optimizer = copy.deepcopy(loss), copy.deepcopy(optimizer)
        self.__dict__.update(metrics=tuple(metrics))
        self._trainer = None
        self._begin()
        return self

    def _check_loss(self, loss: Any) -> None:
        checks.instance(loss, Loss, "loss", "CategoricalCrossEntropy()")
        if type(loss) is Loss:
            raise InputTypeError(f"compile: {loss}: expected one of the classes made from Loss")
        check_loss(loss)
        check_ending(self.layers[-1], loss)

    @property
    def loss(self) -> Any:
        """What is minimised, or None before `compile`."""
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
        """What moves the parameters, or None before `compile`; another one begins anew."""
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

    def _begin(self) -> None:
        """Start the optimizer anew."""
        self.optimizer.counters[:] = 0
        self.flat.first[...] = 0
        self.flat.second[...] = 0
        self._renew()

    def _renew(self) -> None:
        """Make what trains the model as it is now."""
        tolerance = self._trainer.tolerance if self._trainer is not None else 0.0
        self._trainer = Trainer(self, self.loss, self.optimizer, self.metrics)
        self._trainer.set_tolerance(tolerance)

    @on_its_device
    def _allocate(self, backend: Backend, dtype: str) -> None:
        super()._allocate(backend, dtype)
        if self.loss is not None:
            self._renew()

    def _untrained(self) -> None:
        if self.optimizer is not None:
            self.optimizer.counters[:] = 0

    def settings_changed(self) -> None:
        """Be told that a setting or a method of a layer, the loss or the optimizer is another one now."""
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
        """Return what trains the model, with all settings as they are now."""
        trainer = self._compiled(what)
        trainer.refresh()
        return trainer

    def _unknown(self, name: str) -> str:
        if name in assignable(type(self.optimizer)):
            return f"{self} takes no attribute {name!r}: did you mean model.optimizer.{name}?"
        return super()._unknown(name)

    # ---- training ----------------------------------------------------------------------------------------------------

    @alone
    @on_its_device
    def fit(
        self,
        x: Any,
        y: Any,
        epochs: int = 1,
        batch_size: int | None = None,
        validation_data: Any = None,
        shuffle: bool = True,
        callbacks: Sequence[Callback] = (),
        verbose: Any = "auto",
    ) -> History:
        """Train, and return how it went. Calling it again goes on where it ended.

        Args:
            x: [N, I]. y: what the loss takes for N samples. Labels are copied, and changing them meanwhile is an error.
            epochs: how many more. batch_size: rows a step, or None: all at once.
            validation_data: (x, y), evaluated after each epoch.
            shuffle: draw a new order of rows for every epoch (where there is more than one batch).
            callbacks: see nnx.callbacks.
            verbose: "auto" shows progress, a bar on a terminal and lines elsewhere; 0 is silent.

        Ctrl-C ends the fit after the steps at hand, some 0.2 s; the history then says `interrupted`. A second one
        raises KeyboardInterrupt, and the model is as it was before those steps. Where SIGINT is ignored, or the program
        has a handler of its own, fit leaves it alone.

        While it runs, a callback may change parameters, the learning rate and the layers' own numbers, and predict,
        evaluate, save and copy the model. Other threads may predict, evaluate, save and copy it too: they wait for the
        steps at hand. What would change the model otherwise, or train it, is refused.

        Raises:
            InputError: data or an argument cannot be used; nothing was changed.
            InUseError: the model is being trained by another thread, for more than half a second from now on, or by the
                fit whose callback called this.
            NonFiniteError: the loss became nan or infinite; the model is as it was before that step.
        """
        trainer = self._trainable("fit")
        epochs = checks.integer(epochs, "fit: epochs")
        batch = None if batch_size is None else checks.integer(batch_size, "fit: batch_size")
        shuffle = checks.flag(shuffle, "fit: shuffle")
        check_callbacks(callbacks)
        host = self._inputs(x, "fit: x")
        target = self._host_targets(y, host, "fit")
        validation = None if validation_data is None else self._held_out(validation_data)
        check_monitors(callbacks, trainer.quantities(validation is not None), self._owner)
        if self.loss.metric == "regression":
            trainer.set_tolerance(tolerance_of(target))
        self.eager_reason = self.replay_reason = None
        job = Fit(self, trainer, host, target, batch or len(host), shuffle, validation, watched(callbacks, y, target))
        return job.run(epochs, verbose)

    def step(self, x: Any, y: Any) -> float:
        """Do one training step on a batch; return its loss, penalties included: nan where it went wrong (see `fit`)."""
        return float(self.steps(x, y, 1)[0])

    @alone
    @on_its_device
    def steps(self, x: Any, y: Any, n: int) -> np.ndarray:
        """Do n training steps on the same batch in one call; return their losses, penalties included: float64 [n].

        Ctrl-C raises KeyboardInterrupt after the steps at hand, some 0.2 s; the model has then done whole steps.
        """
        trainer = self._trainable("steps")
        n = checks.integer(n, "steps: n")
        host = self._inputs(x, "steps: x")
        target = self._targets(y, host, "steps")
        if self.loss.metric == "regression" and not trainer.tolerance:
            trainer.set_tolerance(tolerance_of(self.backend.to_numpy(target)))
        feed, runner = trainer.staged(host, target)
        if self.eager_reason is not None and not isinstance(runner, Eager):
            self.eager_reason = None
        rows = trainer.run_all(feed, runner, n)
        explain(self, runner)
        losses: np.ndarray = rows[:, LOSS] + rows[:, PENALTY]
        return losses

    # ---- use ---------------------------------------------------------------------------------------------------------

    @reading
    @on_its_device
    def evaluate(self, x: Any, y: Any, batch_size: int | None = None) -> dict[str, float]:
        """Return the mean loss over x [N, I] and y, without penalties, and the metrics, by name.

        Any number of threads may call it at once, also while one trains: see `fit`.
        """
        trainer = self._compiled("evaluate")
        trainer.check()
        host = self._inputs(x, "evaluate: x")
        target = self._targets(y, host, "evaluate")
        rows = ROWS if batch_size is None else checks.integer(batch_size, "evaluate: batch_size")
        metric = self.loss.metric if "accuracy" in self.metrics else None
        tolerance = trainer.tolerance or (
            tolerance_of(self.backend.to_numpy(target)) if metric == "regression" else 0.0
        )
        return mean_scores(self.inference(), self.loss, metric, tolerance, host, target, rows)

    def summary(self) -> str:
        """Return, and print, the layers with their shapes and parameters, and how they run."""
        training = [] if self.loss is None else [f"{self.loss}, {self.optimizer}; {self.epochs_done} epochs done"]
        if self.eager_reason is not None:
            training.append(f"steps run eagerly, not replayed: {self.eager_reason}")
        if self.replay_reason is not None:
            training.append(f"steps are replayed one operation at a time: {self.replay_reason}")
        text = summarize(self, training)
        say(text)
        return text

    # ---- what goes in ------------------------------------------------------------------------------------------------

    def _targets(self, y: Any, x: np.ndarray, who: str) -> Array:
        """Return targets as an array of the backend, after checking them against x and the outputs."""
        target = self._host_targets(y, x, who)
        return self.backend.asarray(target, target.dtype.name)

    def _host_targets(self, y: Any, x: np.ndarray, who: str) -> np.ndarray:
        """Return targets as the loss wants them, as a NumPy array."""
        width = self.n_outputs
        if width is None:  # a layer of the user's own, whose width shows only in its output
            with self.inference().layers_alone():
                width = self.inference().outputs(x[:1]).shape[1]
        given = targets.given(self._from_device(y), f"{who}: y")
        if not given.shape or given.shape[0] != len(x):
            raise InputError(f"{who}: x has {len(x)} rows, y has shape {given.shape}; expected one target for each row")
        target = np.ascontiguousarray(self.loss.host_targets(given, (len(x), width), self.dtype))
        if target.size == given.size and target.dtype.kind == "f":
            check_lost(target, given.reshape(target.shape), y, f"{who}: y")
        return target

    def _held_out(self, validation_data: Any) -> tuple[np.ndarray, Any]:
        """Return inputs and targets to evaluate after each epoch, checked."""
        if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
            given = type(validation_data).__name__ if hasattr(validation_data, "shape") else repr(validation_data)
            raise InputTypeError(f"fit: validation_data={given[:60]}: expected a pair (x, y)")
        x = self._inputs(validation_data[0], "fit: validation x")
        self._host_targets(validation_data[1], x, "fit: validation")
        return x, validation_data[1]

    # ---- files and copies --------------------------------------------------------------------------------------------

    @reading
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, architecture and the optimizer's state to a safetensors file, whole or not at all."""
        host, training = self.backend.to_numpy, None
        if self.optimizer is not None:
            trainer = self._compiled("save")
            trainer.check()  # what it refuses could not be loaded
            moments = {name: host(getattr(self.flat, name)) for name in self.optimizer.moments}
            training = checkpoint.Training(
                self.loss, self.optimizer, self.optimizer.iterations, trainer.tolerance, moments
            )
        parameters = {name: host(a) for name, a in self.parameters().items()}
        model = checkpoint.Checkpoint(
            self.layers, self.dtype, self.seed, self.epochs_done, self.metrics, self.metadata, parameters, training
        )
        checkpoint.write(path, model)

    @on_its_device
    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        """Go on where a model of these layers was saved."""
        training = saved.training
        if training is not None:
            self.compile(training.loss, training.optimizer, metrics=saved.metrics)
            for name, moment in training.moments.items():
                part = getattr(self.flat, name)
                if moment.shape != part.shape:
                    raise InputError(f"the optimizer's {name} is {moment.shape}, expected {part.shape}")
                part[...] = self.backend.asarray(moment, self.dtype)
            self.resume(training.iterations, training.tolerance)
        self.set_parameters(saved.parameters)
        self.epochs_done, self.metadata = saved.epochs_done, saved.metadata

    @alone
    @changing
    @on_its_device
    def resume(self, iterations: int, tolerance: float) -> None:
        """Go on from so many optimizer steps: for a model that was loaded or moved."""
        trainer = self._compiled("resume")
        self.optimizer.counters[:] = (iterations, 0, 0)
        trainer.counters[...] = self.backend.asarray(self.optimizer.counters, "int64")
        trainer.set_tolerance(tolerance)

    def _contents(self) -> dict[str, Any]:
        return {
            **super()._contents(),
            "_trainer": None,
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


def load(path: str | os.PathLike[str], backend: Any = None) -> Sequential:
    """Read a model that `save` wrote, on any backend; training goes on where it stopped.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is truncated, damaged, or no nnx model. InputError: no backend has that name.
        BackendUnavailable: the backend does not work here. MissingExtra: safetensors is not installed.
    """
    path = existing_file("load", path, checkpoint.KIND)
    resolve(backend)  # its errors are not the file's
    saved = checkpoint.read(path)
    with checkpoint.making_sense(path):
        model = Sequential(*saved.layers, backend=backend, dtype=saved.dtype, seed=saved.seed)
        model._restore(saved)
    return model


def _check_optimizer(optimizer: Any) -> None:
    checks.instance(optimizer, Optimizer, "optimizer", "Adam(0.01)")
    if type(optimizer) is Optimizer:
        raise InputTypeError(f"compile: {optimizer}: expected one of the classes made from Optimizer")
