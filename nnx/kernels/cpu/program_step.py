"""`run`: one compiled function that replays any recorded training step, many times in one call.

It interprets the table described in program_table.py: 30 to 50 ns an operation. Several threads may call it at once
with the same arguments but for `thread`: number 0 leads, the others help. A region's blocks or tasks are drawn from
one ticket, an atomic int64 that holds (phase, region, next index); the leader waits for what was drawn, never for a
helper that is late, so a helper that the operating system has put aside costs nothing unless it holds a task. A region
costs about 0.2 us (a parallel region of Numba's: 1.1 us by OpenMP, 69 by its own work queue), and nothing is compiled
twice.

Sums are made in an order that does not depend on who made the parts.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from nnx.kernels.cpu import gemm
from nnx.kernels.cpu.cache import LOCK, njit
from nnx.kernels.cpu.gemm import gemm_float32, gemm_float64
from nnx.kernels.cpu.lanes import SAMPLES, lanes_product, lanes_weight_gradient
from nnx.kernels.cpu.lanes_loss import lanes_clear, lanes_cross_entropy, lanes_dropout, lanes_load, lanes_mean
from nnx.kernels.cpu.program_elementwise import elementwise
from nnx.kernels.cpu.program_parameters import begin_step, end_step, regularize, sum_lanes, sum_rows, update
from nnx.kernels.cpu.program_rows import (
    argmax_rows,
    cross_entropy_rows,
    cross_entropy_soft_rows,
    dropout_rows,
    gather,
    mean_rows,
    one_hot_rows,
    softmax_back_rows,
    softmax_rows,
)
from nnx.kernels.cpu.program_table import (
    ARGMAX,
    BIAS,
    BLOCK,
    COEF,
    COLUMNS,
    COUNT,
    CROSS_ENTROPY,
    CROSS_ENTROPY_SOFT,
    DENSE,
    DENSE_DW,
    DENSE_DX,
    DONE,
    DROPOUT,
    ELEMENTWISE,
    FINAL,
    FIRST,
    GATHER,
    INLINE,
    KIND,
    LABELS,
    LANES_CLEAR,
    LANES_CROSS_ENTROPY,
    LANES_DB,
    LANES_DENSE,
    LANES_DROPOUT,
    LANES_DW,
    LANES_LOAD,
    LANES_MEAN,
    LAST,
    M_DELTA,
    ONCE,
    ONE_HOT,
    OP,
    OPTIMIZER,
    PARAMETERS,
    PART,
    PHASE,
    R0,
    R1,
    REGIONS,
    RELU,
    ROW_MEAN,
    ROWS,
    SCRATCH,
    SCRATCH_SIZE,
    SLOT,
    SOFTMAX,
    SOFTMAX_BACK,
    STRIDE,
    TASKS,
    TICKET,
    UPDATE,
    V_DELTA,
    B,
    D,
    G,
    K,
    N,
    W,
    X,
    Y,
    atomic_load,
    atomic_store,
    finish_one,
    grid,
    part,
    replace_if,
)
from nnx.kernels.cpu.vectors import OPTIONS, view
from nnx.kernels.layout import CURSOR, STEP

# What a thread does that has waited for a while: the other may need its core.
let_others = types.ExternalFunction("SwitchToThread" if os.name == "nt" else "sched_yield", types.int32())
PATIENCE = 2000  # looks at the ticket (some 10 us) before others may have the core
LINGER = 20  # times that a helper lets others go first before it leaves: the next call often comes at once
INDEX, REGION_BITS = (1 << 24) - 1, 24
PHASE_BITS, PHASES = 32, (1 << 31) - 1


def product(a, b, c, bias, active, relu):
    """gemm.py's product for the operands' type."""


@overload(product, inline="always")  # or the product would be optimised once more, by itself
def _product(a, b, c, bias, active, relu):
    if a.dtype == types.float32:
        return lambda a, b, c, bias, active, relu: gemm_float32(a, b, c, bias, active, relu, False)
    return lambda a, b, c, bias, active, relu: gemm_float64(a, b, c, bias, active, relu, False)


@njit(**PART)
def finish(t, header, memory, hyper, numbers, p, g, n):
    """Regularize and update n parameters at place p whose gradients stand at g."""
    values, gradients = part(memory, p, n), part(memory, g, n)
    if t[SLOT] > 0:
        numbers[t[SLOT]] = regularize(values, gradients, numbers[t[COEF]], numbers[t[COEF] + 1])
    if t[UPDATE]:
        first, second = part(memory, p + header[M_DELTA], n), part(memory, p + header[V_DELTA], n)
        update(header[OPTIMIZER], values, gradients, first, second, hyper, numbers)


@njit(inline="always")
def rows_product(t, header, memory, hyper, numbers, r0, rows, thread):
    """Y = X W + B, dX = D W', or rows R0 .. R1 of dW = X' D with all that is then done to them."""
    op, k, n, at, size = t[OP], t[K], t[N], t[G], (t[R1] - t[R0]) * t[N]
    a = b = c = bias = active = grid(memory, 0, 0, 0, 1, 1)
    if op == DENSE:
        a, b, c = (
            grid(memory, t[X] + r0 * k, rows, k, k, 1),
            grid(memory, t[W], k, n, n, 1),
            grid(memory, t[Y] + r0 * n, rows, n, n, 1),
        )
        bias = grid(memory, t[B], 1, n, n, 1)
    elif op == DENSE_DX:
        a, b, c = (
            grid(memory, t[D] + r0 * n, rows, n, n, 1),
            grid(memory, t[W], n, k, 1, n),
            grid(memory, t[G] + r0 * k, rows, k, k, 1),
        )
        if t[KIND] == RELU:
            active = grid(memory, t[X] + r0 * k, rows, k, k, 1)
    else:
        at += t[R0] * n
        if t[UPDATE] and numbers[FINAL] == 0.0 and size <= header[SCRATCH_SIZE]:
            # Nobody sees this gradient but the optimizer: keep it in this thread's cache, write it in the last step
            # only.
            at = header[SCRATCH] + thread * header[SCRATCH_SIZE]
        a, b, c = (
            grid(memory, t[X] + t[R0], t[R1] - t[R0], rows, 1, k),
            grid(memory, t[D], rows, n, n, 1),
            grid(memory, at, t[R1] - t[R0], n, n, 1),
        )
    product(a, b, c, bias, active, op == DENSE and t[KIND] == RELU)
    if op == DENSE_DW:
        finish(t, header, memory, hyper, numbers, t[W] + t[R0] * n, at, size)


@njit(inline="always")
def lanes_dense(t, header, memory, hyper, numbers, r0, count):
    """The same, feature by feature."""
    op, k, n, stride = t[OP], t[K], t[N], t[STRIDE]
    if op == LANES_DW:
        x, d = (
            grid(memory, t[X] + t[R0] * stride, t[R1] - t[R0], stride, stride, 1),
            grid(memory, t[D], n, stride, stride, 1),
        )
        lanes_weight_gradient(x, d, grid(memory, t[G] + t[R0] * n, t[R1] - t[R0], n, n, 1))
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
        if t[KIND] == RELU:
            active = grid(memory, t[X] + r0, k, count, stride, 1)
    lanes_product(w, x, y, bias, active, op == LANES_DENSE and t[KIND] == RELU)


@njit(inline="always")
def loss_operation(t, memory, numbers, r0, rows, count):
    """Softmax with cross-entropy. X logits, B targets, G gradient, Y losses, D scratch, W hits if they are counted."""
    op, n, at, c = t[OP], t[N], r0 * t[N], t[COEF]
    losses = part(memory, t[Y] + r0, rows)
    hits = part(memory, max(t[W], 0) + r0, rows if t[W] >= 0 else 0)
    if op == LANES_CROSS_ENTROPY:
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
        return
    x, out, totals = part(memory, t[X] + at, rows * n), part(memory, t[G] + at, rows * n), part(memory, t[D] + r0, rows)
    if op == CROSS_ENTROPY:
        labels = part(memory, t[B] + r0, rows)
        cross_entropy_rows(x, labels, out, losses, totals, hits, n, numbers[c], numbers[c + 1], numbers[c + 2])
    else:
        target = part(memory, t[B] + at, rows * n)
        cross_entropy_soft_rows(x, target, out, losses, totals, n, numbers[c], numbers[c + 1], numbers[c + 2])


@njit(inline="always")
def sample_operation(t, memory, labels, order, counters, numbers, r0, rows, count):
    """The other operations on samples r0 .. r0 + rows; by features it is `count` samples, a multiple of SAMPLES."""
    op, n, stride, at, c = t[OP], t[N], t[STRIDE], r0 * t[N], t[COEF]
    if op == ELEMENTWISE:
        start, length, pieces = at, rows * n, 1
        if stride > 0:
            start, length, pieces = r0, count, n
            if count == stride:
                length, pieces = n * stride, 1
        for piece in range(pieces):
            place = start + piece * stride
            x, y = part(memory, t[X] + place, length), part(memory, max(t[Y], 0) + place, length)
            elementwise(t[KIND], x, y, part(memory, t[G] + place, length), numbers[c], numbers[c + 1])
    elif op == GATHER:
        chosen = view(order, counters[CURSOR] + r0, rows)
        gather(part(memory, t[X], 0), chosen, part(memory, t[Y] + at, rows * n), n)
    elif op == LANES_LOAD:
        chosen = view(order, counters[CURSOR] if t[KIND] else 0, r0 + rows)
        span = (n - 1) * stride + count
        lanes_load(part(memory, t[X], 0), chosen, t[KIND] != 0, part(memory, t[Y] + r0, span), n, stride, r0, rows)
    elif op == LABELS:
        wanted, first = part(memory, t[Y] + r0, rows), counters[CURSOR] if t[KIND] else 0
        for r in range(rows):
            wanted[r] = labels[order[first + r0 + r]] if t[KIND] else labels[r0 + r]
    elif op == DROPOUT:
        x, y = part(memory, t[X] + at, rows * n), part(memory, t[Y] + at, rows * n)
        dropout_rows(x, y, r0, rows, n, t[R1], numbers[c], t[KIND], counters[STEP], t[R0])
    elif op == LANES_DROPOUT:
        span = (n + 3) * stride
        x, y = part(memory, t[X] + r0, span), part(memory, t[Y] + r0, span)
        lanes_dropout(x, y, n, stride, r0, count, t[R1], numbers[c], t[KIND], counters[STEP], t[R0])
    elif op == LANES_MEAN:
        span = (n - 1) * stride + count
        lanes_mean(part(memory, t[X] + r0, span), part(memory, t[Y] + r0, count), n, stride, numbers[c])
    elif op == LANES_CLEAR:
        lanes_clear(part(memory, t[X] + r0, (n - 1) * stride + count), n, stride, rows, count)
    elif op == ROW_MEAN:
        mean_rows(part(memory, t[X] + at, rows * n), part(memory, t[Y] + r0, rows), n, numbers[c])
    elif op == SOFTMAX:
        softmax_rows(
            part(memory, t[X] + at, rows * n), part(memory, t[Y] + at, rows * n), part(memory, t[D] + r0, rows), n
        )
    elif op == SOFTMAX_BACK:
        x, d = part(memory, t[X] + at, rows * n), part(memory, t[Y] + at, rows * n)
        softmax_back_rows(x, d, part(memory, t[G] + at, rows * n), rows, n)
    elif op == ARGMAX:
        argmax_rows(part(memory, t[X] + at, rows * n), part(memory, t[Y] + r0, rows), n)
    elif op == ONE_HOT:
        one_hot_rows(part(memory, t[X] + r0, rows), part(memory, t[Y] + at, rows * n), n)


@njit(inline="always")
def operation(t, header, memory, labels, order, hyper, counters, numbers, r0, rows, thread):
    """Carry out one operation of the table on samples r0 .. r0 + rows. Codes that it does not know do nothing."""
    op, n, stride = t[OP], t[N], t[STRIDE]
    count = min((rows + SAMPLES - 1) // SAMPLES * SAMPLES, stride - r0)
    if op <= DENSE_DW:
        rows_product(t, header, memory, hyper, numbers, r0, rows, thread)
    elif LANES_DENSE <= op <= LANES_DW:
        lanes_dense(t, header, memory, hyper, numbers, r0, count)
    elif op == CROSS_ENTROPY or op == CROSS_ENTROPY_SOFT or op == LANES_CROSS_ENTROPY:  # noqa: SIM109 - `in` is a call
        loss_operation(t, memory, numbers, r0, rows, count)
    elif op == BIAS or op == LANES_DB or op == PARAMETERS:  # noqa: SIM109
        if op == BIAS:
            sum_rows(part(memory, t[D], rows * n), rows, n, part(memory, t[G], n))
        elif op == LANES_DB:
            sum_lanes(part(memory, t[D], n * stride), n, stride, part(memory, t[G], n))
        finish(t, header, memory, hyper, numbers, t[W], t[G], n)
    else:
        sample_operation(t, memory, labels, order, counters, numbers, r0, rows, count)


@njit(**INLINE)
def bare(array):
    """The same array without an owner."""
    return view(array, 0, len(array))


@njit(**PART)
def draw(table, sync):
    """Take the next block or task of the region at hand: the ticket, or 0 if there is none (regions count from 1)."""
    while True:
        ticket = atomic_load(sync, TICKET)
        region = (ticket >> REGION_BITS) & 255
        if region == 0 or (ticket & INDEX) >= table[region * COLUMNS + COUNT]:
            return 0
        if replace_if(sync, TICKET, ticket, ticket + 1):
            return ticket


@njit(**OPTIONS)
def run(
    table,
    work,
    arena,
    inputs,
    targets,
    labels,
    order,
    hyper,
    counters,
    stats,
    penalties,
    history,
    numbers,
    sync,
    thread,
    steps,
):
    """Run `steps` steps as the leader (thread 0), or help one that does.

    Args:
        table: int64, flat: see program_table.py. work, arena, inputs, targets: the arrays that places name, all of one
        type. labels, order: int64, what LABELS and GATHER read. hyper, counters, stats, penalties, history:
        operations.py says
            what they hold; all flat.
        numbers: float64: what begin_step works out, constants, the parts of penalties. sync: int64 [SYNC].
    """
    # Bare views: nobody counts references from here on.
    memory = (bare(work), bare(arena), bare(inputs), bare(targets))
    table, labels, order, counters, sync = bare(table), bare(labels), bare(order), bare(counters), bare(sync)
    hyper, stats, penalties, history, numbers = bare(hyper), bare(stats), bare(penalties), bare(history), bare(numbers)
    header = view(table, 0, COLUMNS)
    regions, left, region, expected, looks, rests, begun = header[REGIONS], steps, header[REGIONS], 0, 0, 0, False
    if thread == 0:
        atomic_store(sync, DONE, 0)
    while True:
        ticket = draw(table, sync)
        if ticket != 0:
            place = view(table, ((ticket >> REGION_BITS) & 255) * COLUMNS, COLUMNS)
            index, first, last, r0, rows = ticket & INDEX, place[FIRST], place[LAST], 0, header[ROWS]
            if place[OP] == TASKS:
                first += index
                last = first + 1
            else:
                r0 = index * place[BLOCK]
                rows = min(place[BLOCK], rows - r0)
            for o in range(first, last):
                operation(
                    view(table, o * COLUMNS, COLUMNS),
                    header,
                    memory,
                    labels,
                    order,
                    hyper,
                    counters,
                    numbers,
                    r0,
                    rows,
                    thread,
                )
            finish_one(sync, DONE)
            looks = rests = 0
        elif thread == 0 and atomic_load(sync, DONE) == expected:
            region += 1
            if region > regions:
                if begun:
                    end_step(header, memory, counters, stats, penalties, history, numbers)
                    left -= 1
                phase = (atomic_load(sync, PHASE) + 1) & PHASES
                if left <= 0:
                    atomic_store(sync, PHASE, phase)
                    atomic_store(sync, TICKET, phase << PHASE_BITS)
                    return
                begin_step(header[OPTIMIZER], hyper, counters, numbers)
                numbers[FINAL] = 1.0 if left == 1 else 0.0
                region = 1
                while begun and table[region * COLUMNS + OP] == ONCE:
                    region += 1
                begun = True
            phase = (atomic_load(sync, PHASE) + 1) & PHASES
            atomic_store(sync, PHASE, phase)
            expected += table[region * COLUMNS + COUNT]
            atomic_store(sync, TICKET, (phase << PHASE_BITS) | (region << REGION_BITS))
        else:
            looks += 1
            if looks > PATIENCE:
                looks = 0
                let_others()
                if thread > 0 and (atomic_load(sync, TICKET) >> REGION_BITS) & 255 == 0:
                    rests += 1
                    if rests > LINGER:
                        return


def ready(dtype: Any) -> Any:
    """Return `run` for one number type, compiled or read from the disk."""
    gemm.ready(dtype)
    number = types.float32 if np.dtype(dtype).itemsize == 4 else types.float64
    whole, f, i, d = types.int64, *(types.Array(kind, 1, "C") for kind in (number, types.int64, types.float64))
    signature = (i, f, f, f, f, i, i, d, i, d, d, d, d, i, whole, whole)
    with LOCK:
        if signature not in run.overloads:
            run.compile(signature)
    return run
