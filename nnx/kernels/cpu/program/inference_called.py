# mypy: ignore-errors
# (What @njit takes has no types for Python.)
"""Work on a layer's outputs in some networks' predictions: functions that both kernels call by their address.

So a network compiles what it has, once for few rows and for many, and both make the same bits. Each takes
    a: a row of n numbers, up to the next whole vector, or `columns` samples side by side [n, columns]; spare: as much.
    values: the parameters. table, constants: see inference.py. at: where the layer's row of the table begins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.called import address_of
from nnx.kernels.cpu.jit.simd import CALLED, view
from nnx.kernels.cpu.jit.span import Span
from nnx.kernels.cpu.ops.elementwise import NONE, RELU, apply_function
from nnx.kernels.cpu.program.inference import (
    BETA,
    FIXED_NORM,
    GAMMA,
    KIND,
    LAYER_NORM,
    MEAN,
    PARAMETER,
    SOFTMAX,
    VARIANCE,
    whole,
)
from nnx.kernels.cpu.program.inference_norm import (
    fixed_norm_row,
    fixed_norm_side_by_side,
    layer_norm_row,
    layer_norm_side_by_side,
)


@njit(**CALLED)
def activate(a, spare, n, columns, values, table, constants, at):
    """Pass the numbers through a function."""
    numbers = view(a, 0, whole(n) if columns == 1 else n * columns)
    apply_function(table[at + KIND], numbers, numbers, numbers, constants[at + PARAMETER], 0.0)


@njit(**CALLED)
def layer_norm(a, spare, n, columns, values, table, constants, at):
    """Normalize each sample."""
    gamma, beta, epsilon = table[at + GAMMA], table[at + BETA], constants[at + PARAMETER]
    if columns == 1:
        layer_norm_row(a, spare, n, values, gamma, beta, epsilon)
    else:
        layer_norm_side_by_side(a, spare, n, columns, values, gamma, beta, epsilon)


@njit(**CALLED)
def fixed_norm(a, spare, n, columns, values, table, constants, at):
    """Normalize by running statistics."""
    gamma, beta, mean, variance = table[at + GAMMA], table[at + BETA], table[at + MEAN], table[at + VARIANCE]
    if columns == 1:
        fixed_norm_row(a, n, values, gamma, beta, mean, variance, constants[at + PARAMETER])
    else:
        fixed_norm_side_by_side(a, n, columns, values, gamma, beta, mean, variance, constants[at + PARAMETER])


def function_at(kind: int, dtype: Any) -> int:
    """Return the address of the function for a layer's KIND, compiled or read from the disk; 0 where there is none."""
    if kind in (NONE, RELU, SOFTMAX):
        return 0
    number = types.float32 if np.dtype(dtype).itemsize == 4 else types.float64
    numbers, function = Span(number), {LAYER_NORM: layer_norm, FIXED_NORM: fixed_norm}.get(kind, activate)
    words = Span(types.int64), Span(types.float64), types.int64
    return address_of(function, numbers, numbers, types.int64, types.int64, numbers, *words)
