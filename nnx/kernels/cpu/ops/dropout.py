# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Dropout by Philox4x32-10, with the same random integers ("words") as nnx/kernels/philox.py.

Lower bound of the time: 25 integer operations for each element (ten rounds of two 32x32-bit products for four
elements), which take longer than moving its 8 bytes. The counters of a block are written first, then the words are
computed for the whole block, in 64-bit lanes that hold 32 bits, as the vector multiplier needs: row by row the loop was
not vectorised (1.9 ns). Applying the mask is a traced loop, which is vectorised even if the result is written in place.

Recorded steps call `dropout_rows`, and keep the mask for the gradient. With samples in the lanes the words come in
another order, so the code for that (lanes_kernels.py) shares only `philox`.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.behaved import apart_or_same, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import EXACT, OPTIONS, PART, flat, on_stack, smaller, view
from nnx.kernels.cpu.ops.traced import made_of
from nnx.kernels.cpu.threads.team import divided, make_together, share_at
from nnx.kernels.philox import ADD_0, ADD_1, FIRST, LAYERS, LOW, MULTIPLY_0, MULTIPLY_1, ROUNDS, TURN

U = np.uint64
M0, M1, A0, A1, MASK, HALF, ABOVE = U(MULTIPLY_0), U(MULTIPLY_1), U(ADD_0), U(ADD_1), U(LOW), U(32), U(LAYERS)
GROUPS = 256  # counters in a block, each of which gives four words
SHARES = 4 * GROUPS
apply_shares = made_of({0: lambda m, x, share, *_: m.where(share > 0, x * share, 0.0)})  # 0 even of what is infinite


@njit(**EXACT)
def philox(row, group, step, layer, k0, k1):
    """The four words of a counter, as in philox.py; in uint64, which is also Numba's type of `uint32 ^ uint32`."""
    c0, c1, c2, c3 = row, group, step & MASK, (((step >> HALF) << ABOVE) ^ layer) & MASK
    for _ in range(ROUNDS):
        p0, p1 = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & MASK, (p0 >> HALF) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + A0) & MASK, (k1 + A1) & MASK
    return c0, c1, c2, c3


@njit(**PART)
def dropout_rows(x, y, kept, first_row, rows, columns, step, layer, key_0, key_1, threshold, scale):
    """`dropout` of `rows` rows with so many columns; the first one is row `first_row` of the batch.

    The factor of each number is also written to `kept`, unless that is empty.
    """
    groups = (columns + 3) // 4
    factor, zero = y.dtype.type(scale), y.dtype.type(0)
    c2, c3, k0, k1, limit = U(step), U(layer), U(key_0), U(key_1), U(threshold)
    which_row, which_group = on_stack(np.uint64, GROUPS), on_stack(np.uint64, GROUPS)
    shares = on_stack(y.dtype, SHARES)
    r = g = 0
    while r < rows:
        # up to GROUPS counters from group g of row r on: whole rows if a row fits, else a part of one row
        wide = smaller(groups - g, GROUPS)
        tall = smaller(GROUPS // wide, rows - r) if g == 0 and wide == groups else 1
        n = 0
        for i in range(tall):
            for j in range(wide):
                which_row[n + j] = U(first_row + r + i)
                which_group[n + j] = U(g + j)
            n += wide
        for j in range(n):
            w0, w1, w2, w3 = philox(which_row[j], which_group[j], c2, c3, k0, k1)
            shares[4 * j] = factor if w0 >= limit else zero
            shares[4 * j + 1] = factor if w1 >= limit else zero
            shares[4 * j + 2] = factor if w2 >= limit else zero
            shares[4 * j + 3] = factor if w3 >= limit else zero
        wanted = smaller(4 * wide, columns - 4 * g)
        for i in range(tall):
            start, mine = (r + i) * columns + 4 * g, view(shares, 4 * wide * i, wanted)
            apply_shares(0, view(x, start, wanted), mine, view(y, start, wanted), 0.0, 0.0)
            for j in range(wanted if len(kept) > 0 else 0):
                kept[start + j] = mine[j]
        g += wide
        if g == groups:
            r, g = r + tall, 0


@njit(**PART)
def normals(a, b):
    """Two normal numbers from two words, as in philox.py."""
    radius, angle = np.sqrt(-2.0 * np.log((np.float64(a) + 0.5) * 2.0**-32)), np.float64(b) * TURN
    return radius * np.cos(angle), radius * np.sin(angle)


@njit(**PART)
def noise_rows(x, y, first_row, rows, columns, step, layer, key_0, key_1, deviation):
    """y = x plus normal numbers, for rows with so many columns; the first one is row `first_row` of the batch."""
    c2, c3, k0, k1, number = U(step), U(layer), U(key_0), U(key_1), y.dtype.type
    noise = on_stack(np.float64, 4)
    for r in range(rows):
        a, b = view(x, r * columns, columns), view(y, r * columns, columns)
        for first in range(0, columns, 4):
            w0, w1, w2, w3 = philox(U(first_row + r), U(first >> 2), c2, c3, k0, k1)
            noise[0], noise[1] = normals(w0, w1)
            noise[2], noise[3] = normals(w2, w3)
            for j in range(smaller(4, columns - first)):
                b[first + j] = a[first + j] + number(deviation * noise[j])


@njit(**PART)
def dropout_share(operands, number):
    """`dropout` of some rows."""
    x, y, columns, tall, step, layer, key_0, key_1, threshold, scale = operands
    first, rows = share_at(number, tall, x.size // columns)
    a, b = view(x, first * columns, rows * columns), view(y, first * columns, rows * columns)
    number_in_batch = first + (layer >> FIRST)
    dropout_rows(a, b, view(b, 0, 0), number_in_batch, rows, columns, step, layer, key_0, key_1, threshold, scale)


dropout_together = make_together(dropout_share)


@takes("mm")
@njit(**OPTIONS)
def dropout(x, y, board, parts, step, layer, key_0, key_1, threshold, scale):
    """y = x * scale where the element's word is at least `threshold`, else 0.

    Args:
        x, y: [rows, columns]: element (r, c) takes word c % 4 of the counter (r, c // 4, step, layer), as in philox.py.
        board, parts: the address of the threads' board, and the most parts to divide the work into: see team.py.
    """
    rows, columns = x.shape
    if not behaved(x, y) or x.shape != y.shape or not x.size or not apart_or_same(y, x):
        return False
    tall, parts = divided(rows, parts, 1)
    operands = flat(x), flat(y), columns, tall, step, layer, key_0, key_1, threshold, scale
    dropout_together(board, operands, parts)
    return True
