"""Random numbers of a step on GPUs (nnx/kernels/cuda/dropout.cu, noise.cu)."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

from nnx.backends.cupy.operands import INT64, CudaOperands, as_they_are
from nnx.backends.errors import InputTypeError
from nnx.kernels import cuda as plans
from nnx.kernels.philox import LOW, keep_threshold

Array = Any


class CudaNoise(CudaOperands):
    """Dropout and Gaussian noise."""

    def dropout(self, x: Array, rate: float, seed: int, layer: int, counters: Array, out: Array | None = None) -> Array:
        kind = self._kind(x)
        if kind is None or x.ndim != 2 or not as_they_are(INT64, counters):
            raise InputTypeError(
                f"dropout: x is {x.dtype} {x.shape} and counters {counters.dtype}, expected float32 or float64 [N, C] "
                "and contiguous int64"
            )
        y = self._output(out, x.shape, x)
        words = (seed & (LOW << 32 | LOW), layer, keep_threshold(rate))
        self._launch(plans.dropout(*x.shape), kind, self._read(x), y, *x.shape, counters, *words, 1 / (1 - rate))
        return self._deliver(y, out)

    def gaussian_noise(
        self, x: Array, stddev: float, seed: int, layer: int, counters: Array, out: Array | None = None
    ) -> Array:
        kind = self._kind(x)
        if kind is None or x.ndim != 2 or not as_they_are(INT64, counters):
            raise InputTypeError(
                f"gaussian_noise: x is {x.dtype} {x.shape} and counters {counters.dtype}, expected float32 or float64 "
                "[N, C] and contiguous int64"
            )
        y, words = self._output(out, x.shape, x), (seed & (LOW << 32 | LOW), layer)
        launch = plans.dropout(x.shape[0], x.shape[1], "gaussian_noise")
        self._launch(launch, kind, self._read(x), y, *x.shape, counters, *words, stddev)
        return self._deliver(y, out)
