# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""The end of a block of a product on tile registers: sums are scaled back, added to the result, and finished.

`amx.multiply` calls it a few rows at a time between instructions on tiles, since a core runs no more than some 500
instructions ahead: what is long here holds up the tiles. So a block that lies in the result as a whole, as most do, is
finished by plain vectors, in half the time of the tiles of register_tile.py, which know about edges.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import EXACT, vfill, vfma, view, vload, vmul, vstore
from nnx.kernels.cpu.matmul.amx_packing import KERNEL, LANES, SCALE
from nnx.kernels.cpu.matmul.register_tile import (
    add,
    elementwise,
    load,
    new_tile,
    rows_of,
    store,
    unpack,
    where_positive,
)
from nnx.kernels.cpu.matmul.tile_units import EDGE, WORD

TILE, ACROSS = 8, EDGE // LANES  # rows that are finished at once, and vector registers in each
HALF = EDGE // 2  # numbers in a vector of simd.py
BACK, ZERO, ONE, NOT_FINITE = np.float32(SCALE**-2), np.float32(0), np.float32(1), np.float32(np.nan)

unscaled = elementwise(lambda builder, x, y, zero: builder.fmul(x, ir.Constant(x.type, [SCALE**-2] * x.type.count)))


@intrinsic
def finite(typingctx, tile):
    """Tell whether all numbers of a tile are finite."""

    def emit(context, builder, signature, arguments):
        most = None
        for vector in unpack(builder, arguments[0]):
            kind = ir.VectorType(WORD, vector.type.count)
            bits = builder.and_(builder.bitcast(vector, kind), ir.Constant(kind, [0x7FFFFFFF] * kind.count))
            most = bits if most is None else builder.select(builder.icmp_unsigned(">", bits, most), bits, most)
        infinite = ir.Constant(most.type, [0x7F800000] * most.type.count)
        odd = builder.bitcast(builder.icmp_unsigned(">=", most, infinite), ir.IntType(most.type.count))
        return builder.icmp_unsigned("==", odd, odd.type(0))

    return types.boolean(tile), emit


@intrinsic
def positive(typingctx, x, y):
    """`x` where `y` is positive or NaN, else 0, as `where_positive` of register_tile.py."""

    def emit(context, builder, signature, arguments):
        zero = ir.Constant(arguments[0].type, None)
        return builder.select(builder.fcmp_unordered(">", arguments[1], zero), arguments[0], zero)

    return x(x, y), emit


@njit(**EXACT)
def finish_vector(sums, out, at, bias, add_bias, j, active, masked, active_at, relu, first, odd):
    """The last sums of 16 numbers of a row, which go to `out[at]`; see `finish`."""
    x = vmul(sums, vfill(BACK)) if first else vfma(sums, vfill(BACK), vload(out, at))
    odd = vfma(x, vfill(ZERO), odd)
    if add_bias:
        x = vfma(x, vfill(ONE), vload(bias, j))
    if relu:
        x = positive(x, x)
    if masked:
        x = positive(x, vload(active, active_at))
    vstore(out, at, x)
    return odd


@njit(**EXACT)
def finish_rows(fresh, row, c, i, j, bias, active, relu, first, last, odd):
    """`finish` for rows and columns that all lie in `c`."""
    out, step, back = view(c, 0, 0), c.strides[0] // c.itemsize, vfill(BACK)
    biases, mask, mask_step = view(bias, 0, 0), view(active, 0, 0), active.strides[0] // active.itemsize
    add_bias, masked = bias.size > 0, active.size > 0
    for r in range(TILE):
        at, x, y = (i + r) * step + j, vload(fresh, (row + r) * EDGE), vload(fresh, (row + r) * EDGE + HALF)
        if last:
            a = (i + r) * mask_step + j
            odd = finish_vector(x, out, at, biases, add_bias, j, mask, masked, a, relu, first, odd)
            odd = finish_vector(
                y, out, at + HALF, biases, add_bias, j + HALF, mask, masked, a + HALF, relu, first, odd
            )  # fmt: skip
        elif first:
            vstore(out, at, vmul(x, back))
            vstore(out, at + HALF, vmul(y, back))
        else:
            vstore(out, at, vfma(x, back, vload(out, at)))
            vstore(out, at + HALF, vfma(y, back, vload(out, at + HALF)))
    return odd


@njit(**KERNEL)
def finish(fresh, row, c, i, j, bias, active, relu, first, last, odd):
    """Add TILE rows of 32 sums, from row `row` of a block, to those in `c` at row `i`, column `j`, and finish the last.

    Returns `odd`, a vector: what was given, and NaN once any of the last sums is not finite.
    """
    if i + TILE <= c.shape[0] and j + EDGE <= c.shape[1]:
        return finish_rows(fresh, row, c, i, j, bias, active, relu, first, last, odd)
    if i < c.shape[0]:
        empty = new_tile(c, TILE, ACROSS)
        tile = load(empty, rows_of(fresh, row * EDGE, TILE, EDGE, EDGE), 0, 0)
        tile = unscaled(tile, tile)
        if not first:
            tile = add(tile, load(empty, c, i, j))
        if last:
            if not finite(tile):
                odd = vfill(NOT_FINITE)
            if bias.size:
                tile = add(tile, load(empty, bias, 0, j))
            if relu:
                tile = where_positive(tile, tile)
            if active.size:
                tile = where_positive(tile, load(empty, active, i, j))
        store(tile, c, i, j)
    return odd
