"""Optimizers on GPUs, and what comes before and after them (nnx/kernels/cuda/optimizers.cu, clip.cu)."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

import math
from typing import Any

from nnx.backends.cupy.operands import FLOAT64, INT64, CudaOperands, as_they_are, writable
from nnx.backends.operations import Operations
from nnx.kernels import cuda as plans

Array = Any


class CudaOptimizers(CudaOperands):
    """One step of each optimizer."""

    def sgd(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        self._update("sgd", (p, g, m), hyper, counters)

    def adagrad(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        self._update("adagrad", (p, g, v), hyper, counters)

    def rmsprop(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        self._update("rmsprop", (p, g, v), hyper, counters)

    def adam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        self._update("adam", (p, g, m, v), hyper, counters)

    def nadam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        self._update("nadam", (p, g, m, v), hyper, counters)

    def amsgrad(self, p: Array, g: Array, m: Array, v: Array, u: Array, hyper: Array, counters: Array) -> None:
        self._update("amsgrad", (p, g, m, v, u), hyper, counters)

    def lion(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        self._update("lion", (p, g, m), hyper, counters)

    def accumulate(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        self._update("accumulate", (p, g, m), hyper, counters)

    def collect(self, g: Array, m: Array) -> None:
        kind = self._kind(g, m)
        if kind is None or not all(writable(a, g.shape, g.dtype) for a in (g, m)):
            super().collect(g, m)
            return
        self._launch(plans.elementwise("collect", g.size), kind, g, m, g.size)

    def clip(self, g: Array, norm: float, value: float) -> None:
        kind = self._kind(g)
        if kind is None or not writable(g, g.shape, g.dtype):
            super().clip(g, norm, value)
            return
        first, second = plans.clip(g.size)
        blocks = first.grid[0]
        parts = self._scratch(blocks, "float64")
        self._launch(first, kind, g, parts, g.size, value)
        if norm < math.inf:
            self._launch(second, kind, g, parts, blocks, g.size, norm)

    def average(self, a: Array, p: Array, counters: Array, decay: float, since: int) -> None:
        kind = self._kind(a, p)
        fits = writable(a, p.shape, p.dtype) and as_they_are(INT64, counters) and p.flags.c_contiguous
        if kind is None or not fits:
            super().average(a, p, counters, decay, since)
            return
        self._launch(plans.elementwise("average", a.size), kind, a, p, counters, a.size, decay, since)

    def _update(self, name: str, arrays: tuple[Array, ...], hyper: Array, counters: Array) -> None:
        kind = self._kind(*arrays)
        alike = all(writable(a, arrays[0].shape, arrays[0].dtype) for a in arrays)
        if kind is None or not (alike and as_they_are(FLOAT64, hyper) and as_they_are(INT64, counters)):
            getattr(Operations, name)(self, *arrays, hyper, counters)
            return
        n = arrays[0].size
        self._launch(plans.elementwise(name, n), kind, *arrays, hyper, counters, n)
