"""User-defined formulas: reads their calls in a recorded step."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from nnx.backends.addresses import Array
from nnx.backends.dataflow.buffers import Buffers
from nnx.backends.dataflow.nodes import Value
from nnx.backends.formula import Formula, compilable


class FormulaCalls(Buffers):
    """Reads the calls of layers and losses that are formulas."""

    def on_apply_formula(self, x: Array, of: Formula, out: Array) -> None:
        values = self.read(x)
        self.add("elementwise", values, None, self.write(out), kind=of.name, formula=compilable(of.layer))

    def on_apply_formula_backward(self, x: Array, y: Array, dy: Array, of: Formula, out: Array) -> None:
        values, kind = (self.read(x), self.read(dy)), f"{of.name}_backward"
        self.add("elementwise", *values, self.write(out), kind=kind, formula=compilable(of.layer_backward))

    def on_formula_loss(self, prediction: Array, target: Array, of: Formula, out: Array) -> None:
        values, each = (self.read(prediction), self.read(target)), Value(prediction.shape[1])
        self.add("elementwise", *values, each, kind=of.name, formula=compilable(of.loss))
        self.add("mean", each, None, self.write(out), constants=(1 / each.width, 0.0))

    def on_formula_loss_backward(self, prediction: Array, target: Array, of: Formula, out: Array) -> None:
        values, scale = (self.read(prediction), self.read(target)), 1 / (prediction.shape[0] * prediction.shape[1])
        formula, kind = compilable(of.loss_backward), f"{of.name}_backward"
        self.add("elementwise", *values, self.write(out), kind=kind, formula=formula, constants=(scale, 0.0))
