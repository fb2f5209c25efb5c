"""Elementwise loss functions (squared, absolute, binary, Huber), and the elementwise parts of the other losses.

`PARTS` has formulas like those of nnx/kernels/elementwise.py, by kind: each is given the mathematics `m`, an output x,
what it should be, t, and two constants a and b, of which most need one or none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nnx.kernels.elementwise import Number, sigmoid
from nnx.kernels.step_state import CLIP


def clamp(m: Any, v: Number, low: Number, high: Number) -> Number:
    """v within [low, high]; nan stays nan."""
    v = m.where(v < low, low, v)  # one after the other, which is two instructions; one in the other is four
    return m.where(v > high, high, v)


def bounds(clip: float) -> tuple[float, float]:
    """The least and the greatest of -log(p) where p is kept within [clip, 1 - clip]; 0 is no limit."""
    return (-math.log1p(-clip), -math.log(clip)) if clip else (-math.inf, math.inf)


def clipped(m: Any, p: Number) -> Number:
    """A probability kept within [CLIP, 1 - CLIP]."""
    return clamp(m, p, CLIP, 1 - CLIP)


def square(m: Any, x: Number, t: Number, *_: Number) -> Number:
    """The square of the error."""
    error = x - t
    return error * error


def abs_error_backward(m: Any, x: Number, t: Number, scale: Number, _: Number) -> Number:
    """`scale` with the sign of the error: 0 of 0, nan of nan."""
    error = x - t
    return m.where(error > 0, scale, m.where(error < 0, -scale, error - error))


def binary(m: Any, x: Number, t: Number, *_: Number) -> Number:
    """A share t of yes, where the output is the probability x of it."""
    p = clipped(m, x)
    return -(t * m.log(p) + (1 - t) * m.log(1 - p))


def binary_backward(m: Any, x: Number, t: Number, scale: Number, _: Number) -> Number:
    """Its gradient."""
    p = clipped(m, x)
    return ((1 - t) / (1 - p) - t / p) * scale


def huber(m: Any, x: Number, t: Number, _: Number, delta: Number) -> Number:
    """Half the square of the error up to delta, beyond it the tangent there."""
    error = abs(x - t)
    return m.where(error > delta, delta * (error - 0.5 * delta), 0.5 * error * error)


def huber_backward(m: Any, x: Number, t: Number, scale: Number, delta: Number) -> Number:
    """The error, kept within -delta .. delta."""
    error = x - t
    return m.where(error > delta, delta, m.where(error < -delta, -delta, error)) * scale


def logit(m: Any, x: Number, t: Number, low: Number, high: Number) -> Number:
    """The same of a logit; both costs are kept within bounds. A share of 0 costs nothing, though 0 * inf is nan."""
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
    # whether an output is right
    "above": lambda m, x, t, limit, _: m.where((x > limit) == (t > 0.5), 1.0, 0.0),
    "near": lambda m, x, t, limit, _: m.where(abs(x - t) < limit, 1.0, 0.0),
    "equal": lambda m, x, t, *_: m.where(x == t, 1.0, 0.0),
    # a class's share of the cross-entropy, and a loss x where label t is one of so many classes
    "nll": lambda m, p, t, *_: -t * m.log(clipped(m, p)),
    "nll_backward": lambda m, p, t, scale, _: -t / clipped(m, p) * scale,
    # two numbers of a sample, as of a block of layers and of what it was given
    "add": lambda m, x, t, *_: x + t,
    "known": lambda m, x, t, classes, _: m.where((t >= 0) & (t < classes), x, math.nan),
    # of two numbers of one sample
    "times": lambda m, x, y, *_: x * y,
}


@dataclass(frozen=True)
class Loss:
    """A loss of each output by itself, averaged over a sample's outputs.

    Attributes:
        name: of the operation; that of its gradient is `name + "_backward"`.
        part: its cost's kind; that of the gradient is `part + "_backward"`, whose constant a is `factor` / count.
        formula: what is averaged, in words of its operands.
        outputs: the name of its first operand; the second is `target`.
        parameter: the name of its third, where a number shapes it: the constant b of both parts.
        cost, slope_cost: ns a number of the Numba kernels of it and of its gradient, on one thread.
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
        """Return what its operations are given besides arrays."""
        return (b,) if self.parameter else ()


LOSSES = (
    Loss("binary_cross_entropy", "binary", "-(t log p + (1 - t) log(1 - p))", outputs="p", cost=2.0, slope_cost=0.8),
    Loss("mean_squared_error", "square", "(prediction - target)**2", factor=2.0),
    Loss("mean_absolute_error", "abs_error", "|prediction - target|"),
    Loss("huber_loss", "huber", "error**2 / 2, or its tangent where |error| > delta", parameter="delta"),
)
