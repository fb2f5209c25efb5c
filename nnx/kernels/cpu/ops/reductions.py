# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Sums over rows: the gradient of a dense layer's biases, as sums.py adds them up."""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.behaved import apart, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import OPTIONS, flat
from nnx.kernels.cpu.ops import sums
from nnx.kernels.rounding import RUN

add_up = sums.sum_rows


@takes("mm")
@njit(**OPTIONS)
def sum_rows(dy, db):
    """db [1, O] = the sum of the rows of dy [N, O]."""
    n, outputs = dy.shape
    if not behaved(dy, db) or db.shape != (1, outputs) or not apart(db, dy):
        return False
    if n <= RUN:
        add_up(flat(dy), n, outputs, flat(db), flat(db))
    else:
        scratch = np.empty(outputs, db.dtype)
        add_up(flat(dy), n, outputs, flat(db), flat(scratch))
    return True
