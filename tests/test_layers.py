"""Layers on their own: shapes and types, the notes' names, parameters as views, first weights, workspaces."""

from __future__ import annotations

import copy
import math
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.testing.rounding import rounding

pytestmark = pytest.mark.rounding

DIFFERENCES: Any = {"rtol": rounding(160, "float32"), "atol": rounding(2, "float32")}  # of numbers below 1

LAYERS: dict[str, Callable[[], nnx.Layer]] = {
    "dense": lambda: nnx.Dense(3, 3, weight_l1=1e-3, weight_l2=1e-3, bias_l1=1e-3, bias_l2=1e-3),
    "relu": nnx.ReLU,
    "softmax": nnx.Softmax,
    "sigmoid": nnx.Sigmoid,
    "tanh": nnx.Tanh,
    "linear": nnx.Linear,
    "dropout": lambda: nnx.Dropout(0.5),
    "no dropout": lambda: nnx.Dropout(0),
    "flatten": nnx.Flatten,
    "noise": lambda: nnx.GaussianNoise(0.5),
    "layer norm": lambda: nnx.LayerNorm(3),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


def numbers(rows: int, columns: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(dtype)


# ---- shapes, types, names ------------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_forward_and_backward_keep_what_they_return(make: Callable[[], nnx.Layer], training: bool) -> None:
    layer = make()
    for rows in (5, 1, 5):
        x = numbers(rows, 3)
        output = layer.forward(x, training=training)
        assert layer.output is output
        assert (output.shape, output.dtype) == ((rows, 3), np.float32)
        np.testing.assert_array_equal(layer.inputs, x)
        dinputs = layer.backward(output)
        assert layer.dinputs is dinputs
        assert (dinputs.shape, dinputs.dtype) == ((rows, 3), np.float32)
        np.testing.assert_array_equal(layer.inputs, x)


@every_layer
@pytest.mark.parametrize("given", [
    lambda x: x.tolist(), np.asfortranarray, lambda x: np.repeat(x, 2, axis=0)[::2], lambda x: x[::-1][::-1],
], ids=["list", "by columns", "every other row", "turned twice"])  # fmt: skip
def test_lists_and_strided_arrays_are_taken(make: Callable[[], nnx.Layer], given: Callable[..., Any]) -> None:
    x = numbers(4, 3)
    nnx.seed(0)
    plain = make()
    want, want_back = plain.forward(x, training=True), plain.backward(x)
    nnx.seed(0)
    layer = make()
    np.testing.assert_allclose(layer.forward(given(x), training=True), want, rtol=rounding(32, "float32"))
    np.testing.assert_allclose(layer.backward(given(x)), want_back, **DIFFERENCES)


@pytest.mark.parametrize("dtype", ["float16", "int64", "int8", "uint8", "bool"])
@every_layer
def test_other_number_types_become_float32(make: Callable[[], nnx.Layer], dtype: str) -> None:
    layer = make()
    assert layer.forward(np.ones((2, 3), dtype)).dtype == np.float32
    assert layer.backward(np.ones((2, 3), dtype)).dtype == np.float32


@every_layer
def test_float64_stays_where_there_are_no_weights_and_on_request(make: Callable[[], nnx.Layer]) -> None:
    layer = make()
    if layer.shapes:
        assert layer.forward(numbers(2, 3, "float64")).dtype == np.float32  # a layer's type is that of its weights
        layer = make()
        layer.dtype = "float64"
    assert layer.forward(numbers(2, 3, "float64"), training=True).dtype == np.float64
    assert layer.backward(numbers(2, 3, "float64")).dtype == np.float64
    for name in layer.shapes:
        assert layer.parameter(name).dtype == layer.gradient(name).dtype == np.float64


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_array_of_a_model_has_its_type(dtype: str) -> None:
    model = nnx.Sequential(
        nnx.Dense(3, 4, weight_l1=1e-3, bias_l2=1e-3), nnx.ReLU(), nnx.Dropout(0.2), nnx.Dense(4, 3), nnx.Softmax(),
        dtype=dtype,
    )  # fmt: skip
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam())
    for x in (numbers(6, 3, "float64"), np.ones((6, 3), int)):
        model.step(x, [0, 1, 2, 0, 1, 2])
        assert {a.dtype.name for a in model.parameters().values()} == {dtype}
        assert model.flat.arena.dtype.name == dtype
        for layer in model.layers[:-1]:  # the loss does the work of the softmax
            assert (layer.inputs.dtype.name, layer.output.dtype.name) == (dtype, dtype)
        assert model.predict(x).dtype.name == dtype
        assert model.layers[-1].forward(model.layers[-2].output).dtype.name == dtype


def test_the_notes_names() -> None:
    dense = nnx.Dense(2, 3)
    dense.forward([[1, 2]])
    dense.backward([[1, 1, 1]])
    assert dense.weights.shape == dense.dweights.shape == (2, 3)
    assert dense.biases.shape == dense.dbiases.shape == (1, 3)
    assert dense.inputs.shape == dense.dinputs.shape == (1, 2)
    assert dense.output.shape == (1, 3)


def test_forward_does_not_change_what_it_is_given() -> None:
    for make in LAYERS.values():
        layer, x = make(), numbers(4, 3)
        kept, dvalues = x.copy(), numbers(4, 3, seed=1)
        given = dvalues.copy()
        layer.forward(x, training=True)
        layer.backward(dvalues)
        np.testing.assert_array_equal(x, kept)
        np.testing.assert_array_equal(dvalues, given)


# ---- what activations compute --------------------------------------------------------------------------------------

EXTREMES = np.array([[0.0, -0.0, 1e4, -1e4, 88.8, -88.8, 1e-30, 3.0]])
ACTIVATIONS: dict[type[nnx.Layer], Callable[[float], float]] = {
    nnx.ReLU: lambda x: max(0.0, x),
    nnx.Sigmoid: lambda x: 1 / (1 + math.exp(-x)) if x > -700 else 0.0,
    nnx.Tanh: math.tanh,
    nnx.Linear: lambda x: x,
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_at_extremes(kind: type[nnx.Layer], dtype: str) -> None:
    x = EXTREMES.astype(dtype)
    want = [[ACTIVATIONS[kind](float(v)) for v in x[0]]]
    layer = kind()
    np.testing.assert_allclose(layer.forward(x), want, rtol=rounding(32, dtype), atol=1e-38)
    assert np.isfinite(layer.backward(np.ones_like(x))).all()


def test_softmax_at_extremes() -> None:
    x = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [-np.inf, 0, 0], [3e38, -3e38, 3e38]], np.float32)
    softmax = nnx.Softmax()
    want = [[1, 0, 0], [1 / 3] * 3, [0, 0.5, 0.5], [0.5, 0, 0.5]]
    with np.errstate(over="ignore"):  # 3e38 - -3e38
        np.testing.assert_allclose(softmax.forward(x), want, rtol=rounding(16, "float32"))
    assert np.isfinite(softmax.backward(np.ones_like(x))).all()


@pytest.mark.parametrize("columns", [1, 2, 15, 16, 17, 40])  # the sums of rows change their method at 16
def test_softmax_rows_add_up_and_its_jacobian_is_its_gradient(columns: int) -> None:
    x, dvalues = numbers(5, columns, "float64"), numbers(5, columns, "float64", seed=1)
    softmax = nnx.Softmax()
    e = np.exp(x)
    np.testing.assert_allclose(softmax.forward(x), e / e.sum(axis=1, keepdims=True), rtol=rounding(2 * columns + 16))
    np.testing.assert_allclose(softmax.output.sum(axis=1), 1, rtol=rounding(2 * columns + 16))
    jacobian = softmax.jacobian()
    assert jacobian.shape == (5, columns, columns)
    want = np.einsum("nij,nj->ni", jacobian, dvalues)
    np.testing.assert_allclose(softmax.backward(dvalues), want, rtol=1e-12, atol=rounding(2 * columns + 16))


def test_relu_keeps_nan_and_passes_infinite_gradients_where_it_is_on() -> None:
    relu = nnx.ReLU()
    assert np.isnan(relu.forward([[np.nan, 1]])).tolist() == [[True, False]]
    relu.forward([[1, -1, 0]])
    np.testing.assert_array_equal(relu.backward([[np.inf, np.inf, np.nan]]), [[np.inf, 0, 0]])


# ---- parameters are views, assignment copies -----------------------------------------------------------------------


def owners() -> list[tuple[nnx.Dense, Any]]:
    """A layer of its own and one in a model, each with the flat buffer that holds its parameters."""
    alone = nnx.Dense(2, 3)
    alone.forward([[1, 2]])
    model = nnx.Sequential(nnx.Dense(2, 3), nnx.ReLU(), nnx.Dense(3, 1))
    return [(alone, alone.flat), (model.layers[0], model.flat)]


@pytest.mark.parametrize("which", [0, 1], ids=["alone", "in a model"])
def test_assigning_copies_into_the_view(which: int) -> None:
    dense, flat = owners()[which]
    weights, biases = dense.weights, dense.biases
    given = np.arange(6.0).reshape(2, 3)
    dense.weights, dense.biases = given, np.ones(3)
    assert dense.weights is weights
    assert dense.biases is biases
    given[...] = -1
    np.testing.assert_array_equal(weights, np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(flat.values[:6], np.arange(6))
    np.testing.assert_array_equal(flat.values[64:67], 1)
    dense.weights += 1
    dense.weights[0, 0] = 9
    assert dense.weights is weights
    np.testing.assert_array_equal(flat.values[:6], [9, 2, 3, 4, 5, 6])
    dense.weights = weights[::-1, ::-1]  # its own numbers, overlapping
    np.testing.assert_array_equal(flat.values[:6], [6, 5, 4, 3, 2, 9])
    assert np.shares_memory(dense.weights, flat.values)
    assert np.shares_memory(dense.dweights, flat.gradients)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_given_before_the_first_use_are_copies(dtype: str) -> None:
    given = np.ones((2, 2), dtype)
    first, second = nnx.Dense(2, 2, init=given), nnx.Dense(2, 2)
    second.weights = given
    given[...] = 5
    for dense in (first, second):
        np.testing.assert_array_equal(dense.weights, 1)


def test_parameters_start_at_multiples_of_64_numbers() -> None:
    model = nnx.Sequential(nnx.Dense(5, 7), nnx.Dense(7, 2))
    offsets = [(a.__array_interface__["data"][0] - model.flat.values.__array_interface__["data"][0]) // 4
               for a in model.parameters().values()]  # fmt: skip
    assert offsets == [0, 64, 128, 192]
    assert list(model.parameters()) == ["0.weights", "0.biases", "1.weights", "1.biases"]


def test_a_used_layer_takes_its_values_into_a_model() -> None:
    dense = nnx.Dense(2, 3)
    dense.forward([[1, 2]])
    weights = dense.weights.copy()
    model = nnx.Sequential(dense, nnx.ReLU(), seed=5)
    np.testing.assert_array_equal(model.parameters()["0.weights"], weights)
    assert np.shares_memory(dense.weights, model.flat.values)


@every_layer
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("in_model", [False, True])
def test_copies_and_pickles_are_layers_of_their_own(
    make: Callable[[], nnx.Layer], copied: Callable[..., Any], in_model: bool
) -> None:
    layer = make()
    _ = in_model and nnx.Sequential(layer, backend="numpy", dtype="float64")
    layer.forward(numbers(4, 3))
    other = copied(layer)
    assert other.config() == layer.config()
    np.testing.assert_array_equal(other.forward(numbers(4, 3)), layer.output)
    for name in layer.shapes:
        layer.parameter(name)[...] = 7
        assert not (other.parameter(name) == 7).any()
    assert nnx.Sequential(copied(layer)).layers[0] is not layer


@every_layer
def test_config_makes_the_layer_again(make: Callable[[], nnx.Layer]) -> None:
    layer = make()
    again = type(layer)(**layer.config())
    assert again.config() == layer.config()
    assert repr(again) == repr(layer)


# ---- first weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("init", "deviation"), [
    ("he", math.sqrt(2 / 300)), ("glorot", math.sqrt(2 / 500)), (0.01, 0.01), (0.5, 0.5), (np.float32(2), 2.0),
])  # fmt: skip
def test_first_weights_are_spread_as_asked(init: Any, deviation: float) -> None:
    nnx.seed(0)
    weights = np.array(nnx.Dense(300, 200, init=init).weights, np.float64)
    assert weights.std() == pytest.approx(deviation, rel=0.02)
    assert abs(weights.mean()) < 4 * deviation / math.sqrt(weights.size)
    if init == "glorot":
        limit = math.sqrt(6 / 500)
        assert np.abs(weights).max() <= limit
        assert np.abs(weights).max() > 0.99 * limit
        assert np.mean(np.abs(weights) < limit / 2) == pytest.approx(0.5, abs=0.01)
    else:
        assert np.mean(np.abs(weights) < deviation) == pytest.approx(0.6827, abs=0.01)


def test_zero_scale_and_arrays() -> None:
    assert not nnx.Dense(3, 2, init=0).weights.any()
    given = np.arange(6.0).reshape(3, 2)
    for init in (given, given.tolist(), given.astype(int)):
        dense = nnx.Dense(3, 2, init=init)
        np.testing.assert_array_equal(dense.weights, given)
        assert not dense.biases.any()
        model = nnx.Sequential(dense, dtype="float64")
        np.testing.assert_array_equal(model.parameters()["0.weights"], given)


def test_float64_weights_given_to_a_float64_model_lose_nothing() -> None:
    given = numbers(3, 2, "float64")
    model = nnx.Sequential(nnx.Dense(3, 2, init=given), dtype="float64")
    np.testing.assert_array_equal(model.parameters()["0.weights"], given)
    whole = np.array([[2**24 + 1]])  # float32 has no such number
    assert nnx.Sequential(nnx.Dense(1, 1, init=whole), dtype="float64").parameters()["0.weights"] == 2**24 + 1


def test_weights_follow_the_seed() -> None:
    def of_model(seed: int) -> np.ndarray:
        model = nnx.Sequential(nnx.Dense(4, 5), nnx.Dense(5, 5), seed=seed)
        return np.concatenate([a.ravel() for a in model.parameters().values()])

    def of_layers(seed: int) -> list[np.ndarray]:
        nnx.seed(seed)
        return [np.array(nnx.Dense(4, 5).weights) for _ in range(2)]

    np.testing.assert_array_equal(of_model(3), of_model(3))
    assert (of_model(3) != of_model(4)).any()
    np.testing.assert_array_equal(of_layers(3), of_layers(3))
    assert (of_layers(3)[0] != of_layers(4)[0]).any()
    assert (of_layers(3)[0] != of_layers(3)[1]).any()
    np.testing.assert_array_equal(of_model(2**63 + 1), of_model(np.uint64(2**63 + 1)))
    model = nnx.Sequential(nnx.Dense(5, 5), nnx.Dense(5, 5))
    assert (model.parameters()["0.weights"] != model.parameters()["1.weights"]).any()


def test_a_models_weights_do_not_depend_on_what_was_made_before() -> None:
    first = nnx.Sequential(nnx.Dense(4, 5), seed=1).parameters()["0.weights"].copy()
    nnx.seed(9)
    nnx.Dense(2, 2).forward([[1, 2]])
    np.testing.assert_array_equal(nnx.Sequential(nnx.Dense(4, 5), seed=1).parameters()["0.weights"], first)


def test_float32_weights_are_the_float64_ones_rounded() -> None:
    narrow, wide = (nnx.Sequential(nnx.Dense(4, 5), seed=1, dtype=dtype) for dtype in ("float32", "float64"))
    np.testing.assert_array_equal(narrow.parameters()["0.weights"], wide.parameters()["0.weights"].astype(np.float32))


# ---- dropout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_scales_the_rest(rate: float) -> None:
    dropout = nnx.Dropout(rate)
    output = dropout.forward(np.ones((400, 500)), training=True)
    assert np.mean(output == 0) == pytest.approx(rate, abs=0.005)
    np.testing.assert_allclose(output[output != 0], 1 / (1 - rate), rtol=rounding(16, "float32"))
    assert output.mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(dropout.backward(np.ones((400, 500))), output)


def test_dropout_draws_anew_each_step_and_follows_its_seed() -> None:
    x = np.ones((20, 30))

    def masks(**arguments: Any) -> list[np.ndarray]:
        dropout = nnx.Dropout(0.5, **arguments)
        return [dropout.forward(x, training=True).copy() for _ in range(3)]

    first = masks(seed=1)
    np.testing.assert_array_equal(first, masks(seed=1))
    assert all((a != b).any() for a, b in [(first[0], first[1]), (first[1], first[2]), (first[0], masks(seed=2)[0])])


def test_dropout_outside_training_is_the_identity() -> None:
    x = numbers(4, 3)
    dropout = nnx.Dropout(0.9)
    np.testing.assert_array_equal(dropout.forward(x), x)
    np.testing.assert_array_equal(dropout.backward(x), x)


def test_two_dropouts_of_a_model_have_masks_of_their_own() -> None:
    model = nnx.Sequential(nnx.Dropout(0.5), nnx.Dropout(0.5), nnx.Dense(50, 2))
    model.compile(nnx.MeanSquaredError(), nnx.SGD(0.1))
    model.step(np.ones((40, 50)), np.ones((40, 2)))
    first, second = (layer.output != 0 for layer in model.layers[:2])
    assert np.mean(second) == pytest.approx(0.25, abs=0.05)  # the same mask twice would leave a half
    assert np.mean(first) == pytest.approx(0.5, abs=0.05)


# ---- workspaces ----------------------------------------------------------------------------------------------------


@every_layer
def test_the_next_call_overwrites_and_smaller_batches_are_slices(make: Callable[[], nnx.Layer]) -> None:
    layer, fresh = make(), make()
    layer.forward(numbers(1, 3))  # which draws its parameters, if it has any
    for name, value in layer.values().items():
        fresh.assign(name, value)
    large, small = numbers(8, 3), numbers(3, 3, seed=1)
    first = layer.forward(large)
    second = layer.forward(small)
    np.testing.assert_allclose(second, fresh.forward(small), rtol=rounding(32, "float32"))
    np.testing.assert_allclose(
        layer.backward(small), fresh.backward(small), rtol=rounding(160, "float32"), atol=rounding(2, "float32")
    )
    if second is not layer.inputs:
        assert np.shares_memory(first, second)
        assert np.shares_memory(layer.forward(large), first)
        assert layer.forward(numbers(9, 3)).shape == (9, 3)


def test_a_dense_layer_allocates_nothing_in_the_steady_state() -> None:
    dense, relu, x = nnx.Dense(64, 128), nnx.ReLU(), numbers(1000, 64)
    dvalues = numbers(1000, 128)

    def step() -> None:
        relu.forward(dense.forward(x, training=True), training=True)
        dense.backward(dvalues)

    step()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        step()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 50_000  # one output alone has 512,000 bytes


# ---- layers of one's own -------------------------------------------------------------------------------------------


class Scale(nnx.Layer):
    """Times a learned number for each column, written with the backend's xp."""

    def __init__(self, n_inputs: int) -> None:
        self.n_inputs = n_inputs
        self.shapes = {"scale": (1, n_inputs)}

    def draw(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        return {"scale": random.uniform(0.5, 1.5, self.shapes["scale"])}

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.inputs = self._accept(inputs)
        self.output = self.inputs * self.parameter("scale")
        return self.output

    def backward(self, dvalues: Any) -> Any:
        self.gradient("scale")[...] = (self.inputs * dvalues).sum(axis=0, keepdims=True)
        self.dinputs = dvalues * self.parameter("scale")
        return self.dinputs


def test_a_layer_of_ones_own_trains_and_says_why_it_is_not_replayed() -> None:
    x, y = numbers(30, 3), numbers(30, 1)
    assert nnx.gradcheck(Scale(3), x) < 1e-6
    model = nnx.Sequential(Scale(3), nnx.Dense(3, 1), seed=2)
    model.compile(nnx.MeanSquaredError(), nnx.Adam(0.05))
    history = model.fit(x, y, epochs=100, verbose=0)
    assert history["loss"][-1] < history["loss"][0]
    assert "dense reads x" in str(model.eager_reason)


def test_a_subclass_says_its_own_name() -> None:
    class Mine(nnx.Dense):
        pass

    class Drops(nnx.Dropout):
        pass

    assert (repr(Mine(2, 3)), repr(Drops(0.5))) == ("Mine(2, 3)", "Drops(0.5)")


def test_the_base_says_what_is_missing() -> None:
    class Nothing(nnx.Layer):
        pass

    with pytest.raises(NotImplementedError, match=r"Nothing has no forward"):
        Nothing().forward([[1.0]])
    with pytest.raises(NotImplementedError, match=r"Nothing has no backward"):
        Nothing().backward([[1.0]])
