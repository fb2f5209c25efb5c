"""What is done to each number by itself: operations made from the table of nnx/kernels/elementwise.py.

A function and its gradient are a kernel each, over any shape; so is a loss that is a mean over a sample's outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnx.backends.cupy.operands import CudaOperands
from nnx.backends.operations import Operations
from nnx.kernels import cuda as plans
from nnx.kernels.elementwise import FUNCTIONS, LOSSES, Elementwise

Array = Any


class CudaElementwise(CudaOperands):
    """The operations of the table, which are added at the end of this file."""

    def _function(self, name: str, x: Array, numbers: tuple[float, ...], out: Array | None) -> Array:
        """Run a function's kernel; `numbers`: its parameter, if it takes one."""
        kind = self._kind(x)
        if kind is None:
            return otherwise(self, name, x, *numbers, out)
        y = self._room(out, x.shape, x)
        self._launch(plans.elementwise(f"{name}_forward", x.size), kind, self._read(x), y, x.size, *numbers)
        return self._deliver(y, out)

    def _gradient(self, name: str, a: Array, b: Array, numbers: tuple[float, ...], out: Array | None) -> Array:
        """Run a kernel over two arrays of one shape; it is named as its operation."""
        kind = self._kind(a, b)
        if kind is None or a.shape != b.shape:
            return otherwise(self, name, a, b, *numbers, out)
        result = self._room(out, a.shape, a)
        self._launch(plans.elementwise(name, a.size), kind, self._read(a), self._read(b), result, a.size, *numbers)
        return self._deliver(result, out)

    def _loss(self, name: str, outputs: Array, target: Array, out: Array | None) -> Array:
        """Run a loss that is a mean over each row; its kernel is named as it is."""
        kind = self._kind(outputs, target)
        if kind is None or outputs.ndim != 2 or outputs.shape != target.shape:
            return otherwise(self, name, outputs, target, out)
        losses = self._room(out, outputs.shape[:1], outputs)
        launch = plans.row_groups(name, *outputs.shape)
        self._launch(launch, kind, self._read(outputs), self._read(target), losses, *outputs.shape)
        return self._deliver(losses, out)


def otherwise(backend: CudaElementwise, name: str, *operands: Any) -> Array:
    """Run an operation's default body."""
    return getattr(Operations, name)(backend, *operands)


def function(row: Elementwise) -> Callable[..., Array]:
    """Return a function's operation."""

    def plain(self: CudaElementwise, x: Array, out: Array | None = None) -> Array:
        return self._function(row.name, x, (), out)

    def shaped(self: CudaElementwise, x: Array, number: float = row.default, out: Array | None = None) -> Array:
        return self._function(row.name, x, (number,), out)

    return shaped if row.parameter else plain


def gradient(row: Elementwise) -> Callable[..., Array]:
    """Return the operation of a function's gradient."""

    def shaped(
        self: CudaElementwise, of: Array, dy: Array, number: float = row.default, out: Array | None = None
    ) -> Array:
        return self._gradient(row.gradient, of, dy, (number,), out)

    return shaped if row.parameter else of_two(row.gradient)


def of_two(name: str) -> Callable[..., Array]:
    """Return an operation on two arrays of one shape."""

    def operation(self: CudaElementwise, a: Array, b: Array, out: Array | None = None) -> Array:
        return self._gradient(name, a, b, (), out)

    return operation


def loss(name: str) -> Callable[..., Array]:
    """Return a loss's operation."""

    def operation(self: CudaElementwise, outputs: Array, target: Array, out: Array | None = None) -> Array:
        return self._loss(name, outputs, target, out)

    return operation


for row in FUNCTIONS:
    setattr(CudaElementwise, row.name, function(row))
    setattr(CudaElementwise, row.gradient, gradient(row))
for loss_ in LOSSES:
    setattr(CudaElementwise, loss_.name, loss(loss_.name))
    setattr(CudaElementwise, loss_.gradient, of_two(loss_.gradient))
