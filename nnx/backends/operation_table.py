"""The table of operations: what the recorder knows about each, and how classes get them.

`@operation` adds a method of `Operations` (nnx/backends/operations) to the table. The elementwise functions, and losses
that work on each output by itself, are generated from the tables of their formulas, for every backend alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from nnx.kernels.elementwise import FUNCTIONS, Elementwise
from nnx.kernels.losses import LOSSES, Loss

Array = Any
Function = TypeVar("Function", bound=Callable[..., Any])
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class OperationSpec:
    """What the recorder must know about an operation: its signature, and which operands it reads and writes."""

    name: str
    signature: inspect.Signature
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @cached_property
    def operands(self) -> dict[str, Any]:
        """The operands by name, in order, with their defaults, or `inspect.Parameter.empty`."""
        return {name: parameter.default for name, parameter in list(self.signature.parameters.items())[1:]}

    @cached_property
    def required(self) -> frozenset[str]:
        """The operands without a default."""
        return frozenset(name for name, value in self.operands.items() if value is inspect.Parameter.empty)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the operands of a call by name, in order, with the defaults of those that were not given.

        Raises:
            TypeError: the operation takes no such operands.
        """
        defaults, given = self.operands, dict(zip(self.operands, args, strict=False)) | kwargs
        bound = defaults | given
        once_each = len(given) == len(args) + len(kwargs) and len(bound) == len(defaults)
        if not once_each or not self.required <= given.keys():
            self.signature.bind(self, *args, **kwargs)  # raises Python's own error, which says what is wrong
        return bound


OPERATIONS: dict[str, OperationSpec] = {}
QUIET = np.errstate(all="ignore")  # a decorator: exp(-1000) == 0 is not an error, whatever np.seterr says
_loud: dict[Any, Any] = {}


def quiet(backend: type[Kind]) -> type[Kind]:
    """Decorate a class so that all operations it defines ignore NumPy's floating-point errors.

    That takes half a microsecond for each call. `loud` gives the operation without it, for a caller that ignores these
    errors once for many calls.
    """
    for name in OPERATIONS.keys() & vars(backend).keys():
        function = vars(backend)[name]
        setattr(backend, name, QUIET(function))
        _loud[vars(backend)[name]] = function
    return backend


def loud(operation: Any) -> Any:
    """Return a backend's operation as it was before `quiet`; any other function as it is."""
    function = _loud.get(getattr(operation, "__func__", None))
    return operation if function is None else function.__get__(operation.__self__)


def operation(reads: str, writes: str = "out") -> Callable[[Function], Function]:
    """Return a decorator that adds a method of `Operations`, unchanged, to the table of operations.

    Args:
        reads, writes: the names of the operands that it reads and writes, separated by blanks.
    """

    def declare(function: Function) -> Function:
        signature = inspect.signature(function)
        OPERATIONS[function.__name__] = OperationSpec(
            function.__name__, signature, tuple(reads.split()), tuple(writes.split())
        )
        return function

    return declare


def write(out: Array | None, value: Array) -> Array:
    """Return `value`; if `out` is given, copied into it."""
    if out is None:
        return value
    out[...] = value
    return out


def with_functions(backend: type[Kind]) -> type[Kind]:
    """Give a class the operations of nnx/kernels/elementwise.py: for each function f, `f(x, out)` and `f_backward`.

    If the function has a parameter, it is the operand `a`, before `out`. The first operand of a gradient is named x if
    it is computed from the input, y if from the output. All call the class's `_function` and `_gradient`, so a backend
    can replace all of them at once.
    """
    for row in FUNCTIONS:
        enter(backend, row.name, function_of(row), "x", row.forward.__doc__)
        enter(backend, row.gradient, gradient_of(row), f"{row.of} dy", row.backward.__doc__)
    return backend


def with_losses(backend: type[Kind]) -> type[Kind]:
    """Give a class the operations of nnx/kernels/losses.py: for each loss f, `f(outputs, target, out)`, `f_backward`.

    The row of the table says how the first operand is called; if the loss has a number of its own, it is the third
    operand, `delta`. All call the class's `_loss` and `_loss_gradient`.
    """
    for row in LOSSES:
        mean = f"Return the mean over outputs of {row.formula}: {row.outputs}, target [N, O] -> [N]."
        slope = f"Return the gradient of the mean over samples of `{row.name}`: [N, O]."
        enter(backend, row.name, loss_of(row, "_loss"), f"{row.outputs} target", mean)
        enter(backend, row.gradient, loss_of(row, "_loss_gradient"), f"{row.outputs} target", slope)
    return backend


def enter(backend: type, name: str, method: Callable[..., Any], reads: str, doc: str | None) -> None:
    """Make a method an operation of a class."""
    method.__name__, method.__qualname__, method.__doc__ = name, f"{backend.__name__}.{name}", doc
    setattr(backend, name, operation(reads)(method))


def function_of(row: Elementwise) -> Callable[..., Any]:
    """Return a method for a function of the table."""

    def plain(self: Any, x: Array, out: Array | None = None) -> Array:
        return self._function(row, x, 0.0, out)

    def shaped(self: Any, x: Array, a: float, out: Array | None = None) -> Array:
        return self._function(row, x, a, out)

    return shaped if row.parameter else plain


def gradient_of(row: Elementwise) -> Callable[..., Any]:
    """Return a method for the gradient of a function of the table."""

    def of_input(self: Any, x: Array, dy: Array, out: Array | None = None) -> Array:
        return self._gradient(row, x, dy, 0.0, out)

    def of_output(self: Any, y: Array, dy: Array, out: Array | None = None) -> Array:
        return self._gradient(row, y, dy, 0.0, out)

    def shaped_of_input(self: Any, x: Array, dy: Array, a: float, out: Array | None = None) -> Array:
        return self._gradient(row, x, dy, a, out)

    def shaped_of_output(self: Any, y: Array, dy: Array, a: float, out: Array | None = None) -> Array:
        return self._gradient(row, y, dy, a, out)

    if row.parameter:
        return shaped_of_input if row.of == "x" else shaped_of_output
    return of_input if row.of == "x" else of_output


def loss_of(row: Loss, method: str) -> Callable[..., Any]:
    """Return a method for a loss of the table, or its gradient, that calls the class's `method`."""

    def of_probabilities(self: Any, p: Array, target: Array, out: Array | None = None) -> Array:
        return getattr(self, method)(row, p, target, 0.0, out)

    def of_predictions(self: Any, prediction: Array, target: Array, out: Array | None = None) -> Array:
        return getattr(self, method)(row, prediction, target, 0.0, out)

    def shaped(self: Any, prediction: Array, target: Array, delta: float, out: Array | None = None) -> Array:
        return getattr(self, method)(row, prediction, target, delta, out)

    return shaped if row.parameter else of_probabilities if row.outputs == "p" else of_predictions
