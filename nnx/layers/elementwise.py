"""The base of user-defined activation functions: layers that apply a formula to each number by itself."""

from __future__ import annotations

from nnx.backends.formula import Formula
from nnx.layers.activations import Activation
from nnx.layers.base import Array


class Elementwise(Activation):
    """The base of a user-defined activation function: write `formula` and `derivative` with NumPy's functions.

        class Swish(nnx.Elementwise):
            def formula(self, x):
                return x / (1 + np.exp(-x))

            def derivative(self, x, y):
                return (1 + np.exp(-x) * (1 + x)) / (1 + np.exp(-x)) ** 2

    Both work on each number by itself. If they consist of arithmetic, comparisons, `np.where` and common functions
    (docs/extending.md has the list), training steps are compiled, which takes some 0.1 s; with other functions, NumPy
    runs them. `nnx.gradcheck` tells whether the derivative is right.
    """

    operation = "apply_formula"

    def formula(self, x: Array) -> Array:
        """Return f(x); x is an array, or, while a step is compiled, an object that stands for one number."""
        raise NotImplementedError(f"{type(self).__name__} has no formula(x)")

    def derivative(self, x: Array, y: Array) -> Array:
        """Return f'(x), where y = f(x)."""
        raise NotImplementedError(f"{type(self).__name__} has no derivative(x, y)")

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return f of each number of `inputs` [N, C]."""
        self.inputs = x = self._accept(inputs)
        self.output = self.backend.apply_formula(x, self._formula(), out=self._room("output", tuple(x.shape), x))
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return the gradient of the inputs [N, C], given that of the output."""
        dvalues = self._accept_gradient(dvalues)
        room, own = self._room("dinputs", tuple(dvalues.shape), dvalues), self._formula()
        self.dinputs = self.backend.apply_formula_backward(self.inputs, self.output, dvalues, own, out=room)
        return self.dinputs

    def _formula(self) -> Formula:
        return Formula(type(self).__name__, self.formula, self.derivative)
