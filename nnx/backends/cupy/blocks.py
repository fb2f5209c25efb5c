"""Blocks of layers on GPUs: sums, columns and embeddings (nnx/kernels/cuda/columns.cu)."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

from nnx.backends.cupy.elementwise import CudaElementwise
from nnx.backends.cupy.operands import writable
from nnx.kernels import cuda as plans

Array = Any


class CudaBlocks(CudaElementwise):
    """The operations of layers that hold layers, and of embeddings."""

    def add(self, x: Array, y: Array, out: Array | None = None) -> Array:
        kind = self._kind(x, y)
        if kind is None or x.shape != y.shape:
            return super().add(x, y, out)
        return self._of_two("add", kind, x, y, (), out)

    def put_columns(self, x: Array, first: int, y: Array) -> None:
        kind, columns = self._kind(x, y), x.shape[1]
        if kind is None or not writable(y, (len(x), y.shape[1]), x.dtype) or first + columns > y.shape[1]:
            super().put_columns(x, first, y)
            return
        launch, numbers = plans.elementwise("copy_columns", x.size), (*x.shape, columns, 0, y.shape[1], first)
        self._launch(launch, kind, self._read(x), y, *numbers)

    def take_columns(self, x: Array, first: int, count: int, out: Array | None = None) -> Array:
        kind = self._kind(x)
        if kind is None or first + count > x.shape[1]:
            return super().take_columns(x, first, count, out)
        y = self._output(out, (len(x), count), x)
        launch, numbers = plans.elementwise("copy_columns", y.size), (*y.shape, x.shape[1], first, count, 0)
        self._launch(launch, kind, self._read(x), y, *numbers)
        return self._deliver(y, out)

    def embed(self, x: Array, w: Array, column: int, first: int, y: Array) -> None:
        kind, (codes, columns) = self._kind(x, w, y), w.shape
        if kind is None or not writable(y, (len(x), y.shape[1]), x.dtype) or first + columns > y.shape[1]:
            super().embed(x, w, column, first, y)
            return
        launch = plans.elementwise("embed", len(x) * columns)
        numbers = (len(x), columns, codes, x.shape[1], column, y.shape[1], first)
        self._launch(launch, kind, self._read(x), self._read(w), y, *numbers)

    def embed_gradients(self, x: Array, dy: Array, dw: Array, column: int, first: int) -> None:
        kind, (codes, columns) = self._kind(x, dy, dw), dw.shape
        if kind is None or not writable(dw, dw.shape, dw.dtype) or first + columns > dy.shape[1]:
            super().embed_gradients(x, dy, dw, column, first)
            return
        launch = plans.elementwise("embed_gradients", 4 * dw.size)
        numbers = (len(x), columns, codes, x.shape[1], column, dy.shape[1], first)
        self._launch(launch, kind, self._read(x), self._read(dy), dw, *numbers)
