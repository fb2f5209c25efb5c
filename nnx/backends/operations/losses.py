"""Losses: one number for each sample, and the gradient of their mean. N samples, C classes, O outputs.

Categorical targets are int64 class indices [N], or distributions (one-hot, soft labels) [N, C]. If an index is no
class, the sample's loss is nan, and its gradient is that for a target of all zeros.
"""

from __future__ import annotations

import math

from nnx.backends.operation_table import operation, quiet, with_losses, write
from nnx.backends.operations.over_xp import Array, OverXp
from nnx.kernels.losses import PARTS, Loss, bounds
from nnx.kernels.step_state import CLIP


@quiet
@with_losses
class LossOperations(OverXp):
    """The cross-entropies, and the losses on each output by itself, which `with_losses` makes from their table."""

    @operation("p target")
    def cross_entropy(self, p: Array, target: Array, out: Array | None = None) -> Array:
        """Return -sum(target * log(p)) of each row; the probabilities p [N, C] are clipped to [1e-7, 1 - 1e-7]."""
        log_p = self.xp.log(self._clipped(p))
        return write(out, self._known(target, p, -self.xp.sum(self._distribution(target, p) * log_p, axis=1)))

    @operation("p target")
    def cross_entropy_backward(self, p: Array, target: Array, out: Array | None = None) -> Array:
        """Return the gradient of the mean over samples of `cross_entropy`: [N, C]."""
        return write(out, -self._distribution(target, p) / self._clipped(p) / p.shape[0])

    @operation("logits target", "out losses probabilities")
    def softmax_cross_entropy(
        self,
        logits: Array,
        target: Array,
        losses: Array,
        probabilities: Array | None = None,
        clip: float = 0.0,
        out: Array | None = None,
    ) -> Array:
        """Softmax and categorical cross-entropy in one pass; return the gradient of the mean loss: (p - target) / N.

        Args:
            logits: [N, C]. losses: [N], written: the loss of each sample.
            probabilities: [N, C], written when given.
            clip: compute the losses, not the gradient, as if the probabilities were clipped to [clip, 1 - clip], as in
                `cross_entropy`; 0 means the exact loss.
        """
        xp = self.xp
        shifted = logits - xp.max(logits, axis=1, keepdims=True)
        e = xp.exp(shifted)
        total = xp.sum(e, axis=1, keepdims=True)
        wanted = self._distribution(target, logits)
        cost = self._clamped(xp.log(total) - shifted, clip)
        # where, because 0 * inf is nan: a class with logit -inf adds no loss unless it is the target
        total_cost = xp.sum(xp.where(wanted > 0, wanted * cost, xp.zeros_like(e)), axis=1)
        write(losses, self._known(target, logits, total_cost))
        p = e / total
        if probabilities is not None:
            write(probabilities, p)
        return write(out, (p - wanted) / logits.shape[0])

    @operation("logits target", "out losses probabilities")
    def sigmoid_cross_entropy(
        self,
        logits: Array,
        target: Array,
        losses: Array,
        probabilities: Array | None = None,
        clip: float = 0.0,
        out: Array | None = None,
    ) -> Array:
        """Sigmoid and binary cross-entropy in one pass; return the gradient of the mean loss: (p - t) / (N O)."""
        xp = self.xp
        e = xp.exp(-xp.abs(logits))
        zero, more = xp.zeros_like(e), xp.log1p(e)
        yes = self._clamped(more - xp.where(logits < 0, logits, zero), clip)  # -log(p)
        no = self._clamped(more + xp.where(logits < 0, zero, logits), clip)  # -log(1 - p)
        # where, because 0 * inf is nan: the right answer at an infinite logit has loss 0
        cost = xp.where(target == 0, zero, target * yes) + xp.where(target == 1, zero, (1 - target) * no)
        write(losses, xp.mean(cost, axis=1))
        p = xp.where(logits >= 0, xp.ones_like(e), e) / (1 + e)
        if probabilities is not None:
            write(probabilities, p)
        return write(out, (p - target) / (logits.shape[0] * logits.shape[1]))

    def _loss(self, row: Loss, outputs: Array, target: Array, b: float, out: Array | None) -> Array:
        """Return a loss of the table; `b` is its parameter, if it has one."""
        return write(out, self.xp.mean(PARTS[row.part](self._math, outputs, target, 0.0, b), axis=1))

    def _loss_gradient(self, row: Loss, outputs: Array, target: Array, b: float, out: Array | None) -> Array:
        """Return the gradient of the mean over samples of a loss of the table."""
        scale = row.factor / (outputs.shape[0] * outputs.shape[1])
        return write(out, PARTS[row.slope](self._math, outputs, target, scale, b))

    def _clipped(self, p: Array) -> Array:
        return self.xp.clip(p, CLIP, 1 - CLIP)

    def _clamped(self, cost: Array, clip: float) -> Array:
        """Bound -log(p) as if p had been clipped: the logarithm is monotone."""
        if clip == 0:
            return cost
        return self.xp.clip(cost, *bounds(clip))

    def _classes(self, target: Array, count: int) -> Array:
        """Return which labels [N] are classes, from 0 to count - 1."""
        return (target >= 0) & (target < count)

    def _known(self, target: Array, like: Array, losses: Array) -> Array:
        """Return the losses [N], with nan where the target is a label that is no class."""
        if target.ndim == 2:
            return losses
        return self.xp.where(self._classes(target, like.shape[1]), losses, self.xp.full_like(losses, math.nan))
