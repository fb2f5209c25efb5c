"""Signatures of kernels: `takes` declares the operands; others are refused instead of compiling for them.

Without it Numba would compile a kernel again for every layout, for read-only arrays and for mixtures of types, at a
second each. Checking arrays in Python would cost 2 us for each call, ten times the call itself. Here Numba's own
dispatch does the check, and asks only about types that it has not seen yet. Shapes are compared inside the kernel,
which returns False, having done nothing, if they do not fit. Then the backend uses NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

KINDS = {  # letter: (dimensions, type); None is the kernel's own float type
    "v": (1, None), "m": (2, None), "t": (3, None), "d": (1, "float64"), "D": (2, "float64"), "i": (1, "int64"),
}  # fmt: skip
FLOATS = (np.dtype("float32"), np.dtype("float64"))


class Unfit(TypeError):
    """A kernel cannot take these operands as they are."""


def takes(pattern: str) -> Callable[[Any], Any]:
    """Return a decorator that limits a kernel to arrays of these kinds, contiguous, aligned and writable, and numbers.

    Args:
        pattern: a letter of KINDS for each array; the operands after them are plain numbers.
    """

    def attach(dispatcher: Any) -> Any:
        if not hasattr(dispatcher, "_compile_for_args"):  # NUMBA_DISABLE_JIT=1
            return dispatcher
        compile_for, type_of = dispatcher._compile_for_args, dispatcher.typeof_pyval

        def type_or_unfit(operand: Any) -> Any:
            try:
                return type_of(operand)
            except Exception as error:  # Numba 0.61 fails before `check` for numbers in another byte order
                raise Unfit(type(operand).__name__) from error

        def check(*operands: Any) -> Any:
            own = None
            for letter, a in zip(pattern, operands, strict=False):
                dimensions, kind = KINDS[letter]
                if type(a) is not np.ndarray or a.ndim != dimensions or not a.flags.carray:
                    raise Unfit(letter)
                if kind is None:
                    own = own or a.dtype
                    if a.dtype != own or own not in FLOATS:
                        raise Unfit(letter)
                elif a.dtype != kind:
                    raise Unfit(letter)
            return compile_for(*operands)

        # Numba's dispatch calls these when it does not know an operand's type, and when it has no exact match.
        dispatcher.typeof_pyval, dispatcher._compile_for_args = type_or_unfit, check
        return dispatcher

    return attach
