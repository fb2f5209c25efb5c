"""The activation functions that act on each number by itself: a table with one row for each.

A row holds the function's name, what its gradient is computed from, and both formulas for each place where they run.
The operations of the backends, the compiled programs, the CUDA kernels, the layers' choices and the tests' cases are
made from the rows, so a new function is written once, here. Its number, by which compiled code knows it, is its place
in the table and stands nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Elementwise:
    """One function y = f(x) of a number.

    Attributes:
        name: of the operation; that of its gradient is `name + "_backward"`.
        of: what the gradient is computed from besides dy: "x", the function's input, or "y", its output.
        cuda, cuda_gradient: C expressions of x, or of x or y (as `of` says) and dy, with the functions of common.cuh;
            the type is REAL. `a` is the parameter. Beyond +-FAR (1000) a function is its limit: infinity * 0 is NaN.
        parameter, default, low: the name of the one number that shapes the function, its value where none is given, and
            the smallest that makes sense; "" where there is none.
    """

    name: str
    of: str
    cuda: str
    cuda_gradient: str
    parameter: str = ""
    default: float = 0.0
    low: float = 0.0

    @property
    def gradient(self) -> str:
        """The name of the gradient's operation."""
        return f"{self.name}_backward"


FUNCTIONS = (
    Elementwise(  # chapter 4; the gradient is a choice, not a product: where y is 0, even an infinite dy gives 0
        "relu",
        of="y",
        cuda="relu(x)",
        cuda_gradient="y > 0 ? dy : (REAL)0",
    ),
    Elementwise(  # chapter 16
        "sigmoid",
        of="y",
        cuda="logistic(x)",
        cuda_gradient="dy * y * (1 - y)",
    ),
    Elementwise(
        "tanh",
        of="y",
        cuda="hyperbolic_tangent(x)",
        cuda_gradient="dy * (1 - y * y)",
    ),
    Elementwise(  # Maas and others, 2013
        "leaky_relu",
        of="y",
        cuda="x < 0 ? a * x : x",
        cuda_gradient="y > 0 ? dy : a * dy",
        parameter="slope",
        default=0.01,
    ),
    Elementwise(  # Clevert and others, 2016
        "elu",
        of="y",
        cuda="x > 0 ? x : a * exponential_less_1(x)",
        cuda_gradient="y > 0 ? dy : dy * (y + a)",
        parameter="alpha",
        default=1.0,
    ),
    Elementwise(  # Hendrycks and Gimpel, 2016: x times the share of the normal distribution that is below x
        "gelu",
        of="x",
        cuda="(x < -FAR ? -FAR : x) * (REAL)0.5 * error_complement(x * (REAL)-0.7071067811865476)",
        cuda_gradient="dy * ((REAL)0.5 * error_complement(x * (REAL)-0.7071067811865476)"
        " + clamp(x, -FAR, FAR) * (REAL)0.3989422804014327 * exponential((REAL)-0.5 * x * x))",
    ),
    Elementwise(  # its approximation, 0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x**3)
        "gelu_tanh",
        of="x",
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
        cuda="(x < -FAR ? -FAR : x) * logistic(x)",
        cuda_gradient="dy * (logistic(x) + clamp(x, -FAR, FAR) * logistic(x) * logistic(-x))",
    ),
    Elementwise(  # log(1 + exp(x)); its gradient is sigmoid(x) = 1 - exp(-y)
        "softplus",
        of="y",
        cuda="softplus(x)",
        cuda_gradient="-dy * exponential_less_1(-y)",
    ),
)
NAMES = tuple(row.name for row in FUNCTIONS)


@dataclass(frozen=True)
class Part:
    """What a loss or an accuracy makes of an output x and of what it should be, t.

    Attributes:
        name: of the kind; that of a gradient ends in "_backward".
        cuda: a C expression of x, t and the constants a and b, as in `Elementwise`.
    """

    name: str
    cuda: str


PARTS = (
    # costs, and their gradients, times a
    Part("square", "(x - t) * (x - t)"),
    Part("square_backward", "(x - t) * a"),
    Part("abs_error", "magnitude(x - t)"),
    Part("abs_error_backward", "x > t ? a : x < t ? -a : (x - t) * 0"),  # the sign of nan is nan
    Part("binary", "-(t * logarithm(clipped(x)) + (1 - t) * logarithm(1 - clipped(x)))"),  # of a probability
    Part("binary_backward", "((1 - t) / (1 - clipped(x)) - t / clipped(x)) * a"),
    # of a logit; -log(p) and -log(1 - p) are kept within a and b. The right answer at infinity costs 0, not 0 * inf
    Part(
        "logit",
        "(t == 0 ? (REAL)0 : t * clamp(softplus(-x), a, b)) + (t == 1 ? (REAL)0 : (1 - t) * clamp(softplus(x), a, b))",
    ),
    Part("logit_backward", "(logistic(x) - t) * a"),
    # whether it is right
    Part("above", "(REAL)((x > a) == (t > (REAL)0.5))"),
    Part("near", "(REAL)(magnitude(x - t) < a)"),
    Part("equal", "(REAL)(x == t)"),
    # a class's part of the cross-entropy; t is its share
    Part("nll", "-t * logarithm(clipped(x))"),
    Part("nll_backward", "-t / clipped(x) * a"),
    Part("known", "t >= 0 && t < a ? x : not_a_number()"),  # x, a loss, where label t is one of a classes
)

# What compiled programs do to each number by itself, by name; its number is its place here, for CPUs and for GPUs.
KINDS = (*NAMES, *(row.gradient for row in FUNCTIONS), *(part.name for part in PARTS))


@dataclass(frozen=True)
class Loss:
    """A loss of each output by itself, averaged over a sample's outputs.

    Attributes:
        name: of the operation; that of its gradient is `name + "_backward"`.
        part: its cost's kind; that of the gradient is `part + "_backward"`, whose a is `factor` / count.
        outputs: the name of its first operand; the second is `target`.
    """

    name: str
    part: str
    outputs: str = "prediction"
    factor: float = 1.0

    @property
    def gradient(self) -> str:
        """The name of the gradient's operation."""
        return f"{self.name}_backward"


LOSSES = (
    Loss("binary_cross_entropy", "binary", outputs="p"),
    Loss("mean_squared_error", "square", factor=2.0),
    Loss("mean_absolute_error", "abs_error"),
)
