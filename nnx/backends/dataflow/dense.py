"""Dense layers and penalties of weights: reads their calls in a recorded step."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from nnx.backends.addresses import Array
from nnx.backends.dataflow.buffers import Buffers
from nnx.backends.dataflow.nodes import Gradient


class DenseCalls(Buffers):
    """Reads the calls of dense layers."""

    def on_dense(self, x: Array, w: Array, b: Array, activation: str | None, out: Array) -> None:
        self.floats(w)
        self.floats(b)
        inputs = self.read(x)
        self.add("dense", inputs, None, self.write(out), weights=w, biases=b)
        if activation is not None:
            self.elementwise(activation, out, None, out)

    def on_dense_backward(self, x: Array, w: Array, dy: Array, dw: Array, db: Array, out: Array) -> None:
        self.on_dense_gradients(x, dy, dw, db)
        self.on_dense_dinputs(w, dy, out)

    def on_dense_dinputs(self, w: Array, dy: Array, out: Array) -> None:
        self.floats(w)
        d = self.read(dy)
        self.add("dense_dx", d, None, self.write(out), weights=w)

    def on_dense_gradients(self, x: Array, dy: Array, dw: Array, db: Array) -> None:
        self.floats(dw)
        self.floats(db)
        self.step.gradients.append(Gradient(self.read(x), self.read(dy), dw, db))
        self.touch_gradients()

    def on_regularize(self, w: Array, dw: Array, l1: float, l2: float, penalty: Array) -> None:
        self.floats(w)
        self.floats(dw)
        self.step.penalties.append({"w": w, "dw": dw, "l1": l1, "l2": l2, "penalty": penalty})
