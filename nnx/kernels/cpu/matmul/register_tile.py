# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Register tile: a block of a matrix in vector registers, as one Numba value, and the operations a product needs.

Each operation emits the LLVM instructions it stands for; loops, packing and epilogue are plain Numba (gemm.py). Tiles
clip at the edges of an array: columns past the right edge read as zero and are not written; rows past the bottom repeat
the last row, so writing them changes nothing. Sizes thus need no special cases, and a bias of one row is added to every
row.

Addresses are always offsets from an array's own pointer, never integers: for those, code generation may invent a base
pointer; Numba links the code so rewritten into callers, optimises again, and LLVM drops accesses whose base became 0.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import contextmanager
from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

from nnx.kernels.cpu.jit.span import data_of, make_matrix

INT64, INT32, BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(8)


def vector_bytes() -> int:
    """The width of the vector registers of the CPU that Numba compiles for."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return 64 if "+avx512f" in features else 32 if "+avx2" in features else 16


WIDTH = vector_bytes()
# Rows and vectors of a product's tile: as large as 32 vector registers (AVX-512, Arm) or 16 (other x86) hold.
ROWS, VECTORS = (8, 2) if WIDTH == 64 or platform.machine() in ("aarch64", "arm64") else (6, 2)
UNROLLED = 4  # rows of a panel in one turn of a product's inner loop: deep panels take 8% longer one by one
FETCHING = 2  # every so many rows of a panel something is fetched; a line's neighbour often comes along
EVEN = ROWS & (ROWS - 1) == 0  # whether whole vectors make a column of a strip


# ---- the type --------------------------------------------------------------------------------------------------------


class Tile(types.Type):
    """`rows` times `vectors` registers of `lanes` numbers each: an LLVM array of vectors, row by row."""

    def __init__(self, dtype: Any, rows: int, vectors: int, lanes: int) -> None:
        super().__init__(name=f"Tile({dtype}, {rows}x{vectors}x{lanes})")
        self.dtype, self.rows, self.vectors, self.lanes = dtype, rows, vectors, lanes
        self.scalar = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, lanes)
        self.zero = ir.Constant(self.vector, None)
        self.align = dtype.bitwidth // 8
        self.places = [(row, v * lanes) for row in range(rows) for v in range(vectors)]  # of each vector


@register_model(Tile)
class TileModel(models.PrimitiveModel):
    """How LLVM holds it."""

    def __init__(self, manager: Any, tile: Tile) -> None:
        super().__init__(manager, tile, ir.ArrayType(tile.vector, len(tile.places)))


def unpack(builder: Any, value: Any) -> list[Any]:
    """The vectors of a tile value."""
    return [builder.extract_value(value, n) for n in range(value.type.count)]


def pack(builder: Any, vectors: list[Any]) -> Any:
    """A tile value of these vectors."""
    empty = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
    return reduce(lambda value, n: builder.insert_value(value, vectors[n], n), range(len(vectors)), empty)


def splat(builder: Any, scalar: Any, lanes: int) -> Any:
    """A vector with `scalar` in every lane."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))


class Window:
    """The part of a two-dimensional array from row `i`, column `j` on, as far as a tile covers it."""

    def __init__(self, context: Any, builder: Any, tile: Tile, array_type: Any, array: Any, i: Any, j: Any) -> None:
        array = context.make_array(array_type)(context, builder, array)
        self.builder, self.tile, self.i, self.j = builder, tile, i, j
        self.data = builder.bitcast(array.data, BYTE.as_pointer())
        self.rows, self.columns = cgutils.unpack_tuple(builder, array.shape)
        self.strides = cgutils.unpack_tuple(builder, array.strides)

    def pointer(self, row: Any, column: int, element: Any) -> Any:
        """Pointer to an `element` (scalar or vector) in this row, or the array's last, and column of the window."""
        builder, last = self.builder, self.builder.sub(self.rows, INT64(1))
        row, place = builder.add(self.i, INT64(row)), builder.add(self.j, INT64(column))
        row = builder.select(builder.icmp_signed("<", row, last), row, last)
        offset = builder.add(builder.mul(row, self.strides[0]), builder.mul(place, self.strides[1]))
        return builder.bitcast(builder.gep(self.data, [offset]), element.as_pointer())

    def whole_or_clipped(self) -> Any:
        """Two branches to fill: the tile's columns all lie in the array, or some do not."""
        right = self.builder.add(self.j, INT64(self.tile.vectors * self.tile.lanes))
        return self.builder.if_else(self.builder.icmp_signed("<=", right, self.columns))

    def masked(self, kind: str, place: tuple[int, int], *vector: Any) -> Any:
        """LLVM's masked ``load`` (zero elsewhere) or ``store`` of the lanes of one vector that lie in the array."""
        tile, builder, lanes = self.tile, self.builder, self.tile.lanes
        left = splat(builder, builder.sub(self.columns, builder.add(self.j, INT64(place[1]))), lanes)
        mask = builder.icmp_signed("<", ir.Constant(ir.VectorType(INT64, lanes), list(range(lanes))), left)
        arguments = [*vector, self.pointer(*place, tile.vector), INT32(tile.align), mask]
        if kind == "load":
            arguments.append(tile.zero)
        returns = tile.vector if kind == "load" else ir.VoidType()
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(returns, [x.type for x in arguments]),
            f"llvm.masked.{kind}.v{lanes}f{tile.dtype.bitwidth}.p0",
        )
        return builder.call(function, arguments)


# ---- operations ------------------------------------------------------------------------------------------------------
@intrinsic(prefer_literal=True)
def new_tile(typingctx, array, rows, vectors):
    """A tile of zeros with the number type of `array`; the other arguments are constants."""
    tile = Tile(array.dtype, rows.literal_value, vectors.literal_value, lanes_of(array.dtype))
    return tile(array, rows, vectors), _zeros(tile)


@intrinsic
def width_of(typingctx, tile):
    """How many columns a tile has, a constant."""
    return types.intp(tile), lambda context, builder, signature, arguments: INT64(tile.vectors * tile.lanes)


@intrinsic
def square_tile(typingctx, array):
    """A tile of zeros with as many rows as a vector has lanes."""
    tile = Tile(array.dtype, lanes_of(array.dtype), 1, lanes_of(array.dtype))
    return tile(array), _zeros(tile)


@intrinsic(prefer_literal=True)
def column_tile(typingctx, array, columns):
    """A tile of zeros for so many columns of a strip, each in vectors that are no longer than it if that comes out."""
    lanes = lanes_of(array.dtype)
    tile = Tile(array.dtype, columns.literal_value, 1, min(lanes, ROWS) if EVEN else lanes)
    return tile(array, columns), _zeros(tile)


def lanes_of(dtype: Any) -> int:
    """How many numbers of this type (Numba's) a vector register holds."""
    return WIDTH * 8 // dtype.bitwidth


def _zeros(tile: Tile) -> Callable[..., Any]:
    return lambda context, builder, signature, arguments: ir.Constant(context.get_value_type(tile), None)


@intrinsic
def accumulate(typingctx, tile, a, i, strips, strip, packed, panels, panel, step, depth, ahead, soon, share):
    """``tile + a[i : i + rows, :depth] @ panel``: the inner loop of every product.

    The panel begins at `panels[panel]`; its next row stands `step` numbers further on. If `packed`, the rows of `a` are
    read from the strip that begins at `strips[strip]`, where column follows column: one stream of numbers instead of
    one for each row. Meanwhile what is wanted next is fetched from `ahead[soon]` on, `share` bytes further on for each
    row of the panel, of which every FETCHING-th does so.

    Intel's cores do sums of addresses where they multiply vectors, in turn with that. So from strips the loop moves
    three pointers on each UNROLLED rows, and reads at distances from them that are constant if `step` is: 217 GFLOP/s
    on panels of the second-level cache in place of 211.
    """

    def emit(context, builder, signature, arguments):
        value, a_value, i, strips_value, strip, packed, panels_value, panel, step, depth, *later = arguments
        ahead_value, soon, share = later
        size = tile.dtype.bitwidth // 8
        apart = builder.mul(step, INT64(size))
        left = Window(context, builder, tile, a, a_value, i, INT64(0))
        right = _start(context, builder, panels, panels_value, panel)
        registers = [cgutils.alloca_once(builder, tile.vector) for _ in tile.places]
        for register, vector in zip(registers, unpack(builder, value), strict=True):
            builder.store(vector, register)

        def multiply_row(row, column):
            vectors = [
                builder.load(_at(builder, row, v * tile.lanes * size, tile.vector), align=tile.align)
                for v in range(tile.vectors)
            ]
            for r, number in enumerate(column):
                factor = splat(builder, builder.load(number), tile.lanes)
                for v, vector in enumerate(vectors):
                    register = registers[r * tile.vectors + v]  # "contract": fuse where the CPU can
                    product = builder.fmul(factor, vector, flags=("contract",))
                    builder.store(builder.fadd(product, builder.load(register), flags=("contract",)), register)

        def multiply_packed(begins, steps, turns, together):
            shares = [builder.mul(share, INT64(k)) for k in range(0, together, FETCHING)]
            far = [builder.mul(each, INT64(together)) for each in steps]
            with _turns(builder, turns, begins, far) as (column, row, line):
                for k in range(together):
                    if k % FETCHING == 0:
                        _fetch(builder, builder.gep(line, [shares[k // FETCHING]]))
                    first = k * tile.rows * size
                    numbers = [_at(builder, column, first + r * size, tile.scalar) for r in range(tile.rows)]
                    multiply_row(builder.gep(row, [builder.mul(apart, INT64(k))]), numbers)

        with builder.if_else(packed) as (from_strip, from_rows):
            with from_strip:
                strip = _start(context, builder, strips, strips_value, strip)
                wanted = _start(context, builder, ahead, ahead_value, soon)
                begins = strip, right, wanted
                steps = INT64(tile.rows * size), apart, share
                turns = builder.sdiv(depth, INT64(UNROLLED))
                whole = builder.mul(turns, INT64(UNROLLED))
                multiply_packed(begins, steps, turns, UNROLLED)
                ends = [builder.gep(begin, [builder.mul(whole, s)]) for begin, s in zip(begins, steps, strict=True)]
                multiply_packed(ends, steps, builder.sub(depth, whole), 1)
            with from_rows:
                starts = [left.pointer(r, 0, BYTE) for r in range(tile.rows)]
                with cgutils.for_range(builder, depth) as k:
                    along = builder.mul(k.index, left.strides[1])
                    numbers = [builder.bitcast(builder.gep(s, [along]), tile.scalar.as_pointer()) for s in starts]
                    multiply_row(builder.gep(right, [builder.mul(k.index, apart)]), numbers)
        return pack(builder, [builder.load(register) for register in registers])

    return tile(tile, a, i, strips, strip, packed, panels, panel, step, depth, ahead, soon, share), emit


@contextmanager
def _turns(builder, count, pointers, steps):
    """A loop of so many turns, after each of which every pointer moves on by its step, in bytes: yields them."""
    before, again, after = builder.block, builder.append_basic_block("turn"), builder.append_basic_block("turned")
    builder.cbranch(builder.icmp_signed(">", count, INT64(0)), again, after)
    builder.position_at_end(again)
    left, *places = (builder.phi(value.type) for value in (count, *pointers))
    yield places
    rest = builder.sub(left, INT64(1))
    moved = [builder.gep(place, [step]) for place, step in zip(places, steps, strict=True)]
    for phi, first, later in zip((left, *places), (count, *pointers), (rest, *moved), strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, builder.block)
    builder.cbranch(builder.icmp_signed(">", rest, INT64(0)), again, after)
    builder.position_at_end(after)


def _start(context, builder, array_type, array, index):
    """Pointer to the bytes of a span or a flat array from one element on."""
    data = data_of(context, builder, array_type, array)
    return builder.bitcast(builder.gep(data, [index]), BYTE.as_pointer())


def _fetch(builder, pointer, near=2):
    """Have the cache line at `pointer` brought to the second-level cache, or, 3, to the first.

    No harm is done where there is no memory.
    """
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, INT32, INT32, INT32])
    read, nearby, data = INT32(0), INT32(near), INT32(1)
    builder.call(
        cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [pointer, read, nearby, data]
    )


def _at(builder, pointer, offset, element):
    return builder.bitcast(builder.gep(pointer, [INT64(offset)]), element.as_pointer())


@intrinsic
def rows_of(typingctx, flat, start, rows, columns, step):
    """A matrix in a flat array, without an owner: each row begins `step` numbers after the one before."""

    def emit(context, builder, signature, arguments):
        flat_value, start, rows, columns, step = arguments
        data = builder.gep(data_of(context, builder, flat, flat_value), [start])
        return make_matrix(context, builder, matrix, data, [rows, columns], [step, INT64(1)])

    matrix = types.Array(flat.dtype, 2, "A")
    return matrix(flat, *[types.intp] * 4), emit


@intrinsic
def load(typingctx, tile, array, i, j):
    """The tile of `array` (contiguous along its rows) at row `i`, column `j`; `tile` only tells the shape."""

    def emit(context, builder, signature, arguments):
        window = Window(context, builder, tile, array, *arguments[1:])
        result = cgutils.alloca_once(builder, context.get_value_type(tile))
        with window.whole_or_clipped() as (whole, clipped):
            with whole:
                builder.store(
                    pack(
                        builder,
                        [builder.load(window.pointer(*place, tile.vector), align=tile.align) for place in tile.places],
                    ),
                    result,
                )
            with clipped:
                builder.store(pack(builder, [window.masked("load", place) for place in tile.places]), result)
        return builder.load(result)

    return tile(tile, array, i, j), emit


@intrinsic
def fetch(typingctx, tile, array, i, j):
    """Have the tile of `array` at row `i`, column `j`, brought near: there is time until it is loaded."""

    def emit(context, builder, signature, arguments):
        window = Window(context, builder, tile, array, *arguments[1:])
        for place in tile.places:
            _fetch(builder, window.pointer(*place, BYTE))
        return context.get_dummy_value()

    return types.void(tile, array, i, j), emit


@intrinsic
def store(typingctx, tile, array, i, j):
    """Write `tile` to `array` (contiguous along its rows) at row `i`, column `j`."""

    def emit(context, builder, signature, arguments):
        window, vectors = Window(context, builder, tile, array, *arguments[1:]), unpack(builder, arguments[0])
        with window.whole_or_clipped() as (whole, clipped):
            with whole:
                for place, vector in zip(tile.places, vectors, strict=True):
                    builder.store(vector, window.pointer(*place, tile.vector), align=tile.align)
            with clipped:
                for place, vector in zip(tile.places, vectors, strict=True):
                    window.masked("store", place, vector)
        return context.get_dummy_value()

    return types.void(tile, array, i, j), emit


def elementwise(combine: Callable[..., Any]) -> Any:
    """The operation that applies ``combine(builder, vector, other_vector, zero)`` to two tiles, vector by vector."""

    @intrinsic
    def operation(typingctx, tile, other):
        def emit(context, builder, signature, arguments):
            pairs = zip(*(unpack(builder, value) for value in arguments), strict=True)
            return pack(builder, [combine(builder, x, y, tile.zero) for x, y in pairs])

        return tile(tile, other), emit

    return operation


add = elementwise(lambda builder, x, y, zero: builder.fadd(x, y))
where_positive = elementwise(  # x where y > 0 or NaN, else 0; where_positive(x, x) is ReLU, and lets NaN through
    lambda builder, x, y, zero: builder.select(builder.fcmp_unordered(">", y, zero), x, zero)
)


@intrinsic
def transpose(typingctx, tile):
    """Transpose a square tile: log2(lanes) rounds, each exchanging the off-diagonal blocks of half the size."""

    def emit(context, builder, signature, arguments):
        rows, lanes, half = unpack(builder, arguments[0]), tile.lanes, tile.lanes // 2
        while half:
            upper = [lanes + n - half if n & half else n for n in range(lanes)]
            lower = [lanes + n if n & half else n + half for n in range(lanes)]
            for n in (n for n in range(lanes) if not n & half):
                pair = rows[n], rows[n + half]
                rows[n], rows[n + half] = (
                    builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(INT32, lanes), order))
                    for order in (upper, lower)
                )
            half //= 2
        return pack(builder, rows)

    return tile(tile), emit


@intrinsic(prefer_literal=True)
def strip_of(typingctx, tile, number):
    """Of a tile whose vectors are columns of several strips, one after the other, the columns of one of them."""
    first = min(number.literal_value * ROWS, max(tile.lanes - ROWS, 0))  # a call that is never made must compile, too
    lanes = min(ROWS, tile.lanes)
    part = Tile(tile.dtype, tile.rows, tile.vectors, lanes)

    def emit(context, builder, signature, arguments):
        order = ir.Constant(ir.VectorType(INT32, lanes), list(range(first, first + lanes)))
        return pack(builder, [builder.shuffle_vector(v, v, order) for v in unpack(builder, arguments[0])])

    return part(tile, number), emit
