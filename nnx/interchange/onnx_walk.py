"""The state of a walk through an ONNX graph: the layers found so far, and what was computed from the last one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnx.errors import FileFormatError
from nnx.interchange.formulas import Polynomial, X, constant, recognised
from nnx.interchange.onnx_file import DOMAINS, OnnxFile
from nnx.interchange.onnx_graph import OnnxGraph
from nnx.kernels.elementwise import BY_NAME
from nnx.layers import ELEMENTWISE, GELU, Layer, Residual


@dataclass
class Skip:
    """A value that goes around layers, to which it is added.

    Attributes:
        end: the number of the node that adds it. layers: the layers found before the block began.
    """

    end: int
    layers: list[Layer]


class Walk:
    """A walk through a graph.

    Attributes:
        layers: those found so far. values: what each name stands for, as a polynomial of the last layer's output x.
        since: the nodes that computed these values. horizon: the last node that reads any of them.
        width, axes: how many columns and axes x has; None if not known.
        skips: the values that go around layers and whose addition is still to come, the innermost last.
    """

    def __init__(self, file: OnnxFile) -> None:
        self.file, self.graph = file, OnnxGraph(file)
        self.nodes, self.last_use = self.graph.nodes, self.graph.last_use
        self.width, self.axes = self.graph.width, self.graph.axes
        self.layers: list[Layer] = []
        self.skips: list[Skip] = []
        self.double = False
        self.begin(self.graph.input)

    def begin(self, name: str) -> None:
        """Continue from a layer's output, which has this name and is x from now on."""
        self.values: dict[str, Polynomial] = {name: X}
        self.since: list[Any] = []
        self.horizon = self.last_use.get(name, -1)

    def keep(self, i: int, node: Any, result: Polynomial) -> None:
        """Note what a node computes, and make a layer of it if no earlier value is read any more."""
        name = node.output[0]
        alone = self.horizon <= i
        self.since.append(node)
        if alone and result.is_x():
            self.begin(name)
        elif (found := recognised(result)) is not None and (alone or self.open_skip(i)):
            self.layers.append(layer_of(*found))
            self.begin(name)
        else:
            self.values[name] = result
            self.horizon = max(self.horizon, self.last_use.get(name, -1))

    def open_skip(self, i: int) -> bool:
        """Begin a residual block if x's only other use is that a later node adds it; tell whether it is."""
        names = {name for name, value in self.values.items() if value.is_x()}
        later = [j for j in range(i + 1, len(self.nodes)) for name in self.nodes[j].input if name in names]
        if len(later) != 1 or self.graph.output in names:
            return False
        node = self.nodes[later[0]]
        if node.op_type != "Add" or node.domain not in DOMAINS or self.axes not in (2, None):
            return False
        if self.file.constants.keys() & set(node.input):
            return False
        self.skips.append(Skip(later[0], self.layers))
        self.layers = []
        return True

    def close_skip(self, i: int, node: Any, inputs: list[str]) -> None:
        """Make a residual block of the layers found since `open_skip`."""
        inside = [name for name in self.two(node, inputs) if name in self.values]
        if len(inside) != 1 or not self.values[inside[0]].is_x() or self.horizon > i:
            raise self.leftover() if self.since else self.file.refusal(node, "adds something else than a value to x")
        self.layers = [*self.skips.pop().layers, Residual(*self.layers)]
        self.begin(node.output[0])

    def expect_x(self, i: int, node: Any, name: str) -> None:
        """Refuse a layer unless its input is x. If x is read again later, that must be the end of a residual block."""
        if not self.values[name].is_x():
            raise self.leftover()
        if self.axes not in (2, None):
            raise self.file.refusal(node, f"works on {self.axes} axes; expected a Flatten before it")
        if self.horizon > i and not self.open_skip(i):
            again = self.nodes[min(self.horizon, len(self.nodes) - 1)]
            raise self.file.refusal(
                again, f"reads what came before {node.op_type} {node.name!r} again: layers must be in a row"
            )

    def vector(self, node: Any, name: str, width: int) -> np.ndarray:
        """Return constants that each of `width` columns is added to or multiplied by."""
        a = self.file.constants.get(name)
        if a is None or a.size not in (1, width) or a.shape != (1,) * (a.ndim - 1) + a.shape[-1:] or a.ndim > 2:
            shape = "no constant" if a is None else f"of shape {list(a.shape)}"
            raise self.file.refusal(
                node, f"{name!r} is {shape}; expected one number, or one for each of {width} columns"
            )
        return np.broadcast_to(a.reshape(-1).astype(np.float64), (width,))

    def polynomial(self, node: Any, name: str) -> Polynomial:
        """Return an operand as a polynomial. A constant must be a single number."""
        if name in self.values:
            return self.values[name]
        a = self.file.constants[name]
        if a.size != 1 or a.ndim > 2 or a.dtype.kind not in "fi" or not np.isfinite(a).all():
            raise self.file.refusal(
                node, f"{name!r} has shape {list(a.shape)}; outside of dense layers expected single finite numbers"
            )
        return constant(float(str(a.reshape(())[()])))

    def only(self, node: Any, inputs: list[str]) -> str:
        """Return the input of a node that must have exactly one."""
        if len(inputs) != 1:
            raise self.file.refusal(node, f"has {len(inputs)} inputs, expected one")
        return inputs[0]

    def two(self, node: Any, inputs: list[str]) -> tuple[str, str]:
        """Return the inputs of a node that must have exactly two, and no attributes."""
        self.file.attributes(node)
        return self.two_of(node, inputs)

    def two_of(self, node: Any, inputs: list[str]) -> tuple[str, str]:
        """Return the inputs of a node that must have exactly two."""
        if len(inputs) != 2:
            raise self.file.refusal(node, f"has {len(inputs)} inputs, expected two")
        return inputs[0], inputs[1]

    def leftover(self) -> FileFormatError:
        """Return the error that names the nodes whose result is not a layer."""
        if not self.since:
            return self.file.error(f"the output {self.graph.output!r} is made by no node: the graph is damaged")
        nodes = " -> ".join(node.op_type for node in self.since[-12:])
        return self.file.refusal(self.since[-1], f"{nodes}, taken together, is no function that nnx has")


def as_written(number: float) -> float:
    """Return an attribute, which is stored as float32, as it was written: 0.1, and not 0.10000000149."""
    return float(str(np.float32(number)))


def layer_of(function: str, parameter: float) -> Layer:
    """Return the layer for an activation function, given the name of its operation."""
    if function == "gelu_tanh":
        return GELU("tanh")
    name = BY_NAME[function].parameter
    return ELEMENTWISE[function](**({name: parameter} if name else {}))
