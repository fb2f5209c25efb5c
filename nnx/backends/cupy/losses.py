"""Losses on GPUs: cross-entropies, and those fused with softmax or sigmoid (nnx/kernels/cuda/cross_entropy.cu)."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

from nnx.backends.cupy.operands import CudaOperands, writable
from nnx.backends.operations import Operations
from nnx.kernels import cuda as plans
from nnx.kernels.cuda import Launch
from nnx.kernels.losses import bounds

Array = Any


class CudaLosses(CudaOperands):
    """The cross-entropies; losses on each output by itself are in elementwise.py."""

    def cross_entropy(self, p: Array, target: Array, out: Array | None = None) -> Array:
        kind, labels = self._kind(p), self._target_kind(target, p)
        if kind is None or labels is None or p.ndim != 2:
            return super().cross_entropy(p, target, out)
        losses = self._output(out, p.shape[:1], p)
        launch = plans.row_groups(f"cross_entropy_{labels}", *p.shape)
        self._launch(launch, kind, self._read(p), self._read(target), losses, *p.shape)
        return self._deliver(losses, out)

    def cross_entropy_backward(self, p: Array, target: Array, out: Array | None = None) -> Array:
        kind, labels = self._kind(p), self._target_kind(target, p)
        if kind is None or labels is None or p.ndim != 2:
            return super().cross_entropy_backward(p, target, out)
        gradient = self._output(out, p.shape, p)
        launch = plans.row_groups(f"cross_entropy_backward_{labels}", *p.shape)
        self._launch(launch, kind, self._read(p), self._read(target), gradient, *p.shape)
        return self._deliver(gradient, out)

    def softmax_cross_entropy(
        self,
        logits: Array,
        target: Array,
        losses: Array,
        probabilities: Array | None = None,
        clip: float = 0.0,
        out: Array | None = None,
    ) -> Array:
        labels = self._target_kind(target, logits)
        launch = None
        if labels is not None and logits.ndim == 2:
            launch = plans.softmax_rows(f"softmax_cross_entropy_{labels}", *logits.shape)
        return self._fused("softmax_cross_entropy", launch, logits, target, losses, probabilities, clip, out)

    def sigmoid_cross_entropy(
        self,
        logits: Array,
        target: Array,
        losses: Array,
        probabilities: Array | None = None,
        clip: float = 0.0,
        out: Array | None = None,
    ) -> Array:
        fits = logits.ndim == 2 and target.shape == logits.shape and target.dtype == logits.dtype
        launch = plans.row_groups("sigmoid_cross_entropy", *logits.shape) if fits else None
        return self._fused("sigmoid_cross_entropy", launch, logits, target, losses, probabilities, clip, out)

    def _fused(
        self, name: str, launch: Launch | None, logits: Array, target: Array, losses: Array,
        probabilities: Array | None, clip: float, out: Array | None,
    ) -> Array:  # fmt: skip
        """Run the fused kernel of an activation and its loss, if the targets fit and so `launch` is not None."""
        kind, shape, dtype = self._kind(logits), logits.shape, logits.dtype
        kept = probabilities is None or writable(probabilities, shape, dtype)
        if kind is None or launch is None or not (kept and writable(losses, shape[:1], dtype)):
            return getattr(Operations, name)(self, logits, target, losses, probabilities, clip, out)
        gradient = self._output(out, shape, logits)
        operands = self._read(logits), self._read(target), losses, probabilities, gradient
        self._launch(launch, kind, *operands, *shape, *bounds(clip))
        return self._deliver(gradient, out)
