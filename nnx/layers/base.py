"""Base class of the layers: backend, workspace, and parameters as views into one flat buffer."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnx import checks
from nnx.backends import Backend, get_backend
from nnx.backends.base import FLOATS, host_array
from nnx.backends.memory import physical
from nnx.errors import InputAttributeError, InputError, InputTypeError
from nnx.flat_buffer import ParameterBuffer
from nnx.owner import Owner
from nnx.settings import Assignable, Setting, is_own

if TYPE_CHECKING:  # importing it at run time would take some ms
    from numpy.typing import NDArray

    Array = NDArray[Any]  # or an array of another backend, such as CuPy's, which is used in the same way
else:
    Array = Any


class Trainable(Setting):
    """The setting `trainable`: whether training moves a layer's parameters.

    A change notifies the model even for a user-defined layer. Nothing else would notice: the optimizer moves the
    parameters, and no method of the layer takes part in that.
    """

    def __init__(self) -> None:
        super().__init__(checks.flag, default=(True,))

    def __set__(self, part: Any, value: Any) -> None:
        before = part.trainable
        super().__set__(part, value)
        if part.trainable != before:
            part._tell()


class Layer(Assignable):
    """The base of all layers; subclass it to write your own.

    A layer has `forward(inputs, training=False)`, which keeps `inputs` and `output`, and `backward(dvalues)`, which
    keeps `dinputs`; `dvalues` is the gradient of the loss with respect to the output. Both return what they computed.
    Arrays are those of `self.backend`; its `xp` is NumPy or CuPy.

    `output` and `dinputs` live in a workspace that the next call overwrites: copy what must last.

    A layer outside a model takes the active backend and float32 when first used; in a model it takes the model's.

    A layer with parameters lists their names and shapes in `shapes` and draws initial values in `draw`. Then
    `parameter(name)` is the array, and `gradient(name)` is the array into which `backward` writes its gradient.

    `trainable = False` freezes the parameters: no step moves them, their penalties are not counted, and the optimizer's
    moments stay; gradients still flow through the layer. Assignable at any time; the next step uses it.
    """

    shapes: dict[str, tuple[int, ...]] = {}  # noqa: RUF012 - replaced, never changed, by layers that have parameters
    trainable = Trainable()
    dtype: str | None = None  # None: that of the inputs
    penalties: dict[str, Array]  # the regularization loss of each parameter: float64 [1], 0 for most
    inputs: Array
    output: Array
    dinputs: Array

    _holds: ClassVar[bool] = False  # whether it is a block, with layers in `inner`; users may call anything so
    _running_shapes: dict[str, tuple[int, ...]] = {}  # noqa: RUF012 - like `shapes`, for running statistics
    _backend: Backend | None = None
    _owner: Owner | None = None  # that of the model that it is in
    _parameters: dict[str, Array] | None = None
    _gradients: dict[str, Array]
    _spare: dict[str, Array]  # arrays for the gradients of parameters that are not trained
    _given: dict[str, np.ndarray] | None = None  # initial values that were assigned, and so are not drawn
    _runtime: ClassVar[tuple[str, ...]] = (
        "inputs", "output", "dinputs", "_backend", "_parameters", "_gradients", "_buffers", "flat", "penalties",
        "_listener", "_owner", "_spare",
    )  # fmt: skip
    _results = frozenset(_runtime) - {"flat", "penalties"}

    # ---- to be written by each layer ---------------------------------------------------------------------------------

    if TYPE_CHECKING:  # any arguments, since a loss is a layer too, and takes different ones

        def forward(self, *args: Any, **kwargs: Any) -> Array:
            """Return the output."""

        def backward(self, *args: Any, **kwargs: Any) -> Array:
            """Return the gradient of the inputs."""

    else:

        def forward(self, inputs: Array, training: bool = False) -> Array:
            """Return the output for inputs [N, I]."""
            raise NotImplementedError(f"{type(self).__name__} has no forward(inputs, training=False)")

        def backward(self, dvalues: Array) -> Array:
            """Return the gradient of the inputs, given that of the output, and write those of the parameters."""
            raise NotImplementedError(f"{type(self).__name__} has no backward(dvalues)")

    def backward_parameters(self, dvalues: Array) -> None:
        """Write only the gradients of the parameters: for a first layer, whose inputs need no gradient."""
        self.backward(dvalues)

    def draw(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Return initial values for every parameter in `shapes`."""
        return {name: np.zeros(shape) for name, shape in kept_shapes(self).items()}

    def output_width(self, width: int | None) -> int | None:
        """Return the number of outputs for `width` inputs; None stands for any number, or one that is not known yet.

        Raises:
            InputError: the layer does not take this number of inputs.
        """
        return None

    def strengths(self) -> dict[str, tuple[float, float]]:
        """Return (l1, l2) for each parameter that is regularized."""
        return {}

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again, for saving."""
        return {}

    def trained(self) -> dict[str, bool]:
        """Return for each parameter in `shapes` whether training moves it."""
        return dict.fromkeys(self.shapes, self.trainable)

    # ---- backend -----------------------------------------------------------------------------------------------------

    @property
    def backend(self) -> Any:
        """The backend whose arrays this layer computes with; while a model's step is recorded, the recorder."""
        if self._owner is not None and self._owner.recorder is not None:
            return self._owner.recorder
        if self._backend is None:
            self._backend = get_backend()
        return self._backend

    @backend.setter
    def backend(self, backend: Any) -> None:
        self._backend = backend

    def _admit(self, name: str) -> None:
        if name == "dtype":
            if self.in_model:
                raise InputAttributeError(f"{self}: dtype cannot be assigned: use model.to(backend, dtype=...)")
        elif name == "shapes":
            if is_own(type(self)) or self._parameters is not None:
                self._refuse_new(name, "the parameters are made by it; make a new layer")
        else:
            super()._admit(name)

    # ---- parameters --------------------------------------------------------------------------------------------------

    def parameter(self, name: str) -> Array:
        """Return a parameter: a view into the flat buffer."""
        if self._parameters is None:
            self._settle()
        assert self._parameters is not None
        try:
            return self._parameters[name]
        except KeyError:
            names = ", ".join(self._parameters) or "none"
            raise InputError(f"{self} has no parameter {name!r}; its shapes name {names}") from None

    def gradient(self, name: str) -> Array:
        """Return the gradient of a parameter: a view into the flat buffer; an array apart if it is not trained."""
        if self._parameters is None:
            self._settle()
        if self.trainable:
            return self._gradients[name]
        spare: dict[str, Array] = self.__dict__.setdefault("_spare", {})
        if name not in spare:
            spare[name] = self._backend.zeros(self.shapes[name], self.dtype)  # type: ignore[union-attr]
        return spare[name]

    def assign(self, name: str, value: Any) -> None:
        """Copy `value` into a parameter; `checked` says what is refused."""
        if self._owner is not None:
            self._owner.allow(f"{self}: {name}")
        host = self.checked(name, value)
        if self._parameters is None:
            self._given = {**(self._given or {}), name: host}
        else:
            with self.backend.active():
                self._parameters[name][...] = self.backend.asarray(host, self.dtype)

    def assign_gradient(self, name: str, value: Any) -> None:
        """Copy `value` into the gradient of a parameter; `layer.dweights *= 0.5` comes here too."""
        if self._owner is not None:
            self._owner.allow(f"{self}: the gradient of {name}")
        gradient = self.gradient(name)
        if value is gradient:  # changed in place, as by *=
            return
        given = self.backend.to_numpy(value) if self.backend.owns(value) else value
        host = host_array(given, self.dtype or "float64", f"{self}: the gradient of {name}")
        if host.shape != tuple(gradient.shape):
            raise InputError(f"{self}: a gradient of {name} {host.shape} was given, expected {tuple(gradient.shape)}")
        with self.backend.active():
            gradient[...] = self.backend.asarray(host, self.dtype)

    def attach(
        self, backend: Backend, dtype: str, parameters: list[Array], gradients: list[Array], penalties: list[Array]
    ) -> None:
        """Become part of a model: move the parameters, with their values, into arrays of the model's buffer.

        Args:
            backend, dtype: the model's. parameters: an array for each name in `shapes`, then one for each in
                `_running_shapes`. gradients: an array for each name in `shapes`. penalties: float64 [1] for each of
                these.
        """
        given = self.values()
        self._forget_runtime()
        places = dict(zip(kept_shapes(self), parameters, strict=True))
        self.__dict__.update(  # at once: that is a third of the time
            _backend=backend, dtype=dtype if self.shapes else None, _given=None, _parameters=places,
            _gradients=dict(zip(self.shapes, gradients, strict=True)),
            penalties=dict(zip(self.shapes, penalties, strict=True)),
        )  # fmt: skip
        for name, value in given.items():
            places[name][...] = backend.asarray(value, dtype)

    def detach(self) -> None:
        """Leave the model's buffers, and keep only copies of the parameters."""
        values = self.values()
        self._forget_runtime()
        self._given = values

    def _forget_runtime(self) -> None:
        """Drop workspaces, results, and references to the buffers of the parameters."""
        for name in type(self)._runtime:
            self.__dict__.pop(name, None)

    @property
    def in_model(self) -> bool:
        """Whether the parameters are in a model's buffer."""
        return self._backend is not None and self._parameters is not None and "flat" not in self.__dict__

    def draw_missing(self, random: np.random.Generator) -> None:
        """Draw initial values for the parameters that have none yet. It is called before `attach`."""
        if self._parameters is None and self.values().keys() != kept_shapes(self).keys():
            drawn = self.draw(random)
            if not is_own(type(self)):
                drawn = self._checked_draw(drawn)
            self._given = {**drawn, **self.values()}

    def _checked_draw(self, drawn: Any) -> dict[str, np.ndarray]:
        """Return the result of a user-defined `draw`, after checking that it has a value for each parameter."""
        names = kept_shapes(self).keys()
        if not isinstance(drawn, Mapping) or drawn.keys() != names:
            given = ", ".join(map(str, drawn)) or "nothing" if isinstance(drawn, Mapping) else f"{drawn!r:.60}"
            raise InputError(f"{self}: draw() returned {given}, expected a dict of arrays: {', '.join(names)}")
        return {name: self.checked(name, value) for name, value in drawn.items()}

    def check_values(self, dtype: str) -> None:
        """Refuse invalid shapes, and values that are too large for `dtype`."""
        check_shapes(self)
        for name, value in self.values().items():
            checks.finite(host_array(value, dtype), str(self), name, value)

    def values(self) -> dict[str, np.ndarray]:
        """Return copies of the parameters that have been set or drawn so far, as NumPy arrays."""
        if self._parameters is not None:
            return {name: np.array(self.backend.to_numpy(a)) for name, a in self._parameters.items()}
        return dict(self._given or {})

    def _settle(self) -> None:
        """Make a buffer for a layer that is used without a model, and draw the values that were not given."""
        self.dtype = self.dtype or "float32"
        backend, dtype = self.backend, self.dtype or "float32"
        self.check_values(dtype)
        self.draw_missing(default_random())
        flat = ParameterBuffer(backend, dtype, list(self.shapes.values()), list(self._running_shapes.values()))
        penalties = [backend.zeros(1, "float64") for _ in self.shapes]
        parameters = flat.views(flat.values) + flat.statistic_views()
        self.attach(backend, dtype, parameters, flat.views(flat.gradients), penalties)
        self.__dict__["flat"] = flat

    def checked(self, name: str, value: Any) -> np.ndarray:
        """Return `value` as a NumPy array for a parameter.

        Raises:
            InputError: there is no such parameter, or the value has another shape or cannot be used.
        """
        shape = kept_shapes(self)[name]
        if self._backend is not None and self._backend.owns(value):
            value = self._backend.to_numpy(value)
        host = np.array(host_array(value, "float64", f"{self}: {name}"))  # an exact copy
        if host.shape != shape and not (shape[0] == 1 and host.shape == shape[1:]):
            raise InputError(f"{self}: {name} given have shape {host.shape}, expected {shape}")
        checks.finite(host_array(host, self.dtype or "float64"), str(self), name, host)
        fitting: np.ndarray = host.reshape(shape)
        return fitting

    # ---- helpers of forward and backward -----------------------------------------------------------------------------

    def _accept(self, inputs: Any) -> Array:
        """Return inputs as an array of the layer's backend and type; raise InputError for a shape that does not fit."""
        if self._parameters is None and self.shapes:
            self._settle()
        a = self._own(inputs)
        if a.ndim != 2 or 0 in a.shape:
            checks.matrix(tuple(a.shape), str(self))
        return a

    def _accept_gradient(self, dvalues: Any) -> Array:
        """Return dvalues as an array of the layer's backend; raise InputError unless it is shaped like the output."""
        if "output" not in self.__dict__:
            raise InputError(f"{self}: backward() was called before forward(); call that first, with the inputs")
        a = self._own(dvalues)
        if a.shape != self.output.shape:
            raise InputError(
                f"{self}: dvalues have shape {tuple(a.shape)}, expected that of the output, {tuple(self.output.shape)}"
            )
        return a

    def _own(self, a: Any) -> Array:
        dtype, backend = self.dtype, self.backend
        own: Array = a
        if backend.owns(a):
            name = backend.dtype_name(a.dtype)
            if name == dtype or (dtype is None and name in FLOATS):
                return own
        own = self.backend.asarray(a, dtype)
        return own

    def _room(self, name: str, shape: tuple[int, ...], like: Array) -> Array:
        """Return the workspace array `name` [N, ...]: allocated once, then sliced for every smaller batch."""
        buffers: dict[str, Array] = self.__dict__.setdefault("_buffers", {})
        room = buffers.get(name)
        if room is None or room.shape[0] < shape[0] or room.shape[1:] != shape[1:] or room.dtype != like.dtype:
            room = buffers[name] = self.backend.empty(shape, like.dtype)
        return room if room.shape[0] == shape[0] else room[: shape[0], ...]

    # ---- copying and pickling: parameters travel as NumPy arrays, workspaces stay behind -----------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in self._runtime}
        if self.shapes:
            state["_given"] = self.values()
        return state

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def kept_shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what is saved and copied of a layer: its parameters and running statistics."""
    return {**layer.shapes, **layer._running_shapes}


def check_shapes(layer: Layer) -> None:
    """Refuse parameters whose shapes no array can have."""
    if not isinstance(layer.shapes, Mapping):
        raise InputTypeError(f"{layer}: shapes={layer.shapes!r:.60}: expected a dict, {{'name': (rows, columns)}}")
    shape: Any  # a user-defined layer may have anything here
    for name, shape in kept_shapes(layer).items():
        if not isinstance(shape, tuple) or not all(isinstance(n, int | np.integer) and n > 0 for n in shape):
            raise InputTypeError(f"{layer}: the shape of {name} is {shape!r:.60}, expected a tuple of numbers above 0")
        if 8 * math.prod(map(int, shape)) > (physical() or sys.maxsize):  # they are drawn in float64
            raise InputError(f"{layer}: {name} {shape} would be larger than this machine's memory; check the numbers")


_random: dict[str, np.random.Generator] = {}  # a single one, under "": `setdefault` lets one of two threads win


def default_random() -> np.random.Generator:
    """Return the generator that draws weights for layers used without a model; it begins at seed 0."""
    return _random.get("") or _random.setdefault("", _generator(0))


def seed(value: int = 0) -> None:
    """Restart the generator that draws weights for layers used without a model. A model has a seed of its own."""
    _random[""] = _generator(value)


def _generator(value: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(checks.integer(value, "seed", low=0)))
