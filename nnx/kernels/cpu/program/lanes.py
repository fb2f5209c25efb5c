"""Interpreter `run_lanes`: replays a recorded step whose samples lie in the vector lanes, many times in one call.

Matrices are [features, stride]. It interprets the table described in table.py, in 30 to 50 ns per operation. The
functions that it calls by address are in lanes_called.py.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.called import call
from nnx.kernels.cpu.jit.clock import BACKWARD, FORWARD, GRADIENTS, PRODUCT, mark_product, of_product
from nnx.kernels.cpu.jit.simd import PART, larger, smaller
from nnx.kernels.cpu.ops.sums import collect
from nnx.kernels.cpu.program.lanes_kernels import lanes_cross_entropy, lanes_load
from nnx.kernels.cpu.program.lanes_matmul import SAMPLES, lanes_product, lanes_weight_gradient
from nnx.kernels.cpu.program.parameters import finish
from nnx.kernels.cpu.program.schedule import make_run
from nnx.kernels.cpu.program.shared import copy_labels, parameter_task
from nnx.kernels.cpu.program.table import (
    CODE,
    COEF,
    KIND,
    LABELS,
    LANES_CROSS_ENTROPY,
    LANES_DB,
    LANES_DENSE,
    LANES_DW,
    LANES_DX,
    LANES_LOAD,
    OP,
    PARAMETERS,
    R0,
    R1,
    ROWS,
    STRIDE,
    UNKNOWN,
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


@njit(**PART)
def weight_gradient(t, memory, samples, at):
    """Rows R0 .. R1 of dW = X D', written to the place `at`. Samples are summed in runs (sums.py); Y is scratch."""
    n, stride, high = t[N], t[STRIDE], t[R1] - t[R0]
    size, many = high * n, samples > RUN
    for first in range(0, samples, RUN):
        count = smaller(RUN, samples - first)
        x, d = (
            grid(memory, t[X] + t[R0] * stride + first, high, count, stride, 1),
            grid(memory, t[D] + first, n, count, stride, 1),
        )
        lanes_weight_gradient(x, d, grid(memory, t[Y] if many else at, high, n, n, 1))
        if many:
            collect(part(memory, at, size), part(memory, t[Y], size), first == 0)


@njit(inline="always")
def product(t, header, memory, hyper, numbers, r0, count, clock):
    """Y = W' X + B, dX = W D, or rows R0 .. R1 of dW = X D' together with their update."""
    op, k, n, stride = t[OP], t[K], t[N], t[STRIDE]
    of_product(clock, FORWARD if op == LANES_DENSE else BACKWARD if op == LANES_DX else GRADIENTS)
    if op == LANES_DW:
        samples = (header[ROWS] + SAMPLES - 1) // SAMPLES * SAMPLES
        weight_gradient(t, memory, samples, t[G] + t[R0] * n)
        mark_product(clock, PRODUCT)
        finish(t, header, memory, hyper, numbers, t[W] + t[R0] * n, t[G] + t[R0] * n, (t[R1] - t[R0]) * n)
        return
    bias, active = part(memory, 0, 0), grid(memory, 0, 0, 0, 1, 1)
    if op == LANES_DENSE:
        w, x, y = (
            grid(memory, t[W], n, k, 1, n),
            grid(memory, t[X] + r0, k, count, stride, 1),
            grid(memory, t[Y] + r0, n, count, stride, 1),
        )
        bias = part(memory, t[B], n)
    else:
        w, x, y = (
            grid(memory, t[W], k, n, n, 1),
            grid(memory, t[D] + r0, n, count, stride, 1),
            grid(memory, t[G] + r0, k, count, stride, 1),
        )
        if t[KIND] == WITH_RELU:
            active = grid(memory, t[X] + r0, k, count, stride, 1)
    lanes_product(w, x, y, bias, active, op == LANES_DENSE and t[KIND] == WITH_RELU)
    mark_product(clock, PRODUCT)


@njit(inline="always")
def cross_entropy(t, memory, numbers, r0, rows, count):
    """Softmax with cross-entropy. X: logits, B: targets, G: gradient, Y: losses, D: scratch, W: hits if counted."""
    n, c = t[N], t[COEF]
    hits = part(memory, larger(t[W], 0) + r0, rows if t[W] >= 0 else 0)
    span = (n - 1) * t[STRIDE] + count
    z, out, scratch = (
        part(memory, t[X] + r0, span),
        part(memory, t[G] + r0, span),
        part(memory, t[D] + 2 * r0, 2 * count),
    )
    losses, labels = part(memory, t[Y] + r0, count), part(memory, t[B] + r0, count)
    lanes_cross_entropy(
        z, labels, out, losses, hits, scratch, n, t[STRIDE], rows, numbers[c], numbers[c + 1], numbers[c + 2]
    )


@njit(inline="always")
def operation(t, header, memory, labels, order, hyper, counters, numbers, r0, rows, thread, clock):
    """Carry out one operation of the table on samples r0 .. r0 + rows. Unknown operations: see table.py."""
    op, n, stride = t[OP], t[N], t[STRIDE]
    count = smaller((rows + SAMPLES - 1) // SAMPLES * SAMPLES, stride - r0)
    if LANES_DENSE <= op <= LANES_DW:
        product(t, header, memory, hyper, numbers, r0, count, clock)
    elif op == LANES_CROSS_ENTROPY:
        cross_entropy(t, memory, numbers, r0, rows, count)
    elif op == LABELS:
        copy_labels(t, memory, labels, order, counters, r0, rows)
    elif op == LANES_DB or op == PARAMETERS:  # noqa: SIM109 - `in` is a call
        parameter_task(t, header, memory, hyper, numbers)
    elif op == LANES_LOAD:
        first, out = larger(counters[CURSOR], 0) if t[KIND] else -1, part(memory, t[Y] + r0, (n - 1) * stride + count)
        lanes_load(part(memory, t[X], 0), order, first, t[R1] - 1, out, n, stride, r0, rows)
    elif t[CODE] != 0:
        call(t[CODE], t, header, memory, hyper, counters, numbers, r0, rows, count)
    else:
        numbers[UNKNOWN] = np.nan


run_lanes = make_run(operation)
