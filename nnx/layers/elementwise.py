"""The base of layers that act on each number by itself, by a formula of the user's own."""

from __future__ import annotations

from nnx.backends.formula import Formula
from nnx.layers.activations import Activation
from nnx.layers.base import Array


class Elementwise(Activation):
    """The base of an activation function of your own: write `formula` and `derivative`, with NumPy's functions.

        class Swish(nnx.Elementwise):
            def formula(self, x):
                return x / (1 + np.exp(-x))

            def derivative(self, x, y):
                return (1 + np.exp(-x) * (1 + x)) / (1 + np.exp(-x)) ** 2

    Both say what becomes of each number alone. Where they are made of arithmetic, comparisons, `np.where` and the
    usual functions, steps with it are compiled, within some 0.1 s; docs/extending.md has the list. With others they are
    replayed by NumPy. `nnx.gradcheck` tells whether the derivative is right.
    """

    operation = "apply_formula"

    def formula(self, x: Array) -> Array:
        """Return f(x), for an array x or a number that stands for it."""
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
