"""Blocks: layers made of other layers. Residual adds their output to its inputs; Concat joins its branches' outputs.

A block's parameters are those of its layers, named by the layers' places in it: "0.weights". To a model, a block is one
layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from nnx import checks
from nnx.backends import Backend
from nnx.backends.recorder import lent
from nnx.errors import InputError, InputTypeError
from nnx.layers.base import Layer, kept_shapes
from nnx.layers.chain import chain, every, gradient_of, output_of
from nnx.settings import is_own

Array = Any
DEEPEST = 32  # how deeply blocks may be nested: copying and saving are recursive


class Block(Layer):
    """The base of layers made of other layers: one or more paths, each a chain of layers that begins at the inputs.

    Attributes:
        paths: the chains. inner: all layers in them, by their places.
        trainable: whether any layer in it is trained; assigning it sets all of them.
    """

    _holds = True
    paths: tuple[tuple[Layer, ...], ...]
    inner: Mapping[str, Layer]
    _n_inputs: int | None
    _depth: int
    _facts: ClassVar[dict[str, str]] = dict.fromkeys(
        ("paths", "inner"), "its layers are those that it was made of; make a new block"
    )

    def _hold(self, paths: Sequence[Any], names: Sequence[str]) -> None:
        """Take the layers of each path: a single layer, several, or a model, whose layers are copied.

        Args:
            paths: the layers of each path. names: for each path, the prefix of its layers' places.
        """
        found = [tuple(self._layers_of(path)) for path in paths]
        inner = {f"{name}{i}": layer for name, path in zip(names, found, strict=True) for i, layer in enumerate(path)}
        held = set[int]()
        for layer in every(list(inner.values())):
            if id(layer) in held:
                raise InputError(f"{self._title}: {layer} stands in it twice; make one for each place")
            if layer.in_model:
                raise InputError(
                    f"{self._title}: {layer} belongs to a model or a block already; make a new one, or "
                    "copy.deepcopy(layer)"
                )
            held.add(id(layer))
        self._depth = 1 + max((getattr(layer, "_depth", 0) for layer in inner.values()), default=0)
        if self._depth > DEEPEST:
            raise InputError(f"{self._title}: blocks are {self._depth} deep in each other, expected at most {DEEPEST}")
        self.paths, self.inner = tuple(found), inner
        taken = (chain(path, self._title)[0] for path in self.paths)
        self._n_inputs = next((n for n in taken if n), None)  # kept: asking each level anew would take 2**depth calls
        self.shapes = {f"{at}.{name}": shape for at, layer in inner.items() for name, shape in layer.shapes.items()}
        self._running_shapes = {
            f"{at}.{name}": shape for at, layer in inner.items() for name, shape in layer._running_shapes.items()
        }

    def _layers_of(self, path: Any) -> Iterator[Layer]:
        """Yield the layers of a path, which may be given as a layer, a sequence of layers or a model."""
        if isinstance(path, list | tuple):
            for part in path:
                yield from self._layers_of(part)
        elif not isinstance(path, Layer | type) and isinstance(getattr(path, "layers", None), tuple):  # a model
            yield from (copy.deepcopy(layer) for layer in path.layers)
        else:
            checks.instance(path, Layer, f"{self._title}: a layer", "Dense(64, 64)")
            if hasattr(path, "calculate"):
                raise InputTypeError(f"{self._title}: {path} is a loss; give it to compile(loss=...)")
            yield path

    @property
    def _title(self) -> str:
        return type(self).__name__

    # ---- the layers' parameters --------------------------------------------------------------------------------------

    @property
    def trainable(self) -> bool:
        """Whether any layer in it is trained; assigning it sets all of them."""
        with_parameters = [layer for layer in self.inner.values() if layer.shapes]
        return any(layer.trainable for layer in with_parameters or self.inner.values())

    @trainable.setter
    def trainable(self, value: bool) -> None:
        wanted = checks.flag(value, f"{self._title}: trainable")
        for layer in self.inner.values():
            layer.trainable = wanted

    def trained(self) -> dict[str, bool]:
        """Return for each parameter whether training moves it."""
        return {f"{at}.{name}": moved for at, layer in self.inner.items() for name, moved in layer.trained().items()}

    def strengths(self) -> dict[str, tuple[float, float]]:
        """Return (l1, l2) for each parameter that is regularized."""
        return {f"{at}.{name}": both for at, layer in self.inner.items() for name, both in layer.strengths().items()}

    def values(self) -> dict[str, np.ndarray]:
        """Return copies of the parameters that have been set or drawn so far."""
        return {f"{at}.{name}": value for at, layer in self.inner.items() for name, value in layer.values().items()}

    def gradient(self, name: str) -> Array:
        """Return the gradient of a parameter."""
        if self._parameters is None:
            self._settle()
        layer, own = self._place(name)
        return layer.gradient(own)

    def assign(self, name: str, value: Any) -> None:
        """Copy `value` into a parameter."""
        layer, own = self._place(name)
        layer.assign(own, value)

    def checked(self, name: str, value: Any) -> np.ndarray:
        """Return `value` as an array that may be assigned to a parameter."""
        layer, own = self._place(name)
        return layer.checked(own, value)

    def _place(self, name: str) -> tuple[Layer, str]:
        """Return the layer that has a parameter, and the parameter's name there."""
        at = max((at for at in self.inner if name.startswith(f"{at}.")), key=len)
        return self.inner[at], name[len(at) + 1 :]

    def draw_missing(self, random: np.random.Generator) -> None:
        """Draw initial values for the parameters that have none yet."""
        for layer in self.inner.values():
            layer.draw_missing(random)

    def check_values(self, dtype: str) -> None:
        """Refuse values that any of its layers refuses."""
        for layer in self.inner.values():
            layer.check_values(dtype)

    def attach(
        self, backend: Backend, dtype: str, parameters: list[Array], gradients: list[Array], penalties: list[Array]
    ) -> None:
        """Move into a model's buffers, layer by layer."""
        kept = dict(zip(kept_shapes(self), parameters, strict=True))
        moved, costs = (dict(zip(self.shapes, arrays, strict=True)) for arrays in (gradients, penalties))
        for at, layer in self.inner.items():
            own = [kept[f"{at}.{name}"] for name in kept_shapes(layer)]
            layer.attach(
                backend, dtype, own, *([some[f"{at}.{name}"] for name in layer.shapes] for some in (moved, costs))
            )
        self._forget_runtime()
        self._backend, self.dtype, self._parameters = backend, dtype if self.shapes else None, kept
        self._gradients, self.__dict__["penalties"] = moved, costs

    def detach(self) -> None:
        """Leave the model's buffers."""
        for layer in self.inner.values():
            layer.detach()
        self._forget_runtime()

    @property
    def backend(self) -> Any:
        """The backend whose arrays the block computes with."""
        return Layer.backend.fget(self)  # type: ignore[attr-defined]

    @backend.setter
    def backend(self, backend: Any) -> None:
        self._backend = backend
        for layer in self.inner.values():
            layer.backend = backend

    def __copy__(self) -> Block:
        """Return a deep copy: a layer can be in one block only."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: the layers bring their own parameters."""
        return {name: value for name, value in self.__dict__.items() if name not in self._runtime}

    # ---- forward and backward along a path ---------------------------------------------------------------------------

    def _through(self, path: Sequence[Layer], x: Array, training: bool) -> Array:
        x = self._lent(path[:1], x)
        for layer in path:
            x = output_of(layer, x, training)
        return x

    def _back(self, path: Sequence[Layer], dvalues: Array) -> Array:
        dvalues = self._lent(path[-1:], dvalues)
        for layer in reversed(path):
            dvalues = gradient_of(layer, dvalues)
        return dvalues

    def _lent(self, to: Sequence[Layer], a: Array) -> Array:
        """Return what a path begins with, so that a layer of the user's own leaves it as the others need it."""
        return a if all(is_own(type(layer)) for layer in to) else lent(a, self.backend)

    def _back_to_parameters(self, path: Sequence[Layer], dvalues: Array) -> None:
        """Write only the gradients of the parameters of a path."""
        first = next((i for i, layer in enumerate(path) if any(layer.trained().values())), None)
        if first is not None:
            path[first].backward_parameters(self._back(path[first + 1 :], dvalues))

    def _block_inputs(self, inputs: Any) -> Array:
        """Return the checked inputs; outside a model, let the layers take the block's backend first."""
        x = self._accept(inputs)
        if not self.shapes:
            for layer in self.inner.values():
                if layer._backend is None:
                    layer.backend = self._backend
        return x

    @property
    def n_inputs(self) -> int | None:
        """The number of input features; None: any."""
        return self._n_inputs

    def __repr__(self) -> str:
        paths = [", ".join(map(str, path)) for path in self.paths]
        return f"{self._title}({paths[0] if len(paths) == 1 else ', '.join(f'[{path}]' for path in paths)})"


class Residual(Block):
    """A residual block: the inputs are added to what the layers make of them, output = x + f(x) (He et al., 2015).

    Args:
        layers: the layers of f, in order: `Residual(Dense(64, 64), ReLU(), Dense(64, 64))`. They must have as many
            outputs as inputs. A list of layers or a `Sequential` may be given instead; the layers of a `Sequential`
            are copied, with their parameters.

    Attributes:
        layers: the layers of f. inputs, output, dinputs: [N, C].

    Raises:
        InputError: an argument is no layer, or f changes the number of features.
    """

    operation: ClassVar[str] = "add"
    _facts: ClassVar[dict[str, str]] = Block._facts | {"layers": Block._facts["paths"]}

    def __init__(self, *layers: Any) -> None:
        self._hold([layers], [""])
        if not self.inner:
            raise InputError("Residual(): expected at least one layer, such as Dense(64, 64)")
        self.layers: tuple[Layer, ...] = self.paths[0]
        self.output_width(None)

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return x + f(x): [N, C]."""
        self.inputs = x = self._block_inputs(inputs)
        inside = self._through(self.layers, x, training)
        if inside.shape != x.shape:
            raise InputError(f"{self}: of {x.shape[1]} features it makes {inside.shape[1]}, which cannot be added")
        self.output = self.backend.add(x, inside, out=self._room("output", tuple(x.shape), inside))
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return the gradient of the inputs: dvalues plus the gradient through f."""
        dvalues = self._accept_gradient(dvalues)
        inside = self._back(self.layers, dvalues)
        self.dinputs = self.backend.add(dvalues, inside, out=self._room("dinputs", tuple(dvalues.shape), inside))
        return self.dinputs

    def backward_parameters(self, dvalues: Array) -> None:
        """Write the gradients of the parameters alone."""
        self._back_to_parameters(self.layers, self._accept_gradient(dvalues))

    def output_width(self, width: int | None) -> int | None:
        """Return `width`; refuse layers that change the number of features."""
        taken, given = chain(self.layers, "Residual", width)
        if taken is not None and given is not None and taken != given:
            raise InputError(f"{self}: of {taken} features it makes {given}, which cannot be added to them")
        return given if taken is None else taken

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        return {"layers": list(self.layers)}


class Concat(Block):
    """Branches that share their inputs, and whose outputs are joined column by column: output = [f(x), g(x), ...].

    Args:
        branches: two or more, each a layer, a list of layers or a `Sequential`, whose layers are copied. The branch
            `Linear()` is x itself: `Concat(Linear(), [Dense(8, 32), ReLU()])` puts x beside f(x).

    Attributes:
        branches: tuples of layers. inputs, output, dinputs: [N, C], [N, sum of the branches' outputs], [N, C].

    Raises:
        InputError: an argument is no layer, or branches take different numbers of features.
    """

    _facts: ClassVar[dict[str, str]] = Block._facts | {"branches": Block._facts["paths"]}
    _widths: list[int]  # the numbers of columns that the branches returned last
    _runtime: ClassVar[tuple[str, ...]] = (*Layer._runtime, "_widths")
    _results = Layer._results | {"_widths"}

    def __init__(self, *branches: Any) -> None:
        if len(branches) < 2:
            raise InputError(
                f"Concat: {len(branches)} branches given, expected two or more; x beside f(x) is Concat(Linear(), f)"
            )
        self._hold(branches, [f"{number}." for number in range(len(branches))])
        self.branches: tuple[tuple[Layer, ...], ...] = self.paths
        if not all(self.branches):
            raise InputError("Concat: a branch is empty; x itself is the branch Linear()")
        self.output_width(None)

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return the outputs of all branches, joined column by column."""
        self.inputs = x = self._block_inputs(inputs)
        parts = [self._through(branch, x, training) for branch in self.branches]
        self._widths = [int(part.shape[1]) for part in parts]
        self.output = self._room("output", (x.shape[0], sum(self._widths)), parts[0])
        for part, first in zip(parts, self._firsts(), strict=True):
            self.backend.put_columns(part, first, self.output)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return the gradient of the inputs: the sum of the branches' gradients."""
        total, *others = [
            self._back(branch, part)
            for branch, part in zip(self.branches, self._parts(self._accept_gradient(dvalues)), strict=True)
        ]
        for number, other in enumerate(others):
            total = self.backend.add(total, other, out=self._room(f"dinputs {number}", tuple(other.shape), other))
        self.dinputs = total
        return total

    def backward_parameters(self, dvalues: Array) -> None:
        """Write the gradients of the parameters alone."""
        parts = self._parts(self._accept_gradient(dvalues))
        for branch, part in zip(self.branches, parts, strict=True):
            self._back_to_parameters(branch, part)

    def _parts(self, dvalues: Array) -> list[Array]:
        """Return the gradient of each branch's output."""
        return [
            self.backend.take_columns(
                dvalues, first, width, out=self._room(f"part {number}", (dvalues.shape[0], width), dvalues)
            )
            for number, (first, width) in enumerate(zip(self._firsts(), self._widths, strict=True))
        ]

    def _firsts(self) -> list[int]:
        return [sum(self._widths[:number]) for number in range(len(self._widths))]

    def output_width(self, width: int | None) -> int | None:
        """Return the number of features of all branches together; refuse a branch that takes another `width`."""
        ends = [chain(branch, f"Concat: branch {number}", width) for number, branch in enumerate(self.branches)]
        taken = {first for first, _ in ends if first is not None}
        if len(taken) > 1:
            raise InputError(f"{self}: its branches take {' and '.join(map(str, sorted(taken)))} features")
        if width is None and taken:  # only then: asking twice at every level would take 2**depth calls in nested blocks
            ends = [chain(branch, "Concat", *taken) for branch in self.branches]
        given = [last for _, last in ends]
        return None if None in given else sum(filter(None, given))

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        return {"layers": [list(branch) for branch in self.branches]}
