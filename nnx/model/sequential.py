"""Sequential model: layers in a row, one flat buffer for all their parameters, training and use (chapter 18)."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnx import casting, checks, rng, targets
from nnx.backends import Backend, resolve
from nnx.backends.base import host_array, on_its_device, real_numbers
from nnx.backends.inputs import column_names
from nnx.errors import InputError, InputTypeError
from nnx.history import History
from nnx.kernels.step_state import LOSS, PENALTY
from nnx.layers import Layer
from nnx.layers.flat_buffer import ParameterBuffer
from nnx.losses import Loss
from nnx.model.inference import Inference, refuse
from nnx.model.validation import chain, check_ending, check_loss, expect_instance, fitting_layers
from nnx.optimizers import Optimizer
from nnx.output import say
from nnx.owner import Owner, alone, alone_or_within, changing, reading
from nnx.settings import Assignable, assignable
from nnx.training.step import Trainer

if TYPE_CHECKING:
    from nnx.callbacks import Callback

Array = Any
METRICS = ("accuracy",)
ROWS = 4096  # how many rows are predicted at a time where no batch size is given


class Sequential(Assignable):
    """Layers in a row.

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

    backend: Backend
    dtype: str
    penalties: Array
    _names = ("metadata", "epochs_done", "stop_training", "eager_reason", "replay_reason")
    _results = frozenset(_names)
    _facts: ClassVar[dict[str, str]] = {
        "backend": "use model.to(backend)",
        "dtype": "use model.to(backend, dtype=...)",
        "precision": "use model.to(backend, precision=...)",
        "metrics": "use model.compile(loss, optimizer, metrics=[...])",
        "seed": "it is given when the model is made: Sequential(..., seed=...)",
        **dict.fromkeys(("resolution", "flat", "penalties"), "it follows from model.to(...)"),
        **dict.fromkeys(("n_inputs", "n_outputs"), "it follows from the layers"),
    }

    def __init__(
        self, *layers: Layer, backend: Any = None, dtype: str = "float32", precision: str | None = None, seed: int = 0
    ) -> None:
        self._owner = Owner()
        self._layers = fitting_layers(layers)
        self.dtype = checks.dtype(dtype)
        self.seed = checks.integer(seed, "seed", low=0)
        self.n_inputs, self.n_outputs = chain(self.layers)
        self.resolution = resolve(backend)
        self._loss: Any = None  # a Loss and an Optimizer, once compiled
        self._optimizer: Any = None
        self.metrics: tuple[str, ...] = ()
        self.metadata: dict[str, Any] = {}
        self.epochs_done = 0
        self.stop_training = False
        self.eager_reason: str | None = None
        self.replay_reason: str | None = None
        self._trainer: Trainer | None = None
        self.precision = precision
        chosen = precise(self.resolution.backend, self.dtype, precision)
        for layer in self.layers:
            layer.check_values(self.dtype)
        for number, layer in enumerate(self.layers):
            layer.draw_missing(rng.generator(self.seed, rng.WEIGHTS, number))
        self._settle(chosen, self.dtype)

    # ---- parameters --------------------------------------------------------------------------------------------------

    def _settle(self, backend: Backend, dtype: str) -> None:
        """Move all layers into one flat buffer on a backend."""
        self.__dict__.update(backend=backend, dtype=dtype)
        self._forget()
        self._allocate(backend, dtype)

    @on_its_device
    def _allocate(self, backend: Backend, dtype: str) -> None:
        shapes = [shape for layer in self.layers for shape in layer.shapes.values()]
        flat, penalties = ParameterBuffer(backend, dtype, shapes), backend.zeros(len(shapes), "float64")
        self._owner.flat = flat
        self.__dict__.update(penalties=penalties)
        self.__dict__.pop("flat", None)
        values, gradients = iter(flat.views(flat.values)), iter(flat.views(flat.gradients))
        slots = iter(penalties[i : i + 1] for i in range(len(shapes)))
        for layer in self.layers:
            layer.attach(
                backend,
                dtype,
                _take(values, layer.shapes),
                _take(gradients, layer.shapes),
                _take(slots, layer.shapes),
            )
            layer.listen(self)
            layer._owner = self._owner
        if self.loss is not None:
            self._renew()

    def _renew(self) -> None:
        """Make what trains the model as it is now."""
        precision = self._trainer.precision if self._trainer is not None else 0.0
        self._trainer = Trainer(self)
        self._trainer.set_precision(precision)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order."""
        return self._layers

    @layers.setter
    @alone
    @changing
    def layers(self, layers: Sequence[Layer]) -> None:
        if not isinstance(layers, list | tuple):
            raise InputTypeError(f"layers={layers!r}: expected a list or a tuple of layers")
        self._exchange(fitting_layers(layers, kept=self._layers))

    @on_its_device
    def _exchange(self, layers: tuple[Layer, ...]) -> None:
        """Take other layers. The optimizer goes on, but where parameters come that it has never moved."""
        n_inputs, n_outputs = chain(layers)
        for layer in layers:
            layer.check_values(self.dtype)
        old = self._layers
        new = [layer for layer in layers if not any(layer is other for other in old)]
        anew = any(layer.shapes for layer in new)
        moments = {name: self._by_layer(getattr(self.flat, name)) for name in ("first", "second") if not anew}
        for number, layer in enumerate(layers):
            layer.draw_missing(rng.generator(self.seed, rng.WEIGHTS, number))
        if self.optimizer is not None and anew:
            self.optimizer.counters[:] = 0
        self._layers = layers
        self.__dict__.update(n_inputs=n_inputs, n_outputs=n_outputs)
        self._settle(self.backend, self.dtype)
        for name, before in moments.items():
            for place, values in self._by_layer(getattr(self.flat, name)).items():
                values[...] = before[place]
        for layer in old:
            if not any(layer is other for other in layers):
                layer.detach()

    def _by_layer(self, part: Array) -> dict[tuple[int, str], Array]:
        """Return each parameter's view into a part of the flat buffer, by its layer and its name."""
        places = [(id(layer), name) for layer in self.layers for name in layer.shapes]
        return dict(zip(places, self.flat.views(part), strict=True))

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

    def _unknown(self, name: str) -> str:
        if name in assignable(type(self.optimizer)):
            return f"{self} takes no attribute {name!r}: did you mean model.optimizer.{name}?"
        return super()._unknown(name)

    def settings_changed(self) -> None:
        """Be told that a setting or a method of a layer, the loss or the optimizer is another one now."""
        self._forget()
        if self._trainer is not None:
            self._trainer.outdated = True

    @cached_property
    def flat(self) -> ParameterBuffer:
        """The buffer that holds all parameters."""
        return self._owner.flat

    def _forget(self) -> None:
        """Drop what was made of the layers as they were."""
        self._inference: Inference | None = None
        self._owner.native = refuse

    @property
    def regularized(self) -> bool:
        """Whether any layer has an L1 or L2 penalty."""
        return any(layer.strengths() for layer in self.layers)

    def parameters(self) -> dict[str, Array]:
        """Return every parameter by its layer's number and its name, as "0.weights"; arrays of the backend."""
        return {f"{i}.{name}": layer.parameter(name) for i, layer in enumerate(self.layers) for name in layer.shapes}

    @alone_or_within
    @changing
    @on_its_device
    def set_parameters(self, values: Any) -> None:
        """Copy values into all parameters: a mapping with the names and shapes of `parameters()`, checked first."""
        own = self.parameters()
        if not isinstance(values, Mapping) or values.keys() != own.keys():
            given = ", ".join(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise InputError(f"set_parameters: {given} given, expected {', '.join(own)}")
        ready = []
        for name, value in values.items():
            number, _, parameter = name.partition(".")
            layer = self.layers[int(number)]
            ready.append((layer, parameter, layer.checked(parameter, value)))
        for layer, parameter, host in ready:
            layer.assign(parameter, host)

    def buffers(self) -> list[Array]:
        """Return the flat buffer's parts and every view into them: what a recorded step may read from the start."""
        flat = self.flat
        views = flat.views(flat.values) + flat.views(flat.gradients)
        return [flat.values, flat.first, flat.second, flat.gradients, *views]

    @alone
    @changing
    def to(self, backend: Any, dtype: str | None = None, precision: str | None = None) -> Sequential:
        """Move to another backend (or type, or precision), with parameters and the optimizer's state; return self."""
        target = resolve(backend)
        dtype = self.dtype if dtype is None else checks.dtype(dtype)
        precision = self.precision if precision is None else precision
        chosen = precise(target.backend, dtype, precision)
        for layer in self.layers:
            layer.check_values(dtype)
        state = self._state()
        self.__dict__.update(resolution=target, precision=precision)
        self._settle(chosen, dtype)
        self._set_state(state)
        return self

    # ---- compile and train -------------------------------------------------------------------------------------------

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
        expect_instance(loss, Loss, "loss", "CategoricalCrossEntropy()")
        if type(loss) is Loss:
            raise InputTypeError(f"compile: {loss}: expected one of the classes made from Loss")
        check_loss(loss)
        check_ending(self.layers[-1], loss)

    def _begin(self) -> None:
        """Start the optimizer anew."""
        self.optimizer.counters[:] = 0
        self.flat.first[...] = 0
        self.flat.second[...] = 0
        self._renew()

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
        from nnx.callbacks import watched
        from nnx.training.fit import Fit

        trainer = self._trainable("fit")
        epochs = checks.integer(epochs, "fit: epochs")
        batch = None if batch_size is None else checks.integer(batch_size, "fit: batch_size")
        shuffle = checks.flag(shuffle, "fit: shuffle")
        _check_callbacks(callbacks)
        host = self._inputs(x, "fit: x")
        target = self._host_targets(y, host, "fit")
        validation = None
        if validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
                given = type(validation_data).__name__ if hasattr(validation_data, "shape") else repr(validation_data)
                raise InputTypeError(f"fit: validation_data={given[:60]}: expected a pair (x, y)")
            held_out = self._inputs(validation_data[0], "fit: validation x")
            self._host_targets(validation_data[1], held_out, "fit: validation")
            validation = (held_out, validation_data[1])
        _check_monitors(callbacks, trainer.quantities(validation is not None), self._owner)
        if self.loss.metric == "regression":
            trainer.set_precision(_precision(target))
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
        if self.loss.metric == "regression" and not trainer.precision:
            trainer.set_precision(_precision(self.backend.to_numpy(target)))
        rows = trainer.run_all(*trainer.staged(host, target), n)
        losses: np.ndarray = rows[:, LOSS] + rows[:, PENALTY]
        return losses

    # ---- use ---------------------------------------------------------------------------------------------------------

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Return the last layer's outputs for x [N, I]: a new NumPy array [N, O].

        The layers themselves keep what they had. Any number of threads may call it at once, also while one trains: see
        `fit`. How many rows are predicted together may change their last digit: sums are made in another order.
        """
        if batch_size is None:
            owner = self._owner
            mark, native = owner.mark, owner.native
            outputs = native(x)  # a few rows, ready as they are, take a microsecond: so nothing else comes before
            if outputs is not None and mark is not None and mark is owner.mark:  # nothing changed meanwhile
                return outputs
        return self._predict(x, batch_size)

    @reading
    @on_its_device
    def _predict(self, x: Any, batch_size: int | None) -> np.ndarray:
        host = self._inputs(x, "predict: x")
        rows = ROWS if batch_size is None else checks.integer(batch_size, "predict: batch_size")
        predict = self.inference().predict
        parts = [predict(host[i : i + rows]) for i in range(0, len(host), rows)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

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
        precision = trainer.precision or (_precision(self.backend.to_numpy(target)) if metric == "regression" else 0.0)
        stats, loss, hits = self.backend.zeros(3, "float64"), 0.0, 0.0
        inference, own = self.inference(), self.loss.apart()
        for i in range(0, len(host), rows):
            wanted = target[i : min(i + rows, len(host)), ...]
            with inference.layers_alone():
                outputs = inference.outputs(host[i : i + rows])
                self.backend.tally(own.losses(outputs, wanted), outputs, wanted, metric, precision, stats)
            mean, right, _ = self.backend.to_numpy(stats).tolist()
            loss, hits = loss + mean * wanted.shape[0], hits + right
        scores = {"loss": float(loss / len(host))}
        return scores if metric is None else {**scores, "accuracy": float(hits / len(host))}

    def summary(self) -> str:
        """Return, and print, the layers with their shapes and parameters, and how they run."""
        from nnx.model.summary import summarize

        trainer, ran = self._trainer, None if self._trainer is None else self._trainer.ran
        training = []
        if self.loss is not None:
            epochs = f"{self.epochs_done} epoch{'s' * (self.epochs_done != 1)} done"
            training.append(f"{self.loss}, {self.optimizer}; {epochs}")
        planned = f"none yet; planned: {self.backend.planned_step()}"
        training.append(f"training steps: {planned if ran is None else ran.description}")
        if self.eager_reason is not None:
            training.append(f"steps run eagerly, not replayed: {self.eager_reason}")
        if self.replay_reason is not None:
            training.append(f"steps are replayed one operation at a time: {self.replay_reason}")
        fused = [] if trainer is None else [layer for layer in self.layers if layer not in trainer.layers]
        text = summarize(self, training, {} if ran is None else ran.kernels, fused)
        say(text)
        return text

    @reading
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, architecture and the optimizer's state to a safetensors file, whole or not at all."""
        from nnx.model.checkpoint import save

        save(self, path)

    def __repr__(self) -> str:
        return f"<Sequential {' -> '.join(map(str, self.layers))}, {self.dtype} on {self.backend.name}>"

    # ---- pieces ------------------------------------------------------------------------------------------------------

    def inference(self) -> Inference:
        """Return the forward pass of the layers as they are."""
        inference = self._inference
        if inference is None:
            inference = self._inference = Inference(self)
            self._owner.native = inference.native
        return inference

    def _inputs(self, x: Any, what: str) -> np.ndarray:
        """Return inputs as a finite NumPy array [N, n_inputs] of the model's type, contiguous."""
        given = real_numbers(self._from_device(x), what)
        a = host_array(given, self.dtype)
        who, _, name = what.partition(": ")
        checks.matrix(a.shape, who, name)
        if self.n_inputs is not None and a.shape[1] != self.n_inputs:
            raise InputError(
                f"{what} has {a.shape[1]} features (shape {a.shape}), but the first layer takes {self.n_inputs}"
            )
        checks.finite(a, who, name, given, x)
        _check_cast(a, given, x, what)
        return np.ascontiguousarray(a)

    def _from_device(self, a: Any) -> Any:
        """Return an array of the backend as a NumPy array, anything else as it is."""
        return self.backend.to_numpy(a) if not isinstance(a, np.ndarray) and self.backend.owns(a) else a

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
            _check_cast(target, given.reshape(target.shape), y, f"{who}: y")
        return target

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

    @alone
    @changing
    @on_its_device
    def resume(self, iterations: int, precision: float) -> None:
        """Go on from so many optimizer steps: for a model that was loaded or moved."""
        trainer = self._compiled("resume")
        self.optimizer.counters[:] = (iterations, 0, 0)
        trainer.counters[...] = self.backend.asarray(self.optimizer.counters, "int64")
        trainer.set_precision(precision)

    # ---- copying and pickling ----------------------------------------------------------------------------------------

    def _state(self) -> dict[str, np.ndarray]:
        """Return parameters and moments as NumPy arrays.

        Parameters too, although layers bring their own: a copy asks layer after layer, and another thread may train
        meanwhile.
        """
        names = ("values", "first", "second")
        return {name: np.array(self.backend.to_numpy(getattr(self.flat, name))) for name in names}

    @on_its_device
    def _set_state(self, state: dict[str, np.ndarray]) -> None:
        for name, value in state.items():
            getattr(self.flat, name)[...] = self.backend.asarray(value, self.dtype)

    def __copy__(self) -> Sequential:
        """Return what `copy.deepcopy` does: two models never share parameters, so a copy is one to keep."""
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Sequential:
        other = memo[id(self)] = object.__new__(type(self))
        other.__setstate__({**copy.deepcopy(self.__getstate__(), memo), "_wish": self.backend})
        return other

    @reading
    def __getstate__(self) -> dict[str, Any]:
        skip = ("backend", "resolution", "flat", "penalties", "_inference", "_listener")
        kept = {name: value for name, value in self.__dict__.items() if name not in skip}
        precision = None if self._trainer is None else self._trainer.precision
        return {
            **kept,
            "_trainer": None,
            "_wish": self.backend.name,
            "_moments": self._state(),
            "_precision": precision,
            "_counters": None if self.optimizer is None else self.optimizer.counters.copy(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = ("_wish", "_moments", "_precision", "_counters")
        wish, moments, precision, counters = (state.pop(name) for name in names)
        found = resolve([wish, "numpy"] if isinstance(wish, str) and wish != "numpy" else wish)
        self.__dict__.update(state, resolution=found)
        if counters is not None:
            self.optimizer.counters[:] = counters
        backend = self.resolution.backend
        kept = self.precision if wish in (backend, backend.name) else None  # what it fell back to may lack it
        self._settle(precise(backend, self.dtype, kept), self.dtype)
        self._set_state(moments)
        if self._trainer is not None:
            self._trainer.set_precision(precision)


def precise(backend: Backend, dtype: str, precision: str | None) -> Backend:
    """Return the backend in the precision that was asked for, if any."""
    chosen = backend if precision is None else backend.with_precision(precision)
    if precision not in (None, "full") and dtype != "float32":
        raise InputError(f"precision={precision!r} rounds float32 products, and dtype={dtype!r}: give one of the two")
    return chosen


def _check_optimizer(optimizer: Any) -> None:
    expect_instance(optimizer, Optimizer, "optimizer", "Adam(0.01)")
    if type(optimizer) is Optimizer:
        raise InputTypeError(f"compile: {optimizer}: expected one of the classes made from Optimizer")


def _take(items: Iterator[Array], names: Mapping[str, Any]) -> list[Array]:
    return [next(items) for _ in names]


def _check_callbacks(callbacks: Any) -> None:
    from nnx.callbacks import Callback

    if not isinstance(callbacks, Sequence):
        raise InputTypeError(f"fit: callbacks={callbacks!r}; expected a list, such as [nnx.callbacks.EarlyStopping()]")
    for callback in callbacks:
        expect_instance(callback, Callback, "fit: a callback", "callbacks.EarlyStopping()")


def _check_monitors(callbacks: Sequence[Callback], measured: Sequence[str], owner: Owner) -> None:
    from nnx.callbacks import Monitor

    for callback in callbacks:
        if isinstance(callback, Monitor):
            callback.check(measured)
            callback.expect_free(owner)


def _check_cast(a: np.ndarray, given: np.ndarray, source: Any, what: str) -> None:
    """Refuse to train on what casting made constant; elsewhere, where other rows may vary by more, warn."""
    lost = casting.lost(a, given)
    if lost is None:
        return
    column, why = lost
    names = column_names(source)
    name = column if names is None else repr(names[column])
    text = f"{what}: column {name} {why}{', or use dtype=' + repr('float64') if a.dtype == np.float32 else ''}"
    if what in ("fit: x", "fit: y", "steps: x", "steps: y"):
        raise InputError(text)
    warnings.warn(text, RuntimeWarning, stacklevel=5)


def _precision(y: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        return float(np.std(y, dtype=np.float64)) / 250  # float32 overflows from 2e19 on
