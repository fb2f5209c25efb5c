"""Atomic integers that threads share in compiled code, and what a thread does while it waits for another."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import os

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.span import data_of

# What a thread does that has waited for a while: the other may need its core.
yield_core = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())
PATIENCE = 2000  # looks (some 10 us) before others may have the core


@intrinsic
def atomic_load(typing, array, index):
    """`array[index]` (int64), and with it everything written before what is there was stored."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_element(context, builder, signature, args), "acquire", 8)

    return types.int64(array, types.intp), codegen


@intrinsic
def atomic_store(typing, array, index, value):
    """Set `array[index]` (int64) after everything written before."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], _element(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), codegen


@intrinsic
def finish_one(typing, array, index):
    """Add 1 to `array[index]` (int64) after everything written before."""

    def codegen(context, builder, signature, args):
        builder.atomic_rmw("add", _element(context, builder, signature, args), ir.IntType(64)(1), "release")
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def replace_if(typing, array, index, old, new):
    """Set `array[index]` (int64) to `new` if it is still `old`; tell whether it was."""

    def codegen(context, builder, signature, args):
        place = _element(context, builder, signature, args)
        pair = builder.cmpxchg(place, args[2], args[3], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(array, types.intp, types.int64, types.int64), codegen


def _element(context, builder, signature, args):
    return builder.gep(data_of(context, builder, signature.args[0], args[0]), [args[1]])
