"""ONNX operators that are layers: dense layers, normalization, softmax."""

# ruff: noqa: D102 - a method is named after the operator that it reads

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.interchange.formulas import X, same
from nnx.interchange.onnx_walk import Walk, as_written
from nnx.layers import BatchNorm, Dense, LayerNorm, Sigmoid, Softmax


class LayerNodes(Walk):
    """Turns such operators into layers, or into changes of the last layer."""

    def on_Gemm(self, i: int, node: Any, inputs: list[str]) -> None:
        a = self.file.attributes(node, alpha=1.0, beta=1.0, transA=0, transB=0)
        if a["transA"] or len(inputs) not in (2, 3):
            raise self.file.refusal(node, "multiplies transposed inputs, or has too few; expected x @ weights + biases")
        weights = self.weights(i, node, inputs)
        weights = (weights.T if a["transB"] else weights) * a["alpha"]
        self.dense(node, weights, self.vector(node, inputs[2], weights.shape[1]) * a["beta"] if inputs[2:] else 0.0)

    def on_MatMul(self, i: int, node: Any, inputs: list[str]) -> None:
        self.dense(node, self.weights(i, node, list(self.two(node, inputs))), 0.0)

    def weights(self, i: int, node: Any, inputs: list[str]) -> np.ndarray:
        if len(inputs) < 2 or inputs[0] not in self.values or inputs[1] not in self.file.constants:
            raise self.file.refusal(node, "expected a value times constant weights")
        self.expect_x(i, node, inputs[0])
        weights = self.file.constants[inputs[1]]
        if weights.ndim != 2 or 0 in weights.shape or weights.dtype.kind != "f":
            raise self.file.refusal(
                node, f"its weights are {weights.dtype} {list(weights.shape)}; expected a matrix of floats"
            )
        self.double |= weights.dtype == np.float64
        return self.file.accounted(weights.astype(np.float64))

    def dense(self, node: Any, weights: np.ndarray, biases: np.ndarray | float) -> None:
        if self.width not in (None, weights.shape[0]):
            raise self.file.refusal(node, f"takes {weights.shape[0]} features, but a row has {self.width}")
        layer = Dense(weights.shape[0], weights.shape[1], init=weights)
        layer.biases = np.broadcast_to(biases, (1, weights.shape[1]))
        self.layers.append(layer)
        self.width = weights.shape[1]

    def affine(self, i: int, node: Any, a: str, b: str) -> bool:
        """Put constants that a dense layer's output is added to or multiplied by into the layer, if possible."""
        layer, x = self.layers[-1] if self.layers else None, a if a in self.values else b
        constants = self.file.constants.keys() & {a, b}
        if not isinstance(layer, Dense) or len(constants) != 1 or self.horizon > i or not self.values[x].is_x():
            return False
        numbers = self.vector(node, constants.pop(), layer.n_neurons)
        scale, shift = {
            "Add": (1.0, numbers),
            "Sub": (1.0, -numbers) if x == a else (-1.0, numbers),
            "Mul": (numbers, 0.0),
        }[node.op_type]
        before = layer.values()
        layer.weights, layer.biases = before["weights"] * scale, before["biases"] * scale + shift
        return True

    def on_LayerNormalization(self, i: int, node: Any, inputs: list[str]) -> None:
        a = self.file.attributes(node, axis=-1, epsilon=1e-5, stash_type=1)
        if a["axis"] not in (-1, 1) or len(inputs) not in (2, 3):
            raise self.file.refusal(node, f"normalizes axes from {a['axis']} on; expected rows, by a scale and a bias")
        self.normalized(i, node, inputs, LayerNorm, ("gamma", "beta"), a["epsilon"])

    def on_BatchNormalization(self, i: int, node: Any, inputs: list[str]) -> None:
        a = self.file.attributes(node, epsilon=1e-5, momentum=0.9, training_mode=0, spatial=1)
        if a["training_mode"] or not a["spatial"] or len(inputs) != 5:
            raise self.file.refusal(node, "normalizes by the batch's own mean and variance; export for inference")
        names = "gamma", "beta", "running_mean", "running_var"
        self.normalized(i, node, inputs, BatchNorm, names, a["epsilon"], momentum=as_written(a["momentum"]))

    def normalized(
        self, i: int, node: Any, inputs: list[str], kind: type[LayerNorm] | type[BatchNorm], names: tuple[str, ...],
        epsilon: float, **more: float,
    ) -> None:  # fmt: skip
        """Add a normalization layer. The node's constants become its parameters, which have these names in nnx."""
        if inputs[0] not in self.values or not all(name in self.file.constants for name in inputs[1:]):
            raise self.file.refusal(node, "expected a value, and constants to normalize it by")
        self.expect_x(i, node, inputs[0])
        width = self.width or max(self.file.constants[name].size for name in inputs[1:])
        layer = kind(width, epsilon=as_written(epsilon), **more)
        for name, given in zip(names, inputs[1:], strict=False):
            layer.assign(name, self.vector(node, given, width))
            self.double |= self.file.constants[given].dtype == np.float64
        self.layers.append(layer)
        self.width = width

    def on_Softmax(self, i: int, node: Any, inputs: list[str]) -> None:
        axis = self.file.attributes(node, axis=-1 if self.file.opset >= 13 else 1)["axis"]
        self.expect_x(i, node, self.only(node, inputs))
        if axis not in (-1, 1):
            raise self.file.refusal(node, f"its axis is {axis}, expected that of the columns, -1 or 1")
        self.layers.append(Softmax())

    def on_Concat(self, i: int, node: Any, inputs: list[str]) -> None:
        """Read the probabilities of two classes: 1 - p and p, p = sigmoid(z), are the softmax of 0 and z."""
        axis = self.file.attributes(node, axis=0)["axis"]
        a, b = (self.polynomial(node, name) for name in self.two_of(node, inputs))
        dense = self.layers[-2] if len(self.layers) > 1 and isinstance(self.layers[-1], Sigmoid) else None
        if not (isinstance(dense, Dense) and b.is_x() and same(a, X * -1.0 + 1.0) and self.horizon <= i):
            raise self.file.refusal(node, "joins something else than the two probabilities 1 - p and p of a sigmoid")
        if dense.n_neurons != 1 or axis not in (1, -1):
            raise self.file.refusal(node, f"joins probabilities of {dense.n_neurons} outputs on axis {axis}")
        before = dense.values()
        del self.layers[-2:]
        self.width = dense.n_inputs
        self.dense(node, *(np.pad(before[name], ((0, 0), (1, 0))) for name in ("weights", "biases")))
        self.layers.append(Softmax())
