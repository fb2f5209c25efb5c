"""The functions that the formulas of nnx/kernels/elementwise.py call, for arrays of any array-API namespace."""

from __future__ import annotations

from functools import cache
from typing import Any

Array = Any


class ArrayMath:
    """Functions of arrays of a namespace `xp`. In `where`, one of the choices may be a Python number."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.exp, self.expm1, self.log, self.log1p, self.tanh = xp.exp, xp.expm1, xp.log, xp.log1p, xp.tanh

    def where(self, condition: Array, a: Array | float, b: Array | float) -> Array:
        """Return a where the condition holds, else b."""
        return self.xp.where(condition, self._array(a, b), self._array(b, a))

    def single(self, x: Array) -> bool:
        """Return whether the array is float32."""
        return bool(x.dtype == self.xp.float32)

    def _array(self, a: Array | float, like: Array) -> Array:
        """Return a Python number as an array of the type and device of `like`, as the array-API standard requires."""
        return self.xp.asarray(a, dtype=like.dtype, device=like.device) if isinstance(a, int | float) else a


@cache
def math_of(xp: Any) -> ArrayMath:
    """Return the `ArrayMath` of a namespace."""
    return ArrayMath(xp)
