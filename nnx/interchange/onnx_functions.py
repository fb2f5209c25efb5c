"""ONNX operators that compute activation functions. They are kept as polynomials until they are a function of nnx."""

# ruff: noqa: D102 - a method is named after the operator that it reads

from __future__ import annotations

from typing import Any

from nnx.interchange.formulas import Polynomial, applied
from nnx.interchange.onnx_layers import LayerNodes
from nnx.interchange.onnx_walk import as_written

UNARY = ("Relu", "Sigmoid", "Tanh", "Softplus", "Mish", "Erf", "Exp", "Log", "Abs")
ALPHA = {"LeakyRelu": 0.01, "Elu": 1.0}  # operators with a parameter, and what it is by default


class FunctionNodes(LayerNodes):
    """Turns such operators into polynomials. A sum or product that fits into a dense layer becomes a part of it."""

    def function(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        x, name = self.polynomial(node, self.only(node, inputs)), node.op_type
        if name == "Gelu":
            approximate = self.file.attributes(node, approximate="none")["approximate"]
            return applied("GeluTanh" if approximate == "tanh" else "Gelu", x)
        if name in ALPHA:
            alpha = self.file.attributes(node, alpha=ALPHA[name])["alpha"]
            return applied(name, x, as_written(alpha))
        self.file.attributes(node)
        return applied(name, x)

    def on_Add(self, i: int, node: Any, inputs: list[str]) -> Polynomial | None:
        a, b = self.two(node, inputs)
        return None if self.affine(i, node, a, b) else self.polynomial(node, a) + self.polynomial(node, b)

    def on_Sub(self, i: int, node: Any, inputs: list[str]) -> Polynomial | None:
        a, b = self.two(node, inputs)
        return None if self.affine(i, node, a, b) else self.polynomial(node, a) + self.polynomial(node, b) * -1.0

    def on_Mul(self, i: int, node: Any, inputs: list[str]) -> Polynomial | None:
        a, b = self.two(node, inputs)
        return None if self.affine(i, node, a, b) else self.polynomial(node, a) * self.polynomial(node, b)

    def on_Div(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        a, b = self.two(node, inputs)
        divisor = self.polynomial(node, b).number()
        if not divisor:
            raise self.file.refusal(node, "divides by something else than a number")
        return self.polynomial(node, a) * (1 / divisor)

    def on_Greater(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        a, b = self.two(node, inputs)
        return applied("Greater", self.polynomial(node, a) + self.polynomial(node, b) * -1.0)  # 1 or 0

    def on_Where(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        self.file.attributes(node)
        if len(inputs) != 3:
            raise self.file.refusal(node, f"has {len(inputs)} inputs, expected three")
        chosen, a, b = (self.polynomial(node, name) for name in inputs)
        return chosen * a + b + chosen * b * -1.0

    def on_Neg(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        return self.polynomial(node, self.only(node, inputs)) * -1.0

    def on_Pow(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        a, b = self.two(node, inputs)
        x, power = self.polynomial(node, a), self.polynomial(node, b).number()
        if power not in (1, 2, 3):
            raise self.file.refusal(node, "raises to something else than the power of 1, 2 or 3")
        result = x
        for _ in range(int(power) - 1):
            result = result * x
        return result

    def on_Swish(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        alpha = self.file.attributes(node, alpha=1.0)["alpha"]
        x = self.polynomial(node, self.only(node, inputs))
        return x * applied("Sigmoid", x * alpha)
