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

if TYPE_CHECKING:  # at run time it would cost some ms
    from numpy.typing import NDArray

    Array = NDArray[Any]  # or an array of another backend, such as CuPy's, which is used alike
else:
    Array = Any


class Trainable(Setting):
    """Whether steps move a layer's parameters. The model is told even by a layer of the user's own.

    Nothing else would notice: what moves the parameters is the optimizer's work, which no layer's method does.
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
    keeps `dinputs`. Both return what they computed. Arrays are of `self.backend`; its `xp` is NumPy or CuPy.

    `output` and `dinputs` live in a workspace that the next call overwrites: copy what must last.

    On its own a layer takes the active backend and float32 when first used; in a model it takes the model's.

    A layer with parameters names them in `shapes` and draws them in `draw`; `parameter(name)` is then the array, and
    `gradient(name)` where `backward` writes its gradient.

    `trainable = False` keeps the parameters as they are: no step moves them, no penalty counts, no moment changes;
    gradients flow through. It may be assigned at any time, right from the next step on.
    """

    shapes: dict[str, tuple[int, ...]] = {}  # noqa: RUF012 - replaced, never changed, by layers that have parameters
    trainable = Trainable()
    dtype: str | None = None  # None: that of the inputs
    penalties: dict[str, Array]  # what regularization costs: float64 [1] for each parameter, 0 for most
    inputs: Array
    output: Array
    dinputs: Array

    _holds: ClassVar[bool] = False  # whether it is a block, with layers in `inner`; one's own may call anything so
    _running_shapes: dict[str, tuple[int, ...]] = {}  # noqa: RUF012 - of what is learned by no gradient, as `shapes`
    _backend: Backend | None = None
    _owner: Owner | None = None  # the model's that it is in
    _parameters: dict[str, Array] | None = None
    _gradients: dict[str, Array]
    _spare: dict[str, Array]  # where gradients go that nobody wants
    _given: dict[str, np.ndarray] | None = None  # values to begin with, instead of drawing them
    _runtime: ClassVar[tuple[str, ...]] = (
        "inputs", "output", "dinputs", "_backend", "_parameters", "_gradients", "_buffers", "flat", "penalties",
        "_listener", "_owner", "_spare",
    )  # fmt: skip
    _results = frozenset(_runtime) - {"flat", "penalties"}

    # ---- to be written by each layer ---------------------------------------------------------------------------------

    if TYPE_CHECKING:  # of any arguments, since a loss is a layer too, and takes others

        def forward(self, *args: Any, **kwargs: Any) -> Array:
            """Return the output."""

        def backward(self, *args: Any, **kwargs: Any) -> Array:
            """Return the gradient of the inputs."""

    else:

        def forward(self, inputs: Array, training: bool = False) -> Array:
            """Return the output for inputs [N, I]."""
            raise NotImplementedError(f"{type(self).__name__} has no forward(inputs, training=False)")

        def backward(self, dvalues: Array) -> Array:
            """Return the gradient of the inputs, given that of the output; write those of the parameters."""
            raise NotImplementedError(f"{type(self).__name__} has no backward(dvalues)")

    def backward_parameters(self, dvalues: Array) -> None:
        """Write the gradients of the parameters alone: nobody needs those of a first layer's inputs."""
        self.backward(dvalues)

    def draw(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Return initial values for every parameter in `shapes`."""
        return {name: np.zeros(shape) for name, shape in kept_shapes(self).items()}

    def output_width(self, width: int | None) -> int | None:
        """Return the number of outputs for `width` inputs; None is any, or not known before `forward`.

        Raises:
            InputError: the layer does not take so many inputs.
        """
        return None

    def strengths(self) -> dict[str, tuple[float, float]]:
        """Return (l1, l2) for each parameter that is regularized."""
        return {}

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again, for saving."""
        return {}

    def trained(self) -> dict[str, bool]:
        """Tell of each parameter in `shapes` whether steps move it."""
        return dict.fromkeys(self.shapes, self.trainable)

    # ---- backend -----------------------------------------------------------------------------------------------------

    @property
    def backend(self) -> Any:
        """The backend whose arrays this layer computes with; in a model whose step is being recorded, the recorder."""
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
        """Return the gradient of a parameter: a view into the flat buffer, or none of it where it is not trained."""
        if self._parameters is None:
            self._settle()
        if self.trainable:
            return self._gradients[name]
        spare: dict[str, Array] = self.__dict__.setdefault("_spare", {})
        if name not in spare:
            spare[name] = self._backend.zeros(self.shapes[name], self.dtype)  # type: ignore[union-attr]
        return spare[name]

    def assign(self, name: str, value: Any) -> None:
        """Copy `value` into a parameter: see `checked` for what is refused."""
        if self._owner is not None:
            self._owner.allow(f"{self}: {name}")
        host = self.checked(name, value)
        if self._parameters is None:
            self._given = {**(self._given or {}), name: host}
        else:
            with self.backend.active():
                self._parameters[name][...] = self.backend.asarray(host, self.dtype)

    def assign_gradient(self, name: str, value: Any) -> None:
        """Copy `value` into the gradient of a parameter, as `layer.dweights *= 0.5` does."""
        if self._owner is not None:
            self._owner.allow(f"{self}: the gradient of {name}")
        gradient = self.gradient(name)
        if value is gradient:  # it was changed in place
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
        """Move into a model's buffers, values and all: one array for each name in `shapes`.

        Args:
            parameters: and after these one for each name in `_running_shapes`.
        """
        given = self.values()
        self._forget_runtime()
        self._backend, self.dtype, self._given = backend, dtype if self.shapes else None, None
        self._parameters = dict(zip(kept_shapes(self), parameters, strict=True))
        self._gradients = dict(zip(self.shapes, gradients, strict=True))
        self.__dict__["penalties"] = dict(zip(self.shapes, penalties, strict=True))
        for name, value in given.items():
            self._parameters[name][...] = backend.asarray(value, dtype)

    def detach(self) -> None:
        """Leave the model's buffers; keep the parameters' values, and nothing else of it."""
        values = self.values()
        self._forget_runtime()
        self._given = values

    def _forget_runtime(self) -> None:
        """Forget workspaces, results, and the buffers that parameters stood in."""
        for name in type(self)._runtime:
            self.__dict__.pop(name, None)

    @property
    def in_model(self) -> bool:
        """Whether the parameters stand in a model's buffer."""
        return self._backend is not None and self._parameters is not None and "flat" not in self.__dict__

    def draw_missing(self, random: np.random.Generator) -> None:
        """Draw initial values for the parameters that were given none. To be called before `attach`."""
        if self._parameters is None and self.values().keys() != kept_shapes(self).keys():
            drawn = self.draw(random)
            if not is_own(type(self)):
                drawn = self._checked_draw(drawn)
            self._given = {**drawn, **self.values()}

    def _checked_draw(self, drawn: Any) -> dict[str, np.ndarray]:
        """Return what a `draw` of the user's own gave, if there is a value for each parameter."""
        names = kept_shapes(self).keys()
        if not isinstance(drawn, Mapping) or drawn.keys() != names:
            given = ", ".join(map(str, drawn)) or "nothing" if isinstance(drawn, Mapping) else f"{drawn!r:.60}"
            raise InputError(f"{self}: draw() returned {given}, expected a dict of arrays: {', '.join(names)}")
        return {name: self.checked(name, value) for name, value in drawn.items()}

    def check_values(self, dtype: str) -> None:
        """Refuse shapes that are none, and values that are too large for `dtype`."""
        check_shapes(self)
        for name, value in self.values().items():
            checks.finite(host_array(value, dtype), str(self), name, value)

    def values(self) -> dict[str, np.ndarray]:
        """Return copies of the parameters that have been set or drawn so far, as NumPy arrays."""
        if self._parameters is not None:
            return {name: np.array(self.backend.to_numpy(a)) for name, a in self._parameters.items()}
        return dict(self._given or {})

    def _settle(self) -> None:
        """Take a buffer of its own, and draw what was not given: a layer used without a model."""
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
        """Return `value` as a NumPy array that may be assigned to a parameter; raise InputError where it may not."""
        shape = kept_shapes(self)[name]
        if self._backend is not None and self._backend.owns(value):
            value = self._backend.to_numpy(value)
        host = np.array(host_array(value, "float64", f"{self}: {name}"))  # a copy, and exact
        if host.shape != shape and not (shape[0] == 1 and host.shape == shape[1:]):
            raise InputError(f"{self}: {name} given have shape {host.shape}, expected {shape}")
        checks.finite(host_array(host, self.dtype or "float64"), str(self), name, host)
        fitting: np.ndarray = host.reshape(shape)
        return fitting

    # ---- what forward and backward begin with ------------------------------------------------------------------------

    def _accept(self, inputs: Any) -> Array:
        """Return inputs as an array of this backend and type; refuse a shape that does not fit."""
        if self._parameters is None and self.shapes:
            self._settle()
        a = self._own(inputs)
        if a.ndim != 2 or 0 in a.shape:
            checks.matrix(tuple(a.shape), str(self))
        return a

    def _accept_gradient(self, dvalues: Any) -> Array:
        """Return dvalues as an array of this backend, shaped like the output."""
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
        """Return a workspace array [N, ...]: allocated once, then sliced for every smaller batch."""
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
    """Return the shapes of all that is saved and copied of a layer: parameters and running statistics."""
    return {**layer.shapes, **layer._running_shapes}


def check_shapes(layer: Layer) -> None:
    """Refuse shapes of parameters that no array can have."""
    if not isinstance(layer.shapes, Mapping):
        raise InputTypeError(f"{layer}: shapes={layer.shapes!r:.60}: expected a dict, {{'name': (rows, columns)}}")
    shape: Any  # a user's may be anything
    for name, shape in kept_shapes(layer).items():
        if not isinstance(shape, tuple) or not all(isinstance(n, int | np.integer) and n > 0 for n in shape):
            raise InputTypeError(f"{layer}: the shape of {name} is {shape!r:.60}, expected a tuple of numbers above 0")
        if 8 * math.prod(map(int, shape)) > (physical() or sys.maxsize):  # as they are drawn
            raise InputError(f"{layer}: {name} {shape} would be larger than this machine's memory; check the numbers")


_random: dict[str, np.random.Generator] = {}  # one, under ""; a dictionary takes the first of two threads' as it is


def default_random() -> np.random.Generator:
    """Return the generator that draws weights for layers used without a model; it begins at seed 0."""
    return _random.get("") or _random.setdefault("", _generator(0))


def seed(value: int = 0) -> None:
    """Restart the generator that draws weights for layers used without a model. A model has a seed of its own."""
    _random[""] = _generator(value)


def _generator(value: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(checks.integer(value, "seed", low=0)))
