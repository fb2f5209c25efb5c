"""Elementwise activation functions: a table with one row for each.

A row holds the function's name, what its gradient is computed from, and its formulas, which serve arrays of any
library, compiled code and GPUs alike. The operations of the backends, the compiled programs, the CUDA kernels, the
layers' choices and the tests' cases are made from the rows, so a new function is written once, here. The number by
which compiled code knows a function is its index in the table, and is written nowhere else.

A formula gets an object `m` with the mathematical functions: `where`, `exp`, `expm1`, `log`, `log1p` (for 0 .. 1) and
`tanh`. For arrays, `m` computes (nnx/backends/array_math.py). For symbolic numbers, it writes code: LLVM's
(nnx/kernels/cpu/ops/traced.py) or C's (nnx/kernels/cuda/written.py).

Infinity times 0 is NaN where these functions have limits. So a number that is multiplied by a factor which may be 0 is
first clipped to -FAR .. FAR: beyond that all such factors are 0 or 1, in float64 too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nnx.kernels.normal import normal

Number = Any  # an array, or a symbol for a number in compiled code
FAR = 1000.0
HELD_UP = 0.13  # ns a number takes where a CPU's second-level cache holds it, if little is computed
TWICE_ROOT, CUBIC = 1.5957691216057308, 0.044715  # 2 sqrt(2 / pi), and the other constant of the approximate GELU


# ---- formulas of x and perhaps a parameter; their gradients, of x or y, and dy ---------------------------------------


def above(m: Any, x: Number) -> Number:
    """max(x, -FAR)."""
    return m.where(x < -FAR, -FAR, x)


def within(m: Any, x: Number) -> Number:
    """x, clipped to -FAR .. FAR."""
    x = above(m, x)
    return m.where(x > FAR, FAR, x)


def relu(m: Any, x: Number) -> Number:
    """max(x, 0)."""
    return m.where(x < 0, 0.0, x)


def relu_backward(m: Any, y: Number, dy: Number) -> Number:
    """A choice, not a product: where y is 0, even an infinite dy gives 0."""
    return m.where(y > 0, dy, 0.0)


def sigmoid(m: Any, x: Number) -> Number:
    """1 / (1 + exp(-x)), from exp(-|x|) so that nothing overflows."""
    e = m.exp(-abs(x))
    return m.where(x >= 0, 1.0, e) / (1 + e)


def sigmoid_backward(m: Any, y: Number, dy: Number) -> Number:
    """dy y (1 - y)."""
    return dy * (y * (1 - y))


def tanh(m: Any, x: Number) -> Number:
    """The hyperbolic tangent."""
    return m.tanh(x)


def tanh_backward(m: Any, y: Number, dy: Number) -> Number:
    """dy (1 - y**2)."""
    return dy * (1 - y * y)


def leaky_relu(m: Any, x: Number, slope: Number) -> Number:
    """x, or slope * x below 0."""
    return m.where(x < 0, slope * x, x)


def leaky_relu_backward(m: Any, y: Number, dy: Number, slope: Number) -> Number:
    """dy, or slope * dy where y is not above 0; at 0 it is the derivative from the left, as for ReLU."""
    return m.where(y > 0, dy, slope * dy)


def elu(m: Any, x: Number, alpha: Number) -> Number:
    """x, or alpha * (exp(x) - 1) below 0."""
    return m.where(x > 0, x, alpha * m.expm1(m.where(x > 0, 0.0, x)))


def elu_backward(m: Any, y: Number, dy: Number, alpha: Number) -> Number:
    """dy, or dy (y + alpha) below 0, where the derivative is alpha * exp(x) = y + alpha."""
    return m.where(y > 0, dy, dy * (y + alpha))


def gelu(m: Any, x: Number) -> Number:
    """x times the standard normal distribution function at x."""
    share, _ = normal(m, x)
    return above(m, x) * share


def gelu_backward(m: Any, x: Number, dy: Number) -> Number:
    """dy (share + x * density), with the distribution function and the density of the normal distribution at x."""
    x = within(m, x)
    share, density = normal(m, x)
    return dy * (share + x * density)


def gelu_tanh(m: Any, x: Number) -> Number:
    """x (1 + tanh(u)) / 2 = x sigmoid(2 u), which keeps all digits if u is far below 0."""
    inside = within(m, x)
    return above(m, x) * sigmoid(m, inside * (TWICE_ROOT * (1 + CUBIC * inside * inside)))


def gelu_tanh_backward(m: Any, x: Number, dy: Number) -> Number:
    """dy (sigmoid(v) + x sigmoid'(v) v'), with v = 2 u."""
    x = within(m, x)
    square = x * x
    v = x * (TWICE_ROOT * (1 + CUBIC * square))
    return dy * (sigmoid(m, v) + x * sigmoid_slope(m, v) * (TWICE_ROOT * (1 + 3 * CUBIC * square)))


def silu(m: Any, x: Number) -> Number:
    """x * sigmoid(x)."""
    return above(m, x) * sigmoid(m, x)


def silu_backward(m: Any, x: Number, dy: Number) -> Number:
    """dy (sigmoid(x) + x sigmoid'(x))."""
    x = within(m, x)
    return dy * (sigmoid(m, x) + x * sigmoid_slope(m, x))


def sigmoid_slope(m: Any, x: Number) -> Number:
    """sigmoid'(x) = e / (1 + e)**2, e = exp(-|x|), which is exact where sigmoid itself is rounded to 1."""
    e = m.exp(-abs(x))
    return e / ((1 + e) * (1 + e))


def softplus(m: Any, x: Number) -> Number:
    """log(1 + exp(x)), from exp(-|x|) so that nothing overflows."""
    return m.where(x < 0, 0.0, x) + m.log1p(m.exp(-abs(x)))


def softplus_backward(m: Any, y: Number, dy: Number) -> Number:
    """dy sigmoid(x), where sigmoid(x) = 1 - exp(-y)."""
    return -dy * m.expm1(-y)


def mish(m: Any, x: Number) -> Number:
    """x tanh(softplus(x))."""
    share, _ = share_of_mish(m, x)
    return above(m, x) * share


def mish_backward(m: Any, x: Number, dy: Number) -> Number:
    """dy (share + x share'), see `share_of_mish`."""
    x = within(m, x)
    share, slope = share_of_mish(m, x)
    return dy * (share + x * slope)


def share_of_mish(m: Any, x: Number) -> tuple[Number, Number]:
    """tanh(log(1 + n)) = n (n + 2) / (n (n + 2) + 2), n = exp(x), and its derivative, both from e = exp(-|x|)."""
    e = m.exp(-abs(x))
    top = m.where(x < 0, e * (e + 2), 1 + 2 * e)
    bottom = top + m.where(x < 0, 2.0, 2 * e * e)
    return top / bottom, 4 * e * (1 + e) * m.where(x < 0, 1.0, e) / (bottom * bottom)


# ---- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Elementwise:
    """One function y = f(x) of a number.

    Attributes:
        name: of the operation; that of its gradient is `name + "_backward"`.
        of: what the gradient is computed from besides dy: "x", the function's input, or "y", its output.
        forward, backward: the formulas forward(m, x) and backward(m, x or y, dy), followed by the parameter, if there
            is one.
        parameter, default, low: the name of the function's parameter, its default, and the smallest valid value; ""
            if there is none.
        init: suitable initial weights for a dense layer before it.
        cost, slope_cost: roughly how many ns the function and its gradient take on a CPU for one number, by which the
            number of threads is chosen. Functions that hardly compute are limited by memory: HELD_UP.
    """

    name: str
    of: str
    forward: Callable[..., Number]
    backward: Callable[..., Number]
    parameter: str = ""
    default: float = 0.0
    low: float = 0.0
    init: str = "he"
    cost: float = 0.6
    slope_cost: float = HELD_UP

    def given(self, a: float) -> tuple[float, ...]:
        """The parameter as a tuple of arguments for the formulas; empty if there is none."""
        return (a,) if self.parameter else ()

    @property
    def gradient(self) -> str:
        """The name of the gradient's operation."""
        return f"{self.name}_backward"

    @cached_property
    def number(self) -> int:
        """What compiled code knows it by."""
        return number_of(self.name)

    @cached_property
    def gradient_number(self) -> int:
        """The same of its gradient."""
        return number_of(self.gradient)


FUNCTIONS = (
    Elementwise(  # chapter 4; the gradient is a choice, not a product: where y is 0, even an infinite dy gives 0
        "relu",
        of="y",
        forward=relu,
        backward=relu_backward,
        cost=HELD_UP,
    ),
    Elementwise(  # chapter 16
        "sigmoid",
        of="y",
        forward=sigmoid,
        backward=sigmoid_backward,
        init="glorot",
        cost=0.4,
    ),
    Elementwise(
        "tanh",
        of="y",
        forward=tanh,
        backward=tanh_backward,
        init="glorot",
        cost=0.4,
    ),
    Elementwise(  # Maas and others, 2013
        "leaky_relu",
        of="y",
        forward=leaky_relu,
        backward=leaky_relu_backward,
        parameter="slope",
        default=0.01,
        cost=HELD_UP,
    ),
    Elementwise(  # Clevert and others, 2016
        "elu",
        of="y",
        forward=elu,
        backward=elu_backward,
        parameter="alpha",
        default=1.0,
    ),
    Elementwise(  # Hendrycks and Gimpel, 2016: x times the share of the normal distribution that is below x
        "gelu",
        of="x",
        forward=gelu,
        backward=gelu_backward,
        slope_cost=0.8,
    ),
    Elementwise(  # its approximation, 0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x**3)
        "gelu_tanh",
        of="x",
        forward=gelu_tanh,
        backward=gelu_tanh_backward,
        slope_cost=0.8,
    ),
    Elementwise(  # Elfwing and others, 2017; Swish
        "silu",
        of="x",
        forward=silu,
        backward=silu_backward,
        slope_cost=0.8,
    ),
    Elementwise(  # log(1 + exp(x)); its gradient is sigmoid(x) = 1 - exp(-y)
        "softplus",
        of="y",
        forward=softplus,
        backward=softplus_backward,
        slope_cost=0.8,
    ),
    Elementwise(  # Misra, 2019
        "mish",
        of="x",
        forward=mish,
        backward=mish_backward,
        slope_cost=0.8,
    ),
)
NAMES = tuple(row.name for row in FUNCTIONS)
BY_NAME = {row.name: row for row in FUNCTIONS}

# All kinds of elementwise work in compiled programs, by name; a kind's number is its index here, for CPUs and for GPUs.
# After the functions and their gradients come the parts of losses and of accuracies (nnx/kernels/losses.py).
KINDS = (
    *NAMES,
    *(row.gradient for row in FUNCTIONS),
    *("square", "square_backward", "abs_error", "abs_error_backward", "binary", "binary_backward"),
    *("huber", "huber_backward"),
    *("logit", "logit_backward", "above", "near", "equal", "nll", "nll_backward", "known"),
    "add",
    "times",
)


def number_of(kind: str) -> int:
    """Return the number of a kind in compiled code."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no elementwise operation: expected one of {', '.join(KINDS)}")
    return KINDS.index(kind)
