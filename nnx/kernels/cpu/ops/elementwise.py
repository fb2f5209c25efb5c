"""Elementwise kernels of a recorded step: activations, their gradients, and the parts of the losses.

Floor: 8 or 12 bytes a number, in the cache; sigmoid, tanh and the logarithms about 0.3 ns a number (math.py).
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import EXACT, INLINED, PART
from nnx.kernels.cpu.ops.math import exp, log, tanh
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
from nnx.kernels.step_state import CLIP


@njit(**EXACT)
def log1p(e):
    """log(1 + e) for e in 0 .. 1, to the last bits also where e is small (Goldberg, 1991)."""
    one = type(e)(1)
    u = one + e
    return e if u == one else log(u) * (e / (u - one))


@njit(**INLINED)
def clipped(p):
    """A probability kept within [CLIP, 1 - CLIP]; nan stays nan."""
    low, high = type(p)(CLIP), type(p)(1 - CLIP)
    p = low if p < low else p
    return high if p > high else p


@njit(**INLINED)
def sigmoid(x):
    """1 / (1 + exp(-x)) from exp(-|x|), so that nothing overflows."""
    one = type(x)(1)
    e = exp(-abs(x))
    return (one if x >= 0 else e) / (one + e)


@njit(**PART)
def elementwise(kind, x, y, out, c0, c1):
    """Write `kind` of x, or of x and y, to `out`; c0 and c1 are the kind's constants. out may be x or y."""
    number = x.dtype.type
    one, zero, half, n, low, high = number(1), number(0), number(0.5), len(out), number(c0), number(c1)
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
            d = x[j] - y[j]
            out[j] = d * d
    elif kind == SQUARE_BACK:
        for j in range(n):
            out[j] = (x[j] - y[j]) * low
    elif kind == DISTANCE:
        for j in range(n):
            out[j] = abs(x[j] - y[j])
    elif kind == DISTANCE_BACK:
        for j in range(n):
            d = x[j] - y[j]
            out[j] = (low if d > zero else zero) - (low if d < zero else zero) + (d - d)  # the last for nan
    elif kind == BINARY:
        for j in range(n):
            p, t = clipped(x[j]), y[j]
            out[j] = -(t * log(p) + (one - t) * log(one - p))
    elif kind == BINARY_BACK:
        for j in range(n):
            p, t = clipped(x[j]), y[j]
            out[j] = ((one - t) / (one - p) - t / p) * low
    elif kind == LOGIT:
        for j in range(n):
            a, t = x[j], y[j]
            more = log1p(exp(-abs(a)))
            yes, no = more - (a if a < zero else zero), more + (zero if a < zero else a)
            yes = low if yes < low else yes
            yes = high if yes > high else yes
            no = low if no < low else no
            no = high if no > high else no
            yes, no = t * yes, (one - t) * no
            out[j] = (zero if t == zero else yes) + (zero if t == one else no)  # 0 * inf would be nan
    elif kind == LOGIT_BACK:
        for j in range(n):
            out[j] = (sigmoid(x[j]) - y[j]) * low
    elif kind == ABOVE:
        for j in range(n):
            out[j] = one if (x[j] > low) == (y[j] > half) else zero
    elif kind == NEAR:
        for j in range(n):
            out[j] = one if abs(x[j] - y[j]) < low else zero
    elif kind == EQUAL:
        for j in range(n):
            out[j] = one if x[j] == y[j] else zero
    elif kind == SURPRISE:
        for j in range(n):
            out[j] = -y[j] * log(clipped(x[j]))
    elif kind == SURPRISE_BACK:
        for j in range(n):
            out[j] = -y[j] / clipped(x[j]) * low
    elif kind == KNOWN:
        nothing = number(np.nan)
        for j in range(n):
            a, label = x[j], y[j]
            out[j] = a if zero <= label and label < low else nothing


@njit(**PART)
def exp_all(x):
    """In place. A loop of its own, as long as can be: rows of three or ten numbers would not fill a vector."""
    for j in range(len(x)):
        x[j] = exp(x[j])


@njit(**PART)
def log_all(x):
    """In place."""
    for j in range(len(x)):
        x[j] = log(x[j])
