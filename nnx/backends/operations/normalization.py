"""Normalization: a layer's numbers to mean 0 and variance 1. N samples, C features.

Means are taken off twice, so that nothing is lost where numbers are far from 0. `normalized` [N, C], the result before
gamma and beta, and `scales`, 1 over each standard deviation, are written where given: gradients read them.
"""

from __future__ import annotations

from typing import Any

from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp


@quiet
class NormOperations(OverXp):
    """What the normalizing layers call."""

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
        """Return each row of x [N, C] less its mean, by its standard deviation, times gamma, plus beta [1, C].

        Args:
            epsilon: is added to variances. scales: [N].
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
        """Return each column of x [N, C] less its mean, by its standard deviation, times gamma, plus beta [1, C].

        Args:
            mean, variance: running ones [1, C], moved to this batch's by 1 - `momentum` of the way; for that its
                variance is that of N - 1. epsilon: is added to variances. scales: [1, C].
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
        """Return the same by a mean and a variance [1, C] that stay as they are."""
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
        """Write the mean square of each column's numbers, less its `means` [1, C], to `spreads`: float64, too."""
        xp, centred, total = self.xp, self._centred(x, means), self.xp.zeros_like(x[:1, ...])
        self._sum_rows(x.shape[0], lambda run: centred[run, ...] * centred[run, ...], total)
        spreads[...] = xp.astype(total, xp.float64) / x.shape[0]

    @operation("a", "a")
    def pool(self, a: Array, pool: Any) -> None:
        """Put the mean over all processes into `a`, each counting as much as it has of the batch's rows.

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
        """Return what `batch_norm` does of a batch of `rows` rows, x [N, C] among them, given its moments.

        Args:
            means, spreads: of the whole batch, float64 [1, C]: `column_means` and `column_spreads`, pooled.
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
        """Return the gradient of the inputs of `batch_norm` [N, C]; `dgamma`, `dbeta`: from `norm_gradients`."""
        rows = dy.shape[0]
        return write(out, (gamma * scales) * (dy - dbeta / rows - normalized * (dgamma / rows)))

    @operation("scales gamma dy")
    def fixed_norm_backward(self, scales: Array, gamma: Array, dy: Array, out: Array | None = None) -> Array:
        """Return the gradient of the inputs of `fixed_norm` [N, C]."""
        return write(out, dy * (gamma * scales))

    def _mean(self, x: Array) -> tuple[Array, Array]:
        """Return the mean of each column [1, C], as rounding leaves it, and the sum of what is left of it."""
        first, rest = (self.xp.zeros_like(x[:1, ...]) for _ in range(2))
        self._sum_rows(x.shape[0], lambda run: x[run, ...], first)
        first = first / x.shape[0]
        self._sum_rows(x.shape[0], lambda run: x[run, ...] - first, rest)
        return first, rest

    def _centred(self, x: Array, means: Array) -> Array:
        """Return x less float64 means [1, C], of which numbers far from 0 keep all their digits."""
        xp = self.xp
        first = xp.astype(means, x.dtype)
        return (x - first) - xp.astype(means - xp.astype(first, xp.float64), x.dtype)

    def _scaled(self, normalized: Array, gamma: Array, beta: Array, kept: Array | None, out: Array | None) -> Array:
        """Return `normalized * gamma + beta`, and keep `normalized`."""
        if kept is not None:
            write(kept, normalized)
        return write(out, normalized * gamma + beta)
