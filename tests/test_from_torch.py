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
    "half a normalization": ({**STATE, "bn.running_mean": np.ones(3)}, "relu", "'bn'.*BatchNorm.*running_var"),
    "a normalization of others": ({**STATE, "norm.weight": np.ones(4)}, "relu", "'norm' takes 4 inputs.* gives 3"),
    "one that does not fit": (
        {**STATE, "n.weight": np.ones(3), "n.bias": np.ones(2)},
        "relu",
        r"n\.bias.*\[2\].*\[3\]",
    ),
    "a scale": ({"norm.weight": np.ones(3)}, "relu", "norm.*LayerNorm"),
    "another parameter": ({"rnn.weight_ih_l0": np.ones((3, 3))}, "relu", "weight_ih_l0"),
    "another order": (dict(reversed(STATE.items())), "relu", "fc2, fc1"),
    "the alphabet's order": ({f"fc{i}.weight": np.eye(3) for i in (1, 10, 2)}, "relu", "alphabetical.*fc1, fc10, fc2"),
    "biases alone": ({"fc.bias": np.ones(3)}, "relu", r"no 'fc\.weight'"),
    "biases that do not fit": ({"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(3)}, None, "does not fit"),
    "integers": ({"fc.weight": np.ones((2, 3), np.int8)}, None, "int8"),
    "nothing": ({}, "relu", "empty"),
    "a checkpoint": ({"epoch": 3, "model": STATE}, "relu", "'epoch'"),
    "what holds a state dict": ({"model": STATE, "epoch": 3}, "relu", r"give that: \['model'\]"),
    "nan": ({"fc.weight": np.full((2, 3), np.nan)}, None, "not finite"),
    "a weight of no inputs": ({"fc.weight": np.ones((2, 0))}, None, "no side of 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused_by_its_name(name: str):
    state, activations, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        nnx.from_torch(state, activations)


def test_normalizations_of_a_state_dict_stand_before_the_activation_functions():
    known = {"weight": RANDOM.random(5), "bias": RANDOM.random(5)}
    running = {"running_mean": RANDOM.random(5), "running_var": RANDOM.random(5), "num_batches_tracked": np.array(7)}
    items = list(STATE.items())
    bn = {f"bn.{name}": a for name, a in {**known, **running}.items()}
    state = {"first.weight": np.full(4, 2.0), **dict(items[:2]), **bn, **dict(items[2:])}
    model = nnx.from_torch(state, "relu")
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["LayerNorm", "Dense", "BatchNorm", "ReLU", "Dense"]
    x = X.astype(np.float64)
    rows = 2 * (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
    hidden = rows @ STATE["fc1.weight"].T + STATE["fc1.bias"] - running["running_mean"]
    hidden = hidden / np.sqrt(running["running_var"] + 1e-5) * known["weight"] + known["bias"]
    expected = np.maximum(hidden, 0) @ STATE["fc2.weight"].T + STATE["fc2.bias"]
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-5, atol=1e-5)


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


def test_normalizations_go_both_ways_and_train_alike():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(1)
    norms = nn.BatchNorm1d(5, eps=1e-3, momentum=0.3), nn.LayerNorm(5, eps=1e-4)
    twin = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 5), norms[0], nn.ReLU(), nn.Linear(5, 5), norms[1]).double()
    for parameter in twin.parameters():
        nn.init.normal_(parameter)
    model = nnx.from_torch(twin)
    assert (model.layers[2].momentum, model.layers[2].epsilon, model.layers[5].epsilon) == (0.7, 1e-3, 1e-4)
    model.compile(nnx.MeanSquaredError(), nnx.SGD(0.01))
    x, y, step = torch.from_numpy(X).double(), torch.ones(len(X), 5).double(), torch.optim.SGD(twin.parameters(), 0.01)
    for _ in range(3):
        loss = nn.functional.mse_loss(twin(x), y)
        step.zero_grad()
        loss.backward()
        step.step()
        np.testing.assert_allclose(model.step(X, y.numpy()), loss.item(), rtol=1e-9)
    twin.eval()
    np.testing.assert_allclose(model.predict(X), twin(x).detach().numpy(), rtol=1e-8, atol=1e-10)
    state = model.to_torch_state_dict()
    assert state.keys() == twin.state_dict().keys()
    other = copy.deepcopy(twin)
    other.load_state_dict(state)
    np.testing.assert_allclose(other(x).detach().numpy(), model.predict(X), rtol=1e-12)


def test_torchs_other_modules_are_refused_by_name():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda *_: None)
    for network, words in {
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=None)): "'1'.*BatchNorm1d.*momentum",
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)): "'1'.*running",
        nn.Sequential(nn.Linear(2, 2), nn.LayerNorm((2, 2))): "'1'.*several axes",
        nn.Sequential(nn.Linear(2, 2), nn.GroupNorm(1, 2)): "'1'.*GroupNorm",
        nn.Sequential(nn.Conv2d(1, 2, 3)): "Conv2d",
        nn.Sequential(nn.Linear(2, 2), nn.Softplus(beta=2)): "beta=2",
        nn.Sequential(nn.Linear(2, 2), nn.Softplus(threshold=5)): "threshold=5",
        nn.Sequential(nn.Linear(2, 2), nn.Flatten()): "Flatten",
        hooked: "hooks",
        nn.Bilinear(2, 2, 2): "forward",
    }.items():
        with pytest.raises(InputError, match=words):
            nnx.from_torch(network)
    for network in (nn.Sequential(nn.LazyLinear(2)), nn.Sequential(nn.Linear(2, 2, device="meta"))):
        with pytest.raises(InputError, match=r"'0'.*run the module once"):
            nnx.from_torch(network)
    with pytest.raises(InputError, match="drop them"):
        nnx.from_torch(nn.Sequential(nn.Linear(2, 2)), "relu")
    with pytest.raises(InputError, match="Bilinear"):
        nnx.from_torch(nn.Bilinear(2, 2, 2), "relu")
    network = torch.nn.Module()
    network.layer = hooked[0]
    with pytest.raises(InputError, match=r"'layer', Linear\(.*\), has forward hooks"):
        nnx.from_torch(network, [None])


def test_a_class_of_a_sequential_is_read_unless_it_computes_otherwise():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Blocks(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(4, 3), nn.Tanh())

    class Doubled(Blocks):
        def forward(self, x: Any) -> Any:
            return 2 * super().forward(x)

    network = nn.Sequential(Blocks(), nn.Linear(3, 2))
    assert repr(nnx.from_torch(network).layers) == "(Dense(4, 3), Tanh(), Dense(3, 2))"
    patched = [nn.Sequential(nn.Linear(4, 3)) for _ in range(2)]
    patched[0].forward = patched[1][0].forward = lambda x: x
    for other, words in ((Doubled(), r"module Doubled\(\.\.\.\)"), *((each, r"forward\(\)") for each in patched)):
        with pytest.raises(InputError, match=words):
            nnx.from_torch(other)


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
