# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Softmax of each row, the product of its Jacobian with a gradient, and the Jacobian itself.

* `forward`: exp(x - max) / sum. Lower bound of the time for each element: 0.2 ns for exp (AVX-512), or moving 8 bytes.
  With AVX2 on a Zen 3 it takes 1 ns in long rows, 0.8 of it for exp; half of that on two threads.
* `backward`: the book builds the Jacobian `diagflat(y) - y y'` for each sample, and multiplies. That product is `y *
  (dy - sum(y * dy))` for each row, which reads y and dy and writes dx once: 12 bytes for each element. On (300, 3) it
  takes 0.4 us besides the call, the book's loop 1600 us; on (1024, 1000) 172 us against 441,000 us, and 105 us on two
  threads.
* `jacobian`: [N, C, C]. Lower bound: writing 4 C**2 bytes for each sample, which it reaches.

Rows of three or ten numbers do not fill a vector, so all work that does not depend on rows is done on a block of rows
at once. Recorded steps call `forward_blocks` and `backward_rows` for rows of any length: the other functions would have
to be compiled as well.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.caches import caches
from nnx.kernels.cpu.jit.behaved import apart, apart_or_same, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import (
    INLINED,
    OPTIONS,
    PART,
    WIDTH,
    flat,
    larger,
    row,
    smaller,
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
from nnx.kernels.cpu.matmul.register_tile import WIDTH as VECTOR_BYTES
from nnx.kernels.cpu.ops.math import exp, exponentials
from nnx.kernels.cpu.threads.team import LINE, divided, make_together

# The most numbers, and rows, of a block: half of the first-level cache; larger blocks are no faster.
BLOCK, ROWS = min(4096, caches().l1 // 8), 1024
PIECE = 1 << 15  # numbers in a share of `backward`, for any number of threads, as its last rows are summed differently
LONG = 128  # a row of so many numbers or more is handled by itself
# The same for `forward` in float32. There exp is a loop over vectors, not a call for each number, and up to 32 vectors
# a separate maximum and sum for each row cost more than they save. 65536 numbers in rows of 128 take 62 us row by row
# and 39 us in blocks with AVX-512, 58 and 51 us with AVX2; in rows of 32 vectors 41 and 39, 51 and 48 us.
LONG_SINGLE = 32 * VECTOR_BYTES // 4


@njit(**INLINED)
def rows_of_block(c):
    """The number of rows of c numbers in a block."""
    return smaller(larger(1, BLOCK // c), ROWS)


@njit(**INLINED)
def extent_of(number, step, c, size):
    """The first number and the count of numbers in share `number`, of `step` rows of c numbers, among `size`."""
    first = number * step * c
    return first, smaller(step * c, size - first)


@njit(**INLINED)
def largest(a):
    """The maximum of a row, ignoring NaN. Less than two vectors are read number by number, which is faster there."""
    least = a.dtype.type(-np.inf)
    top, first = least, a.size - a.size % WIDTH if a.size >= 2 * WIDTH else 0
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
def is_first(a, place, top):
    """Whether the first occurrence of a row's maximum, `top`, is at a place, as numpy.argmax would return."""
    if a[place] != top:
        return False
    earlier = 0
    for j in range(place):
        earlier += a[j] == top
    return earlier == 0


@njit(**INLINED)
def first_largest(a):
    """The index of the first occurrence of a row's maximum."""
    top, place = largest(a), 0
    while place < a.size - 1 and a[place] < top:
        place += 1
    return place


@njit(**INLINED)
def shifted(a, out):
    """out = a - max(a) for one row; return the maximum."""
    top = largest(a)
    for j in range(a.size):
        out[j] = a[j] - top
    return top


@njit(**PART)
def shift_rows(x, out, tops, c):
    """out = x minus each row's maximum, for rows of c numbers; the maxima go to `tops`."""
    for r in range(len(tops)):
        tops[r] = shifted(view(x, r * c, c), view(out, r * c, c))


@njit(**INLINED)
def scale(a, total):
    """a = a / total."""
    inverse = a.dtype.type(1) / total
    for j in range(a.size):
        a[j] *= inverse


# ---- forward ---------------------------------------------------------------------------------------------------------


@njit(**INLINED)
def forward_long(x, y, c):
    """`forward` for long rows: 256x300 in float64 takes 0.57 ms; in blocks it would take 0.79 ms."""
    for at in range(0, x.size, c):
        a, out = view(x, at, c), view(y, at, c)
        top, total = largest(a), y.dtype.type(0)
        for j in range(c):
            e = exp(a[j] - top)
            out[j] = e
            total += e
        scale(out, total)


@njit(**INLINED)
def forward_blocks(x, y, c):
    """`forward` for short rows: the exponentials of a block of rows are computed at once."""
    step = rows_of_block(c) * c
    for first in range(0, x.size, step):
        last = smaller(first + step, x.size)
        for at in range(first, last, c):
            shifted(view(x, at, c), view(y, at, c))
        exponentials(view(y, first, last - first))
        for at in range(first, last, c):
            out, total = view(y, at, c), y.dtype.type(0)
            for j in range(c):
                total += out[j]
            scale(out, total)


@njit(**PART)
def forward_share(operands, number):
    """`forward` for one share of the rows."""
    x, y, c, step, long = operands
    first, size = extent_of(number, step, c, x.size)
    if c >= long:
        forward_long(view(x, first, size), view(y, first, size), c)
    else:
        forward_blocks(view(x, first, size), view(y, first, size), c)


forward_together = make_together(forward_share)


@takes("mm")
@njit(**OPTIONS)
def forward(x, y, board, parts):
    """y = softmax(x), both [N, C]. `board`: the address of the threads' board; `parts`: the most parts: see team.py."""
    n, c = x.shape
    if not behaved(x, y) or x.shape != y.shape or not x.size or not apart_or_same(y, x):
        return False
    rows, long = larger(1, divided(x.size, parts, LINE)[0] // c), LONG_SINGLE if x.itemsize == 4 else LONG
    forward_together(board, (flat(x), flat(y), c, rows, long), (n + rows - 1) // rows)
    return True


# ---- backward --------------------------------------------------------------------------------------------------------


@njit(**INLINED)
def row_product(p, g):
    """The sum of p * g."""
    total = p.dtype.type(0)
    for j in range(p.size):
        total += p[j] * g[j]
    return total


@njit(**INLINED)
def backward_long(y, dy, dx, c):
    """`backward` for long rows: one row is written while the next is summed, so that memory is always being read."""
    total = row_product(view(y, 0, c), view(dy, 0, c))
    for at in range(0, y.size, c):
        following = smaller(at + c, y.size - c)
        p, g, out = view(y, at, c), view(dy, at, c), view(dx, at, c)
        p_next, g_next = view(y, following, c), view(dy, following, c)
        sum_next = y.dtype.type(0)
        for j in range(c):
            out[j] = p[j] * (g[j] - total)
            sum_next += p_next[j] * g_next[j]
        total = sum_next


@njit(**INLINED)
def backward_rows(y, dy, dx, c, first):
    """`backward` for the rows from number `first` on, one after the other."""
    for at in range(first, y.size, c):
        p, g, out = view(y, at, c), view(dy, at, c), view(dx, at, c)
        total = row_product(p, g)
        for j in range(c):
            out[j] = p[j] * (g[j] - total)


@njit(**INLINED)
def backward_groups(y, dy, dx, c):
    """`backward` for rows of 2 to 4 numbers, a constant: as many rows at a time as fit in a vector. Return the end.

    The last lanes may write into the next row, which is overwritten later; so dx must be neither y nor dy.
    """
    step, done = WIDTH // c * c, 0
    for at in range(0, y.size - WIDTH + 1, step):
        a, b = vload(y, at), vload(dy, at)
        vstore(dx, at, vmul(a, vsub(b, vrow_sums(vmul(a, b), c))))
        done = at + step
    return done


@njit(**INLINED)
def backward_vectors(y, dy, dx, c):
    """The same for rows of 8 to 16 numbers, a vector for each; all rows but the last."""
    for at in range(0, y.size - c, c):
        a, b = vload(y, at), vload(dy, at)
        total = vsum(vfirst(vmul(a, b), c, vfill(y.dtype.type(0))))
        vstore(dx, at, vmul(a, vsub(b, vfill(total))))
    return y.size - c


@njit(**INLINED)
def backward_short(y, dy, dx, c):
    """`backward` for rows that fit in a vector, as many rows as possible; return the end.

    300x3 takes 0.34 us, 300x10 0.76; row by row 1.1 and 1.5 (AVX-512).
    """
    if c == 2:
        return backward_groups(y, dy, dx, 2)
    if c == 3:
        return backward_groups(y, dy, dx, 3)
    if c == 4:
        return backward_groups(y, dy, dx, 4)
    return backward_vectors(y, dy, dx, c) if WIDTH // 2 <= c <= WIDTH else 0


@njit(**PART)
def backward_share(operands, number):
    """`backward` for one share of the rows."""
    y, dy, dx, c, step, apart = operands
    first, size = extent_of(number, step, c, y.size)
    p, g, out = view(y, first, size), view(dy, first, size), view(dx, first, size)
    if c >= LONG and apart:  # in place its sums would not be vectorised, but be long chains of additions
        backward_long(p, g, out, c)
    else:
        backward_rows(p, g, out, c, backward_short(p, g, out, c) if apart else 0)


backward_together = make_together(backward_share)


@takes("mmm")
@njit(**OPTIONS)
def backward(y, dy, dx, board):
    """dx = y * (dy - sum(y * dy)) for each row; the board as in `forward`, for PIECE numbers each time."""
    n, c = y.shape
    if not behaved(y, dy, dx) or y.shape != dy.shape or y.shape != dx.shape or not apart_or_same(dx, y, dy):
        return False
    if y.size:
        apart = dx.ctypes.data != y.ctypes.data and dx.ctypes.data != dy.ctypes.data
        rows = larger(1, PIECE // c)
        backward_together(board, (flat(y), flat(dy), flat(dx), c, rows, apart), (n + rows - 1) // rows)
    return True


@takes("mt")
@njit(**OPTIONS)
def jacobian(y, matrices):
    """matrices [N, C, C] = diagflat(p) - p p' for each row p of y."""
    n, c = y.shape
    if not behaved(y, matrices) or matrices.shape != (n, c, c) or not apart(matrices, y):
        return False
    for i in range(n):
        p = row(y, i)
        for k in range(c):
            out, factor = view(matrices, (i * c + k) * c, c), p[k]
            for j in range(c):
                out[j] = -factor * p[j]
            out[k] = factor * (y.dtype.type(1) - factor)
    return True
