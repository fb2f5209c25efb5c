"""Atomic integers that threads share in compiled code, and how a thread waits for another."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import os
import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.span import data_of

# What a thread does after waiting for a while, since the other one may need its core.
yield_core = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())
PATIENCE = 500  # checks (2 to 40 us, depending on `pause`) before the core is offered to other threads
# The instruction that tells a processor that a thread waits: the other hardware thread of the core gets its resources,
# and the host of a virtual machine may use the core for others.
HINTS = {"x86_64": ("llvm.x86.sse2.pause", []), "amd64": ("llvm.x86.sse2.pause", []),
         "aarch64": ("llvm.aarch64.hint", [1]), "arm64": ("llvm.aarch64.hint", [1])}  # fmt: skip


@intrinsic
def pause(typing):
    """Wait for a moment, if the processor has an instruction for it."""

    def codegen(context, builder, signature, args):
        name, numbers = HINTS.get(platform.machine().lower(), ("", []))
        if name:
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)] * len(numbers))
            hint = cgutils.get_or_insert_function(builder.module, kind, name)
            builder.call(hint, [ir.IntType(32)(number) for number in numbers])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def atomic_load(typing, array, index):
    """`array[index]` (int64), with acquire semantics: everything written before its value was stored is visible."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_element(context, builder, signature, args), "acquire", 8)

    return types.int64(array, types.intp), codegen


@intrinsic
def atomic_store(typing, array, index, value):
    """Set `array[index]` (int64), with release semantics: after everything that was written before."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], _element(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), codegen


@intrinsic
def finish_one(typing, array, index):
    """Add 1 to `array[index]` (int64), with release semantics."""

    def codegen(context, builder, signature, args):
        builder.atomic_rmw("add", _element(context, builder, signature, args), ir.IntType(64)(1), "release")
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def replace_if(typing, array, index, old, new):
    """Set `array[index]` (int64) to `new` if it is still `old`; return whether it was."""

    def codegen(context, builder, signature, args):
        place = _element(context, builder, signature, args)
        pair = builder.cmpxchg(place, args[2], args[3], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(array, types.intp, types.int64, types.int64), codegen


def _element(context, builder, signature, args):
    return builder.gep(data_of(context, builder, signature.args[0], args[0]), [args[1]])
