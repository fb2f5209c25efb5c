"""Interpreter `run_rows`: replays a recorded training step whose samples lie row by row, many times in one call.

It interprets the table described in table.py, in 30 to 50 ns per operation. The functions that it calls by address are
in rows_called.py.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.called import call
from nnx.kernels.cpu.jit.clock import BACKWARD, FORWARD, GRADIENTS, REPACKING, mark, of_product
from nnx.kernels.cpu.jit.clock import UPDATE as UPDATING
from nnx.kernels.cpu.jit.simd import ONCE, larger, smaller
from nnx.kernels.cpu.matmul.gemm import multiply
from nnx.kernels.cpu.matmul.packing import panels_from_columns, panels_from_rows
from nnx.kernels.cpu.matmul.register_tile import VECTORS, WIDTH
from nnx.kernels.cpu.ops.cross_entropy import of_labels
from nnx.kernels.cpu.ops.step import gather_rows
from nnx.kernels.cpu.ops.sums import collect
from nnx.kernels.cpu.program.parameters import finish
from nnx.kernels.cpu.program.schedule import make_run
from nnx.kernels.cpu.program.shared import copy_labels, parameter_task
from nnx.kernels.cpu.program.table import (
    BIAS,
    CODE,
    COEF,
    CROSS_ENTROPY,
    DENSE,
    DENSE_DW,
    DENSE_DX,
    FINAL,
    GATHER,
    KIND,
    LABELS,
    OP,
    PANELS,
    PANELS_ACROSS,
    PARAMETERS,
    R0,
    R1,
    SCRATCH,
    SCRATCH_SIZE,
    STRIPS,
    STRIPS_SIZE,
    THREADS,
    UNKNOWN,
    UPDATE,
    WITH_RELU,
    B,
    D,
    G,
    K,
    N,
    W,
    X,
    Y,
    grid,
    part,
)
from nnx.kernels.rounding import RUN
from nnx.kernels.step_state import CURSOR


@njit(**ONCE)
def fill_panels(memory, place, k, n, r0, rows, panels, across):
    """Copy rows r0 .. r0 + rows of a matrix [k, n] to panels or, across, to columns of the panels of its transpose."""
    source = grid(memory, place + r0 * n, rows, n, n, 1)
    if across:
        panels_from_columns(source, part(memory, panels + r0 * n, 0), n)
    else:
        panels_from_rows(source, part(memory, panels, 0), k, r0)


@njit(inline="always")
def product(t, header, memory, hyper, numbers, r0, rows, thread, clock):
    """Y = X W + B, dX = D W', or rows R0 .. R1 of dW = X' D together with their update."""
    op, k, n, high = t[OP], t[K], t[N], t[R1] - t[R0]
    size, scratch = high * n, header[SCRATCH] + thread * header[SCRATCH_SIZE]
    strips = part(memory, header[STRIPS] + thread * header[STRIPS_SIZE], 0)
    # A gradient that only the optimizer reads stays in this thread's cache, and is written in the last step only.
    at = scratch if t[UPDATE] and numbers[FINAL] == 0.0 else t[G] + t[R0] * n
    of_product(clock, FORWARD if op == DENSE else BACKWARD if op == DENSE_DX else GRADIENTS)
    many = op == DENSE_DW and rows > RUN  # samples are summed in runs (sums.py)
    for first in range(0, rows if many else 1, RUN):
        bias = active = grid(memory, 0, 0, 0, 1, 1)
        if op == DENSE:
            a, c = grid(memory, t[X] + r0 * k, rows, k, k, 1), grid(memory, t[Y] + r0 * n, rows, n, n, 1)
            bias, panels, tall = grid(memory, t[B], 1, n, n, 1), part(memory, t[W], 0), k
        elif op == DENSE_DX:
            a, c = grid(memory, t[D] + r0 * n, rows, n, n, 1), grid(memory, t[G] + r0 * k, rows, k, k, 1)
            panels, tall = part(memory, t[W], 0), n
            if t[KIND] == WITH_RELU:
                active = grid(memory, t[X] + r0 * k, rows, k, k, 1)
        else:
            a = grid(memory, t[X] + first * k + t[R0], high, smaller(RUN, rows - first), 1, k)
            c = grid(memory, scratch + size if many else at, high, n, n, 1)
            panels, tall = part(memory, t[D] + first * VECTORS * (WIDTH // c.itemsize), 0), rows
        relu = op == DENSE and t[KIND] == WITH_RELU
        multiply(a, panels, tall, c, bias, active, relu, False, strips, clock, thread, header[THREADS])
        if many:
            collect(part(memory, at, size), part(memory, scratch + size, size), first == 0)
    if op == DENSE_DW:
        finish(t, header, memory, hyper, numbers, t[W] + t[R0] * n, at, size)
        mark(clock, UPDATING)
        if t[Y] >= 0:  # the new weights for the next step's products, while they are in the cache
            fill_panels(memory, t[W], k, n, t[R0], t[R1] - t[R0], t[Y], False)
        if t[B] >= 0:
            fill_panels(memory, t[W], k, n, t[R0], t[R1] - t[R0], t[B], True)
        mark(clock, REPACKING)


@njit(inline="always")
def cross_entropy(t, memory, numbers, r0, rows):
    """Softmax with cross-entropy of labels. X: logits, B: labels, G: gradient, Y: losses, W: hits if counted."""
    n, at, c, number = t[N], r0 * t[N], t[COEF], memory[0].dtype.type
    factor, low, high = number(numbers[c]), number(numbers[c + 1]), number(numbers[c + 2])
    x, out, losses = part(memory, t[X] + at, rows * n), part(memory, t[G] + at, rows * n), part(memory, t[Y] + r0, rows)
    hits = part(memory, larger(t[W], 0) + r0, rows if t[W] >= 0 else 0)
    of_labels(x, part(memory, t[B] + r0, rows), losses, None, out, hits, n, factor, low, high)


@njit(inline="always")
def operation(t, header, memory, labels, order, hyper, counters, numbers, r0, rows, thread, clock):
    """Carry out one operation of the table on samples r0 .. r0 + rows. Unknown operations: see table.py."""
    op, n, at = t[OP], t[N], r0 * t[N]
    if DENSE <= op <= DENSE_DW:
        product(t, header, memory, hyper, numbers, r0, rows, thread, clock)
    elif op == PANELS or op == PANELS_ACROSS:  # noqa: SIM109 - `in` is a call
        first, count = (t[R0], t[R1] - t[R0]) if t[R1] > 0 else (r0, rows)
        fill_panels(memory, t[X], t[K], t[N], first, count, t[Y], op == PANELS_ACROSS)
    elif op == CROSS_ENTROPY:
        cross_entropy(t, memory, numbers, r0, rows)
    elif op == LABELS:
        copy_labels(t, memory, labels, order, counters, r0, rows)
    elif op == BIAS or op == PARAMETERS:  # noqa: SIM109
        parameter_task(t, header, memory, hyper, numbers)
    elif op == GATHER:
        gather_rows(part(memory, t[X], 0), order, counters[CURSOR] + r0, part(memory, t[Y] + at, 0), rows, n, t[R1] - 1)
    elif t[CODE] != 0:
        call(t[CODE], t, header, memory, hyper, counters, numbers, r0, rows, rows)
    else:
        numbers[UNKNOWN] = np.nan


run_rows = make_run(operation)
