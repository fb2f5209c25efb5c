# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Softmax of each row, the product of its Jacobian with a gradient, and the Jacobian itself.

* `forward`: exp(x - max) / sum. Floor: 0.2 ns an element for exp (AVX-512), or 8 bytes.
* `backward`: the notes build `diagflat(y) - y y'` for each sample and multiply; that product is `y * (dy - sum(y *
  dy))` per row, which reads y and dy and writes dx once: 12 bytes an element, and nothing is materialised. On (300, 3)
  it takes 0.4 us beside the call, the notes' loop 1600; on (1024, 1000) 172 us against 441,000, 105 on two threads.
* `jacobian`: [N, C, C], one write of 4 C**2 bytes a sample, which is its floor.

Rows of three or ten do not fill a vector, so whatever has no need of rows runs over a block of them at once.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.cache import njit
from nnx.kernels.cpu.entry import takes
from nnx.kernels.cpu.math import exp
from nnx.kernels.cpu.team import make_together
from nnx.kernels.cpu.vectors import (
    INLINED,
    OPTIONS,
    PART,
    WIDTH,
    flat,
    row,
    vfill,
    vfirst,
    view,
    vload,
    vmax,
    vmul,
    vrow_sums,
    vstore,
    vsub,
    vsum,
    vtop,
)

BLOCK = 4096  # numbers in a block: they stay in the first-level cache
SHARED = 200_000  # numbers from which on several threads take part: 40 us of work for one
SHARE = 32768  # numbers, roughly, that one of them takes at a time
LONG = 128  # numbers from which on a row's gradient is written while the next row is read


@njit(**INLINED)
def largest(a):
    """The maximum of a row, leaving out NaN."""
    least = a.dtype.type(-np.inf)
    top, first = least, a.size - a.size % WIDTH
    if first:
        tops = vfill(least)
        for j in range(0, first, WIDTH):
            tops = vmax(vload(a, j), tops)
        top = vtop(tops)
    for j in range(first, a.size):
        v = a[j]
        top = v if v > top else top
    return top


@njit(**INLINED)
def shifted(a, out):
    """out = a - max(a), of one row; return the maximum."""
    top = largest(a)
    for j in range(a.size):
        out[j] = a[j] - top
    return top


@njit(**INLINED)
def exponential(a):
    """a = exp(a)."""
    for j in range(a.size):
        a[j] = exp(a[j])


@takes("mm")
@njit(**OPTIONS)
def forward(x, y):
    """y = softmax(x), both [N, C]."""
    n, c = x.shape
    if x.shape != y.shape or not x.size:
        return False
    step = max(1, BLOCK // c)
    one = y.dtype.type(1)
    for first in range(0, n, step):
        last = min(first + step, n)
        for i in range(first, last):
            shifted(row(x, i), row(y, i))
        exponential(view(y, first * c, (last - first) * c))
        for i in range(first, last):
            out = row(y, i)
            total = y.dtype.type(0)
            for j in range(c):
                total += out[j]
            inverse = one / total
            for j in range(c):
                out[j] *= inverse
    return True


@njit(**INLINED)
def row_product(p, g):
    """The sum of p * g."""
    total = p.dtype.type(0)
    for j in range(p.size):
        total += p[j] * g[j]
    return total


@njit(**PART)
def backward_share(operands, number):
    """`backward` of some long rows: one is written while the next is summed, so that memory is read all the time."""
    y, dy, dx, c, step = operands
    first, end = number * step * c, min((number + 1) * step * c, y.size)
    total = row_product(view(y, first, c), view(dy, first, c))
    for at in range(first, end, c):
        following = min(at + c, end - c)
        p, g, out = view(y, at, c), view(dy, at, c), view(dx, at, c)
        p_next, g_next = view(y, following, c), view(dy, following, c)
        sum_next = y.dtype.type(0)
        for j in range(c):
            out[j] = p[j] * (g[j] - total)
            sum_next += p_next[j] * g_next[j]
        total = sum_next


backward_together = make_together(backward_share)


@njit(**INLINED)
def backward_long(y, dy, dx, board):
    """`backward` for long rows: a few at a time, by several threads if they are many numbers."""
    n, c = y.shape
    step = max(4, SHARE // c) if y.size >= SHARED else n
    backward_together(board, (flat(y), flat(dy), flat(dx), c, step), (n + step - 1) // step)


@njit(**INLINED)
def backward_rows(y, dy, dx, first, last):
    """`backward` of some rows, one after the other."""
    for i in range(first, last):
        p, g, out = row(y, i), row(dy, i), row(dx, i)
        total = row_product(p, g)
        for j in range(p.size):
            out[j] = p[j] * (g[j] - total)


@njit(**INLINED)
def backward_groups(y, dy, dx, c):
    """`backward` for rows of a constant 2 to 4: as many as fit into a vector at a time. Return how many rows that are.

    The last lanes may reach into the next row, which overwrites what is written there; so dx must be neither y nor dy.
    """
    p, g, out = flat(y), flat(dy), flat(dx)
    step, done = WIDTH // c * c, 0
    for at in range(0, p.size - WIDTH + 1, step):
        a, b = vload(p, at), vload(g, at)
        vstore(out, at, vmul(a, vsub(b, vrow_sums(vmul(a, b), c))))
        done += step // c
    return done


@njit(**INLINED)
def backward_vectors(y, dy, dx, c):
    """The same for rows of 8 to 16, a vector each: all but the last."""
    p, g, out = flat(y), flat(dy), flat(dx)
    for at in range(0, (y.shape[0] - 1) * c, c):
        a, b = vload(p, at), vload(g, at)
        total = vsum(vfirst(vmul(a, b), c))
        vstore(out, at, vmul(a, vsub(b, vfill(total))))
    return max(y.shape[0] - 1, 0)


@njit(**INLINED)
def backward_short(y, dy, dx, c):
    """`backward` for rows that a vector holds; return how many rows are done."""
    if dx.ctypes.data == y.ctypes.data or dx.ctypes.data == dy.ctypes.data:
        return 0
    if c == 2:
        return backward_groups(y, dy, dx, 2)
    if c == 3:
        return backward_groups(y, dy, dx, 3)
    if c == 4:
        return backward_groups(y, dy, dx, 4)
    return backward_vectors(y, dy, dx, c) if c >= WIDTH // 2 else 0


@takes("mmmi")
@njit(**OPTIONS)
def backward(y, dy, dx, board):
    """dx = y * (dy - sum(y * dy)) for each row. The board is that of the threads which may help: see team.py."""
    n, c = y.shape
    if y.shape != dy.shape or y.shape != dx.shape:
        return False
    if c >= LONG and n:
        backward_long(y, dy, dx, board)
    else:
        done = backward_short(y, dy, dx, c) if c <= WIDTH else 0
        backward_rows(y, dy, dx, done, n)
    return True


@takes("mt")
@njit(**OPTIONS)
def jacobian(y, matrices):
    """matrices [N, C, C] = diagflat(p) - p p' for each row p of y."""
    n, c = y.shape
    if matrices.shape != (n, c, c):
        return False
    for i in range(n):
        p = row(y, i)
        for k in range(c):
            out, factor = view(matrices, (i * c + k) * c, c), p[k]
            for j in range(c):
                out[j] = -factor * p[j]
            out[k] = factor * (y.dtype.type(1) - factor)
    return True
