"""Writer of ONNX files: a network's forward pass as a graph of standard operators, in one file.

A dense layer becomes a Gemm. An activation function becomes the operator of its name if runtimes have it in the model's
type, otherwise a few simpler operators (formulas.py). Dropout and noise do nothing in a prediction and are left out,
and so is Flatten: the file takes rows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from nnx import checks
from nnx.backends.memory import readable
from nnx.datasets.needs import optional
from nnx.errors import InputError
from nnx.files import as_path, write_atomically
from nnx.interchange.formulas import COMPOSED, IN_FLOAT64, OPERATORS
from nnx.layers import (
    ELEMENTWISE,
    Activation,
    BatchNorm,
    Concat,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GaussianNoise,
    Layer,
    LayerNorm,
    Linear,
    Residual,
    Softmax,
)
from nnx.layers.blocks import Block
from nnx.layers.chain import every
from nnx.settings import replaced

OPSET, IR_VERSION = 20, 9  # the first with Gelu; onnxruntime reads it from 1.17 on, of January 2024
LARGEST = 2**31 - 2**20  # bytes of numbers: a protocol buffer holds no more than 2 GiB


def write(
    path: str | os.PathLike[str], layers: Sequence[Layer], dtype: str, width: int | None,
    parameters: Mapping[str, np.ndarray],
) -> None:  # fmt: skip
    """Write a network to a file. If that fails, an older file stays as it was.

    Args:
        path: the file. layers, dtype: the network's. width: how many inputs it takes; None for any number.
        parameters: the arrays by their names, such as "0.weights".

    Raises:
        InputError: a layer is not nnx's own, or a number is not finite, or there are too many for one file.
        MissingExtra: onnx is not installed. OSError: the file cannot be written.
    """
    onnx, path = optional("onnx", "onnx", "to_onnx()"), as_path("to_onnx", path)
    for number, layer in enumerate(layers):
        _check(number, layer)
    size = sum(a.nbytes for a in parameters.values())
    if size > LARGEST:
        raise InputError(
            f"to_onnx: the parameters have {readable(size)}, but one ONNX file holds at most 2 GiB; save() has no limit"
        )
    for name, a in parameters.items():
        checks.finite(a, "to_onnx", name)
    graph = Graph(onnx, dtype)
    outputs = Node(graph, "x")
    for number, layer in enumerate(layers):
        graph.layer = f"{number}.{type(layer).__name__}"
        outputs = _written(graph, outputs, layer, str(number), parameters)
    write_atomically(path, graph.model(outputs, width, layers).SerializeToString())


def _check(number: int, layer: Layer) -> None:
    known = (
        Dense, Dropout, GaussianNoise, Linear, Softmax, LayerNorm, BatchNorm, Flatten, Residual, Concat, Embedding,
        *ELEMENTWISE.values(),
    )  # fmt: skip
    for each in every([layer]):
        unwritten = isinstance(each, Activation) and each.operation not in ("softmax", *OPERATORS, *COMPOSED)
        if type(each) not in known or replaced(each) or unwritten:
            raise InputError(
                f"to_onnx: layer {number} is {each}, which nnx knows no ONNX operators for; expected "
                f"{', '.join(kind.__name__ for kind in known)}, none with a method of your own"
            )


def _written(graph: Graph, x: Node, layer: Layer, place: str, parameters: Mapping[str, np.ndarray]) -> Node:
    """Write a layer, whose parameters' names begin with `place`; return its output."""
    if isinstance(layer, Dense):
        weights = graph.initializer(f"{place}.weights", parameters[f"{place}.weights"])
        biases = graph.initializer(f"{place}.biases", parameters[f"{place}.biases"].reshape(-1))
        return graph.node("Gemm", [x.name, weights, biases])
    if isinstance(layer, Block):
        places, ends = iter(layer.inner), []
        for path in layer.paths:
            ends.append(x)
            for part in path:
                ends[-1] = _written(graph, ends[-1], part, f"{place}.{next(places)}", parameters)
        if isinstance(layer, Residual):
            return x + ends[0]
        return graph.node("Concat", [end.name for end in ends], axis=1)
    if isinstance(layer, Embedding):
        return _embedded(graph, x, layer, place, parameters)
    if isinstance(layer, LayerNorm | BatchNorm):
        names = [f"{place}.{name}" for name in ("gamma", "beta", "running_mean", "running_var")]
        given = [graph.initializer(name, parameters[name].reshape(-1)) for name in names if name in parameters]
        if isinstance(layer, LayerNorm):
            return graph.node("LayerNormalization", [x.name, *given], axis=-1, epsilon=layer.epsilon)
        return graph.node("BatchNormalization", [x.name, *given], epsilon=layer.epsilon, momentum=layer.momentum)
    if isinstance(layer, Softmax):
        return graph.node("Softmax", [x.name], axis=-1)
    if not isinstance(layer, Activation):
        return x
    name, numbers = layer.operation, layer._numbers()
    if name in OPERATORS and (graph.dtype == "float32" or name in IN_FLOAT64):
        if name == "gelu_tanh":
            return graph.node("Gelu", [x.name], approximate="tanh")
        return graph.node(OPERATORS[name], [x.name], **({"alpha": numbers[0]} if numbers else {}))
    result: Node = COMPOSED[name](graph.call, x, *numbers)
    return result


def _embedded(graph: Graph, x: Node, layer: Embedding, place: str, parameters: Mapping[str, np.ndarray]) -> Node:
    """Write an embedding: each column of codes becomes rows of its table, and the other columns stay as they are."""
    pieces = []
    for column, columns_, _ in layer._pieces():
        name = f"{place}.{column}.weights"
        columns = np.array(column) if name in parameters else np.arange(column, column + columns_)
        piece = graph.node("Gather", [x.name, graph.indices(f"{place}.{column}.columns", columns)], axis=1)
        if name in parameters:
            codes = graph.node("Cast", [piece.name], to=graph.onnx.TensorProto.INT64)
            piece = graph.node("Gather", [graph.initializer(name, parameters[name]), codes.name], axis=0)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else graph.node("Concat", [piece.name for piece in pieces], axis=1)


class Node:
    """The output of a node. Formulas can add and multiply it."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def __add__(self, other: Node | float) -> Node:
        return self.graph.node("Add", [self.name, self.graph.operand(other)])

    def __mul__(self, other: Node | float) -> Node:
        return self.graph.node("Mul", [self.name, self.graph.operand(other)])


class Graph:
    """A graph that is being written.

    Attributes:
        layer: the layer that the next nodes belong to; their names begin with it.
    """

    def __init__(self, onnx: Any, dtype: str) -> None:
        self.onnx, self.dtype, self.layer = onnx, dtype, ""
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._numbers = count()

    def initializer(self, name: str, a: np.ndarray) -> str:
        """Add an array; return its name."""
        self.initializers[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(a, self.dtype), name)
        return name

    def indices(self, name: str, a: np.ndarray) -> str:
        """Add whole numbers; return their name."""
        self.initializers[name] = self.onnx.numpy_helper.from_array(a.astype(np.int64), name)
        return name

    def operand(self, value: Node | float) -> str:
        """Return the name of an operand; a number is added as an initializer."""
        return value.name if isinstance(value, Node) else self.initializer(f"number {value!r}", np.array(value))

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> Node:
        """Add a node; return its output."""
        name = f"{self.layer}.{next(self._numbers)}.{operator}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return Node(self, name)

    def call(self, operator: str, x: Node) -> Node:
        """Apply an operator. No runtime has Erf in float64; there its result has only the 7 digits of float32."""
        if operator != "Erf" or self.dtype == "float32":
            return self.node(operator, [x.name])
        kinds = self.onnx.TensorProto
        single = self.node("Erf", [self.node("Cast", [x.name], to=kinds.FLOAT).name])
        return self.node("Cast", [single.name], to=kinds.DOUBLE)

    def model(self, outputs: Node, width: int | None, layers: Sequence[Layer]) -> Any:
        """Return the whole file. Its input is called "x", its output "y", and both have any number of rows."""
        helper, kind = (
            self.onnx.helper,
            getattr(self.onnx.TensorProto, "FLOAT" if self.dtype == "float32" else "DOUBLE"),
        )
        if outputs.name == "x":  # layers that do nothing
            outputs = self.node("Identity", ["x"])
        self.nodes[-1].output[0] = "y"
        last = width
        for layer in layers:
            last = layer.output_width(last)
        graph = helper.make_graph(
            self.nodes,
            "nnx",
            [helper.make_tensor_value_info("x", kind, ["N", width or "I"])],
            [helper.make_tensor_value_info("y", kind, ["N", last or "I"])],
            list(self.initializers.values()),
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, producer_name="nnx", opset_imports=[opset], ir_version=IR_VERSION)
