"""Softmax on GPUs, its gradient and its Jacobian (nnx/kernels/cuda/softmax.cu)."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

from nnx.backends.cupy.operands import CudaOperands
from nnx.kernels import cuda as plans

Array = Any


class CudaSoftmax(CudaOperands):
    """The operations of a softmax layer."""

    def softmax(self, x: Array, out: Array | None = None) -> Array:
        kind = self._kind(x)
        if kind is None or x.ndim != 2:
            return super().softmax(x, out)
        y = self._output(out, x.shape, x)
        self._launch(plans.softmax_rows("softmax", *x.shape), kind, self._read(x), y, *x.shape)
        return self._deliver(y, out)

    def softmax_backward(self, y: Array, dy: Array, out: Array | None = None) -> Array:
        kind = self._kind(y, dy)
        if kind is None or y.ndim != 2 or y.shape != dy.shape:
            return super().softmax_backward(y, dy, out)
        dx = self._output(out, y.shape, y)
        launch = plans.softmax_rows("softmax_backward", *y.shape)
        self._launch(launch, kind, self._read(y), self._read(dy), dx, *y.shape)
        return self._deliver(dx, out)

    def softmax_jacobian(self, y: Array, out: Array | None = None) -> Array:
        kind = self._kind(y)
        if kind is None or y.ndim != 2:
            return super().softmax_jacobian(y, out)
        matrices = self._output(out, (*y.shape, y.shape[1]), y)
        self._launch(plans.softmax_jacobian(*y.shape), kind, self._read(y), matrices, *y.shape)
        return self._deliver(matrices, out)
