"""PyTorch's modules, state dicts and safetensors files: read and written with weights the right way round."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.errors import FileFormatError, InputError, InputTypeError

RANDOM = np.random.default_rng(0)
STATE = {
    "fc1.weight": RANDOM.standard_normal((5, 4)).astype("f4"), "fc1.bias": RANDOM.standard_normal(5).astype("f4"),
    "fc2.weight": RANDOM.standard_normal((3, 5)).astype("f4"), "fc2.bias": RANDOM.standard_normal(3).astype("f4"),
}  # fmt: skip
X = RANDOM.standard_normal((20, 4)).astype("f4")


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


def by_hand() -> np.ndarray:
    hidden = np.maximum(X @ STATE["fc1.weight"].T + STATE["fc1.bias"], 0)
    return np.asarray(hidden @ STATE["fc2.weight"].T + STATE["fc2.bias"])


# ---- without torch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", ["relu", nnx.ReLU(), ["relu"], ["relu", None], [nnx.ReLU(), "linear"]])
def test_a_state_dict_is_read_transposed(activations: Any):
    model = nnx.from_torch(STATE, activations)
    np.testing.assert_allclose(model.predict(X), by_hand(), rtol=1e-5, atol=1e-6)
    assert model.dtype == "float32"


def test_settings_of_activations_are_kept_and_the_layers_given_stay_free():
    function = nnx.LeakyReLU(0.3)
    model = nnx.from_torch(STATE, [function, nnx.Softmax()])
    assert list(map(repr, model.layers[1::2])) == ["LeakyReLU(0.3)", "Softmax()"]
    assert not function.in_model
    assert repr(nnx.from_torch(STATE, "gelu_tanh").layers[1]) == "GELU(approximate='tanh')"


def test_float64_stays_float64():
    exact = {name: a.astype("f8") for name, a in STATE.items()}
    assert nnx.from_torch(exact, "relu").dtype == "float64"


@pytest.mark.parametrize("kind", ["F64", "F32", "F16", "BF16"])
def test_safetensors_files_are_read_in_the_order_of_their_numbers(kind: str, tmp_path: Path):
    pytest.importorskip("safetensors")
    names, types = {"fc1": "blocks.2", "fc2": "blocks.10"}, {"F64": "f8", "F16": "f2", "F32": "f4"}  # as text, 10 < 2
    header, data = {}, b""
    for name, a in STATE.items():
        a = np.round(a * 8) / 8  # exact in all types
        stored = (a.view(np.uint32) >> 16).astype("u2") if kind == "BF16" else a.astype(types[kind])
        place = [len(data), len(data) + stored.nbytes]
        header[name.replace(name[:3], names[name[:3]])] = {"dtype": kind, "shape": a.shape, "data_offsets": place}
        data += stored.tobytes()
    text, path = json.dumps(header).encode(), tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    model = nnx.from_torch(path, "tanh")
    assert model.dtype == ("float64" if kind == "F64" else "float32")
    np.testing.assert_array_equal(model.layers[0].weights, np.round(STATE["fc1.weight"].T * 8) / 8)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileFormatError, match="truncated"):
        nnx.from_torch(path, "tanh")


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "no activations": (STATE, None, "activations="),
    "too many activations": (STATE, ["relu"] * 3, "2 dense layers"),
    "an unknown activation": (STATE, "rely", "'relu'"),
    "a convolution": ({"conv.weight": np.ones((8, 3, 3, 3))}, "relu", "conv.*Conv2d"),
    "a normalization": ({**STATE, "bn.running_mean": np.ones(3)}, "relu", "bn.running_mean.*BatchNorm"),
    "a scale": ({"norm.weight": np.ones(3)}, "relu", "norm.*LayerNorm"),
    "another parameter": ({"rnn.weight_ih_l0": np.ones((3, 3))}, "relu", "weight_ih_l0"),
    "another order": (dict(reversed(STATE.items())), "relu", "fc2, fc1"),
    "biases alone": ({"fc.bias": np.ones(3)}, "relu", r"no 'fc\.weight'"),
    "biases that do not fit": ({"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(3)}, None, "does not fit"),
    "integers": ({"fc.weight": np.ones((2, 3), np.int8)}, None, "int8"),
    "nothing": ({}, "relu", "empty"),
    "nan": ({"fc.weight": np.full((2, 3), np.nan)}, None, "not finite"),
    "a weight of no inputs": ({"fc.weight": np.ones((2, 0))}, None, "no side of 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused_by_its_name(name: str):
    state, activations, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        nnx.from_torch(state, activations)


def test_names_are_ordered_as_people_count():
    from nnx.interchange.pytorch import natural

    names = ["fc10.weight", "fc2.weight", "fc\u00b2.weight", "weight", "2.weight", "10.weight", ""]
    assert sorted(names, key=natural)[:3] == ["", "2.weight", "10.weight"]
    assert sorted(names, key=natural).index("fc2.weight") < sorted(names, key=natural).index("fc10.weight")


def test_what_is_no_source_is_refused(tmp_path: Path):
    with pytest.raises(InputTypeError, match="state_dict"):
        nnx.from_torch(3, "relu")
    with pytest.raises(FileFormatError, match="folder"):
        nnx.from_torch(tmp_path, "relu")
    with pytest.raises(FileNotFoundError):
        nnx.from_torch(tmp_path / "none", "relu")


def test_without_torch_its_tensors_cannot_be_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch"):
        nnx.from_torch(STATE, "relu").to_torch_state_dict()


# ---- with torch, where it is installed -------------------------------------------------------------------------------


def torch_network(torch: Any, dtype: Any) -> Any:
    nn = torch.nn
    again = nn.ReLU()  # one object at two places
    functions = [
        again, nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.GELU(), nn.GELU("tanh"), nn.SiLU(),
        nn.Softplus(), nn.Mish(), nn.Identity(), nn.Dropout(0.2), again, nn.Softmax(dim=-1),
    ]  # fmt: skip
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(4, 4, bias=number % 2 == 0), f) for number, f in enumerate(functions)]
    return nn.Sequential(nn.Flatten(), *blocks).to(dtype).eval()


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
def test_a_sequential_computes_the_same_here(name: str):
    torch = pytest.importorskip("torch")
    network = torch_network(torch, getattr(torch, name))
    model = nnx.from_torch(network)
    assert model.dtype == ("float64" if name == "float64" else "float32")
    exact = copy.deepcopy(network).double()(torch.from_numpy(X).double()).detach().numpy()
    np.testing.assert_allclose(model.predict(torch.from_numpy(X)), exact, atol=1e-6)
    assert sum(repr(layer) == "ReLU()" for layer in model.layers) == 2


def test_a_model_goes_to_torch_and_back():
    torch = pytest.importorskip("torch")
    model = nnx.Sequential(nnx.Dense(4, 5), nnx.GELU(), nnx.Dense(5, 3), seed=3)
    twin = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.GELU(), torch.nn.Linear(5, 3))
    state = model.to_torch_state_dict()
    twin.load_state_dict(state)
    np.testing.assert_allclose(twin(torch.from_numpy(X)).detach().numpy(), model.predict(X), rtol=1e-5, atol=1e-6)
    state["0.weight"][...] = 0  # a copy: the model keeps its own
    assert model.layers[0].weights.any()
    assert nnx.from_torch(twin.state_dict(), "gelu").parameters().keys() == model.parameters().keys()


def test_torchs_other_modules_are_refused_by_name():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda *_: None)
    for network, words in {
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)): "'1'.*BatchNorm1d",
        nn.Sequential(nn.Conv2d(1, 2, 3)): "Conv2d",
        nn.Sequential(nn.Linear(2, 2), nn.Softplus(beta=2)): "beta=2",
        nn.Sequential(nn.Linear(2, 2), nn.Softplus(threshold=5)): "threshold=5",
        nn.Sequential(nn.Linear(2, 2), nn.Flatten()): "Flatten",
        hooked: "hooks",
        nn.Bilinear(2, 2, 2): "forward",
    }.items():
        with pytest.raises(InputError, match=words):
            nnx.from_torch(network)
    with pytest.raises(InputError, match="drop them"):
        nnx.from_torch(nn.Sequential(nn.Linear(2, 2)), "relu")
    with pytest.raises(InputError, match="Bilinear"):
        nnx.from_torch(nn.Bilinear(2, 2, 2), "relu")


# ---- arrays of others ------------------------------------------------------------------------------------------------


class LikeJax:
    """An array as JAX has it: read only, with the bfloat16 of ml_dtypes. After JAX itself, tests could not fork."""

    def __init__(self, a: np.ndarray, dtype: Any) -> None:
        self._a = a.astype(dtype)
        self._a.flags.writeable = False
        self.shape, self.dtype = a.shape, self._a.dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._a


@pytest.mark.parametrize("library", ["torch", "ml_dtypes"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_others_tensors_are_data_like_any(library: str, kind: str):
    module = pytest.importorskip(library)
    x = np.round(X * 4) / 4  # exact in all types
    y = (x[:, 0] > 0).astype(np.int64)

    def trained(x: Any, y: Any) -> list[float]:
        model = nnx.Sequential(nnx.Dense(4, 3), nnx.Tanh(), nnx.Dense(3, 2), nnx.Softmax())
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.1))
        history = model.fit(x, y, 3, batch_size=8, validation_data=(x, y), verbose=0)
        return [*history["val_loss"], *model.predict(x)[:, 0], *model.evaluate(x, y).values()]

    if library == "torch":
        theirs = module.asarray(x, dtype=getattr(module, kind)), module.asarray(y)
    else:
        theirs = LikeJax(x, getattr(module, kind, kind)), LikeJax(y, np.int32)
    assert trained(*theirs) == trained(x, y)


def test_parameters_are_taken_by_others_without_a_copy():
    model = nnx.from_torch(STATE, "relu")
    weights = model.parameters()["0.weights"]
    assert np.shares_memory(np.from_dlpack(weights), weights)


def test_sparse_tensors_of_torch_say_how_they_become_dense():
    torch = pytest.importorskip("torch")
    with pytest.raises(InputTypeError, match=r"sparse Tensor of shape \(20, 4\).*by \.to_dense\(\), which"):
        nnx.from_torch(STATE, "relu").predict(torch.from_numpy(X).to_sparse())
