# mypy: ignore-errors
# (What @intrinsic takes has no types for Python.)
"""Tile registers: sums of products of bfloat16, by whichever unit of the processor multiplies it (tile_units.py).

A **tile register** holds 16 rows of 64 bytes: 16x16 sums in float32, or 16x16 **words**, each a pair of bfloat16. Four
registers hold 32x32 sums, two each a piece of either operand; `begin`, `accumulate` and `end` make a block of a result.

The registers are AMX's, or numbers of a thread's own in memory: the type of what the functions below take for `tiles`
names the unit. **The first AMX instruction of a process that has not asked the operating system ends it** (SIGILL), and
so does any that the processor lacks: whoever hands out code for a unit calls `require` first.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from nnx.kernels.cpu.jit.span import data_of
from nnx.kernels.cpu.matmul.tile_units import ACCUMULATORS, EDGE, INT64, PLACE, TILE, UNITS, WORD

PART = 2 * TILE // 4  # words that one part of 32x32 numbers takes: two tiles
PRODUCTS = {  # by parts: (part of `a`, part of `b`); from each to the next one of the two stays in its registers
    1: [(0, 0)],
    2: [(0, 1), (0, 0), (1, 0)],
    3: [(0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0)],
}
QUARTERS = [0, 64, 16 * EDGE * 4, 16 * EDGE * 4 + 64]  # where the accumulators stand in 32x32 numbers, in bytes


class Tiles(types.Type):
    """The tile registers of a unit: a pointer to those in memory."""

    def __init__(self, unit: str) -> None:
        super().__init__(name=f"Tiles({unit})")
        self.unit = unit


@register_model(Tiles)
class TilesModel(models.PrimitiveModel):
    """How LLVM holds them."""

    def __init__(self, manager: Any, tiles: Tiles) -> None:
        super().__init__(manager, tiles, PLACE)


def registers(builder, kind, tiles):
    """What writes the code of these registers' unit."""
    return UNITS[kind.unit](builder, tiles)


def bytes_at(context, builder, kind, value, number, offset=0):
    """Pointer to the bytes of a span or an array, `offset` after a number of it."""
    start = builder.bitcast(builder.gep(data_of(context, builder, kind, value), [number]), PLACE)
    return builder.gep(start, [INT64(offset)])


# ---- what kernels call -----------------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def tiles_of(typingctx, unit, scratch, at):
    """The tile registers of a unit, a constant; those in memory begin at `scratch[at]`."""

    def emit(context, builder, signature, arguments):
        return bytes_at(context, builder, scratch, *arguments[1:])

    return Tiles(unit.literal_value)(unit, scratch, types.intp), emit


@intrinsic
def configure(typingctx, tiles):
    """Make this thread's registers ready. It must `release` them: else each switch of threads saves 8 KB."""

    def emit(context, builder, signature, arguments):
        registers(builder, tiles, *arguments).configure()
        return context.get_dummy_value()

    return types.void(tiles), emit


@intrinsic
def release(typingctx, tiles):
    """Have done with them."""

    def emit(context, builder, signature, arguments):
        registers(builder, tiles, *arguments).release()
        return context.get_dummy_value()

    return types.void(tiles), emit


@intrinsic
def begin(typingctx, tiles):
    """Set the sums to zero."""

    def emit(context, builder, signature, arguments):
        tile = registers(builder, tiles, *arguments)
        for n in ACCUMULATORS:
            tile.zero(n)
        return context.get_dummy_value()

    return types.void(tiles), emit


@intrinsic
def end(typingctx, tiles, sums):
    """Write the 32x32 sums."""

    def emit(context, builder, signature, arguments):
        tile = registers(builder, tiles, arguments[0])
        for n in ACCUMULATORS:
            tile.store(n, bytes_at(context, builder, sums, arguments[1], INT64(0), QUARTERS[n]), EDGE * 4)
        return context.get_dummy_value()

    return types.void(tiles, sums), emit


@intrinsic(prefer_literal=True)
def accumulate(typingctx, tiles, strips, strip, panels, panel, parts):
    """Add the products of parts, a constant, for 32 numbers of depth: strip and panel go on at `strips[strip]`, ..."""
    pairs = PRODUCTS[parts.literal_value]

    def emit(context, builder, signature, arguments):
        tile, *places = arguments
        left, right = (
            bytes_at(context, builder, kind, *place) for kind, place in ((strips, places[:2]), (panels, places[2:4]))
        )
        registers(builder, tiles, tile).accumulate(left, right, pairs)
        return context.get_dummy_value()

    return types.void(tiles, strips, types.intp, panels, types.intp, parts), emit


@intrinsic
def fetch(typingctx, array, at, lines):
    """Have some cache lines, from number `at` of an array or a span on, brought nearby; there may be nothing there."""

    def emit(context, builder, signature, arguments):
        with cgutils.for_range(builder, arguments[2]) as line:
            start = bytes_at(context, builder, array, *arguments[:2])
            start = builder.gep(start, [builder.mul(line.index, INT64(64))])
            kind = ir.FunctionType(ir.VoidType(), [start.type, WORD, WORD, WORD])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(function, [start, WORD(0), WORD(2), WORD(1)])  # read, second-level cache, data
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), emit
