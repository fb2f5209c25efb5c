"""What a recorded step does to each number by itself: activations, their gradients, and the parts of the losses.

Floor: 8 or 12 bytes a number, in the cache; sigmoid, tanh and the logarithms about 0.3 ns a number (math.py).
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import PART
from nnx.kernels.cpu.ops.loss_formulas import (
    absolute,
    absolute_gradient,
    binary,
    binary_gradient,
    is_class,
    logit,
    logit_gradient,
    near,
    nll,
    nll_gradient,
    same_side,
    squared,
    squared_gradient,
)
from nnx.kernels.cpu.ops.math import sigmoid, tanh
from nnx.kernels.cpu.program.table import (
    ABOVE,
    BINARY,
    BINARY_BACK,
    DISTANCE,
    DISTANCE_BACK,
    EQUAL,
    KNOWN,
    LOGIT,
    LOGIT_BACK,
    NEAR,
    RELU,
    RELU_BACK,
    SIGMOID,
    SIGMOID_BACK,
    SQUARE,
    SQUARE_BACK,
    SURPRISE,
    SURPRISE_BACK,
    TANH,
    TANH_BACK,
)


@njit(**PART)
def elementwise(kind, x, y, out, c0, c1):
    """Write `kind` of x, or of x and y, to `out`; c0 and c1 are the kind's constants. out may be x or y."""
    number = x.dtype.type
    one, zero, n, low, high = number(1), number(0), len(out), number(c0), number(c1)
    # Each loop loads all it reads before it chooses: otherwise a branch stays, mispredicted on every batch that is new.
    if kind == RELU:
        for j in range(n):
            a = x[j]
            out[j] = zero if a < zero else a
    elif kind == RELU_BACK:
        for j in range(n):
            a, d = x[j], y[j]
            out[j] = d if a > zero else zero
    elif kind == SIGMOID:
        for j in range(n):
            out[j] = sigmoid(x[j])
    elif kind == SIGMOID_BACK:
        for j in range(n):
            out[j] = y[j] * (x[j] * (one - x[j]))
    elif kind == TANH:
        for j in range(n):
            out[j] = tanh(x[j])
    elif kind == TANH_BACK:
        for j in range(n):
            out[j] = y[j] * (one - x[j] * x[j])
    elif kind == SQUARE:
        for j in range(n):
            out[j] = squared(x[j], y[j])
    elif kind == SQUARE_BACK:
        for j in range(n):
            out[j] = squared_gradient(x[j], y[j], low)
    elif kind == DISTANCE:
        for j in range(n):
            out[j] = absolute(x[j], y[j])
    elif kind == DISTANCE_BACK:
        for j in range(n):
            out[j] = absolute_gradient(x[j], y[j], low)
    elif kind == BINARY:
        for j in range(n):
            out[j] = binary(x[j], y[j])
    elif kind == BINARY_BACK:
        for j in range(n):
            out[j] = binary_gradient(x[j], y[j], low)
    elif kind == LOGIT:
        for j in range(n):
            out[j] = logit(x[j], y[j], low, high)
    elif kind == LOGIT_BACK:
        for j in range(n):
            out[j] = logit_gradient(x[j], y[j], low)
    elif kind == ABOVE:
        for j in range(n):
            out[j] = one if same_side(x[j], y[j], low) else zero
    elif kind == NEAR:
        for j in range(n):
            out[j] = one if near(x[j], y[j], low) else zero
    elif kind == EQUAL:
        for j in range(n):
            out[j] = one if x[j] == y[j] else zero
    elif kind == SURPRISE:
        for j in range(n):
            out[j] = nll(x[j], y[j])
    elif kind == SURPRISE_BACK:
        for j in range(n):
            out[j] = nll_gradient(x[j], y[j], low)
    elif kind == KNOWN:
        nothing = number(np.nan)
        for j in range(n):
            a, label = x[j], y[j]
            out[j] = a if is_class(label, low) else nothing
