# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Compiled prediction, `forward`: a few rows through any network of dense layers and activations.

It interprets a table of integers (below) that says which parts of the flat parameter buffer are whose weights, so it
sees every change of them, and no network costs compile time. Each row goes through all layers by itself, in two
buffers on the stack: any number of threads may call it at once.

Where a layer's weights are many, threads that help take some of its columns each, and then read them from caches of
their own: one row of 784-512-512-10, 2.7 MB of weights, takes 67 us on one thread of an Emerald Rapids, 26 on two.

Floor: the bytes of the weights, once a row, from whichever memory holds them; and 0.3 us for a call with two arrays.
On a Zen 3 core with AVX2, 2-64-3 takes 0.15 us beside the call, 64-128-64-10 0.9, 784-512-512-10, whose weights come
from the third-level cache, 39 at 69 GB/s. It has no tiles, so many rows are for inference_many.py, which adds up in the
same order: what comes out of a row does not depend on how many others there are.

A vector is 16 numbers, and so are the steps in which all widths are rounded up. The lanes past a layer's width hold
whatever follows in the parameter buffer; nothing that counts ever reads them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from nnx.kernels.cpu.jit.behaved import behaved
from nnx.kernels.cpu.jit.cache import njit, typed
from nnx.kernels.cpu.jit.called import call
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import (
    INLINED,
    OPTIONS,
    PART,
    WIDTH,
    numbers_at,
    on_stack,
    row,
    smaller,
    vfill,
    vfma,
    view,
    vload,
    vstore,
)
from nnx.kernels.cpu.ops.elementwise import NONE, RELU, apply_relu
from nnx.kernels.cpu.program.inference_softmax import softmax_row
from nnx.kernels.cpu.threads.team import WANTED, make_together

# The table: a header (how many layers, the most rows, how many weights, the parameters' address), then a row for each
# layer: its widths, the places of its parameters (NOWHERE: an activation by itself), and what is done to its outputs:
# a function by its number (nnx/kernels/elementwise.py) and that function's own parameter, a float64; SOFTMAX, or NONE.
# A normalization, whose parameter is epsilon, has the places of gamma and beta, and, FIXED_NORM, of running statistics.
# FUNCTION is the address of what does it (inference_called.py); 0: `forward` itself does, which is so for what most
# networks have.
STAGES, ROWS, SIZE, PARAMETERS, HEADER = range(5)
K, N, WEIGHTS, BIASES, KIND, PARAMETER, GAMMA, BETA, MEAN, VARIANCE, FUNCTION, COLUMNS = range(12)
NOWHERE, SOFTMAX, LAYER_NORM, FIXED_NORM = -1, -2, -3, -4  # numbers of functions are not below 0
STACK = 2048  # numbers of the widest layer: its two buffers lie on the stack, since allocating them takes 60 ns
BUFFERS = 2 * STACK
SOON = 20_000  # weights that take 1 us: up to then Python's other threads wait, since letting them go on takes 0.1 us
SHARED = 1 << 15  # weights of a layer whose columns are shared, some 1 us
release_gil = types.ExternalFunction("PyEval_SaveThread", types.uintp())
acquire_gil = types.ExternalFunction("PyEval_RestoreThread", types.void(types.uintp))


@njit(**INLINED)
def whole(n):
    """A width, rounded up to whole vectors."""
    return (n + WIDTH - 1) // WIDTH * WIDTH


@njit(**INLINED)
def narrow_product(values, w, b, k, n, x, y):
    """y = x W + b for up to 16 columns: one vector, four sums, since each addition waits for the one before."""
    zero = vfill(values.dtype.type(0))
    a0, a1, a2, a3 = vload(values, b), zero, zero, zero
    last = k - k % 4
    for i in range(0, last, 4):
        at = w + i * n
        a0 = vfma(vload(values, at), vfill(x[i]), a0)
        a1 = vfma(vload(values, at + n), vfill(x[i + 1]), a1)
        a2 = vfma(vload(values, at + 2 * n), vfill(x[i + 2]), a2)
        a3 = vfma(vload(values, at + 3 * n), vfill(x[i + 3]), a3)
    for i in range(last, k):
        a0 = vfma(vload(values, w + i * n), vfill(x[i]), a0)
    one = vfill(values.dtype.type(1))
    vstore(y, 0, vfma(one, vfma(one, a0, a1), vfma(one, a2, a3)))


@njit(**INLINED)
def wide_product(values, w, b, k, n, x, y, j0, j1):
    """Columns j0 .. j1 of y = x W + b, four rows of W at a time: in the order of memory, which is fetched ahead."""
    last = k - k % 4
    for j in range(j0, j1, WIDTH):
        vstore(y, j, vload(values, b + j))
    for i in range(0, last, 4):
        f0, f1, f2, f3 = vfill(x[i]), vfill(x[i + 1]), vfill(x[i + 2]), vfill(x[i + 3])
        for j in range(j0, j1, WIDTH):
            at = w + i * n + j
            a = vfma(vload(values, at), f0, vload(y, j))
            a = vfma(vload(values, at + n), f1, a)
            a = vfma(vload(values, at + 2 * n), f2, a)
            vstore(y, j, vfma(vload(values, at + 3 * n), f3, a))
    for i in range(last, k):
        f0 = vfill(x[i])
        for j in range(j0, j1, WIDTH):
            vstore(y, j, vfma(vload(values, w + i * n + j), f0, vload(y, j)))


@njit(**PART)
def columns_share(operands, number):
    """Some columns of a layer's product: in every other layer those of the other end.

    The same columns of all layers would lie in one half of a cache's sets where rows are a power of two long: with 512
    columns what two threads read did not fit then, and they took 48 us instead of 24.
    """
    values, w, b, k, n, x, y, step, other = operands
    columns = whole(n)
    first = (columns - 1) // step * step - number * step if other else number * step
    wide_product(values, w, b, k, n, x, y, first, smaller(columns, first + step))


columns_together = make_together(columns_share)


@njit(**INLINED)
def copy_finite(source, target):
    """Copy a row; tell whether all its numbers are finite."""
    zero = source.dtype.type(0)
    wrong = zero
    for j in range(source.size):
        v = source[j]
        target[j] = v
        wrong += v * zero  # 0, or NaN
    return wrong == zero


@njit(**INLINED)
def every_row(table, constants, values, x, out, board, threads):
    """`forward` for operands that fit; False if a number is not finite. `constants`: the table, read as float64."""
    first, last = HEADER, HEADER + (table[STAGES] - 1) * COLUMNS
    memory = on_stack(values.dtype, BUFFERS)
    for i in range(x.shape[0]):
        a, b = view(memory, 0, STACK), view(memory, STACK, STACK)
        other = False
        if not copy_finite(row(x, i), a):
            return False
        for at in range(first, last + 1, COLUMNS):
            k, n, kind, w, bias = (
                table[at + K],
                table[at + N],
                table[at + KIND],
                table[at + WEIGHTS],
                table[at + BIASES],
            )
            if w != NOWHERE:
                if n <= WIDTH:
                    narrow_product(values, w, bias, k, n, a, b)
                elif threads > 1 and k * n >= SHARED:
                    step = whole((n + threads - 1) // threads)
                    columns_together(board, (values, w, bias, k, n, a, b, step, other), (n + step - 1) // step)
                else:
                    wide_product(values, w, bias, k, n, a, b, 0, whole(n))
                a, b, other = b, a, not other
            if kind == SOFTMAX:
                softmax_row(a, n)
            elif kind == RELU:
                some = view(a, 0, whole(n))
                apply_relu(RELU, some, some, some, 0.0, 0.0)
            elif kind != NONE:
                call(table[at + FUNCTION], a, b, n, 1, values, table, constants, at)
        result = row(out, i)
        for j in range(result.size):
            result[j] = a[j]
    return True


@takes("mm")
@njit(**{**OPTIONS, "nogil": False})
def forward(x, out, place, board):
    """out [N, O] = the network's outputs for x [N, I]; False, with `out` left half done, if it does not take these.

    Args:
        x: finite numbers, of at most table[ROWS] rows. place: where the table lies. board: where that of the threads
            lies which may help (team.py), or 0. The caller keeps these and the parameters alive: given as arrays they
            would add 30 ns each to every call.
    """
    table = numbers_at(place, np.int64)
    rows, last = x.shape[0], HEADER + (table[STAGES] - 1) * COLUMNS
    if not behaved(x) or rows > table[ROWS] or rows != out.shape[0] or not x.size:
        return False
    if x.shape[1] != table[HEADER + K] or out.shape[1] != table[last + N]:
        return False
    values = numbers_at(table[PARAMETERS], x.dtype)
    thread = types.uintp(0)
    if rows * table[SIZE] > SOON:
        thread = release_gil()
    threads = numbers_at(board, np.int64)[WANTED] + 1 if board != 0 else 1
    done = every_row(table, numbers_at(place, np.float64), values, x, out, board, threads)
    if thread != 0:
        acquire_gil(thread)
    return done


def ready(dtype: Any) -> Any:
    """Return `forward`, compiled for one number type or read from the disk."""
    number = types.float32 if np.dtype(dtype).itemsize == 4 else types.float64
    return typed(forward, number[:, ::1], number[:, ::1], types.int64, types.int64)
