"""Elementwise operations and losses on GPUs: those of the tables in nnx/kernels/elementwise.py and losses.py.

A function and its gradient are one kernel each, for arrays of any shape; so is a loss that is a mean over the outputs.
"""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

from nnx.backends.array_math import ArrayMath
from nnx.backends.cupy.operands import CudaOperands
from nnx.backends.errors import NotReplayable
from nnx.backends.formula import Formula, text
from nnx.backends.operation_table import with_functions, with_losses
from nnx.kernels import cuda as plans
from nnx.kernels.elementwise import Elementwise
from nnx.kernels.losses import Loss

Array = Any


class CupyMath(ArrayMath):
    """`ArrayMath` for CuPy, whose functions accept plain numbers beside arrays."""

    def _array(self, a: Array | float, like: Array) -> Any:
        return like.dtype.type(a) if isinstance(a, int | float) else a


@with_losses
@with_functions
class CudaElementwise(CudaOperands):
    """The operations of the tables."""

    @property
    def _math(self) -> ArrayMath:
        return CupyMath(self.xp)

    def _function(self, row: Elementwise, x: Array, a: float, out: Array | None) -> Array:
        kind = self._kind(x)
        if kind is None:
            return super()._function(row, x, a, out)
        y = self._output(out, x.shape, x)
        launch = plans.elementwise(f"{row.name}_forward", x.size)
        self._launch(launch, kind, self._read(x), y, x.size, *row.given(a))
        return self._deliver(y, out)

    def _gradient(self, row: Elementwise, of: Array, dy: Array, a: float, out: Array | None) -> Array:
        kind = self._kind(of, dy)
        if kind is None or of.shape != dy.shape:
            return super()._gradient(row, of, dy, a, out)
        return self._of_two(row.gradient, kind, of, dy, row.given(a), out)

    def _loss(self, row: Loss, outputs: Array, target: Array, b: float, out: Array | None) -> Array:
        kind = self._kind(outputs, target)
        if kind is None or outputs.ndim != 2 or outputs.shape != target.shape:
            return super()._loss(row, outputs, target, b, out)
        losses = self._output(out, outputs.shape[:1], outputs)
        launch = plans.row_groups(row.name, *outputs.shape)
        operands = self._read(outputs), self._read(target), losses
        self._launch(launch, kind, *operands, *outputs.shape, *row.given(b))
        return self._deliver(losses, out)

    def _loss_gradient(self, row: Loss, outputs: Array, target: Array, b: float, out: Array | None) -> Array:
        kind = self._kind(outputs, target)
        if kind is None or outputs.shape != target.shape:
            return super()._loss_gradient(row, outputs, target, b, out)
        return self._of_two(row.gradient, kind, outputs, target, row.given(b), out)

    # ---- user-defined formulas: compiled to kernels, or, if that is not possible, run by CuPy's functions ------------

    def apply_formula(self, x: Array, of: Formula, out: Array | None = None) -> Array:
        done = self._own("formula_each", of.layer, (x, x), x.shape, 0.0, out)
        return super().apply_formula(x, of, out) if done is None else done

    def apply_formula_backward(self, x: Array, y: Array, dy: Array, of: Formula, out: Array | None = None) -> Array:
        done = self._own("formula_each", of.layer_backward, (x, dy), x.shape, 0.0, out)
        return super().apply_formula_backward(x, y, dy, of, out) if done is None else done

    def formula_loss(self, prediction: Array, target: Array, of: Formula, out: Array | None = None) -> Array:
        done = self._own("formula_mean", of.loss, (prediction, target), prediction.shape[:1], 0.0, out)
        return super().formula_loss(prediction, target, of, out) if done is None else done

    def formula_loss_backward(self, prediction: Array, target: Array, of: Formula, out: Array | None = None) -> Array:
        operands, scale = (prediction, target), 1 / max(prediction.size, 1)
        done = self._own("formula_each", of.loss_backward, operands, prediction.shape, scale, out)
        return super().formula_loss_backward(prediction, target, of, out) if done is None else done

    def _own(
        self, kernel: str, formula: Any, operands: tuple[Array, Array], shape: tuple[int, ...], a: float,
        out: Array | None,
    ) -> Array | None:  # fmt: skip
        """Run a kernel made from a formula; return None, with nothing done, if that is not possible."""
        kind, (first, second) = self._kind(*operands), operands
        if kind is None or first.ndim != 2 or first.shape != second.shape or not first.size:
            return None
        try:
            own = plans.own(*text(formula))
        except NotReplayable:
            return None
        result = self._output(out, shape, first)
        each = kernel == "formula_each"
        launch = plans.elementwise(kernel, first.size) if each else plans.row_groups(kernel, *first.shape)
        sizes = (first.size,) if each else first.shape
        self._launch(launch, kind, self._read(first), self._read(second), result, *sizes, a, own=own)
        return self._deliver(result, out)

    def _of_two(
        self, name: str, kind: str, first: Array, second: Array, a: tuple[float, ...], out: Array | None
    ) -> Array:
        """Run a kernel on two arrays of the same shape."""
        result = self._output(out, first.shape, first)
        launch = plans.elementwise(name, first.size)
        self._launch(launch, kind, self._read(first), self._read(second), result, first.size, *a)
        return self._deliver(result, out)
