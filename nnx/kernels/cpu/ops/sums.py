# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Reductions: long sums in two stages (rounding.py), and the gradient of a dense layer's biases."""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.behaved import apart, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import OPTIONS, PART, flat, smaller, view
from nnx.kernels.rounding import RUN


@njit(**PART)
def collect(out, run, anew):
    """out += run; if `anew`, out = run."""
    zero = out.dtype.type(0)
    for j in range(len(out)):
        so_far = out[j]
        out[j] = (zero if anew else so_far) + run[j]


@njit(**PART)
def add_rows(d, first, last, n, out):
    """out [n] = the sum of rows first .. last of d [., n], eight at a time: a pass over `out` costs one row's time."""
    for j in range(n):
        out[j] = 0
    i = first
    while i + 8 <= last:
        a0, a1, a2, a3 = view(d, i * n, n), view(d, (i + 1) * n, n), view(d, (i + 2) * n, n), view(d, (i + 3) * n, n)
        i += 4
        a4, a5, a6, a7 = view(d, i * n, n), view(d, (i + 1) * n, n), view(d, (i + 2) * n, n), view(d, (i + 3) * n, n)
        i += 4
        for j in range(n):
            out[j] += ((a0[j] + a1[j]) + (a2[j] + a3[j])) + ((a4[j] + a5[j]) + (a6[j] + a7[j]))
    while i < last:
        a0 = view(d, i * n, n)
        for j in range(n):
            out[j] += a0[j]
        i += 1


@njit(**PART)
def sum_rows(d, rows, n, out, scratch):
    """out [n] = the sum of the rows of d [rows, n]; `scratch` has n numbers if there are more than RUN rows."""
    run = out if rows <= RUN else scratch
    for first in range(0, rows, RUN):
        add_rows(d, first, smaller(first + RUN, rows), n, run)
        if rows > RUN:
            collect(out, run, first == 0)


@njit(**PART)
def sum_numbers(a):
    """The sum of a's numbers: runs are summed in their own type, then the sums of runs in float64."""
    total = 0.0
    for first in range(0, len(a), RUN):
        run, part = view(a, first, smaller(RUN, len(a) - first)), a.dtype.type(0)
        for i in range(len(run)):
            part += run[i]
        total += part
    return total


@njit(**PART)
def sum_long(dy, rows, n, db, scratch):
    """`sum_rows` with an array as scratch, so that the caller frees it only afterwards; of a span it would not know."""
    sum_rows(dy, rows, n, db, flat(scratch))


@takes("mm")
@njit(**OPTIONS)
def bias_gradient(dy, db):
    """db [1, O] = the sum of the rows of dy [N, O]."""
    n, outputs = dy.shape
    if not behaved(dy, db) or db.shape != (1, outputs) or not apart(db, dy):
        return False
    if n <= RUN:
        sum_rows(flat(dy), n, outputs, flat(db), flat(db))
    else:
        sum_long(flat(dy), n, outputs, flat(db), np.empty(outputs, db.dtype))
    return True
