"""A model: layers in a row, one flat buffer for all their parameters, and what can be done with them (chapter 18)."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnx import checks, streams
from nnx.backends import Backend, resolve
from nnx.backends.base import host_array, on_its_device, real_numbers
from nnx.backends.forward import Forward
from nnx.errors import InputError, InputTypeError
from nnx.history import History
from nnx.inference import Inference, refuse
from nnx.kernels.layout import LOSS, PENALTY
from nnx.layers import Layer
from nnx.losses import Loss
from nnx.optimizers import Optimizer
from nnx.parameters import ParameterBuffer
from nnx.structure import chain, check_ending, expect_instance, fitting_layers
from nnx.training import HISTORY, Trainer

if TYPE_CHECKING:
    from nnx.callbacks import Callback

Array = Any
METRICS = ("accuracy",)
ROWS = 4096  # how many rows are predicted at a time where no batch size is given


class Sequential:
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
        layers: a tuple. backend: resolved; `resolution.reason` says why it is this one.
        precision: what was asked for, or None; `backend.precision` is what it has.
        loss, optimizer, metrics: what `compile` was given; copies of its own.
        epochs_done: epochs trained so far, over all fits.
        eager_reason: why the last `fit` did not replay its steps, or None.
        replay_reason: why it replayed them one operation at a time on a backend that can do better, or None.
        metadata: anything that JSON can hold, saved along with the model.

    Raises:
        InputError: layers do not fit together, or an argument cannot be used.
        BackendUnavailable: the backend does not work here.
    """

    def __init__(
        self, *layers: Layer, backend: Any = None, dtype: str = "float32", precision: str | None = None, seed: int = 0
    ) -> None:
        self.layers = fitting_layers(layers)
        self.dtype = checks.dtype(dtype)
        self.seed = checks.integer(seed, "seed", low=0)
        self.n_inputs, self.n_outputs = chain(self.layers)
        self.resolution = resolve(backend)
        self.loss: Any = None  # a Loss and an Optimizer, once compiled
        self.optimizer: Any = None
        self.metrics: tuple[str, ...] = ()
        self.metadata: dict[str, Any] = {}
        self.epochs_done = 0
        self.stop_training = False
        self.eager_reason: str | None = None
        self.replay_reason: str | None = None
        self._trainer: Trainer | None = None
        for layer in self.layers:
            layer.check_values(self.dtype)
        for number, layer in enumerate(self.layers):
            layer.draw_missing(streams.generator(self.seed, streams.WEIGHTS, number))
        self.precision = precision
        self._settle(precise(self.resolution.backend, self.dtype, precision), self.dtype)

    # ---- parameters --------------------------------------------------------------------------------------------------

    def _settle(self, backend: Backend, dtype: str) -> None:
        """Move all layers into one flat buffer on a backend."""
        self.backend, self.dtype = backend, dtype
        self._forget()
        self._allocate(backend, dtype)

    @on_its_device
    def _allocate(self, backend: Backend, dtype: str) -> None:
        self.flat = ParameterBuffer(backend, dtype, [shape for layer in self.layers for shape in layer.shapes.values()])
        values, gradients = iter(self.flat.views(self.flat.values)), iter(self.flat.views(self.flat.gradients))
        count = sum(len(layer.strengths()) for layer in self.layers)
        self.penalties = backend.zeros(count, "float64")
        slots = iter(self.penalties[i : i + 1] for i in range(count))
        for layer in self.layers:
            layer.attach(
                backend,
                dtype,
                _take(values, layer.shapes),
                _take(gradients, layer.shapes),
                _take(slots, layer.strengths()),
            )
        if self.loss is not None:
            precision = self._trainer.precision if self._trainer is not None else 0.0
            self._trainer = Trainer(self)
            self._trainer.set_precision(precision)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order."""
        return self._layers

    @layers.setter
    def layers(self, layers: tuple[Layer, ...]) -> None:
        self._layers = tuple(layers)
        self._forget()

    def _forget(self) -> None:
        """Drop what was made of the layers as they were."""
        self._inference: Inference | None = None
        self._native: Forward = refuse  # what `predict` asks first

    @property
    def regularized(self) -> bool:
        """Whether any layer has an L1 or L2 penalty."""
        return any(layer.strengths() for layer in self.layers)

    def parameters(self) -> dict[str, Array]:
        """Return every parameter by its layer's number and its name, as "0.weights"; arrays of the backend."""
        return {f"{i}.{name}": layer.parameter(name) for i, layer in enumerate(self.layers) for name in layer.shapes}

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

    def to(self, backend: Any, dtype: str | None = None, precision: str | None = None) -> Sequential:
        """Move to another backend (or type, or precision), with parameters and the optimizer's state; return self."""
        target = resolve(backend)
        dtype = self.dtype if dtype is None else checks.dtype(dtype)
        precision = self.precision if precision is None else precision
        chosen = precise(target.backend, dtype, precision)
        for layer in self.layers:
            layer.check_values(dtype)
        state = self._state()
        self.resolution, self.precision = target, precision
        self._settle(chosen, dtype)
        self._set_state(state)
        return self

    # ---- compile and train -------------------------------------------------------------------------------------------

    @on_its_device
    def compile(self, loss: Loss, optimizer: Optimizer, metrics: Any = ("accuracy",)) -> Sequential:
        """Say what is minimised and how. The model takes copies, and starts the optimizer anew.

        Args:
            loss: such as `CategoricalCrossEntropy()`. optimizer: such as `Adam(0.01)`.
            metrics: [] or ["accuracy"]: the share of right classes; of outputs on the right side of 0.5 for binary
                cross-entropy; of outputs within std(y) / 250 of the target for regression (chapter 17).
        """
        expect_instance(loss, Loss, "loss", "CategoricalCrossEntropy()")
        expect_instance(optimizer, Optimizer, "optimizer", "Adam(0.01)")
        if type(loss) is Loss or type(optimizer) is Optimizer:
            raise InputTypeError(
                f"compile: {loss}, {optimizer}: expected one of the classes made from Loss and Optimizer"
            )
        if not isinstance(metrics, list | tuple) or any(m not in METRICS for m in metrics):
            raise InputError(f"compile: metrics={metrics!r}; expected [] or ['accuracy']")
        if self.flat.size == 0:
            raise InputError("compile: no layer has parameters, so there is nothing to train; add a Dense layer")
        check_ending(self.layers[-1], loss)
        self.loss, self.optimizer, self.metrics = copy.deepcopy(loss), copy.deepcopy(optimizer), tuple(metrics)
        self.optimizer.counters[:] = 0
        self.flat.first[...] = 0
        self.flat.second[...] = 0
        self._trainer = Trainer(self)
        return self

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

        Ctrl-C ends the fit after the step at hand; the history then says `interrupted`.

        Raises:
            InputError: data or an argument cannot be used; nothing was changed.
            NonFiniteError: the loss became nan or infinite; the model is as it was before that step.
        """
        from nnx.callbacks import watched
        from nnx.fitting import Fit

        trainer = self._compiled("fit")
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
        _check_monitors(callbacks, trainer.quantities(validation is not None))
        if self.loss.metric == "regression":
            trainer.set_precision(_precision(target))
        self.eager_reason = self.replay_reason = None
        job = Fit(self, trainer, host, target, batch or len(host), shuffle, validation, watched(callbacks, y, target))
        return job.run(epochs, verbose)

    def step(self, x: Any, y: Any) -> float:
        """Do one training step on a batch; return its loss, penalties included: nan where it went wrong (see `fit`)."""
        return float(self.steps(x, y, 1)[0])

    @on_its_device
    def steps(self, x: Any, y: Any, n: int) -> np.ndarray:
        """Do n training steps on the same batch in one call; return their losses, penalties included: float64 [n]."""
        trainer = self._compiled("steps")
        n = checks.integer(n, "steps: n")
        host = self._inputs(x, "steps: x")
        target = self._targets(y, host, "steps")
        if self.loss.metric == "regression" and not trainer.precision:
            trainer.set_precision(_precision(self.backend.to_numpy(target)))
        _, runner = trainer.staged(host, target)
        rows = [trainer.run(runner, min(HISTORY, n - done)) for done in range(0, n, HISTORY)]
        losses: np.ndarray = np.concatenate(rows)[:, [LOSS, PENALTY]].sum(axis=1)
        return losses

    # ---- use ---------------------------------------------------------------------------------------------------------

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Return the last layer's outputs for x [N, I]: a new NumPy array [N, O].

        The layers themselves keep what they had. Any number of threads may call it at once.
        """
        if batch_size is None:
            outputs = self._native(x)  # a few rows, ready as they are, take a microsecond: so nothing comes before
            if outputs is not None:
                return outputs
        return self._predict(x, batch_size)

    @on_its_device
    def _predict(self, x: Any, batch_size: int | None) -> np.ndarray:
        host = self._inputs(x, "predict: x")
        rows = ROWS if batch_size is None else checks.integer(batch_size, "predict: batch_size")
        predict = self.inference().predict
        parts = [predict(host[i : i + rows]) for i in range(0, len(host), rows)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @on_its_device
    def evaluate(self, x: Any, y: Any, batch_size: int | None = None) -> dict[str, float]:
        """Return the mean loss over x [N, I] and y, without penalties, and the metrics, by name."""
        trainer = self._compiled("evaluate")
        host = self._inputs(x, "evaluate: x")
        target = self._targets(y, host, "evaluate")
        rows = ROWS if batch_size is None else checks.integer(batch_size, "evaluate: batch_size")
        metric = self.loss.metric if "accuracy" in self.metrics else None
        precision = trainer.precision or (_precision(self.backend.to_numpy(target)) if metric == "regression" else 0.0)
        stats, loss, hits = self.backend.zeros(3, "float64"), 0.0, 0.0
        for i in range(0, len(host), rows):
            wanted = target[i : min(i + rows, len(host)), ...]
            outputs = self.inference().outputs(host[i : i + rows])
            self.backend.tally(self.loss.losses(outputs, wanted), outputs, wanted, metric, precision, stats)
            mean, right, _ = self.backend.to_numpy(stats).tolist()
            loss, hits = loss + mean * wanted.shape[0], hits + right
        scores = {"loss": float(loss / len(host))}
        return scores if metric is None else {**scores, "accuracy": float(hits / len(host))}

    def summary(self) -> str:
        """Return, and print, the layers with their shapes and parameters, and how they run."""
        from nnx.summary import summarize

        text = summarize(self)
        print(text)
        return text

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, architecture and the optimizer's state to a safetensors file, whole or not at all."""
        from nnx.saving import save

        save(self, path)

    def __repr__(self) -> str:
        return f"<Sequential {' -> '.join(map(str, self.layers))}, {self.dtype} on {self.backend.name}>"

    # ---- pieces ------------------------------------------------------------------------------------------------------

    def inference(self) -> Inference:
        """Return the forward pass of the layers as they are."""
        if self._inference is None:
            self._inference = Inference(self)
            self._native = self._inference.native
        return self._inference

    def _inputs(self, x: Any, what: str) -> np.ndarray:
        """Return inputs as a finite NumPy array [N, n_inputs] of the model's type, contiguous."""
        if not isinstance(x, np.ndarray) and self.backend.owns(x):
            x = self.backend.to_numpy(x)
        a = host_array(x, self.dtype, what)
        who, _, name = what.partition(": ")
        checks.matrix(a.shape, who, name)
        if self.n_inputs is not None and a.shape[1] != self.n_inputs:
            raise InputError(
                f"{what} has {a.shape[1]} features (shape {a.shape}), but the first layer takes {self.n_inputs}"
            )
        checks.finite(a, who, name, given=x)
        return np.ascontiguousarray(a)

    def _targets(self, y: Any, x: np.ndarray, who: str) -> Array:
        """Return targets as an array of the backend, after checking them against x and the outputs."""
        target = self._host_targets(y, x, who)
        return self.backend.asarray(target, target.dtype.name)

    def _host_targets(self, y: Any, x: np.ndarray, who: str) -> np.ndarray:
        """Return targets as the loss wants them, as a NumPy array."""
        width = self.n_outputs
        if width is None:  # a layer of the user's own, whose width shows only in its output
            width = self.inference().outputs(x[:1]).shape[1]
        shape = tuple(y.shape) if hasattr(y, "shape") else real_numbers(y, f"{who}: y").shape
        if not shape or shape[0] != len(x):
            raise InputError(f"{who}: x has {len(x)} rows, y has shape {shape}; expected one target for each row")
        targets: np.ndarray = self.loss.host_targets(y, (len(x), width), self.dtype)
        return targets

    def _compiled(self, what: str) -> Trainer:
        if self._trainer is None:
            raise InputError(
                f"{what}: the model has no loss and no optimizer yet; call model.compile(loss=..., optimizer=...) first"
            )
        return self._trainer

    @on_its_device
    def resume(self, iterations: int, precision: float) -> None:
        """Go on from so many optimizer steps: for a model that was loaded or moved."""
        trainer = self._compiled("resume")
        self.optimizer.counters[:] = (iterations, 0, 0)
        trainer.counters[...] = self.backend.asarray(self.optimizer.counters, "int64")
        trainer.set_precision(precision)

    # ---- copying and pickling ----------------------------------------------------------------------------------------

    def _state(self) -> dict[str, np.ndarray]:
        """Return the optimizer's moments as NumPy arrays."""
        return {name: np.array(self.backend.to_numpy(getattr(self.flat, name))) for name in ("first", "second")}

    @on_its_device
    def _set_state(self, state: dict[str, np.ndarray]) -> None:
        for name, value in state.items():
            getattr(self.flat, name)[...] = self.backend.asarray(value, self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        skip = ("backend", "resolution", "flat", "penalties", "_inference", "_native")
        kept = {name: value for name, value in self.__dict__.items() if name not in skip}
        precision = None if self._trainer is None else self._trainer.precision
        return {
            **kept,
            "_trainer": None,
            "_wish": self.backend.name,
            "_moments": self._state(),
            "_precision": precision,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        wish, moments, precision = (state.pop(name) for name in ("_wish", "_moments", "_precision"))
        self.__dict__.update(state)
        self.resolution = resolve(wish if wish == "numpy" else [wish, "numpy"])
        backend = self.resolution.backend
        kept = self.precision if backend.name == wish else None  # what it fell back to may lack it
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


def _take(items: Iterator[Array], names: Mapping[str, Any]) -> list[Array]:
    return [next(items) for _ in names]


def _check_callbacks(callbacks: Any) -> None:
    from nnx.callbacks import Callback

    if not isinstance(callbacks, Sequence):
        raise InputTypeError(f"fit: callbacks={callbacks!r}; expected a list, such as [nnx.callbacks.EarlyStopping()]")
    for callback in callbacks:
        expect_instance(callback, Callback, "fit: a callback", "callbacks.EarlyStopping()")


def _check_monitors(callbacks: Sequence[Callback], measured: Sequence[str]) -> None:
    from nnx.callbacks import Monitor

    for callback in callbacks:
        if isinstance(callback, Monitor):
            callback.check(measured)


def _precision(y: np.ndarray) -> float:
    with np.errstate(all="ignore"):
        return float(np.std(y, dtype=np.float64)) / 250  # float32 overflows from 2e19 on
