"""Normalization: a layer's numbers to mean 0 and variance 1. N samples, C features.

Means are taken off twice, so that nothing is lost where numbers are far from 0. `normalized` [N, C], the result before
gamma and beta, and `scales`, 1 over each standard deviation, are written where given: gradients read them.
"""

from __future__ import annotations

from collections.abc import Callable

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
        first, rest, spread = (xp.zeros_like(mean) for _ in range(3))
        self._sum_rows(rows, lambda run: x[run, ...], first)
        first = first / rows
        self._sum_rows(rows, lambda run: x[run, ...] - first, rest)
        rest = rest / rows
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

    def _sum_rows(self, rows: int, part: Callable[[slice], Array], out: Array) -> None:
        """out [1, C] = the sum of all rows, of which `part` gives some."""
        self._in_runs(rows, lambda run: self.xp.sum(part(run), axis=0, keepdims=True), out)

    def _scaled(self, normalized: Array, gamma: Array, beta: Array, kept: Array | None, out: Array | None) -> Array:
        """Return `normalized * gamma + beta`, and keep `normalized`."""
        if kept is not None:
            write(kept, normalized)
        return write(out, normalized * gamma + beta)
