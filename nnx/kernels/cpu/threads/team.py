# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Thread team: threads that take parts of a kernel's work without leaving compiled code.

A thread that comes back to Python needs the interpreter's lock, and if another holds it just then, sleeps: waking up
takes 20 to 50 us on a virtual machine. For an operation of 100 us on two threads that is what decides: softmax backward
at 1024 x 1000 takes 169 us where Python hands two threads their parts, and 105 here (medians; 205 on one thread).

A kernel calls what `make_together` makes. Helpers in `serve`, where pool.py sends them, draw parts from one ticket, an
atomic int64 that holds (operation's number, first part left, the one after the last). The leader draws too, from the
other end, so that two threads have the same halves of an array each time, in the caches of their cores: relu of
64x512 on two threads takes 4.8 us, and 7.7 where any thread takes any part. The leader waits for parts that were drawn,
never for a helper that is late. One operation at a time has the team; another does its work alone.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import ONCE, OPTIONS, PART, larger, numbers_at, smaller
from nnx.kernels.cpu.threads.atomics import (
    PATIENCE,
    atomic_load,
    atomic_store,
    finish_one,
    pause,
    replace_if,
    yield_core,
)

# The board, int64, by which they know of each other; what several threads write stands on cache lines of its own.
TICKET, DONE, LEADER, HELPERS, WORK, OPERANDS, WANTED, BOARD = 0, 16, 32, 48, 49, 50, 51, 64
LINE = 64  # numbers and more of a cache line, of which no two threads write parts
PART_BITS = 20  # of each of the two parts in a ticket
LAST_PART = (1 << PART_BITS) - 1
BYTES = ir.IntType(8).as_pointer()
INDEX = ir.IntType(64)
SIGNATURE = ir.FunctionType(ir.VoidType(), [BYTES, INDEX])  # of what WORK points to: (operands, number of the part)


@intrinsic
def place_of(typing, operands):
    """The address of a copy of `operands`, which is gone when the calling function ends."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(cgutils.alloca_once_value(builder, args[0]), INDEX)

    return types.int64(operands), codegen


@intrinsic
def do_part(typing, work, operands, number):
    """Call the code at address `work`."""

    def codegen(context, builder, signature, args):
        code = builder.inttoptr(args[0], SIGNATURE.as_pointer())
        builder.call(code, [builder.inttoptr(args[1], BYTES), args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@njit(**PART)
def draw(board, from_end):
    """Take the first or the last part left of the operation at hand; return its number, or -1 if there is none."""
    while True:
        ticket = atomic_load(board, TICKET)
        first, end = (ticket >> PART_BITS) & LAST_PART, ticket & LAST_PART
        if first >= end:
            return -1
        if replace_if(board, TICKET, ticket, ticket - 1 if from_end else ticket + (1 << PART_BITS)):
            return end - 1 if from_end else first


@njit(**PART)
def do_parts(board, from_end):
    """Do parts of the operation at hand until none is left; return how many."""
    done = 0
    while True:
        number = draw(board, from_end)
        if number < 0:
            return done
        do_part(board[WORK], board[OPERANDS], number)
        finish_one(board, DONE)
        done += 1


@njit(**ONCE)
def share_out(place, work, operands, parts):
    """Have the code at address `work` called for each part, with whoever is there to help.

    Args:
        place: where the board lies. operands: where those of the code lie.
    """
    board = numbers_at(place, np.int64)
    if parts < 2 or parts > LAST_PART or not replace_if(board, LEADER, 0, 1):
        for number in range(parts):
            do_part(work, operands, number)
        return
    board[WORK], board[OPERANDS] = work, operands
    atomic_store(board, DONE, 0)
    operation = (atomic_load(board, TICKET) >> 2 * PART_BITS) + 1
    atomic_store(board, TICKET, operation << 2 * PART_BITS | parts)
    do_parts(board, False)
    looks = 0
    while atomic_load(board, DONE) < parts:
        looks += 1
        pause()
        if looks > PATIENCE:  # the one that has the last part may need this core
            yield_core()
    atomic_store(board, LEADER, 0)


def make_together(function):
    """What a kernel calls to have `function(operands, number)` called for each number below `parts`.

    Made for one function, since a kernel that gets it as a value could not be kept on disk.
    """

    @intrinsic
    def address_of(typing, operands):
        """The address of code for `do_part` that loads `operands` and calls the function."""
        given = operands, types.int64

        def codegen(context, builder, signature, args):
            function.compile(given)
            compiled = function.overloads[given]
            context.add_linking_libs([compiled.library])
            code = ir.Function(builder.module, SIGNATURE, builder.module.get_unique_name("part_of_work"))
            code.linkage = "internal"
            within = ir.IRBuilder(code.append_basic_block())
            values = within.load(within.bitcast(code.args[0], context.get_value_type(operands).as_pointer()))
            target = context.declare_function(builder.module, compiled.fndesc)
            context.call_conv.call_function(within, target, types.none, given, [values, code.args[1]])
            within.ret_void()
            return builder.ptrtoint(code, INDEX)

        return types.int64(operands), codegen

    @njit(**ONCE)
    def together(board, operands, parts):
        """Do all parts, with whoever is there to help. `board`: where it lies, or anything for a single part."""
        share_out(board, address_of(operands), place_of(operands), parts)

    return together


@njit(**PART)
def divided(size, parts, grain):
    """How many of `size` each of so many parts has, a multiple of `grain`, and how many parts that makes."""
    each = larger(1, (size + parts * grain - 1) // (parts * grain)) * grain
    return each, (size + each - 1) // each


@njit(**PART)
def share_at(number, step, size):
    """Where a share of `step` among `size` begins, and how many it has: the last one has what is left."""
    first = number * step
    return first, smaller(step, size - first)


@njit(**OPTIONS)
def serve(board, helper, over, word, seen, looks):
    """Help with what comes; return when `word[0]` is not `seen` any more, or when none has come for a while.

    Args:
        helper: 1, 2 ...; the board says how many may help. looks: how often to look.
        over: becomes 1 first. Who waits for that wants the interpreter's lock next, and here it is free.
    """
    atomic_store(over, 0, 1)
    left = looks
    while left > 0 and atomic_load(word, 0) == seen:
        left -= 1
        pause()
        if helper <= board[HELPERS] and do_parts(board, True) > 0:
            left = looks
