"""Losses on Numba: cross-entropies, and those of each output by itself."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.backends.numba.sharing import NUMBERS, PLAIN, NumbaShared, offer
from nnx.backends.operation_table import with_losses
from nnx.kernels.elementwise import number_of
from nnx.kernels.losses import LOSSES, Loss, bounds

Array = Any
SLOPES = {row.part: number_of(row.slope) for row in LOSSES}


@with_losses
class NumbaLosses(NumbaShared):
    """The operations of losses."""

    def cross_entropy(self, p: Array, target: Array, out: Array | None = None) -> Array:
        k = self.kernels.losses
        losses = np.empty(len(p), p.dtype) if out is None else out
        labels = target.ndim == 1  # then only one number of each row is needed
        kernel = k.cross_entropy_indices if labels else k.cross_entropy_distributions
        done = self._rows(kernel, 5.0 * len(p) / (p.size or 1) if labels else 1.0, (p, target, losses))
        return losses if done else super().cross_entropy(p, target, out)

    def cross_entropy_backward(self, p: Array, target: Array, out: Array | None = None) -> Array:
        k = self.kernels.losses
        gradient = np.empty(p.shape, p.dtype) if out is None else out
        kernel = k.cross_entropy_indices_backward if target.ndim == 1 else k.cross_entropy_distributions_backward
        done = self._rows(kernel, 0.6, (p, target, gradient), 1 / len(p))
        return gradient if done else super().cross_entropy_backward(p, target, out)

    def softmax_cross_entropy(
        self,
        logits: Array,
        target: Array,
        losses: Array,
        probabilities: Array | None = None,
        clip: float = 0.0,
        out: Array | None = None,
    ) -> Array:
        k = self.kernels.cross_entropy
        kernel = k.indices if target.ndim == 1 else k.distributions
        gradient = np.empty(logits.shape, logits.dtype) if out is None else out
        kept = gradient[:0] if probabilities is None else probabilities
        more = (*bounds(clip), 1 / len(logits))
        share = self._share(logits.size * 1.0)
        if offer(kernel, logits, target, losses, kept, gradient, *share, *more):
            return gradient
        return super().softmax_cross_entropy(logits, target, losses, probabilities, clip, out)

    def sigmoid_cross_entropy(
        self,
        logits: Array,
        target: Array,
        losses: Array,
        probabilities: Array | None = None,
        clip: float = 0.0,
        out: Array | None = None,
    ) -> Array:
        gradient = np.empty(logits.shape, logits.dtype) if out is None else out
        kept = gradient[:0] if probabilities is None else probabilities
        more = (*bounds(clip), 1 / logits.size)
        share = self._share(logits.size * 1.5)
        if offer(self.kernels.cross_entropy.binary, logits, target, losses, kept, gradient, *share, *more):
            return gradient
        return super().sigmoid_cross_entropy(logits, target, losses, probabilities, clip, out)

    def _loss(self, row: Loss, outputs: Array, target: Array, b: float, out: Array | None) -> Array:
        losses = np.empty(len(outputs), outputs.dtype) if out is None else out
        share = self._share(outputs.size * row.cost)
        done = offer(self.kernels.losses.of_outputs, outputs, target, losses, *share, NUMBERS[row.part], b)
        return losses if done else getattr(PLAIN, row.name)(outputs, target, *row.given(b), out=out)

    def _loss_gradient(self, row: Loss, outputs: Array, target: Array, b: float, out: Array | None) -> Array:
        gradient = np.empty(outputs.shape, outputs.dtype) if out is None else out
        share = self._share(outputs.size * row.slope_cost)
        more = SLOPES[row.part], row.factor / outputs.size, b
        done = offer(self.kernels.losses.of_outputs_backward, outputs, target, gradient, *share, *more)
        return gradient if done else getattr(PLAIN, row.gradient)(outputs, target, *row.given(b), out=out)
