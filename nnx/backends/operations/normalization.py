"""Operations of normalizing layers: numbers are brought to mean 0 and variance 1. N samples, C features.

The mean is subtracted in two steps, so that numbers far from 0 lose no digits. `normalized` [N, C], the result before
gamma and beta, and `scales`, 1 / the standard deviations, are written if given; the gradients read them.
"""

from __future__ import annotations

from typing import Any

from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp


@quiet
class NormOperations(OverXp):
    """The operations of normalizing layers."""

    @operation("x gamma beta", "normalized scales out")
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
        """Return (x - mean) / sqrt(variance + epsilon) * gamma + beta, with mean and variance of each row.

        Args:
            x: [N, C]. gamma, beta: [1, C]. normalized: [N, C]. scales: [N].
        """
        xp = self.xp
        centred = x - xp.mean(x, axis=1, keepdims=True)
        centred = centred - xp.mean(centred, axis=1, keepdims=True)
        scale = 1 / xp.sqrt(xp.mean(centred * centred, axis=1, keepdims=True) + epsilon)
        if scales is not None:
            write(scales, scale[:, 0])
        return self._scaled(centred * scale, gamma, beta, normalized, out)

    @operation("normalized scales gamma dy")
    def layer_norm_backward(
        self, normalized: Array, scales: Array, gamma: Array, dy: Array, out: Array | None = None
    ) -> Array:
        """Return the gradient of the inputs of `layer_norm` [N, C]."""
        xp, slope = self.xp, dy * gamma
        along = xp.mean(slope * normalized, axis=1, keepdims=True)
        return write(out, scales[:, None] * (slope - xp.mean(slope, axis=1, keepdims=True) - normalized * along))

    @operation("normalized dy", "dgamma dbeta")
    def norm_gradients(self, normalized: Array, dy: Array, dgamma: Array, dbeta: Array) -> None:
        """Write the gradients of gamma and beta [1, C]: sums over samples of `normalized * dy`, and of `dy`."""
        rows = dy.shape[0]
        self._sum_rows(rows, lambda run: normalized[run, ...] * dy[run, ...], dgamma)
        self._sum_rows(rows, lambda run: dy[run, ...], dbeta)

    @operation("x gamma beta mean variance", "mean variance normalized scales out")
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
        """Return (x - mean) / sqrt(variance + epsilon) * gamma + beta, with mean and variance of each column of x.

        Args:
            x: [N, C]. gamma, beta: [1, C]. normalized: [N, C]. scales: [1, C].
            mean, variance: the running statistics [1, C], which become momentum * old + (1 - momentum) * this batch's;
                the variance there is the unbiased one, divided by N - 1.
        """
        xp, rows = self.xp, x.shape[0]
        first, rest = self._mean(x)
        rest, spread = rest / rows, xp.zeros_like(mean)
        centred = (x - first) - rest
        self._sum_rows(rows, lambda run: centred[run, ...] * centred[run, ...], spread)
        scale = 1 / xp.sqrt(spread / rows + epsilon)
        write(mean, momentum * mean + (1 - momentum) * (first + rest))
        write(variance, momentum * variance + (1 - momentum) * (spread / max(rows - 1, 1)))
        if scales is not None:
            write(scales, scale)
        return self._scaled(centred * scale, gamma, beta, normalized, out)

    @operation("x gamma beta mean variance", "normalized scales out")
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
        """Return the same with the given mean and variance [1, C], which do not change."""
        scale = 1 / self.xp.sqrt(variance + epsilon)
        if scales is not None:
            write(scales, scale)
        return self._scaled((x - mean) * scale, gamma, beta, normalized, out)

    @operation("x", "means")
    def column_means(self, x: Array, means: Array) -> None:
        """Write the mean of each column of x [N, C] to `means`, in float64 [1, C]."""
        xp, (first, rest) = self.xp, self._mean(x)
        means[...] = xp.astype(first, xp.float64) + xp.astype(rest, xp.float64) / x.shape[0]

    @operation("x means", "spreads")
    def column_spreads(self, x: Array, means: Array, spreads: Array) -> None:
        """Write the mean square of x - means of each column to `spreads`, in float64 [1, C]."""
        xp, centred, total = self.xp, self._centred(x, means), self.xp.zeros_like(x[:1, ...])
        self._sum_rows(x.shape[0], lambda run: centred[run, ...] * centred[run, ...], total)
        spreads[...] = xp.astype(total, xp.float64) / x.shape[0]

    @operation("a", "a")
    def pool(self, a: Array, pool: Any) -> None:
        """Replace `a` by its mean over all processes, weighted by the rows of the batch that each has.

        Args:
            pool: the processes (nnx/distributed/pool.py).
        """
        pool.mean(a, self)

    @operation("x gamma beta mean variance means spreads", "mean variance normalized scales out")
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
        """Return what `batch_norm` returns for x [N, C], a part of a batch of `rows` rows.

        Args:
            means, spreads: of the whole batch, float64 [1, C]: results of `column_means` and `column_spreads`, pooled.
        """
        xp, like = self.xp, x.dtype
        scale = xp.astype(1 / xp.sqrt(spreads + epsilon), like)
        write(mean, xp.astype(momentum * mean + (1 - momentum) * means, like))
        write(variance, xp.astype(momentum * variance + (1 - momentum) * spreads * (rows / max(rows - 1, 1)), like))
        if scales is not None:
            write(scales, scale)
        return self._scaled(self._centred(x, means) * scale, gamma, beta, normalized, out)

    @operation("normalized scales gamma dy dgamma dbeta")
    def batch_norm_backward(
        self, normalized: Array, scales: Array, gamma: Array, dy: Array, dgamma: Array, dbeta: Array,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return the gradient of the inputs of `batch_norm` [N, C]; `dgamma` and `dbeta` come from `norm_gradients`."""
        rows = dy.shape[0]
        return write(out, (gamma * scales) * (dy - dbeta / rows - normalized * (dgamma / rows)))

    @operation("scales gamma dy")
    def fixed_norm_backward(self, scales: Array, gamma: Array, dy: Array, out: Array | None = None) -> Array:
        """Return the gradient of the inputs of `fixed_norm` [N, C]."""
        return write(out, dy * (gamma * scales))

    def _mean(self, x: Array) -> tuple[Array, Array]:
        """Return the mean of each column [1, C], rounded, and the sum of the column's differences from it."""
        first, rest = (self.xp.zeros_like(x[:1, ...]) for _ in range(2))
        self._sum_rows(x.shape[0], lambda run: x[run, ...], first)
        first = first / x.shape[0]
        self._sum_rows(x.shape[0], lambda run: x[run, ...] - first, rest)
        return first, rest

    def _centred(self, x: Array, means: Array) -> Array:
        """Return x - means, for float64 means [1, C], without losing digits of numbers far from 0."""
        xp = self.xp
        first = xp.astype(means, x.dtype)
        return (x - first) - xp.astype(means - xp.astype(first, xp.float64), x.dtype)

    def _scaled(self, normalized: Array, gamma: Array, beta: Array, kept: Array | None, out: Array | None) -> Array:
        """Return `normalized * gamma + beta`, and copy `normalized` into `kept`, if that is given."""
        if kept is not None:
            write(kept, normalized)
        return write(out, normalized * gamma + beta)
