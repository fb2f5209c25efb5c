"""What is done to each number by itself: the operations of the tables in nnx/kernels/elementwise.py and losses.py.

A function and its gradient are a kernel each, over any shape; so is a loss that is a mean over a sample's outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnx.backends.cupy.operands import CudaOperands
from nnx.backends.operations import Operations, with_functions
from nnx.kernels import cuda as plans
from nnx.kernels.elementwise import Elementwise
from nnx.kernels.losses import LOSSES

Array = Any


def loss(name: str) -> Callable[..., Array]:
    """Return the operation of a loss; its kernel is named as it is."""

    def operation(self: CudaElementwise, outputs: Array, target: Array, out: Array | None = None) -> Array:
        kind = self._kind(outputs, target)
        if kind is None or outputs.ndim != 2 or outputs.shape != target.shape:
            return getattr(Operations, name)(self, outputs, target, out)
        losses = self._room(out, outputs.shape[:1], outputs)
        launch = plans.row_groups(name, *outputs.shape)
        self._launch(launch, kind, self._read(outputs), self._read(target), losses, *outputs.shape)
        return self._deliver(losses, out)

    return operation


def loss_gradient(name: str) -> Callable[..., Array]:
    """Return the operation of a loss's gradient; its kernel is named as it is."""

    def operation(self: CudaElementwise, outputs: Array, target: Array, out: Array | None = None) -> Array:
        kind = self._kind(outputs, target)
        if kind is None or outputs.shape != target.shape:
            return getattr(Operations, name)(self, outputs, target, out)
        return self._of_two(name, kind, outputs, target, (), out)

    return operation


def with_losses(backend: type[CudaElementwise]) -> type[CudaElementwise]:
    """Give a class the operations of the losses."""
    for row in LOSSES:
        setattr(backend, row.name, loss(row.name))
        setattr(backend, row.gradient, loss_gradient(row.gradient))
    return backend


@with_losses
@with_functions
class CudaElementwise(CudaOperands):
    """The operations of the tables."""

    def _function(self, row: Elementwise, x: Array, a: float, out: Array | None) -> Array:
        kind = self._kind(x)
        if kind is None:
            return super()._function(row, x, a, out)
        y = self._room(out, x.shape, x)
        self._launch(plans.elementwise(f"{row.name}_forward", x.size), kind, self._read(x), y, x.size, *row.given(a))
        return self._deliver(y, out)

    def _gradient(self, row: Elementwise, of: Array, dy: Array, a: float, out: Array | None) -> Array:
        kind = self._kind(of, dy)
        if kind is None or of.shape != dy.shape:
            return super()._gradient(row, of, dy, a, out)
        return self._of_two(row.gradient, kind, of, dy, row.given(a), out)

    def _of_two(
        self, name: str, kind: str, first: Array, second: Array, a: tuple[float, ...], out: Array | None
    ) -> Array:
        """Run a kernel over two arrays of one shape."""
        result = self._room(out, first.shape, first)
        launch = plans.elementwise(name, first.size)
        self._launch(launch, kind, self._read(first), self._read(second), result, first.size, *a)
        return self._deliver(result, out)
