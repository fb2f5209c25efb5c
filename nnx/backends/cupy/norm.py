"""Normalization on GPUs: of each row, of each column, and their gradients (nnx/kernels/cuda/norm.cu)."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

from nnx.backends.cupy.matmul.dispatch import CudaMatmul
from nnx.backends.cupy.operands import writable
from nnx.kernels import cuda as plans

Array = Any


class CudaNorm(CudaMatmul):
    """The operations of LayerNorm and BatchNorm."""

    def layer_norm(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        epsilon: float,
        normalized: Array | None = None,
        scales: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        kind = self._kind_of_features(x, gamma, beta)
        if kind is None or not keeps(x, normalized, scales, x.shape[:1]):
            return super().layer_norm(x, gamma, beta, epsilon, normalized, scales, out)
        y = self._output(out, x.shape, x)
        operands = *map(self._read, (x, gamma, beta)), normalized, scales, y
        self._launch(plans.softmax_rows("layer_norm", *x.shape), kind, *operands, *x.shape, epsilon)
        return self._deliver(y, out)

    def layer_norm_backward(
        self, normalized: Array, scales: Array, gamma: Array, dy: Array, out: Array | None = None
    ) -> Array:
        kind = self._kind_of_features(dy, gamma)
        known = normalized.shape == dy.shape and scales.shape == dy.shape[:1]
        if kind is None or not known or self._kind(dy, normalized, scales) is None:
            return super().layer_norm_backward(normalized, scales, gamma, dy, out)
        dx = self._output(out, dy.shape, dy)
        launch = plans.softmax_rows("layer_norm_backward", *dy.shape)
        self._launch(launch, kind, *map(self._read, (normalized, scales, gamma, dy)), dx, *dy.shape)
        return self._deliver(dx, out)

    def norm_gradients(self, normalized: Array, dy: Array, dgamma: Array, dbeta: Array) -> None:
        kind = self._kind(normalized, dy)
        if kind is None or dy.ndim != 2 or normalized.shape != dy.shape:
            super().norm_gradients(normalized, dy, dgamma, dbeta)
            return
        normalized, dy = self._read(normalized), self._read(dy)
        of_gamma, of_beta = (self._output(a, (1, dy.shape[1]), dy) for a in (dgamma, dbeta))
        self._column_sums(kind, (normalized, dy), dy.shape, of_gamma, "product_column_sums")
        self._column_sums(kind, (dy,), dy.shape, of_beta)
        self._deliver(of_gamma, dgamma)
        self._deliver(of_beta, dbeta)

    def batch_norm(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        mean: Array,
        variance: Array,
        epsilon: float,
        momentum: float,
        normalized: Array | None = None,
        scales: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        kind = self._kind_of_features(x, gamma, beta, mean, variance)
        kept = all(a is not None and writable(a, (1, x.shape[1]), x.dtype) for a in (scales, mean, variance))
        if kind is None or not kept or not keeps(x, normalized, None, ()):
            return super().batch_norm(
                x, gamma, beta, mean, variance, epsilon, momentum, normalized, scales, out
            )  # fmt: skip
        means, x = self._scratch(2 * x.shape[1], "float64"), self._read(x)
        launch = plans.batch_moments(x.shape[1])
        self._launch(launch, kind, x, mean, variance, means, scales, *x.shape, epsilon, momentum)
        return self._by_moments(kind, x, means, scales, gamma, beta, normalized, out)

    def column_means(self, x: Array, means: Array) -> None:
        kind = self._kind(x)
        if kind is None or not self._wide(x, means):
            super().column_means(x, means)
            return
        self._launch(plans.batch_moments(x.shape[1], "column_means"), kind, self._read(x), means, *x.shape)

    def column_spreads(self, x: Array, means: Array, spreads: Array) -> None:
        kind = self._kind(x)
        if kind is None or not self._wide(x, means, spreads):
            super().column_spreads(x, means, spreads)
            return
        launch = plans.batch_moments(x.shape[1], "column_spreads")
        self._launch(launch, kind, self._read(x), means, spreads, *x.shape)

    def pool(self, a: Array, pool: Any) -> None:
        pool.mean(a, self)  # by NCCL, in the order of the stream: nnx/distributed/nccl.py

    def pooled_norm(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        mean: Array,
        variance: Array,
        means: Array,
        spreads: Array,
        rows: int,
        epsilon: float,
        momentum: float,
        normalized: Array | None = None,
        scales: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        kind = self._kind_of_features(x, gamma, beta, mean, variance)
        kept = all(a is not None and writable(a, (1, x.shape[1]), x.dtype) for a in (scales, mean, variance))
        if kind is None or not kept or not keeps(x, normalized, None, ()) or not self._wide(x, means, spreads):
            moments = means, spreads, rows, epsilon, momentum
            return super().pooled_norm(x, gamma, beta, mean, variance, *moments, normalized, scales, out)
        columns = x.shape[1]
        launch, at = plans.elementwise("pooled_moments", 4 * columns), self._scratch(2 * columns, "float64")
        self._launch(launch, kind, means, spreads, mean, variance, at, scales, rows, columns, epsilon, momentum)
        return self._by_moments(kind, self._read(x), at, scales, gamma, beta, normalized, out)

    def _wide(self, x: Array, *moments: Array) -> bool:
        """Return whether a kernel can use these arrays as float64 means and variances of x's features."""
        return x.ndim == 2 and all(writable(a, (1, x.shape[1]), self.cupy.float64) for a in moments)

    def fixed_norm(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        mean: Array,
        variance: Array,
        epsilon: float,
        normalized: Array | None = None,
        scales: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        kind = self._kind_of_features(x, gamma, beta, mean, variance)
        if kind is None or not keeps(x, normalized, scales, (1, x.shape[1])):
            return super().fixed_norm(x, gamma, beta, mean, variance, epsilon, normalized, scales, out)
        columns = x.shape[1]
        means = self._scratch(3 * columns, "float64")  # with room for scales after them, if the caller keeps none
        factors = means[2 * columns :].view(x.dtype)[:columns] if scales is None else scales
        launch = plans.elementwise("running_moments", 4 * columns)
        self._launch(launch, kind, self._read(mean), self._read(variance), means, factors, columns, epsilon)
        return self._by_moments(kind, self._read(x), means, factors, gamma, beta, normalized, out)

    def _by_moments(
        self, kind: str, x: Array, means: Array, scales: Array, gamma: Array, beta: Array, normalized: Array | None,
        out: Array | None,
    ) -> Array:  # fmt: skip
        y = self._output(out, x.shape, x)
        operands = x, means, scales, self._read(gamma), self._read(beta), normalized, y
        self._launch(plans.elementwise("batch_norm", x.size), kind, *operands, *x.shape)
        return self._deliver(y, out)

    def batch_norm_backward(
        self, normalized: Array, scales: Array, gamma: Array, dy: Array, dgamma: Array, dbeta: Array,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        kind = self._kind_of_features(dy, scales, gamma, dgamma, dbeta)
        if kind is None or normalized.shape != dy.shape or normalized.dtype != dy.dtype:
            return super().batch_norm_backward(normalized, scales, gamma, dy, dgamma, dbeta, out)
        dx = self._output(out, dy.shape, dy)
        operands = map(self._read, (normalized, scales, gamma, dy, dgamma, dbeta))
        self._launch(plans.elementwise("batch_norm_backward", dy.size), kind, *operands, dx, *dy.shape)
        return self._deliver(dx, out)

    def fixed_norm_backward(self, scales: Array, gamma: Array, dy: Array, out: Array | None = None) -> Array:
        kind = self._kind_of_features(dy, scales, gamma)
        if kind is None:
            return super().fixed_norm_backward(scales, gamma, dy, out)
        dx = self._output(out, dy.shape, dy)
        operands = map(self._read, (scales, gamma, dy))
        self._launch(plans.elementwise("fixed_norm_backward", dy.size), kind, *operands, dx, *dy.shape)
        return self._deliver(dx, out)

    def _kind_of_features(self, x: Array, *of_features: Array) -> str | None:
        """Return the type of x [N, C] and of arrays [1, C], as `_kind` does; None if shapes or types do not fit."""
        fits = x.ndim == 2 and all(a.shape == (1, x.shape[1]) for a in of_features)
        return self._kind(x, *of_features) if fits else None


def keeps(x: Array, normalized: Array | None, scales: Array | None, shape: tuple[int, ...]) -> bool:
    """Return whether a kernel can write to `normalized` and `scales`, as far as they are given; `shape`: of scales."""
    of = ((normalized, x.shape), (scales, shape))
    return all(a is None or writable(a, wanted, x.dtype) for a, wanted in of)
