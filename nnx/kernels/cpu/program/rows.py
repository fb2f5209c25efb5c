"""Interpreter `run_rows`: replays a recorded training step whose samples lie row by row, many times in one call.

It interprets the table described in table.py: 30 to 50 ns an operation.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.clock import BACKWARD, FORWARD, GRADIENTS, REPACKING, mark, of_product
from nnx.kernels.cpu.jit.clock import UPDATE as UPDATING
from nnx.kernels.cpu.jit.simd import PART, larger, smaller
from nnx.kernels.cpu.matmul.gemm import multiply
from nnx.kernels.cpu.matmul.packing import panels_from_columns, panels_from_rows
from nnx.kernels.cpu.matmul.register_tile import VECTORS, WIDTH
from nnx.kernels.cpu.ops.cross_entropy import of_distributions, of_labels
from nnx.kernels.cpu.ops.dropout import HALF, MASK, U, apply_shares, dropout_rows, noise_rows
from nnx.kernels.cpu.ops.softmax import backward_rows, forward_blocks
from nnx.kernels.cpu.ops.step import argmax_rows, gather_rows, mean_rows, one_hot_rows
from nnx.kernels.cpu.ops.sums import collect
from nnx.kernels.cpu.program.parameters import finish
from nnx.kernels.cpu.program.schedule import make_run
from nnx.kernels.cpu.program.shared import (
    apply_columns,
    apply_elementwise,
    apply_weigh,
    copy_labels,
    parameter_task,
    scatter,
    task_of_all,
)
from nnx.kernels.cpu.program.shared_norm import apply_norm
from nnx.kernels.cpu.program.table import (
    ARGMAX,
    AVERAGE,
    BIAS,
    COEF,
    COLLECT,
    COLUMNS_OF,
    CROSS_ENTROPY,
    CROSS_ENTROPY_SOFT,
    DENSE,
    DENSE_DW,
    DENSE_DX,
    DRAWN,
    DROPOUT,
    ELEMENTWISE,
    EMBED,
    FINAL,
    GATHER,
    KIND,
    LABELS,
    LAYER_NORM,
    NOISE,
    ONE_HOT,
    OP,
    PANELS,
    PANELS_ACROSS,
    PARAMETERS,
    POOLED,
    R0,
    R1,
    ROW_MEAN,
    ROWS,
    SCATTER,
    SCRATCH,
    SCRATCH_SIZE,
    SOFTMAX,
    SOFTMAX_BACKWARD,
    STRIPS,
    STRIPS_SIZE,
    THREADS,
    UNKNOWN,
    UPDATE,
    WEIGH,
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
from nnx.kernels.philox import FIRST
from nnx.kernels.rounding import RUN
from nnx.kernels.step_state import CURSOR, STEP


@njit(**PART)
def fill_panels(memory, place, k, n, r0, rows, panels, across):
    """Rows r0 .. r0 + rows of a matrix [k, n] to panels; or, across, to columns of the panels of its transpose."""
    source = grid(memory, place + r0 * n, rows, n, n, 1)
    if across:
        panels_from_columns(source, part(memory, panels + r0 * n, 0), n)
    else:
        panels_from_rows(source, part(memory, panels, 0), k, r0)


@njit(inline="always")
def product(t, header, memory, hyper, numbers, r0, rows, thread, clock):
    """Y = X W + B, dX = D W', or rows R0 .. R1 of dW = X' D with all that is then done to them."""
    op, k, n, high = t[OP], t[K], t[N], t[R1] - t[R0]
    size, scratch = high * n, header[SCRATCH] + thread * header[SCRATCH_SIZE]
    strips = part(memory, header[STRIPS] + thread * header[STRIPS_SIZE], 0)
    # If nobody sees a gradient but the optimizer it stays in this thread's cache, and is written in the last step.
    at = scratch if t[UPDATE] and numbers[FINAL] == 0.0 else t[G] + t[R0] * n
    of_product(clock, FORWARD if op == DENSE else BACKWARD if op == DENSE_DX else GRADIENTS)
    many = op == DENSE_DW and rows > RUN  # samples are added up in runs (sums.py)
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
    """Softmax with cross-entropy. X logits, B targets, G gradient, Y losses, W hits if they are counted."""
    n, at, c, number = t[N], r0 * t[N], t[COEF], memory[0].dtype.type
    factor, low, high = number(numbers[c]), number(numbers[c + 1]), number(numbers[c + 2])
    x, out, losses = part(memory, t[X] + at, rows * n), part(memory, t[G] + at, rows * n), part(memory, t[Y] + r0, rows)
    if t[OP] == CROSS_ENTROPY:
        hits = part(memory, larger(t[W], 0) + r0, rows if t[W] >= 0 else 0)
        of_labels(x, part(memory, t[B] + r0, rows), losses, None, out, hits, n, factor, low, high)
    else:
        of_distributions(x, part(memory, t[B] + at, rows * n), losses, None, out, n, factor, low, high)


@njit(inline="always")
def operation(t, header, memory, labels, order, hyper, counters, numbers, r0, rows, thread, clock):
    """Carry out one operation of the table on samples r0 .. r0 + rows; one that there is not: table.py."""
    op, n, at, c = t[OP], t[N], r0 * t[N], t[COEF]
    if DENSE <= op <= DENSE_DW:
        product(t, header, memory, hyper, numbers, r0, rows, thread, clock)
    elif op == PANELS or op == PANELS_ACROSS:  # noqa: SIM109 - `in` is a call
        first, count = (t[R0], t[R1] - t[R0]) if t[R1] > 0 else (r0, rows)
        fill_panels(memory, t[X], t[K], t[N], first, count, t[Y], op == PANELS_ACROSS)
    elif op == CROSS_ENTROPY or op == CROSS_ENTROPY_SOFT:  # noqa: SIM109
        cross_entropy(t, memory, numbers, r0, rows)
    elif op == ELEMENTWISE:
        apply_elementwise(t, memory, numbers, r0, rows, rows)
    elif LAYER_NORM <= op <= POOLED:
        apply_norm(t, header[ROWS], memory, numbers, r0, rows, rows)
    elif op == WEIGH:
        apply_weigh(t, memory, r0, rows, rows)
    elif op == COLUMNS_OF or op == EMBED:  # noqa: SIM109
        apply_columns(t, memory, r0, rows, rows)
    elif op == SCATTER:
        scatter(t, header, memory, hyper, numbers)
    elif op == LABELS:
        copy_labels(t, memory, labels, order, counters, r0, rows)
    elif op == BIAS or op == PARAMETERS:  # noqa: SIM109
        parameter_task(t, header, memory, hyper, numbers)
    elif COLLECT <= op <= AVERAGE:
        task_of_all(t, header, memory, hyper, counters, numbers)
    elif op == GATHER:
        gather_rows(part(memory, t[X], 0), order, counters[CURSOR] + r0, part(memory, t[Y] + at, 0), rows, n, t[R1] - 1)
    elif op == DROPOUT:
        x, y = part(memory, t[X] + at, rows * n), part(memory, t[Y] + at, rows * n)
        kept, key_0, key_1 = part(memory, t[W] + at, rows * n), U(t[R0]) & MASK, U(t[R0]) >> HALF
        if t[KIND] == DRAWN:
            apply_shares(0, x, kept, y, 0.0, 0.0)
        else:
            first = r0 + (t[KIND] >> FIRST)
            dropout_rows(x, y, kept, first, rows, n, counters[STEP], t[KIND], key_0, key_1, t[R1], numbers[c])
    elif op == NOISE:
        x, y = part(memory, t[X] + at, rows * n), part(memory, t[Y] + at, rows * n)
        key_0, key_1 = U(t[R0]) & MASK, U(t[R0]) >> HALF
        noise_rows(x, y, r0 + (t[KIND] >> FIRST), rows, n, counters[STEP], t[KIND], key_0, key_1, numbers[c])
    elif op == ROW_MEAN:
        mean_rows(part(memory, t[X] + at, rows * n), part(memory, t[Y] + r0, rows), n, numbers[c])
    elif op == SOFTMAX:
        forward_blocks(part(memory, t[X] + at, rows * n), part(memory, t[Y] + at, rows * n), n)
    elif op == SOFTMAX_BACKWARD:
        x, d = part(memory, t[X] + at, rows * n), part(memory, t[Y] + at, rows * n)
        backward_rows(x, d, part(memory, t[G] + at, rows * n), n, 0)
    elif op == ARGMAX:
        argmax_rows(part(memory, t[X] + at, rows * n), part(memory, t[Y] + r0, rows), n)
    elif op == ONE_HOT:
        one_hot_rows(part(memory, t[X] + r0, rows), part(memory, t[Y] + at, rows * n), n)
    else:
        numbers[UNKNOWN] = np.nan


run_rows = make_run(operation)
