"""Reference of the activation functions."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

import math

import numpy as np

from nnx.testing.reference.results import Array, Results, Wanted

FLUSHED = 1e-30  # a slope below it may be 0


def logistic(x: Array) -> Array:
    p: Array = np.exp(-np.logaddexp(0, -x))
    return p


def exponentials(x: Array) -> tuple[Array, Array]:
    """Softmax, and how much it amplifies the rounding of x - max: the condition number of exp(x) is |x|."""
    gap = x.max(axis=1, keepdims=True) - x
    e = np.exp(-gap)
    return e / e.sum(axis=1, keepdims=True), 1 + np.minimum(gap, 1e3)


def relu(x: Array) -> Results:
    return {"out": Wanted(np.where(np.isnan(x), x, np.maximum(x, 0)))}


def relu_backward(y: Array, dy: Array) -> Results:
    dx = np.zeros_like(dy)
    dx[y > 0] = dy[y > 0]
    return {"out": Wanted(dx)}


def sigmoid(x: Array) -> Results:
    return {"out": Wanted(logistic(x))}


def sigmoid_backward(y: Array, dy: Array) -> Results:
    return {"out": Wanted(dy * y * (1 - y))}


def tanh(x: Array) -> Results:
    return {"out": Wanted(np.tanh(x), np.ones_like(x))}  # to the rounding of 1, also near 0


def tanh_backward(y: Array, dy: Array) -> Results:
    return {"out": Wanted(dy * (1 - y) * (1 + y), np.abs(dy) * (1 + y * y))}


def leaky_relu(x: Array, a: float) -> Results:
    return {"out": Wanted(np.maximum(x, 0) + a * np.minimum(x, 0))}


def leaky_relu_backward(y: Array, dy: Array, a: float) -> Results:
    return {"out": Wanted(np.array([1, a])[np.where(y > 0, 0, 1)] * dy)}


def elu(x: Array, a: float) -> Results:
    return {"out": Wanted(np.maximum(x, 0) + a * np.expm1(np.minimum(x, 0)))}


def elu_backward(y: Array, dy: Array, a: float) -> Results:
    return {"out": Wanted(dy * np.where(y > 0, 1, y + a), np.abs(dy) * (np.abs(y) + a + 1))}


def gated(x: Array, share: Array, slope: Array, power: Array) -> tuple[Wanted, Wanted]:
    """x * share(x) and its slope, given the slope of the share, and its exponent, which amplifies rounding."""
    growth = 1 + np.minimum(np.abs(power), 1e3)
    y = np.where(x == -np.inf, 0, x * share)
    turn = np.where(np.isinf(x), 0, x * slope)
    return Wanted(y, np.abs(y) * growth), Wanted(share + turn, (share + np.abs(turn)) * growth)


def gaussian(x: Array) -> tuple[Wanted, Wanted]:
    share = np.vectorize(math.erfc, otypes=[float])(-x / math.sqrt(2)) / 2
    return gated(x, share, np.exp(-x * x / 2) / math.sqrt(2 * math.pi), x * x / 2)


def gaussian_by_tanh(x: Array) -> tuple[Wanted, Wanted]:
    v = math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)
    steepness = math.sqrt(8 / math.pi) * (1 + 0.134145 * x**2)
    return gated(x, logistic(v), logistic(v) * logistic(-v) * np.where(np.abs(x) > 1e6, 0, steepness), v)


def swish(x: Array) -> tuple[Wanted, Wanted]:
    return gated(x, logistic(x), logistic(x) * logistic(-x), x)


def softplus_gate(x: Array) -> tuple[Wanted, Wanted]:
    plus = np.logaddexp(0, x)
    return gated(x, np.tanh(plus), logistic(x) / np.cosh(np.minimum(plus, 300)) ** 2, x)


def times(dy: Array, slope: Wanted) -> Results:
    assert slope.size is not None
    return {"out": Wanted(dy * slope.value, np.abs(dy) * (slope.size + FLUSHED))}


def gelu(x: Array) -> Results:
    return {"out": gaussian(x)[0]}


def gelu_backward(x: Array, dy: Array) -> Results:
    return times(dy, gaussian(x)[1])


def gelu_tanh(x: Array) -> Results:
    return {"out": gaussian_by_tanh(x)[0]}


def gelu_tanh_backward(x: Array, dy: Array) -> Results:
    return times(dy, gaussian_by_tanh(x)[1])


def silu(x: Array) -> Results:
    return {"out": swish(x)[0]}


def silu_backward(x: Array, dy: Array) -> Results:
    return times(dy, swish(x)[1])


def mish(x: Array) -> Results:
    return {"out": softplus_gate(x)[0]}


def mish_backward(x: Array, dy: Array) -> Results:
    return times(dy, softplus_gate(x)[1])


def softplus(x: Array) -> Results:
    y = np.logaddexp(0, x)
    return {"out": Wanted(y, y * (1 + np.minimum(np.abs(x), 1e3)))}


def softplus_backward(y: Array, dy: Array) -> Results:
    return {"out": Wanted(-dy * np.expm1(-y))}


def softmax(x: Array) -> Results:
    p, growth = exponentials(x)
    return {"out": Wanted(p, p * growth)}


def softmax_backward(y: Array, dy: Array) -> Results:
    dx = np.stack([(np.diagflat(row) - np.outer(row, row)) @ d for row, d in zip(y, dy, strict=True)])
    return {"out": Wanted(dx, y * (np.abs(dy) + (y * np.abs(dy)).sum(axis=1, keepdims=True)))}


def softmax_jacobian(y: Array) -> Results:
    matrices = np.stack([np.diagflat(row) - np.outer(row, row) for row in y])
    return {"out": Wanted(matrices, np.stack([np.diagflat(row) + np.outer(row, row) for row in y]))}
