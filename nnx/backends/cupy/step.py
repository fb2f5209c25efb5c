"""A training step around its layers on GPUs (nnx/kernels/cuda/gather.cu, step.cu)."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

from nnx.backends.cupy.operands import FLOAT64, INT64, CudaOperands, as_they_are, writable
from nnx.kernels import cuda as plans
from nnx.kernels.cuda import Launch

Array = Any


class CudaStep(CudaOperands):
    """The operations that a training step calls itself."""

    def gather_rows(self, source: Array, order: Array, counters: Array, out: Array) -> Array:
        kind = "float32" if source.dtype == INT64 else self._kind(source)  # the kernel for integers has no REAL
        fits = source.ndim in (1, 2) and source.shape[1:] == out.shape[1:] and as_they_are(INT64, order, counters)
        ready = (
            source.flags.c_contiguous
            and source.size
            and order.size
            and out.size
            and writable(out, out.shape, source.dtype)
        )
        if kind is None or not (fits and ready):  # no copy of all rows of a non-contiguous source, for a few
            return super().gather_rows(source, order, counters, out)
        rows, columns = out.shape[0], out.size // out.shape[0]
        launch = plans.row_groups("gather_integers" if source.dtype == INT64 else "gather_reals", rows, columns)
        self._launch(launch, kind, source, order, counters, out, rows, columns, len(source), len(order))
        return out

    def weigh(self, x: Array, weights: Array, out: Array | None = None) -> Array:
        kind = self._kind(x, weights)
        if kind is None or x.ndim != 2 or weights.shape != (len(x), 1):
            return super().weigh(x, weights, out)
        y = self._output(out, x.shape, x)
        self._launch(plans.elementwise("weigh", x.size), kind, self._read(x), self._read(weights), y, *x.shape)
        return self._deliver(y, out)

    def tally(
        self, losses: Array, outputs: Array, target: Array, metric: str | None, tolerance: float, stats: Array
    ) -> None:
        if not self._tally(losses, outputs, target, None, metric, tolerance, stats):
            super().tally(losses, outputs, target, metric, tolerance, stats)

    def weighted_tally(
        self, losses: Array, outputs: Array, target: Array, weights: Array, metric: str | None, tolerance: float,
        stats: Array,
    ) -> None:  # fmt: skip
        if not self._tally(losses, outputs, target, weights, metric, tolerance, stats):
            super().weighted_tally(losses, outputs, target, weights, metric, tolerance, stats)

    def _tally(
        self, losses: Array, outputs: Array, target: Array, weights: Array | None, metric: str | None,
        tolerance: float, stats: Array,
    ) -> bool:  # fmt: skip
        """Launch the kernels of `tally` or `weighted_tally`; return False, having done nothing, if they do not fit."""
        how = self._tally_kind(outputs, target, metric)
        kind = self._kind(losses, outputs, *([] if weights is None else [weights]))
        fits = outputs.ndim == 2 and losses.shape == outputs.shape[:1]
        fits = fits and (weights is None or weights.shape == (len(losses), 1))
        if kind is None or how is None or not (fits and writable(stats, (3,), FLOAT64)):
            return False
        rows, columns = outputs.shape
        operands = [self._read(losses), None if weights is None else self._read(weights)]
        if how != "losses":
            operands += [self._read(outputs), self._read(target)]
        sizes = [rows] if how == "losses" else [rows, columns]
        if metric in ("binary", "logits", "regression"):
            sizes.append({"binary": 0.5, "logits": 0.0}.get(metric, tolerance))
        first, *second = plans.tally(how, rows, columns)
        blocks = first.grid[0]
        parts = self._scratch(2 * blocks, "float64") if second else None
        self._launch(first, kind, *operands, parts, stats, *sizes)
        for total in second:
            self._launch(total, kind, parts, stats, blocks, rows, how != "losses")
        return True

    def _tally_kind(self, outputs: Array, target: Array, metric: str | None) -> str | None:
        """Return the name of the kernel that counts the hits of a metric; None if the targets do not fit."""
        if metric is None:
            return "losses"
        if metric == "categorical":
            return self._target_kind(target, outputs)
        fits = target.shape == outputs.shape and target.dtype == outputs.dtype
        return ("near" if metric == "regression" else "above") if fits else None

    def end_step(self, stats: Array, penalties: Array, history: Array, counters: Array, rows: int) -> None:
        if not (as_they_are(FLOAT64, stats, penalties, history) and as_they_are(INT64, counters)):
            super().end_step(stats, penalties, history, counters, rows)
            return
        capacity = history.shape[0]
        launch = Launch("end_step", (1,), (32,))
        self._launch(launch, "float64", stats, penalties, penalties.size, history, capacity, counters, rows)
