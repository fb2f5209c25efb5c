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
            the type is REAL. `a` is the parameter.
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
)
NAMES = tuple(row.name for row in FUNCTIONS)

# What compiled programs do to each number by itself, by name; its number is its place here, for CPUs and for GPUs.
# After the functions and their gradients come the parts of losses and of accuracies.
KINDS = (
    *NAMES,
    *(row.gradient for row in FUNCTIONS),
    *("square", "square_backward", "abs_error", "abs_error_backward", "binary", "binary_backward"),
    *("logit", "logit_backward", "above", "near", "equal", "nll", "nll_backward", "known"),
)
