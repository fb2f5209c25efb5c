"""Elementwise loss functions (squared, absolute, binary, Huber), and the elementwise parts of the other losses.

`PARTS` has formulas like those of nnx/kernels/elementwise.py, by kind: each gets `m`, an output x, its target t, and
two constants a and b, of which most use one or none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nnx.kernels.elementwise import Number, sigmoid
from nnx.kernels.step_state import CLIP


def clamp(m: Any, v: Number, low: Number, high: Number) -> Number:
    """v, clipped to [low, high]; nan stays nan."""
    v = m.where(v < low, low, v)  # one after the other takes two instructions; nested, they would take four
    return m.where(v > high, high, v)


def bounds(clip: float) -> tuple[float, float]:
    """The smallest and the largest -log(p) for p in [clip, 1 - clip]; a clip of 0 means no limit."""
    return (-math.log1p(-clip), -math.log(clip)) if clip else (-math.inf, math.inf)


def clipped(m: Any, p: Number) -> Number:
    """A probability, clipped to [CLIP, 1 - CLIP]."""
    return clamp(m, p, CLIP, 1 - CLIP)


def square(m: Any, x: Number, t: Number, *_: Number) -> Number:
    """The square of the error."""
    error = x - t
    return error * error


def abs_error_backward(m: Any, x: Number, t: Number, scale: Number, _: Number) -> Number:
    """`scale` with the sign of the error; 0 for 0, nan for nan."""
    error = x - t
    return m.where(error > 0, scale, m.where(error < 0, -scale, error - error))


def binary(m: Any, x: Number, t: Number, *_: Number) -> Number:
    """Binary cross-entropy of a probability x for the target t: -(t log(x) + (1 - t) log(1 - x))."""
    p = clipped(m, x)
    return -(t * m.log(p) + (1 - t) * m.log(1 - p))


def binary_backward(m: Any, x: Number, t: Number, scale: Number, _: Number) -> Number:
    """The gradient of `binary`, times `scale`."""
    p = clipped(m, x)
    return ((1 - t) / (1 - p) - t / p) * scale


def huber(m: Any, x: Number, t: Number, _: Number, delta: Number) -> Number:
    """Half the square of the error up to delta; beyond, the tangent at delta."""
    error = abs(x - t)
    return m.where(error > delta, delta * (error - 0.5 * delta), 0.5 * error * error)


def huber_backward(m: Any, x: Number, t: Number, scale: Number, delta: Number) -> Number:
    """`scale` times the error, clipped to -delta .. delta."""
    error = x - t
    return m.where(error > delta, delta, m.where(error < -delta, -delta, error)) * scale


def logit(m: Any, x: Number, t: Number, low: Number, high: Number) -> Number:
    """`binary` for a logit x, with both logarithms clipped to low .. high; 0 * inf, which would be nan, counts as 0."""
    more = m.log1p(m.exp(-abs(x)))
    yes, no = more - m.where(x < 0, x, 0.0), more + m.where(x < 0, 0.0, x)
    yes, no = clamp(m, yes, low, high), clamp(m, no, low, high)
    return m.where(t == 0, 0.0, t * yes) + m.where(t == 1, 0.0, (1 - t) * no)


PARTS: dict[str, Callable[..., Number]] = {
    "square": square,
    "square_backward": lambda m, x, t, scale, _: (x - t) * scale,
    "abs_error": lambda m, x, t, *_: abs(x - t),
    "abs_error_backward": abs_error_backward,
    "binary": binary,
    "binary_backward": binary_backward,
    "huber": huber,
    "huber_backward": huber_backward,
    "logit": logit,
    "logit_backward": lambda m, x, t, scale, _: (sigmoid(m, x) - t) * scale,
    # whether an output is right (1 or 0)
    "above": lambda m, x, t, limit, _: m.where((x > limit) == (t > 0.5), 1.0, 0.0),
    "near": lambda m, x, t, limit, _: m.where(abs(x - t) < limit, 1.0, 0.0),
    "equal": lambda m, x, t, *_: m.where(x == t, 1.0, 0.0),
    # a class's part of the cross-entropy
    "nll": lambda m, p, t, *_: -t * m.log(clipped(m, p)),
    "nll_backward": lambda m, p, t, scale, _: -t / clipped(m, p) * scale,
    # the sum of two numbers, as in a residual block
    "add": lambda m, x, t, *_: x + t,
    # the loss x if label t is one of so many classes, else nan
    "known": lambda m, x, t, classes, _: m.where((t >= 0) & (t < classes), x, math.nan),
    # the product of two numbers of a sample
    "times": lambda m, x, y, *_: x * y,
}


@dataclass(frozen=True)
class Loss:
    """A loss of each output by itself, averaged over a sample's outputs.

    Attributes:
        name: of the operation; that of its gradient is `name + "_backward"`.
        part: the kind of its formula; that of the gradient is `part + "_backward"`, with the constant a = `factor` /
            count.
        formula: the averaged expression, as text.
        outputs: the name of its first operand; the second is `target`.
        parameter: the name of its third operand, if it has one: the constant b of both parts.
        cost, slope_cost: ns for one number in the Numba kernels of the loss and of its gradient, on one thread.
    """

    name: str
    part: str
    formula: str
    outputs: str = "prediction"
    factor: float = 1.0
    parameter: str = ""
    cost: float = 0.3
    slope_cost: float = 0.15

    @property
    def slope(self) -> str:
        """The kind of its gradient."""
        return f"{self.part}_backward"

    @property
    def gradient(self) -> str:
        """The name of the gradient's operation."""
        return f"{self.name}_backward"

    def given(self, b: float) -> tuple[float, ...]:
        """Return the arguments of its operations besides arrays."""
        return (b,) if self.parameter else ()


LOSSES = (
    Loss("binary_cross_entropy", "binary", "-(t log p + (1 - t) log(1 - p))", outputs="p", cost=2.0, slope_cost=0.8),
    Loss("mean_squared_error", "square", "(prediction - target)**2", factor=2.0),
    Loss("mean_absolute_error", "abs_error", "|prediction - target|"),
    Loss("huber_loss", "huber", "error**2 / 2, or its tangent where |error| > delta", parameter="delta"),
)
