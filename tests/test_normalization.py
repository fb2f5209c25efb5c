"""LayerNorm, BatchNorm and GaussianNoise: their numbers, their gradients, and the statistics that BatchNorm keeps."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpus import fuses_multiply_adds

import nnx
from nnx.backends.numpy import NumpyBackend
from nnx.errors import InputError, NonFiniteError
from nnx.kernels.rounding import RUN
from nnx.testing.rounding import rounding

pytestmark = pytest.mark.rounding
RANDOM = np.random.default_rng(0)
KINDS: dict[str, Callable[[int], Any]] = {"LayerNorm": nnx.LayerNorm, "BatchNorm": nnx.BatchNorm}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


def made(kind: str, columns: int, dtype: str = "float64") -> Any:
    """A layer whose gamma and beta are not what they begin with."""
    layer = KINDS[kind](columns)
    layer.dtype = dtype
    layer.gamma, layer.beta = RANDOM.normal(size=columns) + 2, RANDOM.normal(size=columns)
    return layer


def normalized(x: np.ndarray, axis: int, epsilon: float = 1e-5) -> np.ndarray:
    """The definition, of numbers near 0 in float64."""
    near = x.astype(np.float64) - x.take([0], axis=axis)
    return np.asarray((near - near.mean(axis, keepdims=True)) / np.sqrt(near.var(axis, keepdims=True) + epsilon))


def network(backend: Any = "numpy", dtype: str = "float64", **more: Any) -> nnx.Sequential:
    layers = nnx.Dense(3, 6), nnx.BatchNorm(6, 0.8), nnx.ReLU(), nnx.Dense(6, 4), nnx.LayerNorm(4), nnx.Dense(4, 2)
    model = nnx.Sequential(*layers, nnx.Softmax(), backend=backend, dtype=dtype, seed=3, **more)
    return model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1, momentum=0.5))


X, Y = RANDOM.normal(size=(40, 3)) + 3, np.arange(40) % 2


def statistics(model: nnx.Sequential) -> list[np.ndarray]:
    layer = model.layers[1]
    return [np.array(model.backend.to_numpy(layer.parameter(name))) for name in ("running_mean", "running_var")]


# ---- numbers and gradients -------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("shape", [(2, 1), (2, 5), (9, 4), (30, 17)])
def test_gradients_are_those_of_finite_differences(kind: str, shape: tuple[int, int]):
    x = np.random.default_rng(7).normal(size=shape) + 2
    assert nnx.gradcheck(made(kind, shape[1]), x) < 1e-6


def test_a_gradient_by_running_statistics_is_that_of_a_scale():
    layer, x = made("BatchNorm", 4), RANDOM.normal(size=(5, 4))
    layer.running_var = [0.5, 1, 2, 3]
    layer.forward(x)
    dvalues = RANDOM.normal(size=(5, 4))
    scale = layer.gamma / np.sqrt(np.array([0.5, 1, 2, 3]) + 1e-5)
    np.testing.assert_allclose(layer.backward(dvalues), dvalues * scale, rtol=rounding(16))
    np.testing.assert_allclose(layer.dbeta, dvalues.sum(axis=0, keepdims=True), atol=rounding(16) * 10)


@pytest.mark.parametrize(("shape", "dtype"), [((1, 1), "float32"), ((7, 5), "float32"), ((40, 300), "float64")])
def test_rows_are_normalized_alike_in_training_and_in_prediction(shape: tuple[int, int], dtype: str):
    layer, x = made("LayerNorm", shape[1], dtype), RANDOM.normal(size=shape).astype(dtype)
    expected = normalized(x, 1) * layer.gamma + layer.beta
    for training in (True, False):
        np.testing.assert_allclose(layer.forward(x, training), expected, atol=rounding(4 * shape[1] + 64, dtype) * 8)


@every_kind
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_numbers_far_from_0_keep_their_digits(kind: str, offset: float):
    """Of float32 whose distance is 1/16 there, which hold 300 values: neither mean nor variance may lose any."""
    axis, shape = (1, (8, 300)) if kind == "LayerNorm" else (0, (300, 8))
    x = (RANDOM.integers(-150, 150, shape) / 16 + offset).astype(np.float32)
    layer = KINDS[kind](shape[1])
    np.testing.assert_allclose(layer.forward(x, training=True), normalized(x, axis), atol=rounding(300, "float32"))


@every_kind
@pytest.mark.parametrize("value", [0.0, 0.1, -1e7])
def test_what_is_constant_gives_beta_and_finite_gradients(kind: str, value: float):
    layer, x = made(kind, 6, "float32"), np.full((9, 6), value, np.float32)
    output = layer.forward(x, training=True)
    np.testing.assert_array_equal(output, np.broadcast_to(layer.beta, output.shape))
    assert np.isfinite(layer.backward(RANDOM.normal(size=(9, 6)))).all()
    np.testing.assert_array_equal(layer.dgamma, np.zeros((1, 6)))


def test_a_million_rows_of_float32_are_added_up_as_exactly_as_a_few():
    x = np.random.default_rng(2).normal([0, 100], size=(1_000_000, 2)).astype(np.float32)
    layer = nnx.BatchNorm(2, momentum=0.0)
    layer.forward(x, training=True)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(layer.running_mean[0], exact.mean(axis=0), atol=rounding(200, "float32"))
    np.testing.assert_allclose(layer.running_var[0], exact.var(axis=0, ddof=1), rtol=rounding(40, "float32"))


# ---- running statistics ----------------------------------------------------------------------------------------------


def test_running_statistics_follow_training_and_make_predictions():
    layer, mean, variance = nnx.BatchNorm(4, momentum=0.75, epsilon=1e-3), np.zeros(4), np.ones(4)
    layer.dtype = "float64"
    for _ in range(3):
        x = RANDOM.normal(size=(7, 4)) * 2 + 5
        mean, variance = 0.75 * mean + 0.25 * x.mean(axis=0), 0.75 * variance + 0.25 * x.var(axis=0, ddof=1)
        np.testing.assert_allclose(layer.forward(x, training=True), normalized(x, 0, 1e-3), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(layer.running_mean, [mean], rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, [variance], rtol=1e-12)
    one = RANDOM.normal(size=(1, 4))
    np.testing.assert_allclose(layer.forward(one), (one - mean) / np.sqrt(variance + 1e-3), rtol=1e-12)
    np.testing.assert_allclose(layer.running_mean, [mean], rtol=1e-12)


def test_predicting_and_evaluating_leave_them_as_they_are():
    model = network()
    model.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    before = statistics(model)
    assert np.abs(before[0]).max() > 0.1
    model.predict(X)
    model.evaluate(X, Y)
    model.fit(X, Y, epochs=1, batch_size=8, validation_data=(X, Y), verbose=0)
    assert not np.array_equal(statistics(model)[0], before[0])
    outputs: Any = X
    for layer in model.layers:
        outputs = layer.forward(outputs)
    np.testing.assert_allclose(model.predict(X), outputs, rtol=1e-12)


def test_a_batch_of_one_row_is_refused_before_anything_is_changed():
    model = network()
    before = model.flat.state.copy()
    for train in (lambda: model.step(X[:1], Y[:1]), lambda: model.fit(X[:33], Y[:33], batch_size=16, verbose=0)):
        with pytest.raises(InputError, match=r"BatchNorm\(6\).*one row.*batch_size"):
            train()
        np.testing.assert_array_equal(model.flat.state, before)
    assert model.predict(X[:1]).shape == (1, 2)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_step_that_is_undone_takes_its_statistics_back(backend: str):
    if backend == "numba":
        pytest.importorskip("numba")
    model, x = network(backend), X.copy()
    model.steps(x[:8], Y[:8], 3)
    before = statistics(model)
    model.layers[3].weights = np.full((6, 4), 1e308)  # of which two are infinite
    with pytest.raises(NonFiniteError):
        model.fit(x, Y, batch_size=40, verbose=0)
    for now, then in zip(statistics(model), before, strict=True):
        np.testing.assert_array_equal(now, then)


class Interrupted(NumpyBackend):
    """A backend on which Ctrl-C comes in the middle of the fifth step, after BatchNorm."""

    name, steps = "interrupted", 0

    def layer_norm(self, *operands: Any, **more: Any) -> Any:
        self.steps += 1
        if self.steps == 5:
            raise KeyboardInterrupt
        return super().layer_norm(*operands, **more)


def test_ctrl_c_in_the_middle_of_a_step_takes_its_statistics_back():
    model, twin = network(Interrupted()), network()
    with pytest.raises(KeyboardInterrupt):
        model.steps(X, Y, 9)
    done = model.optimizer.iterations
    assert done < 5
    if done:
        twin.steps(X, Y, done)
    for now, then in zip(statistics(model), statistics(twin), strict=True):
        np.testing.assert_array_equal(now, then)


def test_statistics_go_wherever_the_layer_goes(tmp_path: Path):
    pytest.importorskip("safetensors")
    model = network()
    model.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    model.save(tmp_path / "m")
    exact = model.predict(X)
    for other in (nnx.load(tmp_path / "m"), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.predict(X), exact)
        np.testing.assert_array_equal(statistics(other)[1], statistics(model)[1])
        assert other.fit(X, Y, epochs=2, verbose=0) == copy.deepcopy(model).fit(X, Y, epochs=2, verbose=0)
    alone = pickle.loads(pickle.dumps(model.layers[1]))
    np.testing.assert_array_equal(alone.running_mean, model.layers[1].running_mean)
    single = network(dtype="float32")
    single.set_parameters(nnx.load(tmp_path / "m").parameters())
    np.testing.assert_allclose(single.predict(X), exact, rtol=1e-4, atol=1e-5)
    single.to("numpy", "float64")
    np.testing.assert_allclose(single.predict(X), exact, rtol=1e-4, atol=1e-5)


def test_they_are_not_trained_and_a_variance_is_no_less_than_0():
    model = network()
    assert "1.running_var" in model.parameters()
    assert model.flat.size == 64 * 10  # weights, biases, gammas and betas, each of whole 64 numbers
    assert "82 parameters" in model.summary()
    with pytest.raises(InputError, match="running_var holds -1"):
        model.layers[1].running_var = np.full(6, -1.0)


def test_stopping_early_brings_back_the_statistics_of_the_best_epoch():
    model = network()
    stop = nnx.callbacks.EarlyStopping("loss", patience=1, min_delta=10)
    model.fit(X, Y, epochs=5, batch_size=8, verbose=0, callbacks=[stop])
    twin = network()
    twin.fit(X, Y, epochs=1, batch_size=8, verbose=0)
    np.testing.assert_array_equal(statistics(model)[0], statistics(twin)[0])


@every_kind
def test_arguments_and_inputs_that_do_not_fit_are_refused(kind: str):
    for arguments, words in (((0,), "n_features=0"), ((3.5,), "n_features"), ((3, -1), "expected a number")):
        with pytest.raises(InputError, match=words):
            KINDS[kind](*arguments)  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"epsilon.*above 0"):
        KINDS[kind](3, epsilon=0)  # type: ignore[call-arg]
    with pytest.raises(InputError, match=rf"{kind}\(3\): inputs have 4 features"):
        KINDS[kind](3).forward(np.ones((2, 4)))
    with pytest.raises(InputError, match=r"takes 5 features, but the layers before it give 4"):
        nnx.Sequential(nnx.Dense(3, 4), KINDS[kind](5))


# ---- replayed, and predicted in one call -----------------------------------------------------------------------------


def wide(rows: int) -> Callable[[Any], nnx.Sequential]:
    def make(backend: Any) -> nnx.Sequential:
        layers = nnx.LayerNorm(7), nnx.Dense(7, 70), nnx.BatchNorm(70), nnx.Tanh(), nnx.GaussianNoise(0.2)
        model = nnx.Sequential(*layers, nnx.Dense(70, 5), nnx.LayerNorm(5), backend=backend, dtype="float64", seed=1)
        return model.compile(nnx.MeanSquaredError(), nnx.SGD(0.05))

    return make


@pytest.mark.parametrize("family", ["rows", "lanes"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("rows", "batch"), [(45, 19), (700, None), (RUN + 70, None)])
def test_compiled_steps_are_numpys(family: str, threads: int, rows: int, batch: int | None):
    """In blocks that threads share, and of more samples than a run of a sum."""
    pytest.importorskip("numba")
    from nnx.backends.numba.program import compile_program

    class Compiled(NumpyBackend):
        def threads(self) -> int:
            return threads

        def compile(self, recorder: Any) -> Any:
            program = compile_program(self, recorder.calls, family, threads)
            program.seconds = 1.0  # so that the helpers come however small the step
            return program

    x, y = np.random.default_rng(3).normal(size=(rows, 7)) + 1, np.random.default_rng(4).normal(size=(rows, 5))
    models = [wide(rows)(backend) for backend in (Compiled(), "numpy")]
    for model in models:
        model.fit(x, y, epochs=3, batch_size=batch, verbose=0)
        assert (model.eager_reason, model.replay_reason) == (None, None)
    assert models[0]._trainer.ran.description.startswith("one compiled function")  # type: ignore[union-attr]
    np.testing.assert_allclose(*(model.flat.state for model in models), rtol=1e-9, atol=1e-11)


def test_settings_of_recorded_steps_are_those_of_the_next():
    pytest.importorskip("numba")
    models = [network(backend) for backend in ("numba", "numpy")]
    for model in models:
        model.steps(X, Y, 2)
        model.layers[1].momentum, model.layers[1].epsilon, model.layers[4].epsilon = 0.1, 0.5, 0.2
        model.steps(X, Y, 2)
    np.testing.assert_allclose(*(statistics(model)[1] for model in models), rtol=1e-9)
    np.testing.assert_allclose(*(model.flat.values for model in models), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("widths", [(3, 7, 2), (20, 64, 10), (33, 100, 17)])
def test_a_rows_prediction_is_the_same_bits_whatever_is_predicted_with_it(widths: tuple[int, int, int], dtype: str):
    pytest.importorskip("numba")
    a, b, c = widths
    random = np.random.default_rng(b)
    # The last one's epsilon: by two features alike, it would make a difference of any size of what rounding left.
    layers = nnx.LayerNorm(a), nnx.Dense(a, b), nnx.BatchNorm(b), nnx.ReLU(), nnx.Dense(b, c), nnx.LayerNorm(c, 0.1)
    model = nnx.Sequential(*layers, nnx.Softmax(), backend="numba", dtype=dtype)
    for layer in (model.layers[0], model.layers[2], model.layers[5]):
        layer.gamma, layer.beta = random.normal(size=layer.n_features), random.normal(size=layer.n_features)
    model.layers[2].running_mean, model.layers[2].running_var = random.normal(size=b), random.uniform(0.1, 2, b)
    x = random.normal(size=(300, a)) + 100
    alone = np.concatenate([model.predict(x[i : i + 1]) for i in range(len(x))])
    for rows in (2, 5, 17, 33, 300) if fuses_multiply_adds() else ():
        np.testing.assert_array_equal(model.predict(x[:rows]), alone[:rows])
    twin = copy.deepcopy(model).to("numpy")
    np.testing.assert_allclose(alone, twin.predict(x), rtol=0, atol=rounding(16 * b, dtype))
    model.layers[2].running_mean += 1  # read where it lies, in every call
    twin.layers[2].running_mean += 1
    changed = model.predict(x)
    assert np.any(changed != alone)
    np.testing.assert_allclose(changed, twin.predict(x), rtol=0, atol=rounding(16 * b, dtype))
    if fuses_multiply_adds():
        np.testing.assert_array_equal(changed[:1], model.predict(x[:1]))


# ---- noise -----------------------------------------------------------------------------------------------------------


def test_noise_is_normal_of_its_standard_deviation_and_none_in_prediction():
    layer, x = nnx.GaussianNoise(0.5, seed=4), np.zeros((2000, 51))
    assert layer.forward(x) is x
    noise = layer.forward(x, training=True).copy()
    n = noise.size
    assert abs(noise.mean()) < 5 * 0.5 / math.sqrt(n)
    assert abs(noise.var() - 0.25) < 5 * 0.25 * math.sqrt(2 / n)
    within = np.mean(np.abs(noise) < 0.5)
    assert abs(within - 0.6827) < 5 * math.sqrt(0.2 / n)
    for other in (np.roll(noise, 1, axis=1), np.roll(noise, 1, axis=0), layer.forward(x, training=True)):
        assert abs(np.mean(noise * other)) < 5 * 0.25 / math.sqrt(n)
    dvalues = np.ones_like(x)
    assert layer.backward(dvalues) is dvalues


def test_noise_is_another_in_each_step_and_layer_and_the_same_under_a_seed():
    x = np.ones((3, 4))
    first, again = nnx.GaussianNoise(1.0, seed=1), nnx.GaussianNoise(1.0, seed=1)
    one, two = first.forward(x, training=True).copy(), first.forward(x, training=True).copy()
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(again.forward(x, training=True), one)
    assert not np.array_equal(nnx.GaussianNoise(1.0, seed=2).forward(x, training=True), one)
    again.number = 1
    assert not np.array_equal(again.forward(x, training=True), two)


@pytest.mark.parametrize("stddev", [-1, math.nan, math.inf, "a little", None])
def test_a_deviation_that_is_none_is_refused(stddev: Any):
    with pytest.raises(InputError, match="GaussianNoise: stddev="):
        nnx.GaussianNoise(stddev)


def test_a_network_with_too_many_batch_norms_for_a_compiled_step_says_so_and_trains():
    pytest.importorskip("numba")
    layers = [layer for _ in range(70) for layer in (nnx.Dense(3, 3), nnx.BatchNorm(3))]
    models = []
    for backend in ("numba", "numpy"):
        model = nnx.Sequential(*copy.deepcopy(layers), backend=backend, dtype="float64", seed=1)
        models.append(model.compile(nnx.MeanSquaredError(), nnx.SGD(0.01)))
    losses = [model.steps(X, X, 2) for model in models]
    assert "its samples meet 2" in str(models[0].replay_reason)
    np.testing.assert_allclose(*losses, rtol=1e-6)
