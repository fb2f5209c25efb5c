"""Activation functions: reads their calls in a recorded step."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from nnx.backends.addresses import Array
from nnx.backends.dataflow.buffers import Buffers


class ActivationCalls(Buffers):
    """Reads the calls of activation functions."""

    def function(self, x: Array, out: Array, a: float = 0.0) -> None:
        self.elementwise(self.call.name, x, None, out, (a, 0.0))

    def function_gradient(self, of: str, dy: Array, out: Array, a: float = 0.0, **operands: Array) -> None:
        self.elementwise(self.call.name, operands[of], dy, out, (a, 0.0))

    def on_softmax(self, x: Array, out: Array) -> None:
        value = self.read(x)
        self.add("softmax", value, None, self.write(out))

    def on_softmax_backward(self, y: Array, dy: Array, out: Array) -> None:
        values = self.read(y), self.read(dy)
        self.add("softmax_backward", *values, self.write(out))
