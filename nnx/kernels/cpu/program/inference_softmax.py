# mypy: ignore-errors
# (What @njit takes has no types for Python.)
"""Softmax of compiled prediction, of a row by itself or of many side by side: the same sums, so the same bits.

A sum has as many parts as a vector has lanes: number j goes to part j modulo WIDTH. Then the second half of the parts
is added to the first, until one is left. A row's parts are the lanes of a vector; side by side, rows of sums. Nothing
here may be reordered, or the last digit of a prediction would tell with how many others it was made.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import (
    EXACT,
    WIDTH,
    on_stack,
    smaller,
    vadd,
    vfill,
    vfirst,
    vfolded,
    view,
    vload,
    vmax,
    vmul,
    vstore,
    vsub,
    vtop,
)
from nnx.kernels.cpu.ops.math import exp, exponentials

SIDE_BY_SIDE = 32  # rows at most: two vectors of AVX-512
PARTS = WIDTH * SIDE_BY_SIDE


def row_exponentials(a, n):
    """a = exp(a), of n numbers; what is left of the last vector becomes 0. For use inside kernels."""
    a[:n] = np.exp(a[:n])


@overload(row_exponentials, jit_options=EXACT)
def _row_exponentials(a, n):
    def vectors(a, n):  # whole ones, of which the loop has nothing left to do number by number
        exponentials(view(a, 0, (n + WIDTH - 1) // WIDTH * WIDTH))

    def numbers(a, n):  # a call for each
        end = (n - 1) // WIDTH * WIDTH
        for j in range(n):
            a[j] = exp(a[j])
        vstore(a, end, vfirst(vload(a, end), n - end, vfill(a.dtype.type(0))))

    return vectors if a.dtype == types.float32 else numbers


@njit(**EXACT)
def softmax_row(a, n):
    """a = softmax(a), of n numbers; up to the next whole vector, there is room for more."""
    size, tops = (n + WIDTH - 1) // WIDTH * WIDTH, vfill(a.dtype.type(-np.inf))
    end = size - WIDTH
    vstore(a, end, vfirst(vload(a, end), n - end, tops))  # which neither are a maximum nor add anything
    for j in range(0, size, WIDTH):
        tops = vmax(vload(a, j), tops)
    top = vfill(vtop(tops))
    for j in range(0, size, WIDTH):
        vstore(a, j, vsub(vload(a, j), top))
    row_exponentials(a, n)
    parts = vload(a, 0)
    for j in range(WIDTH, size, WIDTH):
        parts = vadd(parts, vload(a, j))
    share = vfill(a.dtype.type(1) / vfolded(parts))
    for j in range(0, size, WIDTH):
        vstore(a, j, vmul(vload(a, j), share))


@njit(**EXACT)
def softmax_side_by_side(a, n, rows):
    """The same of several rows of n numbers, which stand in the columns of a [n, rows]."""
    memory = on_stack(a.dtype, PARTS)
    tops, parts = view(memory, 0, rows), view(memory, 0, WIDTH * rows)
    for i in range(rows):
        tops[i] = a.dtype.type(-np.inf)
    for j in range(0, n * rows, rows):
        for i in range(rows):
            v = a[j + i]
            tops[i] = v if v > tops[i] else tops[i]  # leaving out NaN, as vmax and vtop do
    for j in range(0, n * rows, rows):
        for i in range(rows):
            a[j + i] -= tops[i]
    exponentials(view(a, 0, n * rows))
    add_parts(a, n, rows, parts)
    for i in range(rows):
        parts[i] = a.dtype.type(1) / parts[i]
    for j in range(0, n * rows, rows):
        for i in range(rows):
            a[j + i] *= parts[i]


@njit(**EXACT)
def add_parts(a, n, rows, parts):
    """Add up the n numbers of each column to the first row of `parts` [WIDTH, rows]."""
    first = smaller(n, WIDTH) * rows
    for at in range(first):
        parts[at] = a[at]
    for at in range(first, WIDTH * rows):
        parts[at] = a.dtype.type(0)
    for j in range(WIDTH, n):
        for i in range(rows):
            parts[j % WIDTH * rows + i] += a[j * rows + i]
    half = WIDTH // 2
    while half > 0:
        for at in range(half * rows):
            parts[at] += parts[at + half * rows]
        half //= 2
