"""Activation functions on Numba: those of the table, and softmax."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.backends.numba.sharing import PLAIN, NumbaShared, offer
from nnx.backends.operation_table import with_functions
from nnx.kernels.cpu.jit.signature import Unfit
from nnx.kernels.elementwise import Elementwise

Array = Any


@with_functions
class NumbaActivations(NumbaShared):
    """The operations of activation functions."""

    def __init__(self) -> None:
        super().__init__()
        kernels = self.kernels  # each found once: finding it takes as long as some calls of it
        self._forward, self._backward = kernels.elementwise.forward, kernels.elementwise.backward
        self._softmax = kernels.softmax

    def _function(self, row: Elementwise, x: Array, a: float, out: Array | None) -> Array:
        y = np.empty(x.shape, x.dtype) if out is None else out
        board, parts = self._share(x.size * row.cost)
        try:
            if self._forward(x, y, board, parts, row.number, a):
                return y
        except Unfit:
            pass
        return getattr(PLAIN, row.name)(x, *row.given(a), out=out)

    def _gradient(self, row: Elementwise, of: Array, dy: Array, a: float, out: Array | None) -> Array:
        dx = np.empty(dy.shape, dy.dtype) if out is None else out
        board, parts = self._share(of.size * row.slope_cost)
        try:
            if self._backward(of, dy, dx, board, parts, row.gradient_number, a):
                return dx
        except Unfit:
            pass
        return getattr(PLAIN, row.gradient)(of, dy, *row.given(a), out=out)

    def softmax(self, x: Array, out: Array | None = None) -> Array:
        y = np.empty(x.shape, x.dtype) if out is None else out
        done = offer(self._softmax.forward, x, y, *self._share(0.8 * x.size))
        return y if done else super().softmax(x, out)

    def softmax_backward(self, y: Array, dy: Array, out: Array | None = None) -> Array:
        dx = np.empty(dy.shape, dy.dtype) if out is None else out
        done = offer(self._softmax.backward, y, dy, dx, self._share(0.2 * y.size)[0])
        return dx if done else super().softmax_backward(y, dy, out)

    def softmax_jacobian(self, y: Array, out: Array | None = None) -> Array:
        matrices = np.empty((*y.shape, y.shape[1]), y.dtype) if out is None else out
        done = self._rows(self.kernels.softmax.jacobian, 0.4 * y.shape[1], (y, matrices))
        return matrices if done else super().softmax_jacobian(y, out)
