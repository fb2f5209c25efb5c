"""Activation functions: ReLU, Softmax (chapter 4), Sigmoid (16), Linear (17), and Tanh."""

from __future__ import annotations

from typing import Any, ClassVar

from nnx.errors import InputError
from nnx.layers.base import Layer

Array = Any


class Activation(Layer):
    """A layer that is one operation on its inputs [N, C], and whose gradient needs only its output [N, C]."""

    operation: ClassVar[str]

    def output_width(self, width: int | None) -> int | None:
        """Return `width`: as many outputs as inputs."""
        return width

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return the activation of `inputs` [N, C]."""
        self.inputs = x = self._accept(inputs)
        self.output = getattr(self.backend, self.operation)(x, out=self._room("output", tuple(x.shape), x))
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return the gradient of the inputs [N, C], given that of the output."""
        dvalues = self._accept_gradient(dvalues)
        gradient = getattr(self.backend, f"{self.operation}_backward")
        self.dinputs = gradient(self.output, dvalues, out=self._room("dinputs", tuple(dvalues.shape), dvalues))
        return self.dinputs


class ReLU(Activation):
    """max(0, x). The gradient at 0 is 0 (chapters 4 and 9)."""

    operation = "relu"


class Sigmoid(Activation):
    """1 / (1 + exp(-x)) (chapter 16)."""

    operation = "sigmoid"


class Tanh(Activation):
    """The hyperbolic tangent."""

    operation = "tanh"


class Softmax(Activation):
    """exp(x) / sum exp(x) for each row: positive numbers that add up to 1 (chapter 4).

    The row's maximum is subtracted first, so that nothing overflows. `backward` is the notes' product of each
    sample's Jacobian with its gradient (chapter 9), computed without the Jacobian.
    """

    operation = "softmax"

    def jacobian(self) -> Array:
        """Return the notes' matrix of every sample of the last forward, diagflat(y) - y y': [N, C, C]."""
        if "output" not in self.__dict__:
            raise InputError("Softmax(): jacobian() was called before forward(); call that first, with the inputs")
        return self.backend.softmax_jacobian(self.output)


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
