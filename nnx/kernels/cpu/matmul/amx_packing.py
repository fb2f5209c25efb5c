# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Splitting and packing for products on tile registers (amx.py): float32 into parts of bfloat16, in the tiles' order.

* A **strip** is 32 rows of `a`, a **panel** 32 columns of `b`: for each 32 numbers of depth, for each part, two tiles
  of 1 KB. Numbers 16 apart along the depth share a word, which makes packing a matter of shifts; any order will do that
  `a` and `b` share.
* With three parts, x = high + middle + low, exactly. AMX reads what is below 2**-126 as zero, so each number is first
  multiplied by SCALE: then the last bit of the smallest float32, 2**-149, is above that, and nothing is lost. What
  becomes infinite by that makes results that are not finite, which `amx.multiply` looks for.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import PART, Vector, larger, view, vload
from nnx.kernels.cpu.matmul.register_tile import WIDTH, load, rows_of, square_tile, store, transpose
from nnx.kernels.cpu.matmul.tile_registers import PART as WORDS
from nnx.kernels.cpu.matmul.tile_registers import bytes_at
from nnx.kernels.cpu.matmul.tile_units import EDGE, FLOATS, INTS, every

SCALE = 2.0**24
LANES = WIDTH // 4  # float32 in a vector register
KERNEL = {**PART, "fastmath": {"contract"}}  # no sum may be reordered: results are the same bits on any registers


@intrinsic(prefer_literal=True)
def split(typingctx, x, y, out, at, parts):
    """Split two vectors into parts, a constant; the words of each go to `out`, from `at` on.

    A single part is rounded to even, as everybody does. With more, what one lacks is in the next, and they are rounded
    half up, which takes less; and the third is exact.
    """
    count = parts.literal_value

    def emit(context, builder, signature, arguments):
        rest = [builder.fmul(vector, ir.Constant(FLOATS, [SCALE] * 16)) for vector in arguments[:2]]
        for part in range(count):
            bits = [builder.bitcast(vector, INTS) for vector in rest]
            if count == 1:
                odd = [builder.and_(builder.lshr(b, every(16)), every(1)) for b in bits]
                bits = [builder.add(builder.add(b, every(0x7FFF)), o) for b, o in zip(bits, odd, strict=True)]
            elif part < 2:
                bits = [builder.add(b, every(0x8000)) for b in bits]
            words = builder.or_(builder.lshr(bits[0], every(16)), builder.and_(bits[1], every(0xFFFF0000)))
            start = bytes_at(context, builder, out, *arguments[2:4], 4 * WORDS * part)
            builder.store(words, builder.bitcast(start, INTS.as_pointer()), align=64)
            for n, b in enumerate(bits):
                taken = builder.bitcast(builder.and_(b, every(0xFFFF0000)), FLOATS)
                rest[n] = builder.fsub(rest[n], taken)
        return context.get_dummy_value()

    return types.void(Vector(types.float32), Vector(types.float32), out, types.intp, parts), emit


@njit(**KERNEL)
def split_tile(source, at, step, further, out, to, parts):
    """16 rows of words of the numbers from `source[at]` on and those `further` on; rows are `step` numbers apart."""
    if parts == 3:
        for r in range(16):
            split(vload(source, at + r * step), vload(source, at + r * step + further), out, to + r * 16, 3)
    elif parts == 2:
        for r in range(16):
            split(vload(source, at + r * step), vload(source, at + r * step + further), out, to + r * 16, 2)
    else:
        for r in range(16):
            split(vload(source, at + r * step), vload(source, at + r * step + further), out, to + r * 16, 1)


# Where an operand runs across the words, or its edge is near, 16x32 of its numbers are first copied to `spare`.


@njit(**KERNEL)
def pack_strips(a, strips, spare, parts):
    """Split rows of `a`, contiguous along its rows or its columns, into strips.

    Beyond the depth are zeros; rows past the last repeat it, because `store` writes them there.
    """
    (m, depth), block, numbers = a.shape, rows_of(spare, 0, 16, EDGE, EDGE), view(a, 0, 0)
    groups, step, straight = -(-depth // EDGE), a.strides[0] // a.itemsize, a.strides[1] == a.itemsize
    for i in range(0, m, 16):
        for g in range(groups):
            to, k = ((i // EDGE * groups + g) * parts * 2 + i // 16 % 2) * 256, g * EDGE
            if straight and i + 16 <= m and k + EDGE <= depth:
                split_tile(numbers, i * step + k, step, 16, strips, to, parts)
                continue
            if straight:
                for h in range(0, 16, LANES):
                    copy(a, i + h, k, block, h, 0)
            else:
                for h in range(0, EDGE, LANES):
                    for r in range(0, 16, LANES):
                        store(transpose(load(square_tile(a), a.T, k + h, i + r)), block, r, h)
                for r in range(m - i, 16):
                    for h in range(EDGE):
                        block[r, h] = block[m - i - 1, h]
            for r in range(16):
                for h in range(larger(depth - k, 0), EDGE):
                    block[r, h] = 0
            split_tile(spare, 0, EDGE, 16, strips, to, parts)


@njit(**KERNEL)
def copy(a, i, k, block, to, first):
    """LANES x 32 numbers of `a` from row `i`, column `k` on to `block`."""
    for h in range(0, EDGE, LANES):
        store(load(square_tile(a), a, i, k + h), block, to, first + h)


@njit(**KERNEL)
def pack_panel(b, panel, at, spare, parts):
    """Split up to 32 columns of `b` into a panel likewise, from `panel[at]` on, with zeros beyond both edges."""
    (depth, n), block, numbers = b.shape, rows_of(spare, 0, EDGE, 16, 16), view(b, 0, 0)
    step, straight = b.strides[0] // b.itemsize, b.strides[1] == b.itemsize
    for k in range(0, depth, EDGE):
        for j in range(0, EDGE, 16):
            to = at + (k // EDGE * parts * 2 + j // 16) * 256
            if straight and j + 16 <= n and k + EDGE <= depth:
                split_tile(numbers, k * step + j, step, 16 * step, panel, to, parts)
                continue
            for h in range(0, EDGE, LANES):
                for c in range(0, 16, LANES):
                    if straight:
                        store(load(square_tile(b), b, k + h, j + c), block, h, c)
                    else:
                        store(transpose(load(square_tile(b), b.T, j + c, k + h)), block, h, c)
            for h in range(larger(depth - k, 0), EDGE):
                for c in range(16):
                    block[h, c] = 0
            for h in range(EDGE):
                for c in range(larger(n - j, 0), 16):
                    block[h, c] = 0
            split_tile(spare, 0, 16, 16 * 16, panel, to, parts)


@njit(**KERNEL)
def pack_panels(b, panels, at, tall, spare, parts):
    """Split all of `b` into panels, `tall` pieces of 32 numbers deep; its first number goes to `panels[at]`."""
    for j in range(0, b.shape[1], EDGE):
        pack_panel(b[:, j : j + EDGE], panels, at + j // EDGE * tall * parts * WORDS, spare, parts)
