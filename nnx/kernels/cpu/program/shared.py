"""Kernels of a recorded step that `run_rows` and `run_lanes` share: on samples in either layout, and on parameters.

Those made with CALLED are separate functions, called by the address in the table. All take the same arguments: a row of
the table, the header, the arrays that operations read and write, the first sample r0 and the number of samples; for
samples in the lanes that is `count`.

Floor: reading and writing each number once.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import CALLED, PART, larger
from nnx.kernels.cpu.ops.elementwise import elementwise
from nnx.kernels.cpu.ops.optimizers import (
    average_numbers,
    bound_numbers,
    collect_numbers,
    scale_numbers,
    squares_of,
)
from nnx.kernels.cpu.ops.step import (
    code_of,
    copy_columns,
    embed_rows,
    gather_numbers,
    scatter_rows,
    weigh_numbers,
    weigh_rows,
)
from nnx.kernels.cpu.ops.sums import collect, sum_rows
from nnx.kernels.cpu.program.parameters import finish, sum_lanes
from nnx.kernels.cpu.program.table import (
    AVERAGE,
    BIAS,
    COEF,
    COLLECT,
    COLUMNS_OF,
    ELEMENTWISE,
    EMBED,
    KIND,
    LANES_DB,
    MEASURE,
    OF_ALL,
    OP,
    R0,
    R1,
    ROWS,
    SCATTER,
    SLOT,
    STRIDE,
    WEIGH,
    B,
    D,
    G,
    K,
    N,
    W,
    X,
    Y,
    part,
)
from nnx.kernels.rounding import RUN
from nnx.kernels.step_state import CURSOR, STEP


@njit(**CALLED)
def apply_elementwise(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """A function of one or two numbers, on the features of samples r0 .. r0 + rows; in the lanes, of `count`."""
    n, stride, c = t[N], t[STRIDE], t[COEF]
    start, length, pieces = r0 * n, rows * n, 1
    if stride > 0:
        start, length, pieces = r0, count, n
        if count == stride:
            length, pieces = n * stride, 1
    for piece in range(pieces):
        place = start + piece * stride
        x, y = part(memory, t[X] + place, length), part(memory, larger(t[Y], 0) + place, length)
        elementwise(t[KIND], x, y, part(memory, t[G] + place, length), numbers[c], numbers[c + 1])


@njit(**CALLED)
def apply_weigh(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """G = the features X of samples r0 .. r0 + rows, times the samples' weights Y; in the lanes, of `count` samples."""
    n, stride = t[N], t[STRIDE]
    if stride == 0:
        start, length, weights = r0 * n, rows * n, part(memory, t[Y] + r0, rows)
        weigh_rows(part(memory, t[X] + start, length), weights, part(memory, t[G] + start, length), n)
        return
    weights = part(memory, t[Y] + r0, count)
    for feature in range(n):
        place = r0 + feature * stride
        weigh_numbers(part(memory, t[X] + place, count), weights, part(memory, t[G] + place, count))


@njit(**CALLED)
def apply_columns(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """COLUMNS_OF: copies KIND of X's N features, from number R0 on, to Y's K features, from number R1 on.

    EMBED: copies the rows of W [D, KIND] that feature R0 of X names to the features of Y, from number R1 on.
    """
    n, wide, stride, some = t[N], t[K], t[STRIDE], t[KIND]
    if stride == 0:
        x, y = part(memory, t[X] + r0 * n, rows * n), part(memory, t[Y] + r0 * wide, rows * wide)
        if t[OP] == EMBED:
            embed_rows(x, part(memory, t[W], t[D] * some), y, rows, n, wide, t[D], some, t[R0], t[R1])
        else:
            copy_columns(x, y, rows, n, wide, t[R0], t[R1], some)
        return
    x = part(memory, t[X] + r0 + t[R0] * stride, (some - 1) * stride + count)
    y = part(memory, t[Y] + r0 + t[R1] * stride, (some - 1) * stride + count)
    if t[OP] == EMBED:
        w, x = part(memory, t[W], t[D] * some), part(memory, t[X] + r0 + t[R0] * stride, count)
        for s in range(count):
            code, known = code_of(x[s], t[D])
            for j in range(some):
                y[j * stride + s] = w[code * some + j] if known else w.dtype.type(np.nan)
        return
    for j in range(some):
        for s in range(count):
            y[j * stride + s] = x[j * stride + s]


@njit(**CALLED)
def scatter(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """The gradient G [R1, KIND] of EMBED's W, and the update with it.

    The codes are feature B of X, which has K features. The vectors' gradients are features of D, which has N, from
    number R0 on. Samples are summed in runs (sums.py), with Y as scratch.
    """
    rows, some, codes, stride, wide = header[ROWS], t[KIND], t[R1], t[STRIDE], t[N]
    size, many = codes * some, rows > RUN
    for first in range(0, rows, RUN):
        last = first + RUN if first + RUN < rows else rows
        out = part(memory, t[Y] if many else t[G], size)
        if stride == 0:
            x, d = part(memory, t[X], rows * t[K]), part(memory, t[D], rows * wide)
            scatter_rows(x, d, out, first, last, t[K], wide, codes, some, t[B], t[R0])
        else:
            x, d = part(memory, t[X] + t[B] * stride, rows), part(memory, t[D] + t[R0] * stride, some * stride)
            for j in range(size):
                out[j] = 0
            for s in range(first, last):
                code, known = code_of(x[s], codes)
                if known:
                    for j in range(some):
                        out[code * some + j] += d[j * stride + s]
        if many:
            collect(part(memory, t[G], size), out, first == 0)
    finish(t, header, memory, hyper, numbers, t[W], t[G], size)


@njit(**PART)
def copy_labels(t, memory, labels, order, counters, r0, rows):
    """The labels of samples r0 .. r0 + rows, in the samples' order if there is one, as numbers of the step's type."""
    wanted = part(memory, t[Y] + r0, rows)
    if t[KIND]:
        gather_numbers(labels, order, counters[CURSOR] + r0, wanted)
    else:
        for r in range(rows):
            wanted[r] = labels[r0 + r]


@njit(**PART)
def parameter_task(t, header, memory, hyper, numbers):
    """The gradient of biases, or none (PARAMETERS), and the update of the parameters that it belongs to."""
    op, n, stride = t[OP], t[N], t[STRIDE]
    if op == BIAS:
        rows = header[ROWS]
        sum_rows(part(memory, t[D], rows * n), rows, n, part(memory, t[G], n), part(memory, larger(t[Y], 0), n))
    elif op == LANES_DB:
        sum_lanes(part(memory, t[D], n * stride), n, stride, part(memory, t[G], n))
    finish(t, header, memory, hyper, numbers, t[W], t[G], n)


@njit(**CALLED)
def task_of_all(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """The operations on a segment of all gradients or parameters: COLLECT, MEASURE, CLIPPED or AVERAGE."""
    op, n, c = t[OP], t[N], t[COEF]
    if op == AVERAGE:
        time = counters[STEP] - t[R0] + 1
        average_numbers(part(memory, t[X], n), part(memory, t[W], n), numbers[c], np.float64(time))
    elif op == COLLECT:
        collect_numbers(part(memory, t[G], n), part(memory, t[X], n))
    elif op == MEASURE:
        gradients = part(memory, t[G], n)
        bound_numbers(gradients, numbers[c + 1])
        numbers[t[SLOT]] = squares_of(gradients)
    else:
        squares = 0.0
        for slot in range(t[R0], t[R0] + t[R1]):
            squares += numbers[slot]
        scale_numbers(part(memory, t[G], n), squares, numbers[c])
        finish(t, header, memory, hyper, numbers, t[W], t[G], n)


# The functions that carry out operations of both families.
CALLED_BY_ALL = {
    ELEMENTWISE: apply_elementwise, WEIGH: apply_weigh, COLUMNS_OF: apply_columns, EMBED: apply_columns,
    SCATTER: scatter, **dict.fromkeys(OF_ALL, task_of_all),
}  # fmt: skip
