"""Kernels of a recorded step that update parameters, with the formulas of ops/optimizers.py and ops/step.py, or end it.

Floor: reading and writing parameters, gradients and moments once; Adam reads 16 and writes 12 bytes per float32
parameter. If it is applied to a tile of a gradient that was just computed, the gradient is still in the cache, and the
update takes about 0.25 ns per parameter.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.called import call
from nnx.kernels.cpu.jit.simd import PART, view
from nnx.kernels.cpu.ops.optimizers import sizes
from nnx.kernels.cpu.ops.step import log_step, penalize, total
from nnx.kernels.cpu.ops.sums import sum_numbers
from nnx.kernels.cpu.program.table import (
    COEF,
    CORRECTION,
    FRESH,
    HITS,
    LOSSES,
    M_DELTA,
    NOWHERE,
    PENALTIES,
    ROWS,
    SHRINK,
    SLOT,
    STEP_SIZE,
    U_DELTA,
    UNKNOWN,
    UPDATE,
    UPDATES,
    V_DELTA,
    part,
)
from nnx.kernels.step_state import HITS as STEP_HITS
from nnx.kernels.step_state import LOSS, PENALTY, STEP


@njit(**PART)
def begin_step(optimizer, hyper, counters, numbers):
    """Compute the optimizer's numbers for this step, in float64."""
    numbers[STEP_SIZE], numbers[CORRECTION], numbers[SHRINK], numbers[FRESH] = sizes(optimizer, hyper, counters[STEP])


@njit(**PART)
def end_step(header, memory, counters, stats, penalties, history, numbers):
    """Sum losses, hits and penalties, each in one order that doesn't depend on threads; log them; count the step."""
    rows = header[ROWS]
    stats[LOSS] = total(part(memory, header[LOSSES], rows)) / rows + numbers[UNKNOWN]
    if header[HITS] != NOWHERE:
        stats[STEP_HITS] = total(part(memory, header[HITS], rows))
    at, whole = header[PENALTIES], 0.0
    for i in range(len(penalties)):
        # for each penalty, the parts of its sum: their count, then that many places in `numbers`
        count = np.int64(numbers[at])
        if count > 0:
            penalty = 0.0
            for n in range(count):
                penalty += numbers[np.int64(numbers[at + 1 + n])]
            penalties[i] = penalty
        at += 1 + count
        whole += penalties[i]
    stats[PENALTY] = whole
    log_step(stats, history, counters, rows)


@njit(**PART)
def finish(t, header, memory, hyper, numbers, p, g, n):
    """Regularize and update n parameters at place p, whose gradients are at g."""
    values, gradients = part(memory, p, n), part(memory, g, n)
    if t[SLOT] > 0:
        numbers[t[SLOT]] = penalize(values, gradients, numbers[t[COEF]], numbers[t[COEF] + 1])
    if t[UPDATE]:
        first, second = part(memory, p + header[M_DELTA], n), part(memory, p + header[V_DELTA], n)
        third, size, correction = part(memory, p + header[U_DELTA], n), numbers[STEP_SIZE], numbers[CORRECTION]
        how = size, correction, numbers[SHRINK], numbers[FRESH]
        call(header[UPDATES], values, gradients, first, second, third, hyper, *how)


@njit(**PART)
def sum_lanes(d, n, stride, out):
    """The gradient of biases: out [n] = the sum of each feature of d [n, stride]."""
    for j in range(n):
        out[j] = sum_numbers(view(d, j * stride, stride))
