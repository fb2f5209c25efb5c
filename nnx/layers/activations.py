"""Activation functions: ReLU and Softmax (chapter 4), Sigmoid (16), Linear (17), and others that aren't in the book."""

from __future__ import annotations

from functools import partial
from typing import Any

from nnx import checks
from nnx.errors import InputError
from nnx.kernels.elementwise import BY_NAME
from nnx.layers.base import Array, Layer
from nnx.settings import Setting

__all__ = [
    "ELU",
    "GELU",
    "Activation",
    "LeakyReLU",
    "Linear",
    "Mish",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]


class Activation(Layer):
    """A layer that does one operation on its inputs [N, C]. Its gradient needs only its inputs or its output."""

    operation: str

    def output_width(self, width: int | None) -> int | None:
        """Return `width`: as many outputs as inputs."""
        return width

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return the activation of `inputs` [N, C]."""
        self.inputs = x = self._accept(inputs)
        room = self._room("output", tuple(x.shape), x)
        self.output = getattr(self.backend, self.operation)(x, *self._numbers(), out=room)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return the gradient of the inputs [N, C], given that of the output."""
        dvalues, row = self._accept_gradient(dvalues), BY_NAME.get(self.operation)
        of = self.inputs if row is not None and row.of == "x" else self.output
        room = self._room("dinputs", tuple(dvalues.shape), dvalues)
        self.dinputs = getattr(self.backend, f"{self.operation}_backward")(of, dvalues, *self._numbers(), out=room)
        return self.dinputs

    def _numbers(self) -> tuple[float, ...]:
        """Return the function's parameter, or nothing."""
        row = BY_NAME.get(self.operation)
        return (getattr(self, row.parameter),) if row is not None and row.parameter else ()

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        numbers = self._numbers()
        return {BY_NAME[self.operation].parameter: numbers[0]} if numbers else {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{number:g}' for number in self._numbers())})"


class ReLU(Activation):
    """max(0, x). The gradient at 0 is 0 (chapters 4 and 9)."""

    operation = "relu"


class LeakyReLU(Activation):
    """x, or slope * x below 0, where ReLU has no gradient (Maas and others, 2013).

    Args:
        slope: at least 0. Assignable at any time, right from the next step on.
    """

    operation = "leaky_relu"
    slope = Setting(partial(checks.real, low=BY_NAME[operation].low))

    def __init__(self, slope: float = BY_NAME[operation].default) -> None:
        self.slope = slope


class ELU(Activation):
    """x, or alpha * (exp(x) - 1) below 0 (Clevert and others, 2016).

    Args:
        alpha: at least 0. Assignable at any time, right from the next step on.
    """

    operation = "elu"
    alpha = Setting(partial(checks.real, low=BY_NAME[operation].low))

    def __init__(self, alpha: float = BY_NAME[operation].default) -> None:
        self.alpha = alpha


class GELU(Activation):
    """x times the share of the normal distribution that lies below x (Hendrycks and Gimpel, 2016).

    Args:
        approximate: "none", or "tanh" for 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))), which is within 5e-4 of
            it. Assignable at any time, right from the next step on.
    """

    approximate = Setting(partial(checks.choice, allowed=("none", "tanh")))

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    @property
    def operation(self) -> str:  # type: ignore[override]
        """The operation's name."""
        return "gelu_tanh" if self.approximate == "tanh" else "gelu"

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        return {"approximate": self.approximate}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'approximate=' + repr('tanh') if self.approximate == 'tanh' else ''})"


class Mish(Activation):
    """x * tanh(softplus(x)) (Misra, 2019)."""

    operation = "mish"


class SiLU(Activation):
    """x * sigmoid(x), also known as Swish (Elfwing and others, 2017)."""

    operation = "silu"


class Sigmoid(Activation):
    """1 / (1 + exp(-x)) (chapter 16)."""

    operation = "sigmoid"


class Softplus(Activation):
    """log(1 + exp(x)): a ReLU without its corner."""

    operation = "softplus"


class Tanh(Activation):
    """The hyperbolic tangent."""

    operation = "tanh"


class Softmax(Activation):
    """exp(x) / sum exp(x) for each row: positive numbers that add up to 1 (chapter 4).

    The row's maximum is subtracted first, so that nothing overflows. `backward` is the book's product of each
    sample's Jacobian with its gradient (chapter 9), computed without the Jacobian.
    """

    operation = "softmax"

    def jacobian(self) -> Array:
        """Return the book's matrix of every sample of the last forward, diagflat(y) - y y': [N, C, C]."""
        if "output" not in self.__dict__:
            raise InputError("Softmax(): jacobian() was called before forward(); call that first, with the inputs")
        matrices: Array = self.backend.softmax_jacobian(self.output)
        return matrices


class Linear(Layer):
    """x itself (chapter 17)."""

    def output_width(self, width: int | None) -> int | None:
        """Return `width`: as many outputs as inputs."""
        return width

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return `inputs`."""
        self.inputs = self.output = self._accept(inputs)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return `dvalues`."""
        self.dinputs = self._accept_gradient(dvalues)
        return self.dinputs
