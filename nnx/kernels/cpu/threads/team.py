# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Thread team: threads that take parts of a kernel's work without leaving compiled code.

A thread that returns to Python needs the interpreter's lock; if another thread holds it, it sleeps, and waking up takes
20 to 50 us on a virtual machine. That matters for an operation of 100 us on two threads: softmax backward at 1024 x
1000 takes 169 us if Python gives two threads their parts, and 105 us here (medians; 205 us on one thread).

A kernel calls the function that `make_together` returns. Helpers, which pool.py has sent to `serve`, draw parts from
one ticket, an atomic int64 that holds (the operation's number, the first remaining part, the part after the last). The
leader, which is the calling thread, draws parts too, from the other end. So each of two threads always has the same
half of an array, in the caches of its core: relu of 64x512 on two threads takes 4.8 us, but 7.7 us if any thread takes
any part. The leader waits for parts that were drawn, never for a helper that is late. The team works on one operation
at a time; a kernel that is called meanwhile does its work alone.
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

# The board, int64, by which threads communicate; words that several threads write are on separate cache lines.
TICKET, DONE, LEADER, HELPERS, WORK, OPERANDS, WANTED, BOARD = 0, 16, 32, 48, 49, 50, 51, 64
LINE = 64  # numbers and more of a cache line, of which no two threads write parts
PART_BITS = 20  # bits for each of the two numbers of parts in a ticket
LAST_PART = (1 << PART_BITS) - 1
BYTES = ir.IntType(8).as_pointer()
INDEX = ir.IntType(64)
SIGNATURE = ir.FunctionType(ir.VoidType(), [BYTES, INDEX])  # of what WORK points to: (operands, number of the part)


@intrinsic
def place_of(typing, operands):
    """The address of a copy of `operands` on the stack, valid until the calling function ends."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(cgutils.alloca_once_value(builder, args[0]), INDEX)

    return types.int64(operands), codegen


@intrinsic
def do_part(typing, work, operands, number):
    """Call the code at address `work` for one part."""

    def codegen(context, builder, signature, args):
        code = builder.inttoptr(args[0], SIGNATURE.as_pointer())
        builder.call(code, [builder.inttoptr(args[1], BYTES), args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@njit(**PART)
def draw(board, from_end):
    """Take the first or the last remaining part of the current operation; return its number, or -1 if none is left."""
    while True:
        ticket = atomic_load(board, TICKET)
        first, end = (ticket >> PART_BITS) & LAST_PART, ticket & LAST_PART
        if first >= end:
            return -1
        if replace_if(board, TICKET, ticket, ticket - 1 if from_end else ticket + (1 << PART_BITS)):
            return end - 1 if from_end else first


@njit(**PART)
def do_parts(board, from_end):
    """Do parts of the current operation until none is left; return how many were done."""
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
    """Call the code at address `work` for each part, with the help of waiting threads.

    Args:
        place: the address of the board. operands: the address of the code's operands. parts: how many there are.
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
        if looks > PATIENCE:  # the thread with the last part may need this core
            yield_core()
    atomic_store(board, LEADER, 0)


def make_together(function):
    """Return a function for kernels that calls `function(operands, number)` for each number below `parts`.

    It is made for one function, since a kernel that got the function as a value could not be kept on disk.
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
        """Do all parts, with the help of waiting threads. `board`: its address, or anything for a single part."""
        share_out(board, address_of(operands), place_of(operands), parts)

    return together


@njit(**PART)
def divided(size, parts, grain):
    """The size of each part if `size` is divided into at most `parts`, a multiple of `grain`; and their number."""
    each = larger(1, (size + parts * grain - 1) // (parts * grain)) * grain
    return each, (size + each - 1) // each


@njit(**PART)
def share_at(number, step, size):
    """Where the share `number` begins if `size` is divided into shares of `step`, and its size; the last is smaller."""
    first = number * step
    return first, smaller(step, size - first)


@njit(**OPTIONS)
def serve(board, helper, over, word, seen, looks):
    """Help with operations; return when `word[0]` differs from `seen`, or when there has been no work for a while.

    Args:
        board: see above. helper: its number, 1, 2 ...; the board says how many may help. looks: the number of checks.
        over: is set to 1 first, here, since the thread that waits for it needs the interpreter's lock next, which is
            free now.
    """
    atomic_store(over, 0, 1)
    left = looks
    while left > 0 and atomic_load(word, 0) == seen:
        left -= 1
        pause()
        if helper <= board[HELPERS] and do_parts(board, True) > 0:
            left = looks
