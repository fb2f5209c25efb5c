"""Reader of ONNX files: turns a graph into a sequence of dense layers, activation functions and residual blocks.

The nodes are read in order. What they compute is kept as a polynomial of the last layer's output `x` (formulas.py).
Wherever all later nodes depend on a single value, and this value is an activation function that nnx has, it becomes a
layer. So it does not matter in which of many ways an exporter wrote the network. If something else is left at the next
dense layer, or at the end, the file is refused, and the message names the nodes that computed it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnx.errors import FileFormatError
from nnx.interchange.formulas import Polynomial, TooLarge
from nnx.interchange.onnx_constants import FOLDED, folded
from nnx.interchange.onnx_file import DOMAINS, OnnxFile
from nnx.interchange.onnx_functions import ALPHA, UNARY, FunctionNodes
from nnx.interchange.onnx_passed import PASSED, PassedNodes
from nnx.layers import Flatten, Layer

SEVERAL = ("Dropout", "BatchNormalization", "LayerNormalization")  # that may have more outputs, for training
LABELS = ("ai.onnx.ml", "ZipMap")  # names probabilities, after the network


def read(path: Path) -> tuple[list[Layer], str]:
    """Return the layers of the network in a file, and the type that it computes in.

    Raises:
        FileFormatError: the file is damaged, or holds anything but dense layers and activation functions in a row.
        MissingExtra: onnx is not installed.
    """
    return _Reader(OnnxFile(path)).layers_and_type()


class _Reader(FunctionNodes, PassedNodes):
    """Reads node after node."""

    def layers_and_type(self) -> tuple[list[Layer], str]:
        """Read all nodes; return the layers and the type."""
        for i, node in enumerate(self.nodes):
            try:
                self._node(i, node)
            except FileFormatError:
                raise
            except TooLarge:
                raise self.file.refusal(node, "with the nodes before it is no function that nnx has") from None
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of numbers, onnx
                raise self.file.refusal(node, f"{error}") from error
        if self.graph.output not in self.values or not self.values[self.graph.output].is_x():
            raise self.leftover()
        if all(isinstance(layer, Flatten) for layer in self.layers):
            raise self.file.error("the graph holds no layer: its output is its input")
        return self.layers, "float64" if self.double else "float32"

    def _node(self, i: int, node: Any) -> None:
        inputs = list(node.input)
        while inputs and not inputs[-1]:  # optional ones that are left out
            inputs.pop()
        more = [name for name in node.output[1:] if name in self.last_use]  # read by others, that is
        if (
            len(node.output) == 0
            or (len(node.output) > 1 and node.op_type not in SEVERAL)
            or (more and node.op_type != "Dropout")
        ):
            raise self.file.refusal(node, "has several outputs, or none")
        if node.op_type in FOLDED and node.domain in DOMAINS and all(name in self.file.constants for name in inputs):
            made = folded(self.file, node, [self.file.constants[name] for name in inputs])
            self.file.constants[node.output[0]] = self.file.accounted(made)
            return
        if self.skips and self.skips[-1].end == i:
            self.close_skip(i, node, inputs)
            return
        for name in inputs:
            if name and name not in self.values and name not in self.file.constants:
                raise self._unknown_input(i, node, name)
        method = self._method(node)
        result = method(i, node, inputs)
        if result is None:  # a layer: x is its output
            self.begin(node.output[0])
            return
        self.keep(i, node, result)

    def _method(self, node: Any) -> Callable[[int, Any, list[str]], Polynomial | None]:
        name = node.op_type
        if (node.domain, name) == LABELS:
            return self.passed
        if node.domain in DOMAINS:
            if name in PASSED:
                return self.passed
            if name in (*UNARY, *ALPHA, "Gelu"):
                return self.function
            found: Callable[[int, Any, list[str]], Polynomial | None] | None = getattr(self, f"on_{name}", None)
            if found is not None:
                return found
        raise self.file.refusal(node, "is no dense layer, no normalization and no activation function of nnx")

    def _unknown_input(self, i: int, node: Any, name: str) -> FileFormatError:
        if any(name in later.output for later in self.nodes[i:]):
            return self.file.node_error(
                node, f"reads {name!r} before it is made: the graph has a cycle, or is out of order"
            )
        if name == self.graph.input or any(name in earlier.output for earlier in self.nodes[:i]):
            return self.file.refusal(node, f"reads {name!r} from before the last layer")
        return self.file.node_error(node, f"reads {name!r}, which nothing makes: the graph is damaged")
