"""The activation functions that act on each number by itself: a table with one row for each.

A row holds the function's name, what its gradient is computed from, and its formulas: in Python, for arrays of any
library and for compiled code alike, and in C for GPUs. The operations of the backends, the compiled programs, the CUDA
kernels, the layers' choices and the tests' cases are made from the rows, so a new function is written once, here. Its
number, by which compiled code knows it, is its place in the table and stands nowhere else.

A formula in Python is given the mathematics `m` of whatever it works on: `where`, `exp`, `expm1`, `log1p` (of 0 .. 1)
and `tanh`. With arrays it computes (nnx/backends/array_math.py); with numbers that compiled code will hold it writes
that code (nnx/kernels/cpu/ops/traced.py).

Infinity times 0 is NaN, where these functions have limits. So what is multiplied by a share that may be 0 is first kept
within -FAR .. FAR: further out all shares are 0 or 1, in float64 as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nnx.kernels.normal import normal

Number = Any  # an array, or what stands for a number in compiled code
FAR = 1000.0
TWICE_ROOT, CUBIC = 1.5957691216057308, 0.044715  # 2 sqrt(2 / pi), and the other constant of the approximate GELU


# ---- formulas of x, and of a parameter a; of x or y and dy -----------------------------------------------------------


def above(m: Any, x: Number) -> Number:
    """x, or -FAR below it."""
    return m.where(x < -FAR, -FAR, x)


def within(m: Any, x: Number) -> Number:
    """x, kept within -FAR .. FAR."""
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
    """The slope is y (1 - y)."""
    return dy * (y * (1 - y))


def tanh(m: Any, x: Number) -> Number:
    """The hyperbolic tangent."""
    return m.tanh(x)


def tanh_backward(m: Any, y: Number, dy: Number) -> Number:
    """The slope is 1 - y**2."""
    return dy * (1 - y * y)


def leaky_relu(m: Any, x: Number, slope: Number) -> Number:
    """x, or slope * x below 0."""
    return m.where(x < 0, slope * x, x)


def leaky_relu_backward(m: Any, y: Number, dy: Number, slope: Number) -> Number:
    """At 0 the slope is that of the left side, as ReLU's is."""
    return m.where(y > 0, dy, slope * dy)


def elu(m: Any, x: Number, alpha: Number) -> Number:
    """x, or alpha * (exp(x) - 1) below 0."""
    return m.where(x > 0, x, alpha * m.expm1(m.where(x > 0, 0.0, x)))


def elu_backward(m: Any, y: Number, dy: Number, alpha: Number) -> Number:
    """Below 0 the slope is alpha * exp(x) = y + alpha."""
    return m.where(y > 0, dy, dy * (y + alpha))


def gelu(m: Any, x: Number) -> Number:
    """x times the share of the normal distribution that lies below x."""
    share, _ = normal(m, x)
    return above(m, x) * share


def gelu_backward(m: Any, x: Number, dy: Number) -> Number:
    """The slope is share + x * density."""
    x = within(m, x)
    share, density = normal(m, x)
    return dy * (share + x * density)


def gelu_tanh(m: Any, x: Number) -> Number:
    """x (1 + tanh(u)) / 2 = x sigmoid(2 u), which loses nothing where u is far below 0."""
    inside = within(m, x)
    return above(m, x) * sigmoid(m, inside * (TWICE_ROOT * (1 + CUBIC * inside * inside)))


def gelu_tanh_backward(m: Any, x: Number, dy: Number) -> Number:
    """The slope is sigmoid(v) + x sigmoid'(v) v', v = 2 u."""
    x = within(m, x)
    square = x * x
    v = x * (TWICE_ROOT * (1 + CUBIC * square))
    return dy * (sigmoid(m, v) + x * sigmoid_slope(m, v) * (TWICE_ROOT * (1 + 3 * CUBIC * square)))


def silu(m: Any, x: Number) -> Number:
    """x * sigmoid(x)."""
    return above(m, x) * sigmoid(m, x)


def silu_backward(m: Any, x: Number, dy: Number) -> Number:
    """The slope is sigmoid(x) + x sigmoid'(x)."""
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
    """The slope is sigmoid(x) = 1 - exp(-y)."""
    return -dy * m.expm1(-y)


# ---- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Elementwise:
    """One function y = f(x) of a number.

    Attributes:
        name: of the operation; that of its gradient is `name + "_backward"`.
        of: what the gradient is computed from besides dy: "x", the function's input, or "y", its output.
        forward, backward: the formulas in Python: forward(m, x) and backward(m, x or y, dy), and the parameter after
            these, if there is one.
        cuda, cuda_gradient: C expressions of x, or of x or y (as `of` says) and dy, with the functions of common.cuh;
            the type is REAL. `a` is the parameter. Beyond +-FAR (1000) a function is its limit: infinity * 0 is NaN.
        parameter, default, low: the name of the one number that shapes the function, its value where none is given, and
            the smallest that makes sense; "" where there is none.
        init: the initial weights that fit a dense layer before it.
        cost: about how many ns a number takes a CPU, which decides how many threads share the work.
    """

    name: str
    of: str
    forward: Callable[..., Number]
    backward: Callable[..., Number]
    cuda: str
    cuda_gradient: str
    parameter: str = ""
    default: float = 0.0
    low: float = 0.0
    init: str = "he"
    cost: float = 1.0

    @property
    def gradient(self) -> str:
        """The name of the gradient's operation."""
        return f"{self.name}_backward"


FUNCTIONS = (
    Elementwise(  # chapter 4; the gradient is a choice, not a product: where y is 0, even an infinite dy gives 0
        "relu",
        of="y",
        forward=relu,
        backward=relu_backward,
        cuda="relu(x)",
        cuda_gradient="y > 0 ? dy : (REAL)0",
        cost=0.3,
    ),
    Elementwise(  # chapter 16
        "sigmoid",
        of="y",
        forward=sigmoid,
        backward=sigmoid_backward,
        cuda="logistic(x)",
        cuda_gradient="dy * y * (1 - y)",
        init="glorot",
        cost=0.8,
    ),
    Elementwise(
        "tanh",
        of="y",
        forward=tanh,
        backward=tanh_backward,
        cuda="hyperbolic_tangent(x)",
        cuda_gradient="dy * (1 - y * y)",
        init="glorot",
    ),
    Elementwise(  # Maas and others, 2013
        "leaky_relu",
        of="y",
        forward=leaky_relu,
        backward=leaky_relu_backward,
        cuda="x < 0 ? a * x : x",
        cuda_gradient="y > 0 ? dy : a * dy",
        parameter="slope",
        default=0.01,
        cost=0.3,
    ),
    Elementwise(  # Clevert and others, 2016
        "elu",
        of="y",
        forward=elu,
        backward=elu_backward,
        cuda="x > 0 ? x : a * exponential_less_1(x)",
        cuda_gradient="y > 0 ? dy : dy * (y + a)",
        parameter="alpha",
        default=1.0,
    ),
    Elementwise(  # Hendrycks and Gimpel, 2016: x times the share of the normal distribution that is below x
        "gelu",
        of="x",
        forward=gelu,
        backward=gelu_backward,
        cuda="(x < -FAR ? -FAR : x) * (REAL)0.5 * error_complement(x * (REAL)-0.7071067811865476)",
        cuda_gradient="dy * ((REAL)0.5 * error_complement(x * (REAL)-0.7071067811865476)"
        " + clamp(x, -FAR, FAR) * (REAL)0.3989422804014327 * exponential((REAL)-0.5 * x * x))",
    ),
    Elementwise(  # its approximation, 0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x**3)
        "gelu_tanh",
        of="x",
        forward=gelu_tanh,
        backward=gelu_tanh_backward,
        cuda="(x < -FAR ? -FAR : x) * logistic(x * (REAL)1.5957691216057308 * (1 + (REAL)0.044715 * x * x))",
        cuda_gradient="dy * (logistic(x * (REAL)1.5957691216057308 * (1 + (REAL)0.044715 * x * x))"
        " + clamp(x, -FAR, FAR) * (REAL)1.5957691216057308"
        " * (1 + (REAL)0.134145 * clamp(x, -FAR, FAR) * clamp(x, -FAR, FAR))"
        " * logistic(x * (REAL)1.5957691216057308 * (1 + (REAL)0.044715 * x * x))"
        " * logistic(-x * (REAL)1.5957691216057308 * (1 + (REAL)0.044715 * x * x)))",
    ),
    Elementwise(  # Elfwing and others, 2017; Swish
        "silu",
        of="x",
        forward=silu,
        backward=silu_backward,
        cuda="(x < -FAR ? -FAR : x) * logistic(x)",
        cuda_gradient="dy * (logistic(x) + clamp(x, -FAR, FAR) * logistic(x) * logistic(-x))",
    ),
    Elementwise(  # log(1 + exp(x)); its gradient is sigmoid(x) = 1 - exp(-y)
        "softplus",
        of="y",
        forward=softplus,
        backward=softplus_backward,
        cuda="(x < 0 ? (REAL)0 : x) + logarithm_of_1_plus(exponential(-magnitude(x)))",
        cuda_gradient="-dy * exponential_less_1(-y)",
    ),
)
NAMES = tuple(row.name for row in FUNCTIONS)
BY_NAME = {row.name: row for row in FUNCTIONS}

# What compiled programs do to each number by itself, by name; its number is its place here, for CPUs and for GPUs.
# After the functions and their gradients come the parts of losses and of accuracies.
KINDS = (
    *NAMES,
    *(row.gradient for row in FUNCTIONS),
    *("square", "square_backward", "abs_error", "abs_error_backward", "binary", "binary_backward"),
    *("logit", "logit_backward", "above", "near", "equal", "nll", "nll_backward", "known"),
)


def number_of(kind: str) -> int:
    """What compiled code knows a kind by."""
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no elementwise operation: expected one of {', '.join(KINDS)}")
    return KINDS.index(kind)
