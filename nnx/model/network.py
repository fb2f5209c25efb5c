"""Network: layers in a row, one flat buffer for all their parameters on a backend, and their forward pass.

Training, saving and describing a network is the work of modules that import this one; it imports none of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from nnx import casting, checks, rng
from nnx.backends import Backend, resolve
from nnx.backends.base import host_array, on_its_device, real_numbers
from nnx.backends.resolve import Wish
from nnx.errors import InputError, InputTypeError
from nnx.flat_buffer import ParameterBuffer
from nnx.kernels.user_warnings import warn_once
from nnx.layers import Embedding, Flatten, Layer
from nnx.layers.base import Array, kept_shapes
from nnx.layers.chain import chain, every
from nnx.layers.embedding import fronts
from nnx.model.inference import Inference, refuse
from nnx.model.layer_list import LayerList
from nnx.model.validation import fitting_layers
from nnx.owner import Owner, alone, alone_or_within, changing, reading
from nnx.settings import Assignable

ROWS = 4096  # rows that are predicted at a time if no batch size is given


class Network(Assignable):
    """Layers in a row on one backend; see `Sequential` for arguments and attributes."""

    backend: Backend
    dtype: str
    penalties: Array
    _inference: Inference | None
    _embeddings: list[Embedding]  # the layers that take codes among the model's inputs
    _facts: ClassVar[Mapping[str, str]] = {
        "backend": "use model.to(backend)",
        "dtype": "use model.to(backend, dtype=...)",
        "precision": "use model.to(backend, precision=...)",
        "seed": "it is given when the model is made: Sequential(..., seed=...)",
        **dict.fromkeys(("resolution", "flat", "penalties"), "it follows from model.to(...)"),
        **dict.fromkeys(("n_inputs", "n_outputs"), "it follows from the layers"),
    }

    def __init__(
        self, *layers: Layer, backend: Wish = None, dtype: str = "float32", precision: str | None = None, seed: int = 0
    ) -> None:
        self._owner = Owner()
        self._layers = fitting_layers(layers)
        self.dtype = checks.dtype(dtype)
        self.seed = checks.integer(seed, "seed", low=0)
        self.n_inputs, self.n_outputs = chain(self._layers)
        self.resolution = resolve(backend)
        self.precision = precision
        chosen = precise(self.resolution.backend, self.dtype, precision)
        for layer in self._layers:
            layer.check_values(self.dtype)
        for number, layer in enumerate(self._layers):
            if layer.shapes:  # only then, for making a generator takes 10 us
                layer.draw_missing(rng.generator(self.seed, rng.WEIGHTS, number))
        self._settle(chosen, self.dtype)

    # ---- the buffer of parameters ------------------------------------------------------------------------------------

    def _settle(self, backend: Backend, dtype: str) -> None:
        """Move all layers into one flat buffer on a backend."""
        self.__dict__.update(backend=backend, dtype=dtype)
        self._embeddings = [layer for layer in fronts(self._layers) if isinstance(layer, Embedding)]
        self._forget()
        self._allocate(backend, dtype)

    @on_its_device
    def _allocate(self, backend: Backend, dtype: str) -> None:
        shapes = [shape for layer in self._layers for shape in layer.shapes.values()]
        statistics = [shape for layer in self._layers for shape in layer._running_shapes.values()]
        flat, penalties = ParameterBuffer(backend, dtype, shapes, statistics), backend.zeros(len(shapes), "float64")
        self._owner.flat = flat
        self.__dict__.update(penalties=penalties)
        self.__dict__.pop("flat", None)
        values, gradients = iter(flat.views(flat.values)), iter(flat.views(flat.gradients))
        learnt = iter(flat.statistic_views())
        slots = iter(penalties[i : i + 1] for i in range(len(shapes)))
        for layer in self._layers:
            layer.attach(
                backend,
                dtype,
                _take(values, layer.shapes) + _take(learnt, layer._running_shapes),
                _take(gradients, layer.shapes),
                _take(slots, layer.shapes),
            )
        for layer in every(self._layers):
            layer.listen(self)
            layer._owner = self._owner

    @alone
    @changing
    def to(self, backend: Wish, dtype: str | None = None, precision: str | None = None) -> Self:
        """Move to another backend, type or precision, with parameters and the optimizer's state; return the model.

        Raises:
            InputError: an argument cannot be used, or a number is too large for the type. BackendUnavailable: the
                backend does not work here. InUseError: the model is being trained.
        """
        target = resolve(backend)
        dtype = self.dtype if dtype is None else checks.dtype(dtype)
        precision = self.precision if precision is None else precision
        chosen = precise(target.backend, dtype, precision)
        for layer in self._layers:
            layer.check_values(dtype)
        state = self._state()
        self.__dict__.update(resolution=target, precision=precision)
        self._settle(chosen, dtype)
        self._set_state(state)
        return self

    # ---- layers ------------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> LayerList:
        """The layers, in order: a tuple with a list's methods, which change the model (see `LayerList`)."""
        return LayerList(self._layers, self)

    @layers.setter
    @alone
    @changing
    def layers(self, layers: Sequence[Layer]) -> None:
        if not isinstance(layers, list | tuple):
            raise InputTypeError(f"layers={layers!r}: expected a list or a tuple of layers")
        self._exchange(fitting_layers(layers, kept=self._layers))

    @on_its_device
    def _exchange(self, layers: tuple[Layer, ...]) -> None:
        """Take other layers. The optimizer keeps its moments, unless there are parameters that it never moved."""
        n_inputs, n_outputs = chain(layers)
        for layer in layers:
            layer.check_values(self.dtype)
        old = self._layers
        new = [layer for layer in layers if not any(layer is other for other in old)]
        anew = any(layer.shapes for layer in new)
        moments = {
            name: self._by_layer(getattr(self.flat, name)) for name in ("first", "second", *self.flat.names) if not anew
        }
        for number, layer in enumerate(layers):
            layer.draw_missing(rng.generator(self.seed, rng.WEIGHTS, number))
        if anew:
            self._untrained()
        self._layers = layers
        self.__dict__.update(n_inputs=n_inputs, n_outputs=n_outputs)
        self._settle(self.backend, self.dtype)
        self.flat.reserve(*moments)
        for name, before in moments.items():
            for place, values in self._by_layer(getattr(self.flat, name)).items():
                values[...] = before[place]
        for layer in old:
            if not any(layer is other for other in layers):
                layer.detach()

    @property
    def trainable(self) -> bool:
        """Whether training moves any parameter. Assigning it sets all layers."""
        return any(any(layer.trained().values()) for layer in self._layers)

    @trainable.setter
    @alone_or_within
    def trainable(self, value: bool) -> None:
        wanted = checks.flag(value, f"{type(self).__name__}: trainable")
        for layer in self._layers:
            layer.trainable = wanted

    @on_its_device
    def mark_trained(self) -> None:
        """Update in the flat buffer which parameters training moves, as the layers' `trainable` says now."""
        self.flat.train([moved for layer in self._layers for moved in layer.trained().values()])

    def _untrained(self) -> None:
        """Do what is needed when parameters come in that no step has moved yet: here nothing."""

    def _by_layer(self, part: Array) -> dict[tuple[int, str], Array]:
        """Return each parameter's view into a part of the flat buffer, by the index of its layer and its name."""
        places = [(id(layer), name) for layer in self._layers for name in layer.shapes]
        return dict(zip(places, self.flat.views(part), strict=True))

    def settings_changed(self) -> None:
        """Drop what depended on settings: called when a setting or a method of a layer, loss or optimizer changes."""
        self._forget()

    # ---- parameters --------------------------------------------------------------------------------------------------

    @cached_property
    def flat(self) -> ParameterBuffer:
        """The buffer that holds all parameters."""
        return self._owner.flat

    @property
    def regularized(self) -> bool:
        """Whether any layer has an L1 or L2 penalty."""
        return any(layer.strengths() for layer in self._layers)

    def parameters(self) -> dict[str, Array]:
        """Return every parameter by its layer's index and its name, such as "0.weights"; arrays of the backend.

        Running statistics, which predictions read as well, are included.
        """
        named = ((i, layer, name) for i, layer in enumerate(self._layers) for name in kept_shapes(layer))
        return {f"{i}.{name}": layer.parameter(name) for i, layer, name in named}

    def _host_parameters(self) -> dict[str, np.ndarray]:
        """Return the same as NumPy arrays."""
        return {name: self.backend.to_numpy(a) for name, a in self.parameters().items()}

    @alone_or_within
    @changing
    @on_its_device
    def set_parameters(self, values: Any) -> None:
        """Copy values into all parameters, given as a mapping with the names and shapes of `parameters()`.

        Raises:
            InputError: a name is missing or unknown, or a value cannot be used; nothing was changed.
        """
        own = self.parameters()
        if not isinstance(values, Mapping) or values.keys() != own.keys():
            given = ", ".join(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise InputError(f"set_parameters: {given} given, expected {', '.join(own)}")
        ready = []
        for name, value in values.items():
            number, _, parameter = name.partition(".")
            layer = self._layers[int(number)]
            ready.append((layer, parameter, layer.checked(parameter, value)))
        for layer, parameter, host in ready:
            layer.assign(parameter, host)

    def buffers(self) -> list[Array]:
        """Return the flat buffer's parts and every view into them: arrays that a recorded step may read at once."""
        flat = self.flat
        views = flat.views(flat.values) + flat.views(flat.gradients) + flat.statistic_views()
        names = "values", "first", "second", "gradients", *flat.names
        more = [getattr(flat, name) for name in flat.names]
        more += [getattr(flat, name)[run] for run in flat.trained for name in names]
        return [flat.values, flat.first, flat.second, flat.gradients, *more, *views]

    # ---- the forward pass --------------------------------------------------------------------------------------------

    def predict(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """Return the last layer's outputs for x [N, I]: a new NumPy array [N, O].

        The layers' own `inputs` and `output` are not changed. Any number of threads may call it at once, also while
        one trains: see `fit`. On the Numba backend, a row's outputs are the same bits however many rows are predicted
        with it, except for very wide networks and those with blocks, an embedding or user-defined parts. Elsewhere the
        last digit may differ, since sums are made in another order.

        Args:
            x: as for `fit`. batch_size: how many rows to predict at a time; None: up to 4096.

        Raises:
            InputError: x or batch_size cannot be used.
        """
        if batch_size is None:
            owner = self._owner
            mark, native = owner.mark, owner.native
            if mark is not None:
                outputs = native(x)  # a few rows that need no conversion take a microsecond, so this is tried first
                if outputs is not None and mark is owner.mark:  # no parameter changed meanwhile
                    return outputs
        return self._predict(x, batch_size)

    def __call__(self, x: Any) -> np.ndarray:
        """Return `predict(x)`: as in Keras a model can be called; that never trains it."""
        return self.predict(x)

    @reading
    @on_its_device
    def _predict(self, x: Any, batch_size: int | None) -> np.ndarray:
        host = self._inputs(x, "predict: x")
        rows = ROWS if batch_size is None else checks.integer(batch_size, "predict: batch_size")
        predict = self.inference().predict
        parts = [predict(host[i : i + rows]) for i in range(0, len(host), rows)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def inference(self) -> Inference:
        """Return the forward pass of the layers as they are now, made once until they change."""
        inference = self._inference
        if inference is None:
            inference = self._inference = Inference(self._layers, self.backend, self._owner)
            self._owner.native = inference.native
        return inference

    def _forget(self) -> None:
        """Drop the forward pass that was made for layers or settings which have changed."""
        self._inference = None
        self._owner.native = refuse

    def _inputs(self, x: Any, what: str) -> np.ndarray:
        """Return inputs as a finite NumPy array [N, n_inputs] of the model's type, contiguous."""
        who, _, name = what.partition(": ")
        given, a = self._shaped(x, what, who, name)
        checks.finite(a, who, name, given, x)
        for layer in self._embeddings:
            layer.check_codes(a, what)
        casting.check_lost(a, given, x, what)
        return np.ascontiguousarray(a)

    def _shaped(self, x: Any, what: str, who: str, name: str = "inputs") -> tuple[np.ndarray, np.ndarray]:
        """Return inputs [N, n_inputs] twice: in the type that they were given in, and in the model's type.

        The shape is checked, the numbers are not.

        Args:
            what: call and argument, or the place in a file, for messages, such as "fit: x". who: the call or the place.
            name: the argument.
        """
        given = real_numbers(self._from_device(x), what)
        if given.ndim > 2 and given.size and isinstance(self._layers[0], Flatten):
            given = given.reshape(len(given), -1)
        a = host_array(given, self.dtype)
        checks.matrix(a.shape, who, name)
        if self.n_inputs is not None and a.shape[1] != self.n_inputs:
            has = ":" if what == who else " has"
            raise InputError(
                f"{what}{has} {a.shape[1]} features (shape {a.shape}), but the first layer takes {self.n_inputs}"
            )
        return given, a

    def _from_device(self, a: Any) -> Any:
        """Return an array of the backend as a NumPy array, anything else as it is."""
        return self.backend.to_numpy(a) if not isinstance(a, np.ndarray) and self.backend.owns(a) else a

    # ---- copying and pickling ----------------------------------------------------------------------------------------

    def _state(self) -> dict[str, np.ndarray]:
        """Return the parts of the flat buffer, parameters and moments, as NumPy arrays.

        Copied layers have their own parameters, but those are copied one after the other, between which another thread
        may train; these are all of one moment.
        """
        names = ("values", "first", "second", "statistics", *self.flat.names)
        return {name: np.array(self.backend.to_numpy(getattr(self.flat, name))) for name in names}

    @on_its_device
    def _set_state(self, state: dict[str, np.ndarray]) -> None:
        self.flat.reserve(*state)
        for name, value in state.items():
            getattr(self.flat, name)[...] = self.backend.asarray(value, self.dtype)

    def __copy__(self) -> Self:
        """Return a deep copy: two models never share parameters."""
        return copy.deepcopy(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = memo[id(self)] = object.__new__(type(self))
        other.__setstate__({**copy.deepcopy(self.__getstate__(), memo), "_wish": self.backend})
        return other

    @reading
    def __getstate__(self) -> dict[str, Any]:
        return self._contents()

    def _contents(self) -> dict[str, Any]:
        """Return what a copy is made from: attributes, the backend's name, and the contents of the flat buffer."""
        skip = ("backend", "resolution", "flat", "penalties", "_inference", "_embeddings", "_listener")
        kept = {name: value for name, value in self.__dict__.items() if name not in skip}
        return {**kept, "_wish": self.backend.name, "_moments": self._state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        wish, moments = state.pop("_wish"), state.pop("_moments")
        found = resolve([wish, "numpy"] if isinstance(wish, str) and wish != "numpy" else wish)
        self.__dict__.update(state, resolution=found)
        chosen = found.backend
        if wish in (chosen, chosen.name):  # another backend may lack the precision
            try:
                chosen = precise(chosen, self.dtype, self.precision)
            except InputError as error:  # this one may lack it too, on another machine
                warn_once(f"a model goes on in full precision: {error}", "a lower precision")
        self._settle(chosen, self.dtype)
        self._set_state(moments)


def precise(backend: Backend, dtype: str, precision: str | None) -> Backend:
    """Return the backend with the precision that was asked for, if one was."""
    chosen = backend if precision is None else backend.with_precision(precision)
    if precision not in (None, "full") and dtype != "float32":
        raise InputError(f"precision={precision!r} rounds float32 products, and dtype={dtype!r}: give one of the two")
    return chosen


def _take(items: Iterator[Array], names: Mapping[str, Any]) -> list[Array]:
    return [next(items) for _ in names]
