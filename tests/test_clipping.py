"""Gradient clipping, by norm and by value: eager, replayed, by hand, and in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import ALIKE, Net, mlp, numbers, trained

import nnx
from nnx.errors import InputError, InputTypeError, NonFiniteError
from nnx.testing.rounding import rounding

LIMITS: dict[str, dict[str, float]] = {
    "norm": {"clip_norm": 0.05}, "value": {"clip_value": 0.01}, "both": {"clip_norm": 0.03, "clip_value": 0.01},
}  # fmt: skip
every_limit = pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)


@pytest.fixture(params=["numpy", "numba"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "numba":
        pytest.importorskip("numba")
    return str(request.param)


def clipped(g: np.ndarray, clip_norm: float = np.inf, clip_value: float = np.inf) -> np.ndarray:
    """All gradients of a step, by the definition."""
    g = np.minimum(np.maximum(g, -clip_value), clip_value)
    norm = np.sqrt(np.sum(g**2))
    return g * clip_norm / norm if norm > clip_norm else g


class Eager(nnx.SGD):
    """An optimizer whose steps are not replayed, since its update is its own."""

    def update(self, *arguments: Any) -> None:
        super().update(*arguments)


def net(limits: dict[str, Any], kind: type[nnx.SGD] = nnx.SGD) -> Net:
    return Net(mlp(nnx.Tanh, weight_l2=1e-3), optimizer=lambda: kind(0.5, momentum=0.5, **limits))


@every_limit
def test_a_step_is_that_of_the_clipped_gradient(limits: dict[str, float], backend: str) -> None:
    model, free = (Net(mlp(nnx.Tanh), optimizer=lambda o=o: nnx.SGD(1.0, **o)).model(backend=backend)
                   for o in (limits, {}))  # fmt: skip
    x, y = net({}).samples()
    start = np.array(model.flat.values)
    model.step(x, y)
    free.step(x, y)
    wanted = clipped(start - free.flat.values, **limits)
    assert np.abs(wanted).max() < np.abs(start - free.flat.values).max() / 2
    np.testing.assert_allclose(start - model.flat.values, wanted, rtol=rounding(2000), atol=rounding(64))


@every_limit
def test_replayed_steps_are_eager_steps(limits: dict[str, float], backend: str) -> None:
    replayed, history = trained(net(limits), backend)
    eager, wanted = trained(net(limits, Eager), "numpy")
    assert (replayed.eager_reason, eager.eager_reason is None) == (None, False)
    np.testing.assert_allclose(history["loss"], wanted["loss"], **ALIKE)
    np.testing.assert_allclose(numbers(replayed), numbers(eager), **ALIKE)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_large_network_is_clipped_as_a_whole(threads: int) -> None:
    """Its gradients are in many pieces, which threads share."""
    pytest.importorskip("numba")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(300, 70)), random.integers(0, 3, 300)

    def model(backend: str) -> nnx.Sequential:
        layers = nnx.Dense(70, 300), nnx.ReLU(), nnx.Dense(300, 300), nnx.ReLU(), nnx.Dense(300, 3), nnx.Softmax()
        built = nnx.Sequential(*layers, backend=backend, dtype="float64")
        return built.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01, clip_norm=0.1, clip_value=0.01))

    nnx.set_threads(threads)
    try:
        ours, judge = model("numba"), model("numpy")
        np.testing.assert_allclose(ours.steps(x, y, 4), judge.steps(x, y, 4), rtol=1e-9)
        np.testing.assert_allclose(ours.flat.values, judge.flat.values, rtol=1e-7, atol=1e-9)
    finally:
        nnx.set_threads(None)


def test_limits_are_those_of_the_next_step() -> None:
    models = [net({"clip_norm": 1e9}, kind).model() for kind in (nnx.SGD, Eager)]
    x, y = net({}).samples()
    for limits in ({}, {"clip_norm": 0.01}, {"clip_value": 0.001}, {"clip_norm": None}, {"clip_value": None}):
        for model in models:
            for name, limit in limits.items():
                setattr(model.optimizer, name, limit)
        np.testing.assert_allclose(models[0].steps(x, y, 3), models[1].steps(x, y, 3), rtol=1e-9)
    assert models[0].optimizer.config() == nnx.SGD(0.5, momentum=0.5).config()


@every_limit
def test_files_and_copies_keep_limits(limits: dict[str, float], tmp_path: Path) -> None:
    model, _ = trained(net(limits), "numpy", epochs=2)
    model.save(tmp_path / "m.safetensors")
    loaded, other = nnx.load(tmp_path / "m.safetensors", backend="numpy"), model.__copy__()
    x, y = net({}).samples()
    assert loaded.optimizer.config() == other.optimizer.config() == model.optimizer.config()
    assert loaded.optimizer.config().items() >= limits.items()
    wanted = model.steps(x, y, 3)
    np.testing.assert_array_equal(loaded.steps(x, y, 3), wanted)
    np.testing.assert_array_equal(other.steps(x, y, 3), wanted)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_norm_that_is_not_finite_is_not_hidden(bad: float, backend: str) -> None:
    optimizer, layer = nnx.SGD(0.1, clip_norm=1.0), nnx.Dense(2, 3)
    with nnx.use_backend(backend):
        layer.forward(np.ones((1, 2)))
        layer.dweights[...], layer.dbiases[...] = 0.0, 0.0
        layer.dweights[0, 0] = bad
        optimizer.clip_gradients(layer.flat, layer.backend)
        assert np.isnan(np.asarray(layer.dweights)).all()


def test_a_loss_that_is_not_finite_stops_a_clipped_fit() -> None:
    x, y = np.full((8, 2), 1e18), np.full((8, 1), 1e19)
    model = nnx.Sequential(nnx.Dense(2, 1), backend="numpy").compile(nnx.MeanSquaredError(), nnx.SGD(1.0, clip_norm=1))
    with pytest.raises(NonFiniteError):
        model.fit(x * 1e10, y * 1e10, epochs=3, verbose=0)


def test_by_hand_each_number_is_bounded_and_a_norm_of_all_is_refused() -> None:
    with nnx.use_backend("numpy"):
        layer = nnx.Dense(2, 3)
        layer.forward(np.ones((1, 2)))
        before = layer.weights.copy()
        layer.dweights[...], layer.dbiases[...] = 5.0, 0.0
        nnx.SGD(1.0, clip_value=0.25).update_params(layer)
        np.testing.assert_allclose(before - layer.weights, 0.25, rtol=1e-5)
        before = layer.weights.copy()
        with pytest.raises(InputError, match="clip_norm=2 limits the norm of all gradients together"):
            nnx.SGD(1.0, clip_norm=2).update_params(layer)
        np.testing.assert_array_equal(layer.weights, before)


@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
def test_bad_limits_are_refused(name: str) -> None:
    for bad, error in ((0, InputError), (-1.0, InputError), (np.nan, InputError), (np.inf, InputError),
                       ("1", InputTypeError), (True, InputTypeError)):  # fmt: skip
        with pytest.raises(error, match=f"Adam: {name}"):
            nnx.Adam(0.1, **{name: bad})


def test_torch_clips_alike() -> None:
    torch = pytest.importorskip("torch")
    g = np.random.default_rng(0).normal(size=(4, 5))
    for norm in (0.5, 100.0):
        ours, theirs = g.reshape(-1).copy(), torch.nn.Parameter(torch.zeros(4, 5, dtype=torch.float64))
        nnx.get_backend("numpy").clip(ours, norm, np.inf)
        theirs.grad = torch.from_numpy(g.copy())
        torch.nn.utils.clip_grad_norm_([theirs], norm)
        np.testing.assert_allclose(ours, theirs.grad.numpy().reshape(-1), rtol=1e-6)  # it divides by norm + 1e-6
        theirs.grad = torch.from_numpy(g.copy())
        torch.nn.utils.clip_grad_value_([theirs], norm)
        ours = g.reshape(-1).copy()
        nnx.get_backend("numpy").clip(ours, np.inf, norm)
        np.testing.assert_array_equal(ours, theirs.grad.numpy().reshape(-1))
