"""The book's activation functions: ReLU and softmax (chapter 4), sigmoid (16), linear (17); their gradients (9)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from nnx import checks
from nnx.nnfs.precision import backend, floats, outputs_of

Array = Any


class Activation:
    """Base class of the activation functions: one operation of the backend on inputs [N, C].

    Attributes:
        inputs, output, dinputs: [N, C].
    """

    operation: ClassVar[str]

    def forward(self, inputs: Any, training: bool = False) -> None:
        """Compute `output` for inputs [N, C]."""
        x = floats(inputs)
        checks.matrix(x.shape, type(self).__name__)
        self.inputs, self.output = x, getattr(backend(), self.operation)(x)

    def backward(self, dvalues: Any) -> None:
        """Compute `dinputs`, given the gradient of the output [N, C]."""
        y = outputs_of(self)
        self.dinputs = getattr(backend(), f"{self.operation}_backward")(y, floats(dvalues, like=y))

    def predictions(self, outputs: Array) -> Array:
        """Return the outputs themselves (chapter 18)."""
        return outputs


class Activation_ReLU(Activation):
    """max(0, x); its gradient at 0 is 0 (chapter 4)."""

    operation = "relu"


class Activation_Softmax(Activation):
    """exp(x) / sum exp(x) for each row (chapter 4)."""

    operation = "softmax"

    def predictions(self, outputs: Array) -> Array:
        """Return the class of each row [N] (chapter 18)."""
        return np.argmax(outputs, axis=1)


class Activation_Sigmoid(Activation):
    """1 / (1 + exp(-x)) (chapter 16)."""

    operation = "sigmoid"

    def predictions(self, outputs: Array) -> Array:
        """Return 1 where an output is above 0.5, else 0: [N, O] (chapter 18)."""
        return (outputs > 0.5) * 1


class Activation_Linear(Activation):
    """x itself (chapter 17)."""

    def forward(self, inputs: Any, training: bool = False) -> None:
        """Take the inputs [N, C] as the output."""
        self.inputs = self.output = floats(inputs)

    def backward(self, dvalues: Any) -> None:
        """Take the gradient of the output as that of the inputs."""
        self.dinputs = floats(dvalues).copy()
