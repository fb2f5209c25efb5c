"""ONNX operators that don't change the numbers of a prediction."""

# ruff: noqa: D102 - a method is named after the operator that it reads

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnx.interchange.formulas import Polynomial
from nnx.interchange.onnx_file import DOMAINS, FLOATS
from nnx.interchange.onnx_walk import Walk
from nnx.layers import Flatten

PASSED = ("Identity", "Cast", "Dropout", "Flatten", "Reshape")


class PassedNodes(Walk):
    """Checks that such an operator changes no number, and passes its input on."""

    def passed(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        if not inputs or inputs[0] not in self.values:
            raise self.file.refusal(node, "works on constants, which is not understood")
        if node.domain in DOMAINS:
            check: Callable[[Any, list[str]], None] | None = getattr(self, f"check_{node.op_type}", None)
            if check is not None:
                check(node, inputs)
        return self.values[inputs[0]]

    def check_Cast(self, node: Any, inputs: list[str]) -> None:
        kind = self.file.cast_to(node)
        if kind not in FLOATS:
            raise self.file.refusal(node, f"makes {kind} of numbers, expected floats")

    def check_Dropout(self, node: Any, inputs: list[str]) -> None:
        modes = [self.file.constants.get(name) for name in inputs[2:] if name]
        if any(mode is None or mode.any() for mode in modes) or (
            len(node.output) > 1 and node.output[1] in self.last_use
        ):
            raise self.file.refusal(node, "drops numbers in predictions too, or its mask is used; export for inference")

    def check_Flatten(self, node: Any, inputs: list[str]) -> None:
        if self.file.attributes(node, axis=1)["axis"] != 1:
            raise self.file.refusal(node, "expected axis=1: a row for each sample")
        self.flatten()

    def check_Reshape(self, node: Any, inputs: list[str]) -> None:
        self.file.attributes(node, allowzero=0)
        shape = self.file.constants.get(inputs[1]) if len(inputs) == 2 else None
        sides = [] if shape is None else shape.reshape(-1).tolist()
        width = self.width or max([1, *sides[1:2]])
        if sides not in ([-1, width], [0, width], [0, -1]):
            raise self.file.refusal(
                node, f"makes {sides or 'a computed shape'} of rows of {width}; expected the same rows"
            )
        self.width = width if sides[1] > 0 else self.width
        self.flatten()

    def flatten(self) -> None:
        """Note that a sample is a row from here on. If no layer came before, the model accepts samples of any shape."""
        if not self.layers and self.axes != 2:
            self.layers.append(Flatten())
        self.axes = 2
