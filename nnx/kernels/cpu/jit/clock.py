# mypy: ignore-errors
# (What @intrinsic takes has no types for Python.)
"""The clock of a compiled step: how many cycles each of its phases takes, for `nnx bench --profile`.

A clock is an array int64 [ROOM] for each thread. `mark(clock, phase)` adds the time since the last mark to a phase. If
the clock is None, as in every step that is not profiled, `mark` compiles to nothing: the type of this argument makes
another variant of the function, which only a profile compiles.
"""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.span import Span, data_of, make_span

INT64 = ir.IntType(64)
# The phases of a product, relative to the first one of its kind: see `of_product`.
PACKING, PRODUCT, EPILOGUE = range(3)
FORWARD, BACKWARD, GRADIENTS = 0, 3, 6
PANELS, UPDATE, REPACKING, LOSS, SAMPLES, STEP, DISPATCH, WAITING, PHASES = range(9, 18)
LAST, WHOSE, ROOM = PHASES, PHASES + 1, 32  # the time of the last mark; the present product's kind; four cache lines
NAMES = {
    FORWARD + PACKING: "outputs: packing inputs",
    FORWARD + PRODUCT: "outputs: products",
    FORWARD + EPILOGUE: "outputs: bias, activation, storing",
    BACKWARD + PACKING: "input gradients: packing",
    BACKWARD + PRODUCT: "input gradients: products",
    BACKWARD + EPILOGUE: "input gradients: mask, storing",
    GRADIENTS + PACKING: "weight gradients: packing inputs",
    GRADIENTS + PRODUCT: "weight gradients: products",
    GRADIENTS + EPILOGUE: "weight gradients: storing",
    PANELS: "packing gradients, and few weights",
    UPDATE: "biases, regularization, optimizer",
    REPACKING: "packing new weights",
    LOSS: "loss",
    SAMPLES: "rows, functions, dropout",
    STEP: "beginning and end of a step",
    DISPATCH: "dispatch",
    WAITING: "waiting for the other threads",
}


def counts() -> bool:
    """Return whether this kind of processor lets any program read a counter of cycles."""
    return platform.machine().lower() in ("x86_64", "amd64", "i386", "i686", "x86")


def _off(kind):
    return isinstance(kind, types.NoneType | types.Omitted)


def _place(context, builder, kind, clock, index):
    return builder.gep(data_of(context, builder, kind, clock), [index])


def _now(builder):
    kind = ir.FunctionType(INT64, [])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), [])


@intrinsic
def started(typing, clocks, thread):
    """The running clock of a thread; None if the clocks are None."""
    kind = types.none if _off(clocks) else Span(types.int64)

    def codegen(context, builder, signature, args):
        if _off(clocks):
            return context.get_dummy_value()
        data = _place(context, builder, clocks, args[0], builder.mul(args[1], INT64(ROOM)))
        builder.store(_now(builder), builder.gep(data, [INT64(LAST)]))
        return make_span(context, builder, kind, data, INT64(ROOM))

    return kind(clocks, types.int64), codegen


@intrinsic
def of_product(typing, clock, whose):
    """Count the next product's phases as those of FORWARD, BACKWARD or GRADIENTS."""

    def codegen(context, builder, signature, args):
        if not _off(clock):
            builder.store(args[1], _place(context, builder, clock, args[0], INT64(WHOSE)))
        return context.get_dummy_value()

    return types.void(clock, types.int64), codegen


@intrinsic
def mark_product(typing, clock, phase):
    """Add the time since the last mark to PACKING, PRODUCT or EPILOGUE of the present product."""

    def codegen(context, builder, signature, args):
        if not _off(clock):
            whose = builder.load(_place(context, builder, clock, args[0], INT64(WHOSE)))
            _charge(context, builder, clock, args[0], builder.add(args[1], whose))
        return context.get_dummy_value()

    return types.void(clock, types.int64), codegen


@intrinsic
def mark(typing, clock, phase):
    """Add the time since the last mark to a phase."""

    def codegen(context, builder, signature, args):
        if not _off(clock):
            _charge(context, builder, clock, *args)
        return context.get_dummy_value()

    return types.void(clock, types.int64), codegen


def _charge(context, builder, kind, clock, phase):
    now, last = _now(builder), _place(context, builder, kind, clock, INT64(LAST))
    place = _place(context, builder, kind, clock, phase)
    builder.store(builder.add(builder.load(place), builder.sub(now, builder.load(last))), place)
    builder.store(now, last)
