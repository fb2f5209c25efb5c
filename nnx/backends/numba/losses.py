"""Losses on Numba: cross-entropies, and those of each output by itself."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.backends.numba.sharing import NUMBERS, PLAIN, NumbaShared
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
        kernel = k.cross_entropy_indices if target.ndim == 1 else k.cross_entropy_distributions
        done = self._rows(kernel, 1.0, (p, target, losses))
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
        if self._rows(kernel, 1.6, (logits, target, losses, kept, gradient), *more):
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
        if self._rows(self.kernels.cross_entropy.binary, 2.5, (logits, target, losses, kept, gradient), *more):
            return gradient
        return super().sigmoid_cross_entropy(logits, target, losses, probabilities, clip, out)

    def _loss(self, row: Loss, outputs: Array, target: Array, b: float, out: Array | None) -> Array:
        losses = np.empty(len(outputs), outputs.dtype) if out is None else out
        done = self._rows(self.kernels.losses.of_outputs, row.cost, (outputs, target, losses), NUMBERS[row.part], b)
        return losses if done else getattr(PLAIN, row.name)(outputs, target, *row.given(b), out=out)

    def _loss_gradient(self, row: Loss, outputs: Array, target: Array, b: float, out: Array | None) -> Array:
        gradient = np.empty(outputs.shape, outputs.dtype) if out is None else out
        kernel, arrays = self.kernels.losses.of_outputs_backward, (outputs, target, gradient)
        done = self._elementwise(kernel, row.slope_cost, arrays, SLOPES[row.part], row.factor / outputs.size, b)
        return gradient if done else getattr(PLAIN, row.gradient)(outputs, target, *row.given(b), out=out)
