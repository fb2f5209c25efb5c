# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Sums over rows: the gradient of a dense layer's biases.

Floor: the bytes of the gradient, read once. Eight rows at a time, because each pass over the sums costs as much as a
row.
"""

from __future__ import annotations

from nnx.kernels.cpu.cache import njit
from nnx.kernels.cpu.entry import takes
from nnx.kernels.cpu.vectors import OPTIONS, flat, row


@takes("mm")
@njit(**OPTIONS)
def sum_rows(dy, db):
    """db [1, O] = the sum of the rows of dy [N, O]."""
    if db.shape[0] != 1 or db.shape[1] != dy.shape[1]:
        return False
    total, n = flat(db), dy.shape[0]
    zero = db.dtype.type(0)
    for j in range(total.size):
        total[j] = zero
    i = 0
    while i + 8 <= n:
        a0, a1, a2, a3 = row(dy, i), row(dy, i + 1), row(dy, i + 2), row(dy, i + 3)
        a4, a5, a6, a7 = row(dy, i + 4), row(dy, i + 5), row(dy, i + 6), row(dy, i + 7)
        for j in range(total.size):
            total[j] += ((a0[j] + a1[j]) + (a2[j] + a3[j])) + ((a4[j] + a5[j]) + (a6[j] + a7[j]))
        i += 8
    while i < n:
        a0 = row(dy, i)
        for j in range(total.size):
            total[j] += a0[j]
        i += 1
    return True
