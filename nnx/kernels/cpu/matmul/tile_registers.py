# mypy: ignore-errors
# (What @intrinsic takes has no types for Python.)
"""Tile registers of Intel's AMX: sums of products of bfloat16, 16 times as many in a cycle as of float32 with AVX-512.

A **tile register** holds 16 rows of 64 bytes: 16x16 sums in float32, or 16x16 **words**, each a pair of bfloat16. Four
registers hold 32x32 sums, two each a piece of either operand; `begin`, `accumulate` and `end` make a block of a result.

Without AMX the same code works on registers in memory, bit for bit as the processor does: slow (2 GFLOP/s), for tests.
What the functions below take for `tiles` tells which: a number stands for the processor's, a span of MEMORY numbers of
the thread's own is those in memory. **The first AMX instruction of a process that has not asked the operating system
ends it** (SIGILL): whoever hands out code that has them calls `require` first.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.span import data_of
from nnx.kernels.cpu.matmul.register_tile import splat

EDGE = 32  # rows and columns of a block of sums, and numbers of depth that one instruction takes
MEMORY = 8 * 256  # float32 that registers in memory take
PART = 512  # words that one part of 32x32 numbers takes: two tiles
PRODUCTS = {  # by parts: (part of `a`, part of `b`); from each to the next one of the two stays in its registers
    1: [(0, 0)],
    2: [(0, 1), (0, 0), (1, 0)],
    3: [(0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0)],
}

WORD, BYTE, INT64 = ir.IntType(32), ir.IntType(8), ir.IntType(64)
FLOATS, INTS = ir.VectorType(ir.FloatType(), 16), ir.VectorType(WORD, 16)
ACCUMULATORS, LEFT, RIGHT = (0, 1, 2, 3), (4, 5), (6, 7)
QUARTERS = [0, 64, 16 * EDGE * 4, 16 * EDGE * 4 + 64]  # where the accumulators stand in 32x32 numbers, in bytes
CONFIGURATION = bytearray([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8])  # palette, bytes a row, rows


# ---- permission ------------------------------------------------------------------------------------------------------


@cache
def why_not() -> str:
    """Return why this process cannot use the processor's tile registers; "" if it can. The system is asked once."""
    if not {"+amx-tile", "+amx-bf16"} <= set(cpu_target.target_context.codegen().magic_tuple()[2].split(",")):
        return "this CPU has no AMX, or Numba was told not to use it"
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return "this operating system is not asked for AMX: nnx knows how on 64-bit Linux only"
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    if ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) != 0:
        return "the operating system does not let this process use AMX"
    return ""


def require(hardware: bool) -> None:
    """Refuse code for the processor's registers where this process cannot use them.

    Raises:
        RuntimeError: it cannot.
    """
    if hardware and why_not():
        raise RuntimeError(why_not())


# ---- what is done to registers ---------------------------------------------------------------------------------------


class Registers:
    """Emits what is done to tile registers: here, the processor's instructions."""

    def __init__(self, context: Any, builder: Any, kind: Any, tiles: Any) -> None:
        self.builder = builder

    def emit(self, name, *arguments):
        """One instruction; Python's integers are registers."""
        arguments = [BYTE(x) if isinstance(x, int) else x for x in arguments]
        kind = ir.FunctionType(ir.VoidType(), [x.type for x in arguments])
        self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.x86.{name}"), arguments)

    def configure(self):
        """Make this thread's registers ready."""
        shape = ir.Constant(ir.ArrayType(BYTE, 64), CONFIGURATION)
        self.emit("ldtilecfg", self.builder.bitcast(cgutils.global_constant(self.builder, "tiles", shape), PLACE))

    def release(self):
        """Have done with them."""
        self.emit("tilerelease")

    def zero(self, tile):
        """Set all of a register to zero."""
        self.emit("tilezero", tile)

    def load(self, tile, start, step):
        """16 rows that begin `step` bytes apart."""
        self.emit("tileloadd64", tile, start, INT64(step))

    def store(self, tile, start, step):
        """Write them."""
        self.emit("tilestored64", tile, start, INT64(step))

    def multiply(self, c, a, b):
        """Add the products of the words of `a` and `b` to `c`."""
        self.emit("tdpbf16ps", c, a, b)


PLACE = BYTE.as_pointer()


class MemoryRegisters(Registers):
    """The same by plain code."""

    def __init__(self, context: Any, builder: Any, kind: Any, tiles: Any) -> None:
        self.builder, self.data = builder, builder.bitcast(data_of(context, builder, kind, tiles), PLACE)

    def configure(self):
        """Nothing to do."""

    release = configure

    def row(self, start, offset, kind):
        """Pointer to what is `offset` bytes further on."""
        return self.builder.bitcast(self.builder.gep(start, [offset]), kind.as_pointer())

    def place(self, tile, row, kind=FLOATS, word=None):
        """Pointer to a row of a register, or to a word in it."""
        at = self.builder.mul(row, INT64(64))
        at = at if word is None else self.builder.add(at, self.builder.mul(word, INT64(4)))
        return self.row(self.builder.gep(self.data, [INT64(1024 * tile)]), at, kind)

    def zero(self, tile):
        """See `Registers`."""
        with cgutils.for_range(self.builder, INT64(16)) as row:
            self.builder.store(FLOATS(None), self.place(tile, row.index), align=4)

    def load(self, tile, start, step):
        """See `Registers`."""
        with cgutils.for_range(self.builder, INT64(16)) as row:
            source = self.row(start, self.builder.mul(row.index, INT64(step)), FLOATS)
            self.builder.store(self.builder.load(source, align=4), self.place(tile, row.index), align=4)

    def store(self, tile, start, step):
        """See `Registers`."""
        with cgutils.for_range(self.builder, INT64(16)) as row:
            target = self.row(start, self.builder.mul(row.index, INT64(step)), FLOATS)
            self.builder.store(self.builder.load(self.place(tile, row.index), align=4), target, align=4)

    def multiply(self, c, a, b):
        """As TDPBF16PS: sums of 16 fused products each, of lower and of upper halves, added up, then added to `c`.

        What is below 2**-126 is zero, read or written.
        """
        builder = self.builder
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(FLOATS, [FLOATS] * 3), "llvm.fma.v16f32")
        with cgutils.for_range(builder, INT64(16)) as row:
            sums = [cgutils.alloca_once_value(builder, FLOATS(None)) for _ in "lu"]
            for total in sums:
                builder.store(FLOATS(None), total)
            with cgutils.for_range(builder, INT64(16)) as k:
                word = builder.load(self.place(a, row.index, WORD, k.index), align=4)
                pairs = splat(builder, word, 16), builder.load(self.place(b, k.index, INTS), align=4)
                for total, half in zip(sums, (self.lower, self.upper), strict=True):
                    factors = [self.flushed(half(x)) for x in pairs]
                    builder.store(self.flushed(builder.call(fma, [*factors, builder.load(total)])), total)
            at = self.place(c, row.index)
            both = self.flushed(builder.fadd(*[builder.load(total) for total in sums]))
            old = self.flushed(builder.load(at, align=4))
            builder.store(self.flushed(builder.fadd(old, both)), at, align=4)

    def lower(self, words):
        """The lower bfloat16 of each word, as float32."""
        return self.builder.bitcast(self.builder.shl(words, every(16)), FLOATS)

    def upper(self, words):
        """The upper ones."""
        return self.builder.bitcast(self.builder.and_(words, every(0xFFFF0000)), FLOATS)

    def flushed(self, x):
        """`x`, but zero, of its sign, where it is below 2**-126."""
        bits = self.builder.bitcast(x, INTS)
        small = self.builder.icmp_unsigned("==", self.builder.and_(bits, every(0x7F800000)), every(0))
        sign = self.builder.and_(bits, every(0x80000000))
        return self.builder.bitcast(self.builder.select(small, sign, bits), FLOATS)


def every(number):
    """A vector of this number."""
    return INTS([number] * 16)


def registers(context, builder, kind, tiles):
    """The registers that `tiles` stands for."""
    return (Registers if isinstance(kind, types.Integer) else MemoryRegisters)(context, builder, kind, tiles)


def bytes_at(context, builder, kind, value, number, offset=0):
    """Pointer to the bytes of a span or an array, `offset` after a number of it."""
    start = builder.bitcast(builder.gep(data_of(context, builder, kind, value), [number]), PLACE)
    return builder.gep(start, [INT64(offset)])


# ---- what kernels call -----------------------------------------------------------------------------------------------


@intrinsic
def configure(typingctx, tiles):
    """Make this thread's registers ready. It must `release` them: else each switch of threads saves 8 KB."""

    def emit(context, builder, signature, arguments):
        registers(context, builder, tiles, *arguments).configure()
        return context.get_dummy_value()

    return types.void(tiles), emit


@intrinsic
def release(typingctx, tiles):
    """Have done with them."""

    def emit(context, builder, signature, arguments):
        registers(context, builder, tiles, *arguments).release()
        return context.get_dummy_value()

    return types.void(tiles), emit


@intrinsic
def begin(typingctx, tiles):
    """Set the sums to zero."""

    def emit(context, builder, signature, arguments):
        tile = registers(context, builder, tiles, *arguments)
        for n in ACCUMULATORS:
            tile.zero(n)
        return context.get_dummy_value()

    return types.void(tiles), emit


@intrinsic
def end(typingctx, tiles, sums):
    """Write the 32x32 sums."""

    def emit(context, builder, signature, arguments):
        tile = registers(context, builder, tiles, arguments[0])
        for n in ACCUMULATORS:
            tile.store(n, bytes_at(context, builder, sums, arguments[1], INT64(0), QUARTERS[n]), EDGE * 4)
        return context.get_dummy_value()

    return types.void(tiles, sums), emit


@intrinsic(prefer_literal=True)
def accumulate(typingctx, tiles, strips, strip, panels, panel, parts):
    """Add the products of parts, a constant, for 32 numbers of depth: strip and panel go on at `strips[strip]`, ..."""
    pairs = PRODUCTS[parts.literal_value]

    def emit(context, builder, signature, arguments):
        tile, held = registers(context, builder, tiles, arguments[0]), {}

        def want(register, number, *operand):
            if held.get(register) != number:
                held[register] = number
                tile.load(register, bytes_at(context, builder, *operand, 1024 * number), 64)

        for of_a, of_b in pairs:
            for i, left in enumerate(LEFT):
                want(left, 2 * of_a + i, strips, *arguments[1:3])
                for j, right in enumerate(RIGHT):
                    want(right, 2 * of_b + j, panels, *arguments[3:5])
                    tile.multiply(2 * i + j, left, right)
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
