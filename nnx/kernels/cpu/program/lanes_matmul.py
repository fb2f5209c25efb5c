"""Matrix products of narrow layers, feature by feature: [features, stride], samples in the vector lanes.

Floor: 2 k n FLOP per sample. If the samples were rows, a layer of three neurons would leave most of a tile empty. Here
the samples fill the vectors, whatever the widths, and nothing is packed: a tile reads its samples where they are.
Samples past the batch's end, up to `stride`, hold finite numbers and have gradient 0, so sums may include them and need
no code for a remainder.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnx.kernels.cpu.caches import caches
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import PART, larger, smaller
from nnx.kernels.cpu.jit.span import data_of, size_of
from nnx.kernels.cpu.matmul.register_tile import (
    INT64,
    Tile,
    Window,
    accumulate,
    lanes_of,
    load,
    new_tile,
    pack,
    splat,
    store,
    unpack,
    vector_bytes,
    where_positive,
)

BYTES = vector_bytes()
# Tiles of 4 x 2 vectors: eight sums hide the latency of a multiply-add, and narrow layers leave few rows unused.
OUTPUTS, VECTORS = 4, 2
WIDE = VECTORS * BYTES  # bytes of a tile's row
# Tiles for sums over samples: features of one matrix by features of the other. The second is for a first matrix with
# few features.
SUMS, SUMS_OF_FEW = (4, 3), (2, 4)
NEAR = min(4096, caches().l1 // 8)  # numbers that fill half of the first-level cache; larger is no faster
SAMPLES = 32  # strides and blocks are multiples of this, which is a multiple of every tile's row


@intrinsic
def output_tile(typing, array, start):
    """A tile with `array[start + r]` in all of row r; rows past the array's end repeat its last number."""
    tile = Tile(array.dtype, OUTPUTS, VECTORS, lanes_of(array.dtype))

    def emit(context, builder, signature, args):
        source = context, builder, signature.args[0], args[0]
        data, last = data_of(*source), builder.sub(size_of(*source), INT64(1))
        vectors = []
        for row in range(tile.rows):
            place = builder.add(args[1], INT64(row))
            place = builder.select(builder.icmp_signed("<", place, last), place, last)
            value = builder.load(builder.gep(data, [place]))
            vectors += [splat(builder, value, tile.lanes)] * tile.vectors
        return pack(builder, vectors)

    return tile(array, types.intp), emit


@intrinsic
def add_products(typing, tile, x, i, d, j, s):
    """Add x[i + r, s : s + lanes] * d[j + c, s : s + lanes] to the tile's vector (r, c); rows past the end repeat."""

    def emit(context, builder, signature, args):
        value, x_value, i, d_value, j, s = args
        left, right = Window(context, builder, tile, x, x_value, i, s), Window(context, builder, tile, d, d_value, j, s)
        a = [builder.load(left.pointer(r, 0, tile.vector), align=tile.align) for r in range(tile.rows)]
        b = [builder.load(right.pointer(c, 0, tile.vector), align=tile.align) for c in range(tile.vectors)]
        fused = {"flags": ("contract",)}
        sums = [
            builder.fadd(builder.fmul(a[n // tile.vectors], b[n % tile.vectors], **fused), term, **fused)
            for n, term in enumerate(unpack(builder, value))
        ]
        return pack(builder, sums)

    return tile(tile, x, types.intp, d, types.intp, types.intp), emit


@intrinsic
def store_sums(typing, tile, out, i, j):
    """Write the sum of each vector's lanes to out[i + r, j + c]; past the end it is the last row or column again."""

    def emit(context, builder, signature, args):
        value, out_value, i, j = args
        array = context.make_array(out)(context, builder, out_value)
        data = builder.bitcast(array.data, ir.IntType(8).as_pointer())
        shape, strides = (cgutils.unpack_tuple(builder, both) for both in (array.shape, array.strides))
        name = f"llvm.vector.reduce.fadd.v{tile.lanes}f{tile.dtype.bitwidth}"
        kind = ir.FunctionType(tile.scalar, [tile.scalar, tile.vector])
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        for n, vector in enumerate(unpack(builder, value)):
            offset = INT64(0)
            for start, step, size, stride in zip((i, j), divmod(n, tile.vectors), shape, strides, strict=True):
                place, last = builder.add(start, INT64(step)), builder.sub(size, INT64(1))
                place = builder.select(builder.icmp_signed("<", place, last), place, last)
                offset = builder.add(offset, builder.mul(place, stride))
            total = builder.call(reduce, [ir.Constant(tile.scalar, -0.0), vector], fastmath=["reassoc"])
            builder.store(total, builder.bitcast(builder.gep(data, [offset]), tile.scalar.as_pointer()))
        return context.get_dummy_value()

    return types.void(tile, out, types.intp, types.intp), emit


@njit(**PART)
def lanes_product(w, x, y, bias, active, relu):
    """y = w @ x, plus `bias` [n], through ReLU, zero where `active` is not positive; empty means none.

    Args:
        w: [n, k] of any strides: the weights transposed forward, as they are backward. x: [k, samples].
        y, active: [n, samples]; samples are a multiple of SAMPLES.
    """
    n, k = w.shape
    width, step = WIDE // x.itemsize, x.strides[0] // x.itemsize
    # The samples of one pass are so few that their inputs stay in the first-level cache while all outputs are computed.
    block = larger(width, NEAR // larger(k, 1) // width * width)
    for first in range(0, x.shape[1], block):
        last = smaller(first + block, x.shape[1])
        for j in range(0, n, OUTPUTS):
            start = output_tile(bias, j) if bias.size else new_tile(bias, OUTPUTS, VECTORS)
            for s in range(first, last, width):
                tile = accumulate(start, w, j, w, 0, False, x, s, step, k, x, 0, 0)
                if relu:
                    tile = where_positive(tile, tile)
                if active.size:
                    tile = where_positive(tile, load(tile, active, j, s))
                store(tile, y, j, s)


def make_gradient(left: int, right: int) -> Any:
    """Return the function that makes the sums in tiles of these numbers of features of x and d."""

    @njit(**PART)
    def by_tiles(x, d, out):
        (k, samples), n = x.shape, d.shape[0]
        width = BYTES // x.itemsize
        empty = new_tile(x, left, right)
        for i in range(0, k, left):
            for j in range(0, n, right):
                tile = empty
                for s in range(0, samples, width):
                    tile = add_products(tile, x, i, d, j, s)
                store_sums(tile, out, i, j)

    return by_tiles


gradient, gradient_of_few = make_gradient(*SUMS), make_gradient(*SUMS_OF_FEW)


@njit(**PART)
def lanes_weight_gradient(x, d, out):
    """out [k, n] = x @ d.T: sums over the samples of x [k, samples] and d [n, samples]."""
    if len(x) < SUMS[0]:
        gradient_of_few(x, d, out)
    else:
        gradient(x, d, out)
