# mypy: ignore-errors
# (What @intrinsic takes has no types for Python.)
"""A tile's products in compiled prediction where weights are used for the first time, and packed meanwhile.

A loop of products keeps the multiply-add units busy, and the ports to memory half so: a strip that is copied there
costs little. Copied before, a weight takes 0.1 ns on an Emerald Rapids, and 0.15 from the third-level cache; so 0.03
and 0.06.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.span import data_of
from nnx.kernels.cpu.matmul.register_tile import BYTE, INT64, UNROLLED, VECTORS, _at, _fetch, pack, splat, unpack

AHEAD = 2 * UNROLLED  # rows of weights are copied so long before they are used: what is just written is read slowly
SOON = 6 * UNROLLED  # and fetched so long before: rows that are pages apart no processor fetches by itself


@intrinsic
def accumulate_packing(typingctx, tile, weights, first, n, memory, strip, panel, depth):
    """What `accumulate` does with a strip, which it makes of `weights`: `first` is its first one, the next `n` further.

    Args:
        memory: where the strip is to begin, at `strip`, and where the panel begins.
    """

    def emit(context, builder, signature, arguments):
        value, weights_value, first, n, memory_value, strip, panel, depth = arguments
        size, column = tile.dtype.bitwidth // 8, ir.VectorType(tile.scalar, tile.rows)

        def bytes_from(kind, value, index):
            return builder.bitcast(builder.gep(data_of(context, builder, kind, value), [index]), BYTE.as_pointer())

        source = bytes_from(weights, weights_value, first)
        target, right = (bytes_from(memory, memory_value, place) for place in (strip, panel))
        apart, wide = builder.mul(n, INT64(size)), INT64(VECTORS * tile.lanes * size)
        registers = [cgutils.alloca_once(builder, tile.vector) for _ in tile.places]
        for register, vector in zip(registers, unpack(builder, value), strict=True):
            builder.store(vector, register)

        def row_of(start, k, step):
            return builder.gep(start, [builder.mul(k, step)])

        def copy_row(k):
            numbers = builder.load(_at(builder, row_of(source, k, apart), 0, column), align=tile.align)
            place = _at(builder, row_of(target, k, INT64(tile.rows * size)), 0, column)
            builder.store(numbers, place, align=tile.align)

        def multiply_row(k):
            row, numbers = row_of(right, k, wide), row_of(target, k, INT64(tile.rows * size))
            vectors = [
                builder.load(_at(builder, row, v * tile.lanes * size, tile.vector), align=tile.align)
                for v in range(tile.vectors)
            ]
            for r in range(tile.rows):
                factor = splat(builder, builder.load(_at(builder, numbers, r * size, tile.scalar)), tile.lanes)
                for v, vector in enumerate(vectors):
                    register = registers[r * tile.vectors + v]
                    product = builder.fmul(factor, vector, flags=("contract",))
                    builder.store(builder.fadd(product, builder.load(register), flags=("contract",)), register)

        def later(k, rows):
            return builder.add(k, INT64(rows))

        ahead = builder.select(builder.icmp_signed("<", depth, INT64(AHEAD)), depth, INT64(AHEAD))
        turns = builder.sdiv(builder.sub(depth, ahead), INT64(UNROLLED))
        copied = builder.mul(turns, INT64(UNROLLED))
        with cgutils.for_range(builder, ahead) as k:
            copy_row(k.index)
        with cgutils.for_range(builder, turns) as rows:
            start = builder.mul(rows.index, INT64(UNROLLED))
            for k in range(UNROLLED):  # first of all: else LLVM moves factors before the next copy, and they spill
                copy_row(builder.add(later(start, k), ahead))
                _fetch(builder, row_of(source, later(start, k + SOON), apart), 3)
            for k in range(UNROLLED):
                multiply_row(later(start, k))
        with cgutils.for_range(builder, depth, start=builder.add(copied, ahead)) as k:
            copy_row(k.index)
        with cgutils.for_range(builder, depth, start=copied) as k:
            multiply_row(k.index)
        return pack(builder, [builder.load(register) for register in registers])

    return tile(tile, weights, *[types.intp] * 2, memory, *[types.intp] * 3), emit
