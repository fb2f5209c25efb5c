"""User-defined formulas of activation functions and losses: see nnx/backends/formula.py."""

from __future__ import annotations

from typing import Any

from nnx.backends.errors import InputError, InputTypeError
from nnx.backends.formula import Formula
from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp


@quiet
class FormulaOperations(OverXp):
    """The operations of layers and losses with a user-defined formula."""

    @operation("x")
    def apply_formula(self, x: Array, of: Formula, out: Array | None = None) -> Array:
        """Return the formula's value for each number of x [N, C]."""
        return write(out, self._each(of, of.on_arrays(of.value, x), x))

    @operation("x y dy")
    def apply_formula_backward(self, x: Array, y: Array, dy: Array, of: Formula, out: Array | None = None) -> Array:
        """Return dy times the formula's derivative at x [N, C], where y is its value."""
        return write(out, dy * self._each(of, of.on_arrays(of.slope, x, y), x))

    @operation("prediction target")
    def formula_loss(self, prediction: Array, target: Array, of: Formula, out: Array | None = None) -> Array:
        """Return the mean over outputs of a formula of each output and its target, both [N, O]: [N]."""
        return write(out, self.xp.mean(self._each(of, of.on_arrays(of.value, prediction, target), prediction), axis=1))

    @operation("prediction target")
    def formula_loss_backward(self, prediction: Array, target: Array, of: Formula, out: Array | None = None) -> Array:
        """Return the gradient of the mean over samples of `formula_loss`: [N, O]."""
        slope = self._each(of, of.on_arrays(of.slope, prediction, target), prediction)
        return write(out, slope / (prediction.shape[0] * prediction.shape[1]))

    def _each(self, of: Formula, result: Any, like: Array) -> Array:
        """Return a formula's result as an array shaped like `like`; a single number stands for all."""
        shape, dtype = getattr(result, "shape", ()), getattr(result, "dtype", None)
        if shape not in ((), like.shape):
            raise InputError(f"{of.name}: its formula made {shape} of {tuple(like.shape)}, expected a number for each")
        if not isinstance(result, float | int) if dtype is None else not _is_real(dtype):
            given = f"{result!r:.60}" if dtype is None else f"numbers of type {dtype}"
            raise InputTypeError(f"{of.name}: its formula made {given}, expected a real number for each it was given")
        if not shape:
            return self.xp.full_like(like, float(result))
        return result if result.dtype == like.dtype else self.xp.astype(result, like.dtype)


def _is_real(dtype: Any) -> bool:
    """Return whether a type is one of real numbers; types of the array-API standard need not have a `kind`."""
    return dtype.kind in "biuf" if hasattr(dtype, "kind") else "complex" not in str(dtype)
