"""The base of all operations: an array namespace, and helpers for what the array-API standard lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnx.backends.array_math import ArrayMath, math_of
from nnx.backends.operation_table import write
from nnx.kernels.rounding import RUN

Array = Any


class OverXp:
    """Operations over `self.xp`, the array namespace."""

    xp: Any

    @property
    def _math(self) -> ArrayMath:
        """The functions that the tables' formulas call."""
        return math_of(self.xp)

    def _in_runs(self, rows: int, part: Callable[[slice], Array], out: Array) -> None:
        """out = part(all rows); with many rows, the sum in float64 of part(run) over runs of RUN rows."""
        xp, runs = self.xp, [slice(first, min(first + RUN, rows)) for first in range(0, max(rows, 1), RUN)]
        if len(runs) == 1:
            write(out, part(runs[0]))
            return
        total = xp.astype(part(runs[0]), xp.float64)
        for run in runs[1:]:
            total = total + part(run)
        write(out, xp.astype(total, out.dtype))

    def _sum_rows(self, rows: int, part: Callable[[slice], Array], out: Array) -> None:
        """out [1, C] = the sum of all rows; `part(run)` returns the rows of a run."""
        self._in_runs(rows, lambda run: self.xp.sum(part(run), axis=0, keepdims=True), out)

    def _distribution(self, target: Array, like: Array) -> Array:
        """Return class indices [N] as one-hot rows [N, C] in the type of `like`; distributions as they are."""
        if target.ndim == 2:
            return target
        return self.xp.astype(target[:, None] == self._range(like.shape[1], like)[None, :], like.dtype)

    def _range(self, count: int, like: Array) -> Array:
        """Return 0 .. count - 1 as int64, on the device of `like`."""
        return self.xp.arange(count, dtype=self.xp.int64, device=like.device)

    def _number(self, like: Array, value: Array) -> Array:
        """Return a float64 number in the type of `like`, so that float32 arrays stay float32."""
        return self.xp.astype(value, like.dtype)
