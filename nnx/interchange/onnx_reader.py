"""Reader of ONNX files: a graph of dense layers and activation functions as layers in a row, and residual blocks.

The nodes are walked in order. What they compute is held as a polynomial of the last layer's output `x`
(formulas.py); wherever everything after goes by one value alone, and that is a function that nnx has, it becomes a
layer. So it does not matter which of many ways an exporter has to write the same network. What is left over at the
next dense layer, or at the end, is refused with the nodes that it came from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnx.errors import FileFormatError
from nnx.interchange.formulas import Polynomial, TooLarge, X, applied, constant, recognised, same
from nnx.interchange.onnx_constants import FOLDED, folded
from nnx.interchange.onnx_file import DOMAINS, FLOATS, OnnxFile
from nnx.interchange.onnx_graph import OnnxGraph
from nnx.kernels.elementwise import BY_NAME
from nnx.layers import ELEMENTWISE, GELU, BatchNorm, Dense, Flatten, Layer, LayerNorm, Residual, Sigmoid, Softmax

UNARY = ("Relu", "Sigmoid", "Tanh", "Softplus", "Mish", "Erf", "Exp", "Log", "Abs")
ALPHA = {"LeakyRelu": 0.01, "Elu": 1.0}  # operators with a parameter, and what it is by default
PASSED = ("Identity", "Cast", "Dropout", "Flatten", "Reshape")  # change no number of a prediction
SEVERAL = ("Dropout", "BatchNormalization", "LayerNormalization")  # that may have more outputs, for training
LABELS = ("ai.onnx.ml", "ZipMap")  # names probabilities, after the network


def read(path: Path) -> tuple[list[Layer], str]:
    """Return the layers of a network in a file, and the type that it computes in.

    Raises:
        FileFormatError: the file is damaged, or holds anything but dense layers and activation functions in a row.
        MissingExtra: onnx is not installed.
    """
    return _Walk(OnnxFile(path)).layers_and_type()


@dataclass
class _Skip:
    """A value that goes around layers, to which it is added.

    Attributes:
        end: the node that adds it. layers: those before it.
    """

    end: int
    layers: list[Layer]


class _Walk:
    """A walk through a graph.

    Attributes:
        layers: found so far. values: what names stand for, as polynomials of the last layer's output.
        since: the nodes that these came from. horizon: the last node that reads any of them.
        width, axes: how many columns x has, and how many axes, or None.
        skips: around which layers of these values go, the innermost last.
    """

    def __init__(self, file: OnnxFile) -> None:
        self.file, self.graph = file, OnnxGraph(file)
        self.nodes, self.last_use = self.graph.nodes, self.graph.last_use
        self.width, self.axes = self.graph.width, self.graph.axes
        self.layers: list[Layer] = []
        self.skips: list[_Skip] = []
        self.double = False
        self._begin(self.graph.input)

    # ---- the walk ----------------------------------------------------------------------------------------------------

    def layers_and_type(self) -> tuple[list[Layer], str]:
        """Walk through all nodes."""
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
            raise self._leftover()
        if all(isinstance(layer, Flatten) for layer in self.layers):
            raise self.file.error("the graph holds no layer: its output is its input")
        return self.layers, "float64" if self.double else "float32"

    def _begin(self, name: str) -> None:
        """Go on from a layer's output, which is x from now on."""
        self.values: dict[str, Polynomial] = {name: X}
        self.since: list[Any] = []
        self.horizon = self.last_use.get(name, -1)

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
            self._close(i, node, inputs)
            return
        for name in inputs:
            if name and name not in self.values and name not in self.file.constants:
                raise self._unknown_input(i, node, name)
        method = self._method(node)
        result = method(i, node, inputs)
        if result is None:  # a layer: x is its output
            self._begin(node.output[0])
            return
        self._keep(i, node, result)

    def _method(self, node: Any) -> Callable[[int, Any, list[str]], Polynomial | None]:
        name = node.op_type
        if (node.domain, name) == LABELS:
            return self._passed
        if node.domain in DOMAINS:
            if name in PASSED:
                return self._passed
            if name in (*UNARY, *ALPHA, "Gelu"):
                return self._function
            found: Callable[[int, Any, list[str]], Polynomial | None] | None = getattr(self, f"_on_{name}", None)
            if found is not None:
                return found
        raise self.file.refusal(node, "is no dense layer, no normalization and no activation function of nnx")

    def _keep(self, i: int, node: Any, result: Polynomial) -> None:
        """Note what a node computes; make a layer of it where nothing before it is read any more."""
        name = node.output[0]
        alone = self.horizon <= i
        self.since.append(node)
        if alone and result.is_x():
            self._begin(name)
        elif (found := recognised(result)) is not None and (alone or self._open(i)):
            self.layers.append(_layer(*found))
            self._begin(name)
        else:
            self.values[name] = result
            self.horizon = max(self.horizon, self.last_use.get(name, -1))

    # ---- dense layers ------------------------------------------------------------------------------------------------

    def _on_Gemm(self, i: int, node: Any, inputs: list[str]) -> None:
        a = self.file.attributes(node, alpha=1.0, beta=1.0, transA=0, transB=0)
        if a["transA"] or len(inputs) not in (2, 3):
            raise self.file.refusal(node, "multiplies transposed inputs, or has too few; expected x @ weights + biases")
        weights = self._weights(i, node, inputs)
        weights = (weights.T if a["transB"] else weights) * a["alpha"]
        self._dense(node, weights, self._vector(node, inputs[2], weights.shape[1]) * a["beta"] if inputs[2:] else 0.0)

    def _on_MatMul(self, i: int, node: Any, inputs: list[str]) -> None:
        self._dense(node, self._weights(i, node, list(self._two(node, inputs))), 0.0)

    def _weights(self, i: int, node: Any, inputs: list[str]) -> np.ndarray:
        if len(inputs) < 2 or inputs[0] not in self.values or inputs[1] not in self.file.constants:
            raise self.file.refusal(node, "expected a value times constant weights")
        self._expect_x(i, node, inputs[0])
        weights = self.file.constants[inputs[1]]
        if weights.ndim != 2 or 0 in weights.shape or weights.dtype.kind != "f":
            raise self.file.refusal(
                node, f"its weights are {weights.dtype} {list(weights.shape)}; expected a matrix of floats"
            )
        self.double |= weights.dtype == np.float64
        return self.file.accounted(weights.astype(np.float64))

    def _vector(self, node: Any, name: str, width: int) -> np.ndarray:
        """Return constants that are added to, or multiply, each of so many columns."""
        a = self.file.constants.get(name)
        if a is None or a.size not in (1, width) or a.shape != (1,) * (a.ndim - 1) + a.shape[-1:] or a.ndim > 2:
            shape = "no constant" if a is None else f"of shape {list(a.shape)}"
            raise self.file.refusal(
                node, f"{name!r} is {shape}; expected one number, or one for each of {width} columns"
            )
        return np.broadcast_to(a.reshape(-1).astype(np.float64), (width,))

    def _dense(self, node: Any, weights: np.ndarray, biases: np.ndarray | float) -> None:
        if self.width not in (None, weights.shape[0]):
            raise self.file.refusal(node, f"takes {weights.shape[0]} features, but a row has {self.width}")
        layer = Dense(weights.shape[0], weights.shape[1], init=weights)
        layer.biases = np.broadcast_to(biases, (1, weights.shape[1]))
        self.layers.append(layer)
        self.width = weights.shape[1]

    def _affine(self, i: int, node: Any, a: str, b: str) -> bool:
        """Put constants that are added to, or multiply, a dense layer's output into the layer; False: there is none."""
        layer, x = self.layers[-1] if self.layers else None, a if a in self.values else b
        constants = self.file.constants.keys() & {a, b}
        if not isinstance(layer, Dense) or len(constants) != 1 or self.horizon > i or not self.values[x].is_x():
            return False
        numbers = self._vector(node, constants.pop(), layer.n_neurons)
        scale, shift = {
            "Add": (1.0, numbers),
            "Sub": (1.0, -numbers) if x == a else (-1.0, numbers),
            "Mul": (numbers, 0.0),
        }[node.op_type]
        before = layer.values()
        layer.weights, layer.biases = before["weights"] * scale, before["biases"] * scale + shift
        return True

    def _expect_x(self, i: int, node: Any, name: str) -> None:
        """Refuse a layer whose input is not all that came before, or is read again."""
        if not self.values[name].is_x():
            raise self._leftover()
        if self.axes not in (2, None):
            raise self.file.refusal(node, f"works on {self.axes} axes; expected a Flatten before it")
        if self.horizon > i and not self._open(i):
            again = self.nodes[min(self.horizon, len(self.nodes) - 1)]
            raise self.file.refusal(
                again, f"reads what came before {node.op_type} {node.name!r} again: layers must be in a row"
            )

    # ---- residual blocks ---------------------------------------------------------------------------------------------

    def _open(self, i: int) -> bool:
        """Tell whether all that else becomes of x is that it is added, further on; begin such a block if so."""
        names = {name for name, value in self.values.items() if value.is_x()}
        later = [j for j in range(i + 1, len(self.nodes)) for name in self.nodes[j].input if name in names]
        if len(later) != 1 or self.graph.output in names:
            return False
        node = self.nodes[later[0]]
        if node.op_type != "Add" or node.domain not in DOMAINS or self.axes not in (2, None):
            return False
        if self.file.constants.keys() & set(node.input):
            return False
        self.skips.append(_Skip(later[0], self.layers))
        self.layers = []
        return True

    def _close(self, i: int, node: Any, inputs: list[str]) -> None:
        """Make a block of the layers since then."""
        inside = [name for name in self._two(node, inputs) if name in self.values]
        if len(inside) != 1 or not self.values[inside[0]].is_x() or self.horizon > i:
            raise self._leftover() if self.since else self.file.refusal(node, "adds something else than a value to x")
        self.layers = [*self.skips.pop().layers, Residual(*self.layers)]
        self._begin(node.output[0])

    # ---- normalization -----------------------------------------------------------------------------------------------

    def _on_LayerNormalization(self, i: int, node: Any, inputs: list[str]) -> None:
        a = self.file.attributes(node, axis=-1, epsilon=1e-5, stash_type=1)
        if a["axis"] not in (-1, 1) or len(inputs) not in (2, 3):
            raise self.file.refusal(node, f"normalizes axes from {a['axis']} on; expected rows, by a scale and a bias")
        self._normalized(i, node, inputs, LayerNorm, ("gamma", "beta"), a["epsilon"])

    def _on_BatchNormalization(self, i: int, node: Any, inputs: list[str]) -> None:
        a = self.file.attributes(node, epsilon=1e-5, momentum=0.9, training_mode=0, spatial=1)
        if a["training_mode"] or not a["spatial"] or len(inputs) != 5:
            raise self.file.refusal(node, "normalizes by the batch's own mean and variance; export for inference")
        names = "gamma", "beta", "running_mean", "running_var"
        self._normalized(i, node, inputs, BatchNorm, names, a["epsilon"], momentum=as_written(a["momentum"]))

    def _normalized(
        self, i: int, node: Any, inputs: list[str], kind: type[LayerNorm] | type[BatchNorm], names: tuple[str, ...],
        epsilon: float, **more: float,
    ) -> None:  # fmt: skip
        """Add a normalization whose numbers are constants with these names in nnx."""
        if inputs[0] not in self.values or not all(name in self.file.constants for name in inputs[1:]):
            raise self.file.refusal(node, "expected a value, and constants to normalize it by")
        self._expect_x(i, node, inputs[0])
        width = self.width or max(self.file.constants[name].size for name in inputs[1:])
        layer = kind(width, epsilon=as_written(epsilon), **more)
        for name, given in zip(names, inputs[1:], strict=False):
            layer.assign(name, self._vector(node, given, width))
            self.double |= self.file.constants[given].dtype == np.float64
        self.layers.append(layer)
        self.width = width

    # ---- functions ---------------------------------------------------------------------------------------------------

    def _on_Softmax(self, i: int, node: Any, inputs: list[str]) -> None:
        axis = self.file.attributes(node, axis=-1 if self.file.opset >= 13 else 1)["axis"]
        self._expect_x(i, node, self._only(node, inputs))
        if axis not in (-1, 1):
            raise self.file.refusal(node, f"its axis is {axis}, expected that of the columns, -1 or 1")
        self.layers.append(Softmax())

    def _on_Concat(self, i: int, node: Any, inputs: list[str]) -> None:
        """Two classes: 1 - p and p, p = sigmoid(z), are the softmax of 0 and z."""
        axis = self.file.attributes(node, axis=0)["axis"]
        a, b = (self._polynomial(node, name) for name in self._two_of(node, inputs))
        dense = self.layers[-2] if len(self.layers) > 1 and isinstance(self.layers[-1], Sigmoid) else None
        if not (isinstance(dense, Dense) and b.is_x() and same(a, X * -1.0 + 1.0) and self.horizon <= i):
            raise self.file.refusal(node, "joins something else than the two probabilities 1 - p and p of a sigmoid")
        if dense.n_neurons != 1 or axis not in (1, -1):
            raise self.file.refusal(node, f"joins probabilities of {dense.n_neurons} outputs on axis {axis}")
        before = dense.values()
        del self.layers[-2:]
        self.width = dense.n_inputs
        self._dense(node, *(np.pad(before[name], ((0, 0), (1, 0))) for name in ("weights", "biases")))
        self.layers.append(Softmax())

    def _function(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        x, name = self._polynomial(node, self._only(node, inputs)), node.op_type
        if name == "Gelu":
            approximate = self.file.attributes(node, approximate="none")["approximate"]
            return applied("GeluTanh" if approximate == "tanh" else "Gelu", x)
        if name in ALPHA:
            alpha = self.file.attributes(node, alpha=ALPHA[name])["alpha"]
            return applied(name, x, as_written(alpha))
        self.file.attributes(node)
        return applied(name, x)

    def _on_Add(self, i: int, node: Any, inputs: list[str]) -> Polynomial | None:
        a, b = self._two(node, inputs)
        return None if self._affine(i, node, a, b) else self._polynomial(node, a) + self._polynomial(node, b)

    def _on_Sub(self, i: int, node: Any, inputs: list[str]) -> Polynomial | None:
        a, b = self._two(node, inputs)
        return None if self._affine(i, node, a, b) else self._polynomial(node, a) + self._polynomial(node, b) * -1.0

    def _on_Mul(self, i: int, node: Any, inputs: list[str]) -> Polynomial | None:
        a, b = self._two(node, inputs)
        return None if self._affine(i, node, a, b) else self._polynomial(node, a) * self._polynomial(node, b)

    def _on_Div(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        a, b = self._two(node, inputs)
        divisor = self._polynomial(node, b).number()
        if not divisor:
            raise self.file.refusal(node, "divides by something else than a number")
        return self._polynomial(node, a) * (1 / divisor)

    def _on_Greater(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        a, b = self._two(node, inputs)
        return applied("Greater", self._polynomial(node, a) + self._polynomial(node, b) * -1.0)  # 1 or 0

    def _on_Where(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        self.file.attributes(node)
        if len(inputs) != 3:
            raise self.file.refusal(node, f"has {len(inputs)} inputs, expected three")
        chosen, a, b = (self._polynomial(node, name) for name in inputs)
        return chosen * a + b + chosen * b * -1.0

    def _on_Neg(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        return self._polynomial(node, self._only(node, inputs)) * -1.0

    def _on_Pow(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        a, b = self._two(node, inputs)
        x, power = self._polynomial(node, a), self._polynomial(node, b).number()
        if power not in (1, 2, 3):
            raise self.file.refusal(node, "raises to something else than the power of 1, 2 or 3")
        result = x
        for _ in range(int(power) - 1):
            result = result * x
        return result

    def _on_Swish(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        alpha = self.file.attributes(node, alpha=1.0)["alpha"]
        x = self._polynomial(node, self._only(node, inputs))
        return x * applied("Sigmoid", x * alpha)

    def _only(self, node: Any, inputs: list[str]) -> str:
        if len(inputs) != 1:
            raise self.file.refusal(node, f"has {len(inputs)} inputs, expected one")
        return inputs[0]

    def _two(self, node: Any, inputs: list[str]) -> tuple[str, str]:
        self.file.attributes(node)
        return self._two_of(node, inputs)

    def _two_of(self, node: Any, inputs: list[str]) -> tuple[str, str]:
        if len(inputs) != 2:
            raise self.file.refusal(node, f"has {len(inputs)} inputs, expected two")
        return inputs[0], inputs[1]

    def _polynomial(self, node: Any, name: str) -> Polynomial:
        """Return what an operand is: of constants only single numbers."""
        if name in self.values:
            return self.values[name]
        a = self.file.constants[name]
        if a.size != 1 or a.ndim > 2 or a.dtype.kind not in "fi" or not np.isfinite(a).all():
            raise self.file.refusal(
                node, f"{name!r} has shape {list(a.shape)}; outside of dense layers expected single finite numbers"
            )
        return constant(float(str(a.reshape(())[()])))

    # ---- what changes no number --------------------------------------------------------------------------------------

    def _passed(self, i: int, node: Any, inputs: list[str]) -> Polynomial:
        if not inputs or inputs[0] not in self.values:
            raise self.file.refusal(node, "works on constants, which is not understood")
        if node.domain in DOMAINS:
            check: Callable[[Any, list[str]], None] | None = getattr(self, f"_check_{node.op_type}", None)
            if check is not None:
                check(node, inputs)
        return self.values[inputs[0]]

    def _check_Cast(self, node: Any, inputs: list[str]) -> None:
        kind = self.file.cast_to(node)
        if kind not in FLOATS:
            raise self.file.refusal(node, f"makes {kind} of numbers, expected floats")

    def _check_Dropout(self, node: Any, inputs: list[str]) -> None:
        modes = [self.file.constants.get(name) for name in inputs[2:] if name]
        if any(mode is None or mode.any() for mode in modes) or (
            len(node.output) > 1 and node.output[1] in self.last_use
        ):
            raise self.file.refusal(node, "drops numbers in predictions too, or its mask is used; export for inference")

    def _check_Flatten(self, node: Any, inputs: list[str]) -> None:
        if self.file.attributes(node, axis=1)["axis"] != 1:
            raise self.file.refusal(node, "expected axis=1: a row for each sample")
        self._flatten()

    def _check_Reshape(self, node: Any, inputs: list[str]) -> None:
        self.file.attributes(node, allowzero=0)
        shape = self.file.constants.get(inputs[1]) if len(inputs) == 2 else None
        sides = [] if shape is None else shape.reshape(-1).tolist()
        width = self.width or max([1, *sides[1:2]])
        if sides not in ([-1, width], [0, width], [0, -1]):
            raise self.file.refusal(
                node, f"makes {sides or 'a computed shape'} of rows of {width}; expected the same rows"
            )
        self.width = width if sides[1] > 0 else self.width
        self._flatten()

    def _flatten(self) -> None:
        """Note that a sample is a row from here on: at the front the model takes whatever is to become one."""
        if not self.layers and self.axes != 2:
            self.layers.append(Flatten())
        self.axes = 2

    # ---- refusals ----------------------------------------------------------------------------------------------------

    def _unknown_input(self, i: int, node: Any, name: str) -> FileFormatError:
        if any(name in later.output for later in self.nodes[i:]):
            return self.file.node_error(
                node, f"reads {name!r} before it is made: the graph has a cycle, or is out of order"
            )
        if name == self.graph.input or any(name in earlier.output for earlier in self.nodes[:i]):
            return self.file.refusal(node, f"reads {name!r} from before the last layer")
        return self.file.node_error(node, f"reads {name!r}, which nothing makes: the graph is damaged")

    def _leftover(self) -> FileFormatError:
        """Say which nodes compute what is no layer."""
        if not self.since:
            return self.file.error(f"the output {self.graph.output!r} is made by no node: the graph is damaged")
        nodes = " -> ".join(node.op_type for node in self.since[-12:])
        return self.file.refusal(self.since[-1], f"{nodes}, taken together, is no function that nnx has")


def as_written(number: float) -> float:
    """Return an attribute, which is a float32, as it was written: 0.1, and not 0.10000000149."""
    return float(str(np.float32(number)))


def _layer(function: str, parameter: float) -> Layer:
    """Return the layer of an operation, by its name."""
    if function == "gelu_tanh":
        return GELU("tanh")
    name = BY_NAME[function].parameter
    return ELEMENTWISE[function](**({name: parameter} if name else {}))
