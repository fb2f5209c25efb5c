"""Files: round trips bit for bit, resuming, and everything that can be wrong with a file or a disk."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnx
from nnx.backends.numpy import NumpyBackend
from nnx.errors import FileFormatError

safetensors = pytest.importorskip("safetensors.numpy")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


X = np.random.default_rng(0).standard_normal((23, 3))
Y = {
    "labels": np.arange(23) % 2,
    "bits": np.random.default_rng(1).integers(0, 2, (23, 2)),
    "numbers": np.random.default_rng(2).standard_normal((23, 2)),
}
OPTIMIZERS: dict[str, Callable[[], nnx.Optimizer]] = {
    "SGD": lambda: nnx.SGD(0.1, momentum=0.9, decay=1e-3),
    "AdaGrad": lambda: nnx.AdaGrad(0.1, 1e-3, 1e-6),
    "RMSprop": lambda: nnx.RMSprop(0.01, 1e-3, 1e-6, 0.8),
    "Adam": lambda: nnx.Adam(0.01, 1e-3, 1e-6, 0.8, 0.99),
    "AdamW": lambda: nnx.AdamW(0.01, 1e-3, 1e-6, 0.8, 0.99, 0.1),
}
LOSSES: dict[str, tuple[Callable[[], nnx.Loss], list[Callable[[], nnx.Layer]], str]] = {
    "categorical": (nnx.CategoricalCrossEntropy, [nnx.Softmax], "labels"),
    "softmax": (lambda: nnx.SoftmaxCrossEntropy(1e-6), [], "labels"),
    "binary": (nnx.BinaryCrossEntropy, [nnx.Sigmoid], "bits"),
    "sigmoid": (lambda: nnx.SigmoidCrossEntropy(1e-6), [nnx.Linear], "bits"),
    "squared": (nnx.MeanSquaredError, [], "numbers"),
    "absolute": (nnx.MeanAbsoluteError, [nnx.Tanh], "numbers"),
}


def build(loss: str = "categorical", optimizer: str = "Adam", dtype: str = "float32", seed: int = 5) -> nnx.Sequential:
    make, ending, _ = LOSSES[loss]
    net = nnx.Sequential(
        nnx.Dense(3, 5, 1e-4, 2e-4, 3e-4, 4e-4, init="glorot"), nnx.ReLU(), nnx.Dropout(0.3, seed=9),
        nnx.BatchNorm(5, 0.8, 1e-3), nnx.Dense(5, 4, init=0.2), nnx.Tanh(), nnx.LayerNorm(4), nnx.GaussianNoise(0.1),
        nnx.Sigmoid(), nnx.Linear(), nnx.Dense(4, 2), *(end() for end in ending),
        dtype=dtype, seed=seed,
    )  # fmt: skip
    return net.compile(make(), OPTIMIZERS[optimizer]())


def small() -> nnx.Sequential:
    net = nnx.Sequential(nnx.Dense(2, 1), seed=1).compile(nnx.MeanSquaredError(), nnx.SGD(0.1, momentum=0.5))
    net.fit([[1, 2], [3, 4]], [[1], [2]], epochs=2, verbose=0)
    return net


def snapshot(net: nnx.Sequential) -> tuple[Any, ...]:
    optimizer = net.optimizer
    return (
        [(type(layer).__name__, layer.config()) for layer in net.layers],
        {name: (a.dtype.name, a.shape, a.tobytes()) for name, a in net.parameters().items()},
        (net.dtype, net.seed, net.epochs_done, net.metrics, net.metadata),
        None if net.loss is None else (type(net.loss).__name__, net.loss.config()),
        None if optimizer is None else (
            type(optimizer).__name__, optimizer.config(), optimizer.iterations,
            net.flat.first.tobytes(), net.flat.second.tobytes(),
        ),
    )  # fmt: skip


# ---- round trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "optimizer"), [
    *((loss, "Adam") for loss in LOSSES), *(("categorical", name) for name in OPTIMIZERS if name != "Adam"),
])  # fmt: skip
def test_resumes_bit_for_bit(loss: str, optimizer: str, dtype: str, tmp_path: Path) -> None:
    y, path = Y[LOSSES[loss][2]], tmp_path / "m.safetensors"
    through, first = build(loss, optimizer, dtype), build(loss, optimizer, dtype)
    whole = through.fit(X, y, 4, batch_size=8, validation_data=(X, y), verbose=0)
    half = first.fit(X, y, 2, batch_size=8, validation_data=(X, y), verbose=0)
    first.save(path)
    second = nnx.load(path)
    assert snapshot(second) == snapshot(first)
    np.testing.assert_array_equal(second.predict(X), first.predict(X))
    assert second.evaluate(X, y) == first.evaluate(X, y)
    rest = second.fit(X, y, 2, batch_size=8, validation_data=(X, y), verbose=0)
    assert rest.first_epoch == 2
    assert snapshot(second) == snapshot(through)
    for name in whole:
        assert half[name] + rest[name] == whole[name]


def test_what_is_read_is_data_that_is_written_alike(tmp_path: Path) -> None:
    from nnx.model import checkpoint
    from nnx.model.custom import Custom

    net = build("squared")
    net.fit(X, Y[LOSSES["squared"][2]], 2, batch_size=8, verbose=0)
    net.save(tmp_path / "a")
    _, [saved] = checkpoint.read(tmp_path / "a", Custom())
    checkpoint.write(tmp_path / "b", saved)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert saved.training is not None
    assert (saved.epochs_done, saved.training.iterations) == (2, net.optimizer.iterations)
    for name, array in net.parameters().items():
        np.testing.assert_array_equal(saved.parameters[name], array)


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["copy", "deepcopy", "pickle"],
)
@pytest.mark.parametrize("loss", ["categorical", "squared"])
def test_copies_and_pickles_go_on_alike(copied: Callable[..., nnx.Sequential], loss: str) -> None:
    y, net = Y[LOSSES[loss][2]], build(loss)
    net.fit(X, y, 2, batch_size=8, verbose=0)
    other = copied(net)
    assert snapshot(other) == snapshot(net)
    assert other.evaluate(X[:5], y[:5]) == net.evaluate(X[:5], y[:5])
    assert other.fit(X, y, 2, batch_size=8, verbose=0)["loss"] == net.fit(X, y, 2, batch_size=8, verbose=0)["loss"]
    assert snapshot(other) == snapshot(net)
    other.layers[0].weights *= 2  # type: ignore[attr-defined]
    assert snapshot(other) != snapshot(net)


def test_a_copy_stays_on_its_backend_though_nobody_finds_that_by_name() -> None:
    class Nameless(NumpyBackend):
        name = "nameless"

    backend = Nameless()
    net = nnx.Sequential(nnx.Dense(2, 3), nnx.Softmax(), backend=backend)
    net.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.1), metrics=[])
    net.step(X[:, :2], Y["labels"])
    for other in (copy.copy(net), copy.deepcopy(net)):
        assert other.backend is backend
        assert other.step(X[:, :2], Y["labels"]) == copy.copy(net).step(X[:, :2], Y["labels"])


def test_a_model_and_its_layer_copied_together_belong_together() -> None:
    net = small()
    copied, layer = copy.deepcopy((net, net.layers[0]))
    assert copied.layers[0] is layer
    layer.weights *= 2  # type: ignore[attr-defined]
    assert np.shares_memory(layer.parameter("weights"), copied.flat.values)
    assert not np.array_equal(copied.predict(X[:, :2]), net.predict(X[:, :2]))


def test_models_without_loss_or_parameters(tmp_path: Path) -> None:
    for layers in ([nnx.Dense(2, 3, init=np.ones((2, 3)))], [nnx.ReLU(), nnx.Softmax()]):
        net = nnx.Sequential(*layers)
        net.save(tmp_path / "m")
        again = nnx.load(tmp_path / "m")
        assert snapshot(again)[1:] == snapshot(net)[1:]
        assert again.loss is None
        with pytest.raises(nnx.InputError, match="compile"):
            again.fit([[1, 2]], [0])


def test_metadata_and_a_rate_changed_on_the_way(tmp_path: Path) -> None:
    net = small()
    net.metadata = {"classes": ["ü", "b"], "scale": [0.1, 1e-300, -3], "nested": {"a": None, "b": True}, "": ""}
    net.optimizer.learning_rate = 1 / 3
    net.save(str(tmp_path / "m"))
    again = nnx.load(str(tmp_path / "m"))
    assert again.metadata == net.metadata
    assert again.optimizer.learning_rate == 1 / 3


def test_loads_on_a_named_backend_and_says_what_is_wrong_with_others(tmp_path: Path) -> None:
    net, path = small(), tmp_path / "m"
    net.save(path)
    for backend in ("numpy", ["numpy"], nnx.get_backend("numpy"), None):
        assert nnx.load(path, backend=backend).backend.name == "numpy"
    with pytest.raises(nnx.InputError, match="'quantum' is no backend") as caught:
        nnx.load(path, backend="quantum")
    assert not isinstance(caught.value, FileFormatError)  # the file is fine
    unavailable = [name for name, works in nnx.backends.available().items() if not works]
    for name in unavailable:
        with pytest.raises(nnx.BackendUnavailable):
            nnx.load(path, backend=name)


def test_saving_changes_nothing(tmp_path: Path) -> None:
    net = build()
    net.fit(X, Y["labels"], 1, verbose=0)
    before = snapshot(net)
    net.save(tmp_path / "m")
    assert snapshot(net) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_other_programs_can_read_the_arrays(tmp_path: Path) -> None:
    net = small()
    net.save(tmp_path / "m")
    tensors = safetensors.load_file(tmp_path / "m")
    assert set(tensors) == {"parameters.0.weights", "parameters.0.biases", "moments.first"}
    np.testing.assert_array_equal(tensors["parameters.0.weights"], net.parameters()["0.weights"])


# ---- what cannot be saved ------------------------------------------------------------------------------------------


class OwnLayer(nnx.ReLU):
    def __init__(self, factor: float) -> None:
        """Keeps nothing of its argument."""


class OwnLoss(nnx.MeanSquaredError):
    def config(self) -> dict[str, Any]:
        return {"table": np.ones(2)}


CANNOT: dict[str, Callable[[], nnx.Sequential]] = {
    "own layer": lambda: nnx.Sequential(nnx.Dense(2, 1), OwnLayer(2.0)),
    "own loss": lambda: nnx.Sequential(nnx.Dense(2, 1)).compile(OwnLoss(), nnx.SGD(0.1)),
    "an array": lambda: with_metadata({"a": np.ones(2)}),
    "nan": lambda: with_metadata({"a": float("nan")}),
    "a cycle": lambda: with_metadata(cycle()),
    "a list": lambda: with_metadata([1]),
    "nothing": lambda: with_metadata(None),
    "nan weights": lambda: with_weights(np.nan),
    "infinite weights": lambda: with_weights(np.inf),
}


def with_metadata(value: Any) -> nnx.Sequential:
    net = small()
    net.metadata = value
    return net


def cycle() -> dict[str, Any]:
    a: dict[str, Any] = {}
    a["a"] = a
    return a


def with_weights(value: float) -> nnx.Sequential:
    net = small()
    net.layers[0].weights[0, 0] = value  # type: ignore[attr-defined]
    return net


@pytest.mark.parametrize("what", CANNOT)
def test_refuses_what_a_file_cannot_hold_and_leaves_the_old_file(what: str, tmp_path: Path) -> None:
    path = tmp_path / "m"
    small().save(path)
    old = path.read_bytes()
    with pytest.raises(nnx.InputError, match="save"):
        CANNOT[what]().save(path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("name", ["m.h5", "m.ONNX", "m.pkl", "m.npz"])
def test_refuses_the_names_of_other_formats(name: str, tmp_path: Path) -> None:
    model = nnx.Sequential(nnx.Dense(2, 3), nnx.Softmax(), backend="numpy")
    for save in (model.save, nnx.callbacks.ModelCheckpoint):
        with pytest.raises(nnx.InputError, match=rf"{name}.*kept as safetensors.*say .*m\.safetensors"):
            save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [None, 3, b"m", ""])
def test_refuses_what_is_no_path(path: Any) -> None:
    with pytest.raises((nnx.InputError, IsADirectoryError)):
        small().save(path)
    with pytest.raises(nnx.InputError):
        nnx.load(path)


def test_folders_and_missing_files(tmp_path: Path) -> None:
    net = small()
    with pytest.raises(IsADirectoryError, match="folder"):
        net.save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        net.save(tmp_path / "nowhere" / "m")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        net.save(tmp_path / "file" / "m")
    with pytest.raises(FileFormatError, match="folder"):
        nnx.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        nnx.load(tmp_path / "missing")


def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = small()
    net.save(tmp_path / "m")
    old = (tmp_path / "m").read_bytes()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for use in (lambda: net.save(tmp_path / "m"), lambda: nnx.load(tmp_path / "m")):
        with pytest.raises(nnx.MissingExtra, match=r"nnx-backends\[train\]"):
            use()
    assert (tmp_path / "m").read_bytes() == old


# ---- damaged and foreign files -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Any]:
    with nnx.use_backend("numpy"):
        net = small()
        path = tmp_path_factory.mktemp("good") / "m"
        net.save(path)
        return path.read_bytes(), snapshot(net)  # the bytes differ from save to save: safetensors keeps no order


def refuses(data: bytes, path: Path) -> str:
    path.write_bytes(data)
    with pytest.raises(FileFormatError) as caught:
        nnx.load(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_truncated_anywhere(good: tuple[bytes, Any], tmp_path: Path) -> None:
    data = good[0]
    for size in [*range(0, len(data), 16), len(data) - 1]:
        refuses(data[:size], tmp_path / "m")
    refuses(data + b"\0", tmp_path / "m")


@settings(max_examples=300)
@given(place=st.integers(0), value=st.integers(1, 255))
def test_one_changed_byte_is_found_or_changes_nothing(
    place: int, value: int, good: tuple[bytes, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(good[0])
    data[place % len(data)] ^= value
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(data)
    with nnx.use_backend("numpy"):
        try:
            net = nnx.load(path)
        except FileFormatError:
            return
        assert snapshot(net) == good[1]


class Payload:
    """Makes a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return (open, (self.marker, "w"))


def test_foreign_files(tmp_path: Path) -> None:
    path, marker = tmp_path / "m", tmp_path / "marker"
    foreign = {
        "empty": b"",
        "text": b"weights: 1, 2, 3\n" * 10,
        "zeros": bytes(1000),
        "ones": b"\xff" * 1000,
        "pickle": pickle.dumps(Payload(marker)),
        "pickled model": pickle.dumps(small()),
        "other safetensors": safetensors.save({"a": np.ones(3)}),
        "other format": safetensors.save({"a": np.ones(3)}, {"format": "pt"}),
        "no description": safetensors.save({}, {"format": "nnx-1"}),
        "null metadata": struct.pack("<Q", 21) + b'{"__metadata__":null}',
        "nested": struct.pack("<Q", 200_000) + b"[" * 200_000,
    }
    np.save(tmp_path / "a.npy", np.ones(3))
    foreign["npy"] = (tmp_path / "a.npy").read_bytes()
    for name, data in foreign.items():
        assert "safetensors" in refuses(data, path) or name == "no description"
    assert not marker.exists()


def rewritten(data: bytes, change: Callable[[dict[str, Any]], Any], tensors: dict[str, Any] | None = None) -> bytes:
    """Change the description of the model in a file, with a checksum that fits: what somebody might do on purpose."""
    from nnx.model import checkpoint

    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])["__metadata__"]
    described = json.loads(header["model"])
    changed = change(described)
    text = json.dumps(described if changed is None else changed)
    arrays = {**safetensors.load(data), **(tensors or {})}
    arrays = {name: a for name, a in arrays.items() if a is not None}
    return bytes(safetensors.save(arrays, {**header, "model": text, "crc32": checkpoint.checksum(text, arrays)}))


def setting(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(described: dict[str, Any]) -> None:
        part: Any = described
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = to

    return change


def without(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(described: dict[str, Any]) -> None:
        part: Any = described
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]

    return change


FIELDS = [
    ("layers",), ("dtype",), ("seed",), ("epochs_done",), ("metrics",), ("metadata",), ("loss",), ("optimizer",),
    ("iterations",), ("precision",), ("layers", 0), ("layers", 0, "class"), ("layers", 0, "n_inputs"),
    ("layers", 0, "weight_l1"), ("layers", 0, "init"), ("loss", "class"), ("optimizer", "class"),
    ("optimizer", "learning_rate"), ("optimizer", "momentum"),
]  # fmt: skip
FITS: dict[str, tuple[type, ...]] = {  # what JSON type a field may have
    "seed": (int,), "epochs_done": (int,), "metrics": (list,), "metadata": (dict,), "iterations": (int,),
    "precision": (int, float), "weight_l1": (int, float), "init": (int, float), "learning_rate": (int, float),
    "momentum": (int, float),
}  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 10**30, 10**400, 1.5, float("nan"), float("inf"), "", "1", "Sequential", "__import__", [], [[]], {},
    {"class": "Dense"},
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: ".".join(map(str, field)))
def test_fields_of_other_types_are_refused(field: tuple[Any, ...], good: tuple[bytes, Any], tmp_path: Path) -> None:
    for value in VALUES:
        data = rewritten(good[0], setting(*field, to=value))
        (tmp_path / "m").write_bytes(data)
        try:
            net = nnx.load(tmp_path / "m")
        except FileFormatError:
            continue
        assert type(value) in FITS.get(field[-1], ()), f"{field} = {value!r} was taken"
        assert value == value  # not nan
        assert snapshot(net)[1] == good[1][1]


ATTACKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "rows beyond memory": setting("layers", 0, "n_inputs", to=10**12),
    "columns beyond memory": setting("layers", 0, "n_neurons", to=10**15),
    "no rows": setting("layers", 0, "n_inputs", to=0),
    "negative": setting("layers", 0, "n_neurons", to=-1),
    "an unknown layer": setting("layers", 0, "class", to="Conv2D"),
    "a layer by its module": setting("layers", 0, "class", to="os.system"),
    "the base of all layers": setting("layers", 0, "class", to="Layer"),
    "an optimizer among layers": setting("layers", 0, "class", to="SGD"),
    "an extra argument": setting("layers", 0, "shell", to="rm"),
    "an extra argument of the optimizer": setting("optimizer", "shell", to="rm"),
    "an extra argument of the loss": setting("loss", "clip", to=0.1),
    "self": setting("layers", 0, "self", to=1),
    "layers that do not fit": lambda d: d["layers"].append({"class": "Dense", "n_inputs": 7, "n_neurons": 1}),
    "more layers": lambda d: d["layers"].append({"class": "Dense", "n_inputs": 1, "n_neurons": 1}),
    "no layers": setting("layers", to=[]),
    "another ending": lambda d: d["layers"].append({"class": "Conv2D"}),
    "an ending that does not go with the loss": setting("loss", to={"class": "CategoricalCrossEntropy"}),
    "another type": setting("dtype", to="float64"),
    "a rate of 0": setting("optimizer", "learning_rate", to=0),
    "an unknown metric": setting("metrics", to=["f9"]),
    "a function called as no function is": setting("functions", to=["\x1b[31m"]),
    "functions that are no list": setting("functions", to="misses"),
    "steps beyond int64": setting("iterations", to=2**63),
    "a list": lambda d: [d],
    "a number": lambda d: 3,
    **{f"no {'.'.join(map(str, field))}": without(*field) for field in FIELDS
       if field[-1] not in ("weight_l1", "init", "learning_rate", "momentum", "optimizer")},
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_headers_made_to_harm(attack: str, good: tuple[bytes, Any], tmp_path: Path) -> None:
    refuses(rewritten(good[0], ATTACKS[attack]), tmp_path / "m")


@pytest.mark.parametrize("tensors", [
    {"parameters.0.weights": np.float32([[np.nan], [1]])}, {"moments.first": np.full(128, np.inf, np.float32)},
    {"parameters.0.weights": np.ones((1, 2), np.float32)}, {"parameters.0.weights": np.ones((2, 1))},
    {"parameters.0.weights": np.ones((2, 1), np.int32)}, {"parameters.0.weights": None}, {"moments.first": None},
    {"more": np.ones(1, np.float32)}, {"parameters.0.biases": np.ones((1, 1, 1), np.float32)},
], ids=lambda t: "+".join(f"{k}={'none' if v is None else f'{v.dtype}{v.shape}'}" for k, v in t.items()))  # fmt: skip
def test_arrays_that_do_not_belong(tensors: dict[str, Any], good: tuple[bytes, Any], tmp_path: Path) -> None:
    refuses(rewritten(good[0], lambda d: None, tensors), tmp_path / "m")


def test_a_nested_description_is_refused(good: tuple[bytes, Any], tmp_path: Path) -> None:
    from nnx.model import checkpoint

    deep, tensors = "[" * 100_000 + "]" * 100_000, safetensors.load(good[0])
    header = {"format": "nnx-1", "model": deep, "crc32": checkpoint.checksum(deep, tensors)}
    refuses(safetensors.save(tensors, header), tmp_path / "m")


# ---- disks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace", "write", "chmod"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m"
    small().save(path)
    old = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if call == "write":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        else:
            monkeypatch.setattr(os, call, full)
        with pytest.raises(OSError, match=r"(No space left on device|File too large): '.*m'$"):
            build().save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.undo()
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    build().save(path)
    assert path.read_bytes() != old


def test_permissions_are_kept_and_new_files_follow_the_umask(tmp_path: Path) -> None:
    path, net = tmp_path / "m", small()
    before = os.umask(0o027)
    try:
        net.save(path)
        assert path.stat().st_mode & 0o777 == 0o640
        for mode in (0o600, 0o664, 0o444):
            path.chmod(mode)
            net.save(path)
            assert path.stat().st_mode & 0o777 == mode
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "m1", tmp_path / "latest"
    link.symlink_to(Path("store") / "m1")
    for _ in range(2):  # first one that leads nowhere, then one to a file
        small().save(link)
        assert link.is_symlink()
        assert target.is_file()
        assert nnx.load(link).epochs_done == 2
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["latest", "m1", "store"]


def test_many_savers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m"
    nets = []
    for number in range(4):
        net = nnx.Sequential(nnx.Dense(60, 50, init=np.full((60, 50), float(number))))
        net.metadata = {"number": number}
        nets.append(net)
    nets[0].save(path)
    mask = os.umask(0o022)
    os.umask(mask)
    errors: list[BaseException] = []
    done = threading.Event()

    def work(net: nnx.Sequential) -> None:
        try:
            for _ in range(25):
                net.save(path)
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        try:
            while not done.is_set():
                net = nnx.load(path, backend="numpy")
                assert (net.parameters()["0.weights"] == net.metadata["number"]).all()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(net,)) for net in nets]
    reader = threading.Thread(target=read)
    for thread in [reader, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    now = os.umask(mask)
    assert not errors
    assert now == mask
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_killed_save_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    code = """
import os, random, signal, sys, time
import numpy as np, nnx
path, random = sys.argv[1], random.Random(0)
def net(value):
    model = nnx.Sequential(nnx.Dense(400, 300, init=np.full((400, 300), value)), backend="numpy")
    model.metadata = {"value": value}
    return model
both = net(1.0), net(2.0)
both[0].save(path)
seen, partial = set(), 0
def others():
    return [name for name in os.listdir(os.path.dirname(path)) if name != "m"]
for number in range(1000):  # until there has been one of each kind, however fast the machine is
    if number >= 15 and len(seen) == 2 and partial:
        break
    ends = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            for model in both:
                model.save(path)
                os.write(ends[1], b".")
    before = others()
    for _ in range(number % 3):
        os.read(ends[0], 1)
    while number % 5 == 0 and others() in ([], before):
        pass  # until it is in the middle of a save
    time.sleep(random.uniform(0, 0.002))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for end in ends:
        os.close(end)
    assert len(others()) <= 1  # what the one before it left is gone, unless this one saved nothing
    model = nnx.load(path, backend="numpy")
    value = model.metadata["value"]
    assert (model.parameters()["0.weights"] == value).all()
    seen.add(value)
    partial += len(others())
both[0].save(path)
assert not others()
print(sorted(seen), partial)
"""
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "m")],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen, _, partial = done.stdout.partition("] ")
    assert seen == "[1.0, 2.0"
    assert int(partial) > 0  # some were killed in the middle, so the test can tell
