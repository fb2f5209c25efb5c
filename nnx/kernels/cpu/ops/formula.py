# mypy: ignore-errors
# (What Numba's decorators take has no types for Python.)
"""User-defined formulas, compiled when first needed: a loop over arrays that recorded steps call by its address.

Recorded steps know nnx's formulas by number (elementwise.py). To add a number, the function that switches between them
would have to be compiled again, in 0.6 s; a loop by itself takes 0.04 s, the first one 0.7 s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from nnx.kernels import compiling
from nnx.kernels.cpu.jit.span import Span, make_span
from nnx.kernels.cpu.ops.traced import ADDRESSES, made_of
from nnx.kernels.uninterrupted import uninterrupted


@intrinsic
def span(typing, data, size):
    """A span of `size` numbers from a pointer on."""

    def codegen(context, builder, signature, args):
        return make_span(context, builder, signature.return_type, *args)

    return Span(data.dtype)(data, size), codegen


class Compiled:
    """A formula as machine code, which lives as long as this does.

    Args:
        formula: a function of `m`, two numbers and two constants, as in elementwise.py.
        dtype: of the numbers.

    Attributes:
        address: of the machine code; in a step's table it is in the place of the number of its kind.
    """

    def __init__(self, formula: Callable[..., Any], dtype: Any) -> None:
        number = types.float32 if np.dtype(dtype).itemsize == 4 else types.float64
        numbers, apply = types.CPointer(number), made_of({0: formula})

        def own(x, y, out, size, c0, c1):
            apply(0, span(x, size), span(y, size), span(out, size), c0, c1)

        def work():
            compiling.begun()
            try:
                signature = types.void(numbers, numbers, numbers, types.int64, number, number)
                return numba.cfunc(signature, error_model="numpy", fastmath={"contract"})(own)
            finally:
                compiling.ended()

        self._code = uninterrupted(work)
        self.address = int(self._code.address)
        assert self.address > ADDRESSES
