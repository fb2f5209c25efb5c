"""A training step around its layers on Numba: its rows, dropout, weights, what it reports, and its end."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.backends.numba.sharing import NumbaShared, offer
from nnx.kernels.philox import LOW, keep_threshold
from nnx.kernels.step_state import STEP

Array = Any


class NumbaStep(NumbaShared):
    """The operations that a training step calls itself, and dropout."""

    def gather_rows(self, source: Array, order: Array, counters: Array, out: Array) -> Array:
        k = self.kernels.step
        if source.ndim == 2:
            done = offer(k.gather, source, order, counters, out, *self._share(out.size * 0.2))
        else:
            done = offer(k.gather_labels, source, order, counters, out)
        return out if done else super().gather_rows(source, order, counters, out)

    def dropout(self, x: Array, rate: float, seed: int, layer: int, counters: Array, out: Array | None = None) -> Array:
        y = np.empty(x.shape, x.dtype) if out is None else out
        more = (int(counters[STEP]), layer, seed & LOW, seed >> 32 & LOW, keep_threshold(rate), 1 / (1 - rate))
        done = offer(self.kernels.dropout.dropout, x, y, *self._share(x.size * 1.2), *more)
        return y if done else super().dropout(x, rate, seed, layer, counters, out)

    def weigh(self, x: Array, weights: Array, out: Array | None = None) -> Array:
        y = np.empty(x.shape, x.dtype) if out is None else out
        return y if self._rows(self.kernels.step.weigh, 0.3, (x, weights, y)) else super().weigh(x, weights, out)

    def tally(
        self, losses: Array, outputs: Array, target: Array, metric: str | None, tolerance: float, stats: Array
    ) -> None:
        k = self.kernels.step
        if metric == "categorical" and target.ndim == 1:
            done = offer(k.tally_labels, losses, outputs, target, stats)
        else:
            target = outputs if metric is None else target
            done = offer(k.tally, losses, outputs, target, stats, k.METRICS[metric], float(tolerance or 0))
        if not done:
            super().tally(losses, outputs, target, metric, tolerance, stats)

    def end_step(self, stats: Array, penalties: Array, history: Array, counters: Array, rows: int) -> None:
        if not offer(self.kernels.step.end_step, stats, penalties, history, counters, rows):
            super().end_step(stats, penalties, history, counters, rows)
