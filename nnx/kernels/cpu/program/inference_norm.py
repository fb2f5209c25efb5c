# mypy: ignore-errors
# (What @njit takes has no types for Python.)
"""Normalization in compiled prediction, of a row by itself or of many side by side: the same sums, so the same bits.

Sums have their parts in the order of inference_softmax.py, and no product is fused with what it is added to: whether a
compiler does that depends on what stands around it.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import (
    INLINED,
    WIDTH,
    on_stack,
    vadd,
    vfill,
    vfirst,
    vfolded,
    view,
    vload,
    vmul,
    vstore,
    vsub,
)
from nnx.kernels.cpu.program.inference_softmax import PARTS, add_parts

UNFUSED = {**INLINED, "fastmath": False}


@njit(**UNFUSED)
def total(a, size):
    """The sum of whole vectors."""
    parts = vload(a, 0)
    for j in range(WIDTH, size, WIDTH):
        parts = vadd(parts, vload(a, j))
    return vfolded(parts)


@njit(**UNFUSED)
def less_mean(a, n, share):
    """a = a - mean(a), of n numbers, with zeros up to the next whole vector."""
    size, zero = (n + WIDTH - 1) // WIDTH * WIDTH, vfill(a.dtype.type(0))
    end = size - WIDTH
    vstore(a, end, vfirst(vload(a, end), n - end, zero))
    mean = vfill(total(a, size) * share)
    for j in range(0, size, WIDTH):
        vstore(a, j, vsub(vload(a, j), mean))
    vstore(a, end, vfirst(vload(a, end), n - end, zero))


@njit(**UNFUSED)
def layer_norm_row(a, spare, n, values, gamma, beta, epsilon):
    """a = layer_norm(a), of n numbers; up to the next whole vector there is room for more, as in `spare`."""
    number, size = a.dtype.type, (n + WIDTH - 1) // WIDTH * WIDTH
    share = number(1) / number(n)
    less_mean(a, n, share)
    less_mean(a, n, share)  # what rounding left of it
    for j in range(0, size, WIDTH):
        vstore(spare, j, vmul(vload(a, j), vload(a, j)))
    scale = number(1) / np.sqrt(total(spare, size) * share + number(epsilon))
    for j in range(0, size, WIDTH):
        v = vmul(vmul(vload(a, j), vfill(scale)), vload(values, gamma + j))
        vstore(a, j, vadd(v, vload(values, beta + j)))


@njit(**UNFUSED)
def fixed_norm_row(a, n, values, gamma, beta, mean, variance, epsilon):
    """a = fixed_norm(a), of n numbers."""
    number = a.dtype.type
    for j in range(n):
        scale = number(1) / np.sqrt(values[variance + j] + number(epsilon))
        a[j] = (a[j] - values[mean + j]) * scale * values[gamma + j] + values[beta + j]


# ---- side by side ----------------------------------------------------------------------------------------------------


@njit(**UNFUSED)
def less_means(a, n, rows, share, parts):
    """a [n, rows] less the mean of each column."""
    add_parts(a, n, rows, parts)
    for i in range(rows):
        parts[i] *= share
    for j in range(0, n * rows, rows):
        for i in range(rows):
            a[j + i] -= parts[i]


@njit(**UNFUSED)
def layer_norm_side_by_side(a, spare, n, rows, values, gamma, beta, epsilon):
    """`layer_norm_row` of several rows of n numbers, which stand in the columns of a [n, rows]; `spare` is as large."""
    number = a.dtype.type
    memory = on_stack(a.dtype, PARTS)
    parts, share, more = view(memory, 0, WIDTH * rows), number(1) / number(n), number(epsilon)
    less_means(a, n, rows, share, parts)
    less_means(a, n, rows, share, parts)
    for i in range(n * rows):
        spare[i] = a[i] * a[i]
    add_parts(spare, n, rows, parts)
    for i in range(rows):
        parts[i] = number(1) / np.sqrt(parts[i] * share + more)
    for j in range(n):
        b, factor, shift = view(a, j * rows, rows), values[gamma + j], values[beta + j]
        for i in range(rows):
            b[i] = b[i] * parts[i] * factor + shift


@njit(**UNFUSED)
def fixed_norm_side_by_side(a, n, rows, values, gamma, beta, mean, variance, epsilon):
    """`fixed_norm_row` of the same."""
    number = a.dtype.type
    for j in range(n):
        scale = number(1) / np.sqrt(values[variance + j] + number(epsilon))
        b, centre, factor, shift = view(a, j * rows, rows), values[mean + j], values[gamma + j], values[beta + j]
        for i in range(rows):
            b[i] = (b[i] - centre) * scale * factor + shift
