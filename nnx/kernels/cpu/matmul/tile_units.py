# mypy: ignore-errors
# (What is written here is LLVM's code, which has no types for Python.)
"""Units that multiply bfloat16, and what stands in for them elsewhere: what tile_registers.py is made of.

* **AMX**, Intel's from Sapphire Rapids on: TDPBF16PS multiplies 16x32 by 32x16 bfloat16, 16 times as many in a cycle
  as AVX-512 does float32. Sums are made of 16 fused products of the lower halves of words, of 16 of the upper ones,
  both are added up, and that to the sum so far.
* **AVX512_BF16**, from Zen 4 and Cooper Lake on: VDPBF16PS multiplies the pairs in 16 words, fuses the product of the
  upper halves to the sum so far, then that of the lower ones: each is rounded to float32 once, as in sgemm, one after
  the other. The tile registers that it works on lie in memory, in the first-level cache.

Either rounds to nearest even, whatever the processor's mode is, and takes what is below 2**-126 for zero, read or
written. A core of an Emerald Rapids begins a VDPBF16PS every other cycle, but two fused multiply-adds in each: that is
half as many products as in float32. Where it begins one of each in a cycle it is twice as many.

Both are done without the instructions as well, bit for bit, by plain code: slow, for tests.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target

from nnx.kernels.cpu.matmul.register_tile import splat

AMX, VECTORS = IN_PROCESSOR = "AMX", "AVX512_BF16"  # the better one first
IN_MEMORY = ", in plain code"  # what follows the name of a unit that is not there

EDGE = 32  # rows and columns of a block of sums, and numbers of depth that are multiplied at once
TILE = 1024  # bytes of a register: 16 rows of 64
MEMORY = 8 * TILE // 4  # float32 that registers in memory take
WORD, BYTE, INT64 = ir.IntType(32), ir.IntType(8), ir.IntType(64)
FLOATS, INTS, PLACE = ir.VectorType(ir.FloatType(), 16), ir.VectorType(WORD, 16), BYTE.as_pointer()
ACCUMULATORS, LEFT, RIGHT = (0, 1, 2, 3), (4, 5), (6, 7)
CONFIGURATION = bytearray([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8])  # palette, bytes a row, rows


# ---- permission ------------------------------------------------------------------------------------------------------


@cache
def why_not(unit: str) -> str:
    """Return why this process cannot use a unit of the processor; "" if it can. The system is asked once.

    Numba has its features from LLVM, which names only those whose registers the operating system keeps.
    """
    needed = {AMX: {"+amx-tile", "+amx-bf16"}, VECTORS: {"+avx512f", "+avx512bf16"}}[unit]
    if not needed <= set(cpu_target.target_context.codegen().magic_tuple()[2].split(",")):
        return f"this CPU has no {unit}, or Numba was told not to use it"
    if unit == VECTORS:
        return ""
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return "this operating system is not asked for AMX: nnx knows how on 64-bit Linux only"
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    if ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) != 0:
        return "the operating system does not let this process use AMX"
    return ""


def require(unit: str) -> None:
    """Refuse code for a unit of the processor that this process cannot use.

    Raises:
        RuntimeError: it cannot.
    """
    if not unit.endswith(IN_MEMORY) and why_not(unit):
        raise RuntimeError(why_not(unit))


def short(unit: str) -> str:
    """Return a unit's name for the names of kernels."""
    return unit.removesuffix(IN_MEMORY).lower()


# ---- AMX -------------------------------------------------------------------------------------------------------------


class Amx:
    """Emits what is done to tile registers: here, AMX's instructions. `memory` points to what others need."""

    def __init__(self, builder: Any, memory: Any) -> None:
        self.builder, self.memory = builder, memory

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

    def load(self, tile, start):
        """16 rows that follow one another."""
        self.emit("tileloadd64", tile, start, INT64(64))

    def store(self, tile, start, step):
        """Write 16 rows that begin `step` bytes apart."""
        self.emit("tilestored64", tile, start, INT64(step))

    def multiply(self, c, a, b):
        """Add the products of the words of `a` and `b` to `c`."""
        self.emit("tdpbf16ps", c, a, b)

    def accumulate(self, strip, panel, pairs):
        """Add the products of 32x32 numbers, of each pair of a part of the strip and one of the panel, to the sums."""
        held = {}

        def want(register, number, start):
            if held.get(register) != number:
                held[register] = number
                self.load(register, self.builder.gep(start, [INT64(TILE * number)]))

        for of_a, of_b in pairs:
            for i, left in enumerate(LEFT):
                want(left, 2 * of_a + i, strip)
                for j, right in enumerate(RIGHT):
                    want(right, 2 * of_b + j, panel)
                    self.multiply(2 * i + j, left, right)


class AmxInMemory(Amx):
    """The same by plain code."""

    def configure(self):
        """Nothing to do."""

    release = configure

    def at(self, start, offset, kind=FLOATS):
        """Pointer to what is `offset` bytes further on."""
        return self.builder.bitcast(self.builder.gep(start, [offset]), kind.as_pointer())

    def place(self, tile, row, kind=FLOATS, word=None):
        """Pointer to a row of a register, or to a word in it."""
        at = self.builder.mul(row, INT64(64))
        at = at if word is None else self.builder.add(at, self.builder.mul(word, INT64(4)))
        return self.at(self.builder.gep(self.memory, [INT64(TILE * tile)]), at, kind)

    def zero(self, tile):
        """See `Amx`."""
        with cgutils.for_range(self.builder, INT64(16)) as row:
            self.builder.store(FLOATS(None), self.place(tile, row.index), align=4)

    def load(self, tile, start):
        """See `Amx`."""
        with cgutils.for_range(self.builder, INT64(16)) as row:
            source = self.at(start, self.builder.mul(row.index, INT64(64)))
            self.builder.store(self.builder.load(source, align=4), self.place(tile, row.index), align=4)

    def store(self, tile, start, step):
        """See `Amx`."""
        with cgutils.for_range(self.builder, INT64(16)) as row:
            target = self.at(start, self.builder.mul(row.index, INT64(step)))
            self.builder.store(self.builder.load(self.place(tile, row.index), align=4), target, align=4)

    def multiply(self, c, a, b):
        """See `Amx`."""
        builder = self.builder
        with cgutils.for_range(builder, INT64(16)) as row:
            sums = [cgutils.alloca_once_value(builder, FLOATS(None)) for _ in "lu"]
            for total in sums:
                builder.store(FLOATS(None), total)
            with cgutils.for_range(builder, INT64(16)) as k:
                word = builder.load(self.place(a, row.index, WORD, k.index), align=4)
                pairs = splat(builder, word, 16), builder.load(self.place(b, k.index, INTS), align=4)
                for total, half in zip(sums, (lower, upper), strict=True):
                    builder.store(fused(builder, *[half(builder, x) for x in pairs], builder.load(total)), total)
            at = self.place(c, row.index)
            both = flushed(builder, builder.fadd(*[builder.load(total) for total in sums]))
            old = flushed(builder, builder.load(at, align=4))
            builder.store(flushed(builder, builder.fadd(old, both)), at, align=4)


# ---- AVX512_BF16 -----------------------------------------------------------------------------------------------------


class Vectors(AmxInMemory):
    """By VDPBF16PS, on registers in memory: 8 rows and 32 columns of the sums at a time are in vector registers."""

    HIGH, ACROSS = 8, 2

    def dot(self, sums, left, right):
        """Add the products of both pairs of bfloat16 in each word to the sums."""
        kind = ir.FunctionType(FLOATS, [FLOATS, INTS, INTS])
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [sums, left, right])

    def accumulate(self, strip, panel, pairs):
        """See `Amx`. All 32 rows of a part of the strip follow one another; of the sums only 16 do."""
        builder = self.builder
        with cgutils.for_range(builder, INT64(EDGE // self.HIGH)) as block:
            rows = builder.mul(block.index, INT64(self.HIGH * 64))
            beyond = builder.mul(builder.udiv(block.index, INT64(16 // self.HIGH)), INT64(TILE))  # other columns' sums
            here, left = builder.gep(self.memory, [builder.add(rows, beyond)]), builder.gep(strip, [rows])
            places = [self.at(here, INT64(r * 64 + v * TILE)) for r in range(self.HIGH) for v in range(self.ACROSS)]
            sums = [cgutils.alloca_once(builder, FLOATS) for _ in places]
            for total, place in zip(sums, places, strict=True):
                builder.store(builder.load(place, align=4), total)
            for pair in pairs:
                part = [builder.gep(start, [INT64(2 * TILE * n)]) for start, n in zip((left, panel), pair, strict=True)]
                self.add_block(sums, *part)
            for total, place in zip(sums, places, strict=True):
                builder.store(builder.load(total), place, align=4)

    def add_block(self, sums, left, right):
        """Add the products of two parts to the sums."""
        builder = self.builder
        with cgutils.for_range(builder, INT64(16)) as k:
            row, along = builder.mul(k.index, INT64(64)), builder.mul(k.index, INT64(4))
            vectors = [
                builder.load(self.at(right, builder.add(row, INT64(v * TILE)), INTS), align=4)
                for v in range(self.ACROSS)
            ]
            for r in range(self.HIGH):
                word = builder.load(self.at(left, builder.add(along, INT64(r * 64)), WORD), align=4)
                words = splat(builder, word, 16)
                for total, vector in zip(sums[r * self.ACROSS :], vectors, strict=False):
                    builder.store(self.dot(builder.load(total), words, vector), total)


class VectorsInMemory(Vectors):
    """The same by plain code."""

    def dot(self, sums, left, right):
        """See `Vectors`."""
        for half in (upper, lower):
            sums = fused(self.builder, half(self.builder, left), half(self.builder, right), flushed(self.builder, sums))
        return sums


# ---- plain code ------------------------------------------------------------------------------------------------------


def lower(builder, words):
    """The lower bfloat16 of each word, as float32."""
    return builder.bitcast(builder.shl(words, every(16)), FLOATS)


def upper(builder, words):
    """The upper ones."""
    return builder.bitcast(builder.and_(words, every(0xFFFF0000)), FLOATS)


def flushed(builder, x):
    """`x`, but zero, of its sign, where it is below 2**-126."""
    bits = builder.bitcast(x, INTS)
    small = builder.icmp_unsigned("==", builder.and_(bits, every(0x7F800000)), every(0))
    sign = builder.and_(bits, every(0x80000000))
    return builder.bitcast(builder.select(small, sign, bits), FLOATS)


def fused(builder, x, y, total):
    """``x * y + total``, rounded once; factors and result below 2**-126 are zero."""
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(FLOATS, [FLOATS] * 3), "llvm.fma.v16f32")
    return flushed(builder, builder.call(fma, [flushed(builder, x), flushed(builder, y), total]))


def every(number):
    """A vector of this number."""
    return INTS([number] * 16)


UNITS = {AMX: Amx, AMX + IN_MEMORY: AmxInMemory, VECTORS: Vectors, VECTORS + IN_MEMORY: VectorsInMemory}
