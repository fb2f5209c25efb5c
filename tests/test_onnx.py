"""ONNX files: written as onnxruntime reads them, read as others write them, and refused with the reason."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Doubled

import nnx
from nnx.errors import FileFormatError, InputError, MissingExtra
from nnx.interchange.formulas import COMPOSED
from nnx.kernels.elementwise import NAMES

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
FLOAT, DOUBLE, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64
RANDOM = np.random.default_rng(0)
W1, B1 = RANDOM.standard_normal((4, 5)).astype("f4"), RANDOM.standard_normal(5).astype("f4")
W2, B2 = RANDOM.standard_normal((5, 3)).astype("f4"), RANDOM.standard_normal(3).astype("f4")
X = (3 * RANDOM.standard_normal((50, 4))).astype("f4")
LAYERS: dict[str, Callable[[], nnx.Layer]] = {
    "relu": nnx.ReLU, "softmax": nnx.Softmax, "sigmoid": nnx.Sigmoid, "tanh": nnx.Tanh, "linear": nnx.Linear,
    "dropout": lambda: nnx.Dropout(0.5), "leaky_relu": lambda: nnx.LeakyReLU(0.123456), "elu": lambda: nnx.ELU(0.7),
    "gelu": nnx.GELU, "gelu_tanh": lambda: nnx.GELU("tanh"), "silu": nnx.SiLU, "softplus": nnx.Softplus,
    "mish": nnx.Mish, "noise": lambda: nnx.GaussianNoise(0.5), "layer_norm": lambda: normal(nnx.LayerNorm(5, 1e-3)),
    "batch_norm": lambda: normal(nnx.BatchNorm(5, 0.7)),
}  # fmt: skip


def normal(layer: Any) -> nnx.Layer:
    """A normalization that does more than normalize."""
    for name, low in {"gamma": -1.0, "beta": -1.0, "running_mean": -1.0, "running_var": 0.1}.items():
        if hasattr(layer, name):
            layer.assign(name, RANDOM.uniform(low, 2, 5))
    return layer


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


def network(*between: nnx.Layer, dtype: str = "float32") -> nnx.Sequential:
    first, last = nnx.Dense(4, 5, init=W1), nnx.Dense(5, 3, init=W2)
    first.biases, last.biases = B1, B2
    return nnx.Sequential(first, *between, last, dtype=dtype)


def run(path: Path, x: np.ndarray, output: int = -1) -> np.ndarray:
    runtime.set_default_logger_severity(4)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: x})
    return np.asarray(outputs[output])


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_every_function_of_the_table_is_written():
    made = {make().operation for make in LAYERS.values() if hasattr(make(), "operation")}
    assert made >= set(NAMES)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_onnxruntime_computes_what_the_model_does(name: str, dtype: str, tmp_path: Path):
    model, path, x = network(LAYERS[name](), dtype=dtype), tmp_path / "model.onnx", X.astype(dtype)
    model.to_onnx(path)
    onnx.checker.check_model(str(path), full_check=True)
    assert [entry.version for entry in onnx.load(path).opset_import] == [20]
    np.testing.assert_allclose(run(path, x), model.predict(x), rtol=1e-5, atol=1e-5)
    again = nnx.from_onnx(path)
    assert again.dtype == dtype
    dropped = ("Linear", "Dropout", "GaussianNoise")  # what does nothing is not in the file
    assert list(map(repr, again.layers)) == [repr(p) for p in model.layers if type(p).__name__ not in dropped]
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


def test_any_number_of_rows_and_layers_without_parameters(tmp_path: Path):
    path = tmp_path / "model.onnx"
    nnx.Sequential(nnx.Linear(), nnx.Dropout(0.5)).to_onnx(path)
    np.testing.assert_array_equal(run(path, X), X)
    nnx.Sequential(nnx.SiLU(), nnx.Softmax()).to_onnx(path)
    np.testing.assert_allclose(run(path, X[:1]), nnx.Sequential(nnx.SiLU(), nnx.Softmax()).predict(X[:1]), rtol=1e-5)
    assert list(map(repr, nnx.from_onnx(path).layers)) == ["SiLU()", "Softmax()"]


def test_the_same_model_gives_the_same_bytes_on_every_backend(tmp_path: Path):
    pytest.importorskip("numba")
    network(nnx.Mish()).to_onnx(tmp_path / "numpy.onnx")
    network(nnx.Mish()).to("numba").to_onnx(tmp_path / "numba.onnx")
    assert (tmp_path / "numpy.onnx").read_bytes() == (tmp_path / "numba.onnx").read_bytes()


def test_a_function_without_operators_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As a new row of the table is, until nnx/interchange/formulas.py has it."""
    monkeypatch.delitem(COMPOSED, "silu")
    with pytest.raises(InputError, match="layer 1 is SiLU"):
        network(nnx.SiLU()).to_onnx(tmp_path / "model.onnx")


def test_what_cannot_be_written_leaves_the_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    replaced = network(nnx.ReLU())
    replaced.layers[1].forward = lambda inputs, training=False: inputs
    sick = network()
    sick.flat.values[...] = np.nan
    for model, word in ((network(Doubled()), "layer 1"), (replaced, "layer 1"), (sick, "0.weights")):
        with pytest.raises(InputError, match=word):
            model.to_onnx(path)
    monkeypatch.setattr("nnx.interchange.onnx_writer.LARGEST", 100)
    with pytest.raises(InputError, match="2 GiB"):
        network().to_onnx(path)
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"old"]


def test_without_onnx_both_ways_say_which_extra_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network().to_onnx(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: network().to_onnx(tmp_path / "other.onnx"), lambda: nnx.from_onnx(tmp_path / "model.onnx")):
        with pytest.raises(MissingExtra, match=r"nnx-backends\[onnx\]"):
            call()


# ---- reading what others write ---------------------------------------------------------------------------------------


class Graph:
    """A graph as an exporter would make it; names are given in order."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, a: Any, dtype: Any = None) -> str:
        name = f"c{len(self.constants)}"
        tensor = onnx.numpy_helper.from_array(np.asarray(a, np.float32 if dtype is None else dtype), name)
        self.constants.append(tensor)
        return name

    def node(self, operator: str, *inputs: Any, domain: str = "", **attributes: Any) -> str:
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        out = f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, names, [out], name=f"n_{out}", domain=domain, **attributes))
        return out

    def write(self, path: Path, *outputs: tuple[str, int], kind: int = FLOAT, shape: Any = ("N", 4)) -> Path:
        info = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes, "g", [info("x", kind, shape)], [info(name, of, None) for name, of in outputs], self.constants
        )
        opsets = [onnx.helper.make_opsetid(domain, 20 if domain == "" else 1) for domain in ("", "ai.onnx.ml")]
        path.write_bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
        return path


def gemm(g: Graph) -> str:
    hidden = g.node("Gemm", "x", W1.T * 2, B1 * 4, transB=1, alpha=0.5, beta=0.25)
    return g.node("Gemm", g.node("Relu", hidden), W2)


def keras(g: Graph) -> str:
    hidden = g.node("Relu", g.node("Add", g.node("MatMul", g.node("Identity", "x"), W1), B1.reshape(1, 5)))
    return g.node("Softmax", g.node("Add", B2, g.node("MatMul", hidden, W2)), axis=1)


def regressor(g: Graph) -> str:
    first = g.node("Cast", "x", to=FLOAT)
    hidden = g.node("Tanh", g.node("Add", g.node("MatMul", first, W1), B1.reshape(1, 5)))
    outputs = g.node("Add", g.node("MatMul", hidden, W2[:, :1]), B2[:1].reshape(1, 1))
    return g.node("Reshape", outputs, g.constant([-1, 1], np.int64))


def two_classes(g: Graph) -> str:
    p = g.node("Sigmoid", g.node("Add", g.node("MatMul", "x", W1[:, :1]), B1[:1]))
    return g.node("Concat", g.node("Sub", g.constant(1), p), p, axis=1)


def constants_in_nodes(g: Graph) -> str:
    w = g.node("Transpose", g.node("Squeeze", g.node("Identity", W1.T[None])), perm=[1, 0])
    b = g.node("Constant", value=onnx.numpy_helper.from_array(B1))
    dropped = g.node("Dropout", g.node("Dropout", "x"), 0.5, g.constant(False, bool))  # not in training
    flat = g.node("Flatten", dropped)
    scaled = g.node(
        "Mul", g.node("Sub", g.node("Gemm", flat, w), g.node("Unsqueeze", b, g.constant([0], np.int64))), B1
    )
    return g.node("Gemm", g.node("Sub", B1, scaled), W2)


def erf_gelu(g: Graph, x: str) -> str:
    inner = g.node("Add", g.node("Erf", g.node("Div", x, np.sqrt(2))), 1)
    return g.node("Mul", g.node("Mul", x, inner), 0.5)


def other_erf_gelu(g: Graph, x: str) -> str:
    inner = g.node("Add", 1, g.node("Erf", g.node("Mul", np.sqrt(0.5), x)))
    return g.node("Mul", g.node("Mul", 0.5, x), inner)


def tanh_gelu(g: Graph, x: str) -> str:
    cubic = g.node("Add", x, g.node("Mul", 0.044715, g.node("Pow", x, 3)))
    return g.node("Mul", g.node("Mul", 0.5, x), g.node("Add", 1, g.node("Tanh", g.node("Mul", 0.7978845608, cubic))))


def torch_softplus(g: Graph, x: str) -> str:
    return g.node("Where", g.node("Greater", x, 20), x, g.node("Softplus", x))


FUNCTIONS: dict[str, tuple[Callable[[Graph, str], str], str]] = {
    "GELU by erf": (erf_gelu, "GELU()"),
    "GELU by erf in another order": (other_erf_gelu, "GELU()"),
    "GELU by tanh": (tanh_gelu, "GELU(approximate='tanh')"),
    "GELU": (lambda g, x: g.node("Gelu", x, approximate="tanh"), "GELU(approximate='tanh')"),
    "SiLU": (lambda g, x: g.node("Mul", g.node("Sigmoid", x), x), "SiLU()"),
    "Mish by softplus": (lambda g, x: g.node("Mul", x, g.node("Tanh", g.node("Softplus", x))), "Mish()"),
    "Softplus by exp": (lambda g, x: g.node("Log", g.node("Add", g.node("Exp", x), 1)), "Softplus()"),
    "Softplus with a bend": (torch_softplus, "Softplus()"),
    "ELU": (lambda g, x: g.node("Elu", x, alpha=0.3), "ELU(0.3)"),
    "LeakyReLU": (lambda g, x: g.node("LeakyRelu", x), "LeakyReLU(0.01)"),
    "two in a row": (lambda g, x: g.node("Relu", g.node("Mul", g.node("Sigmoid", x), x)), "SiLU() ReLU()"),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_recognised_however_they_are_written(name: str, tmp_path: Path):
    make, expected = FUNCTIONS[name]
    g = Graph()
    path = g.write(tmp_path / "m.onnx", (g.node("Gemm", make(g, g.node("Gemm", "x", W1, B1)), W2, B2), FLOAT))
    model = nnx.from_onnx(path)
    assert " ".join(map(repr, model.layers[1:-1])) == expected
    np.testing.assert_allclose(model.predict(X), run(path, X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [gemm, keras, regressor, two_classes, constants_in_nodes])
def test_networks_of_other_exporters_predict_the_same(make: Callable[[Graph], str], tmp_path: Path):
    g = Graph()
    path = g.write(tmp_path / "m.onnx", (make(g), FLOAT))
    np.testing.assert_allclose(nnx.from_onnx(path).predict(X), run(path, X), rtol=1e-5, atol=1e-6)


def test_labels_beside_the_probabilities_are_left_out(tmp_path: Path):
    g = Graph()
    p = keras(g)
    named = g.node("ZipMap", p, domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    label = g.node("ArgMax", p, axis=1)
    path = g.write(tmp_path / "m.onnx", (label, INT64), (p, FLOAT))
    np.testing.assert_allclose(nnx.from_onnx(path).predict(X), run(path, X), rtol=1e-5)
    sequence = onnx.helper.make_value_info(named, onnx.helper.make_sequence_type_proto(
        onnx.helper.make_map_type_proto(INT64, onnx.helper.make_tensor_type_proto(FLOAT, []))
    ))  # fmt: skip
    model = onnx.load(path)
    model.graph.output.pop()
    model.graph.output.append(sequence)
    path.write_bytes(model.SerializeToString())
    assert repr(nnx.from_onnx(path).layers[-1]) == "Softmax()"


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "DOUBLE"])
def test_weights_of_other_types_are_read(kind: str, tmp_path: Path):
    g = Graph()
    out = g.node("Gemm", "x", "weights")
    number = getattr(onnx.TensorProto, kind)
    exact = np.round(W1 * 8) / 8  # in all of them
    g.constants.append(onnx.helper.make_tensor("weights", number, W1.shape, exact.ravel()))
    model = nnx.from_onnx(g.write(tmp_path / "m.onnx", (out, number), kind=number))
    assert model.dtype == ("float64" if kind == "DOUBLE" else "float32")
    np.testing.assert_array_equal(model.layers[0].weights, exact)


def test_images_are_flattened_at_the_front(tmp_path: Path):
    g = Graph()
    out = g.node("Gemm", g.node("Flatten", "x"), W1)
    path = g.write(tmp_path / "m.onnx", (out, FLOAT), shape=["N", 2, 2])
    model, images = nnx.from_onnx(path), X.reshape(-1, 2, 2)
    np.testing.assert_allclose(model.predict(X), run(path, images), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.predict(images), model.predict(X))
    again = tmp_path / "again.onnx"
    model.to_onnx(again)  # which takes rows
    np.testing.assert_allclose(run(again, X), run(path, images), rtol=1e-5, atol=1e-6)


def test_residual_blocks_come_back(tmp_path: Path):
    path = tmp_path / "m.onnx"
    for parts in (
        [nnx.Residual(nnx.Dense(4, 4), nnx.ReLU(), nnx.Dense(4, 4)), nnx.Dense(4, 3)],
        [
            nnx.Dense(4, 5),
            nnx.Residual(nnx.GELU(), nnx.Dense(5, 5)),
            nnx.ReLU(),
            nnx.Residual(nnx.Tanh()),
            nnx.Softmax(),
        ],
        [nnx.Residual(nnx.Dense(4, 4), nnx.Residual(nnx.Dense(4, 4), nnx.SiLU()), nnx.LayerNorm(4))],
        [nnx.Residual(nnx.BatchNorm(4), nnx.Mish(), nnx.Dense(4, 4)), nnx.Residual(nnx.Dense(4, 4))],
    ):
        model = nnx.Sequential(*parts)
        model.to_onnx(path)
        again = nnx.from_onnx(path)
        assert list(map(repr, again.layers)) == list(map(repr, model.layers))
        np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_blocks_and_embeddings_are_written(tmp_path: Path):
    path, codes = tmp_path / "m.onnx", X.copy()
    codes[:, 2] = np.arange(len(X)) % 4
    inside = [nnx.Dense(6, 6), nnx.GELU(), nnx.Dropout(0.5), nnx.Residual(nnx.Tanh(), nnx.Dense(6, 6))]
    for dtype in ("float32", "float64"):
        for first in ([nnx.Flatten()], []):
            model = nnx.Sequential(
                *first, nnx.Embedding({2: (4, 3)}, inputs=4), nnx.Residual(*copy.deepcopy(inside)),
                nnx.Concat(nnx.Linear(), [nnx.Dense(6, 2), nnx.ReLU()]), nnx.Dense(8, 3), nnx.Softmax(), dtype=dtype,
            )  # fmt: skip
            model.to_onnx(path)
            onnx.checker.check_model(str(path), full_check=True)
            np.testing.assert_allclose(run(path, codes.astype(dtype)), model.predict(codes), rtol=1e-5, atol=1e-5)
    all_codes = nnx.Sequential(nnx.Embedding(4, 3))
    all_codes.to_onnx(path)
    np.testing.assert_array_equal(run(path, codes[:, 2:3]), all_codes.predict(codes[:, 2:3]))
    twice = nnx.Sequential(nnx.Residual(nnx.Dense(4, 4), Doubled()))
    with pytest.raises(InputError, match="layer 0 is Doubled"):
        twice.to_onnx(path)


def test_a_softmax_over_one_of_several_axes_is_none_over_rows(tmp_path: Path):
    g = Graph()
    out = g.node("Gemm", g.node("Flatten", g.node("Softmax", g.node("Relu", "x"), axis=-1)), W1)
    with pytest.raises(FileFormatError, match=r"n_v1.*3 axes"):
        nnx.from_onnx(g.write(tmp_path / "m.onnx", (out, FLOAT), shape=["N", 2, 2]))


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_what_pytorchs_exporter_writes_is_read(tmp_path: Path):
    torch = pytest.importorskip("torch")
    nn, path = torch.nn, tmp_path / "m.onnx"
    torch.manual_seed(0)
    functions = {
        nn.ReLU(): "ReLU()", nn.LeakyReLU(0.2): "LeakyReLU(0.2)", nn.ELU(0.7): "ELU(0.7)", nn.GELU(): "GELU()",
        nn.GELU("tanh"): "GELU(approximate='tanh')", nn.SiLU(): "SiLU()", nn.Softplus(): "Softplus()",
        nn.Mish(): "Mish()",
        nn.Sigmoid(): "Sigmoid()", nn.Tanh(): "Tanh()",
    }  # fmt: skip
    parts = [part for function in functions for part in (nn.Linear(4, 4), function, nn.Dropout(0.1))]
    network = nn.Sequential(nn.Flatten(), *parts, nn.Linear(4, 3, bias=False), nn.Softmax(dim=1)).eval()
    images = torch.from_numpy(X).reshape(-1, 2, 2)
    options = {"dynamo": False, "opset_version": 17, "input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}}
    torch.onnx.export(network, (images,), path, **options)
    model = nnx.from_onnx(path)
    assert list(map(repr, model.layers[2:-2:2])) == list(functions.values())  # Flatten, Linear, then the first
    np.testing.assert_allclose(model.predict(X), network(images).detach().numpy(), rtol=1e-5, atol=1e-6)


# ---- refusals --------------------------------------------------------------------------------------------------------


def convolution(g: Graph) -> str:
    return g.node("Conv", "x", np.ones((1, 1, 2, 2)))


def skipping(g: Graph) -> str:
    hidden = g.node("Gemm", "x", W1)
    return g.node("Mul", g.node("Gemm", hidden, np.ones((5, 5))), hidden)


def skipping_twice(g: Graph) -> str:
    hidden = g.node("Gemm", "x", W1)
    return g.node("Add", g.node("Add", g.node("Gemm", hidden, np.ones((5, 5))), hidden), hidden)


def skipping_apart(g: Graph) -> str:
    return g.node("Add", g.node("Gemm", "x", W1[:, :1]), "x")


def cycle(g: Graph) -> str:
    return g.node("Relu", g.node("Add", g.node("Gemm", "x", W1), "v2"))


def external(g: Graph) -> str:
    out = g.node("Gemm", "x", W1)
    g.constants[-1].data_location = onnx.TensorProto.EXTERNAL
    g.constants[-1].external_data.add(key="location", value="/etc/passwd")
    return out


def gigantic(g: Graph) -> str:
    out = g.node("Gemm", "x", W1)
    del g.constants[-1].dims[:]
    g.constants[-1].dims.extend([1 << 40, 1 << 40])
    return out


def negative(g: Graph) -> str:
    out = g.node("Gemm", "x", W1)
    del g.constants[-1].dims[:]
    g.constants[-1].dims.extend([-4, -5])
    return out


def huge_polynomial(g: Graph) -> str:
    x = g.node("Add", g.node("Relu", "x"), g.node("Sigmoid", "x"))
    for _ in range(60):
        x = g.node("Mul", x, x)
    return g.node("Gemm", x, W1)


def many_copies(g: Graph) -> str:
    """A file of 70 kB that would need 33 MB, or as many as there are nodes."""
    x, weights = g.node("MatMul", "x", np.ones((4, 64))), g.constant(np.ones((64, 64)))
    for _ in range(10):
        weights = g.node("Cast", weights, to=DOUBLE)
    for _ in range(1000):
        x = g.node("MatMul", x, weights)
    return x


def odd_reshape(g: Graph) -> str:
    return g.node("MatMul", "x", g.node("Reshape", W1, g.constant([4, 5, 0], np.int64)))


def rank_three(g: Graph) -> str:
    return g.node("Relu", g.node("Reshape", "x", g.constant([-1, 2, 2], np.int64)))


REFUSED: dict[str, tuple[Callable[[Graph], str], list[str]]] = {
    "a convolution": (convolution, ["n_v0", "Conv", "dense layers"]),
    "a skip connection by a product": (skipping, ["n_v2", "again"]),
    "a value added twice": (skipping_twice, ["again"]),
    "a sum of other widths": (skipping_apart, ["of 4 features it makes 1"]),
    "a cycle": (cycle, ["n_v1", "cycle"]),
    "an input that nothing makes": (lambda g: g.node("Relu", "nobody"), ["n_v0", "nobody", "damaged"]),
    "an output that nothing makes": (lambda g: g.node("Relu", "x") and "nobody", ["nobody", "damaged"]),
    "external data": (external, ["c0", "another file"]),
    "a gigantic shape": (gigantic, ["c0", "shape"]),
    "a negative shape": (negative, ["c0", "shape"]),
    "weights that are computed": (lambda g: g.node("MatMul", "x", g.node("Relu", "x")), ["n_v1", "constant weights"]),
    "weights in integers": (lambda g: g.node("MatMul", "x", g.constant(np.ones((4, 2)), np.int64)), ["n_v0", "int64"]),
    "nan in weights": (lambda g: g.node("MatMul", "x", W1 * np.nan), ["n_v0", "not finite"]),
    "a width that does not fit": (lambda g: g.node("Gemm", g.node("Gemm", "x", W1), W1), ["n_v1", "row has 5"]),
    "biases that do not fit": (lambda g: g.node("Gemm", "x", W1, np.ones(2)), ["n_v0", "5 columns"]),
    "transposed inputs": (lambda g: g.node("Gemm", "x", W1, transA=1), ["n_v0", "transposed"]),
    "an attribute of the wrong type": (lambda g: g.node("Elu", "x", alpha="much"), ["n_v0", "alpha", "type"]),
    "an unknown attribute": (lambda g: g.node("Relu", "x", cap=6), ["n_v0", "cap"]),
    "softmax over rows": (lambda g: g.node("Softmax", "x", axis=0), ["n_v0", "axis"]),
    "another function": (lambda g: g.node("Gemm", g.node("Mul", g.node("Relu", "x"), 2), W1), ["n_v1", "no function"]),
    "a vector in a function": (lambda g: g.node("Mul", g.node("Relu", "x"), np.ones(4)), ["n_v1", "single finite"]),
    "a dropout in training": (
        lambda g: g.node("Dropout", "x", 0.5, g.constant(True, bool)), ["n_v0", "drops numbers"],
    ),
    "labels alone": (lambda g: g.node("Cast", "x", to=INT64), ["n_v0", "INT64"]),
    "quantized weights": (lambda g: g.node("DequantizeLinear", "x", 1), ["n_v0", "DequantizeLinear"]),
    "another domain's operator": (lambda g: g.node("Relu", "x", domain="com.me"), ["com.me.Relu"]),
    "a polynomial without end": (huge_polynomial, ["no function"]),
    "many copies": (many_copies, ["more than"]),
    "three axes": (rank_three, ["n_v0", "[-1, 2, 2]"]),
    "constants without a shape": (lambda g: g.node("MatMul", "x", g.node("Reshape", W1)), ["n_v0", "[4, 5]"]),
    "constants of a side beyond": (odd_reshape, ["n_v0", "[4, 5, 0]"]),
    "an axis that is not named": (lambda g: g.node("MatMul", "x", g.node("Unsqueeze", W1)), ["n_v0", "axes"]),
    "an axis that there is not": (lambda g: g.node("MatMul", "x", g.node("Squeeze", W1, 9)), ["n_v0", "axis"]),
    "one factor too many": (lambda g: g.node("MatMul", "x", W1, W1), ["n_v0", "3 inputs"]),
    "another shape": (lambda g: g.node("Reshape", "x", g.constant([-1, 2], np.int64)), ["n_v0", "[-1, 2]"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused_by_the_node(name: str, tmp_path: Path):
    make, words = REFUSED[name]
    g = Graph()
    path = g.write(tmp_path / "m.onnx", (make(g), FLOAT))
    with pytest.raises(FileFormatError) as caught:
        nnx.from_onnx(path)
    assert str(path) in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def test_what_is_no_onnx_file_is_refused(tmp_path: Path):
    path = tmp_path / "m.onnx"
    for content in (b"", b"\x00" * 40, b"PK\x03\x04 a zip", bytes(range(256))):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="no ONNX file"):
            nnx.from_onnx(path)
    with pytest.raises(FileFormatError, match="folder"):
        nnx.from_onnx(tmp_path)
    with pytest.raises(FileNotFoundError, match="ONNX"):
        nnx.from_onnx(tmp_path / "none.onnx")


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_and_nothing_else(data: st.DataObject, tmp_path_factory: Any):
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    network(nnx.SiLU(), nnx.Softmax()).to_onnx(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    with contextlib.suppress(FileFormatError):
        assert nnx.from_onnx(path).layers
