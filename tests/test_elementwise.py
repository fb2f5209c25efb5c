"""Every activation function of the table (nnx/kernels/elementwise.py), wherever it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.backends.numpy import NumpyBackend
from nnx.errors import InputError, NotReplayable
from nnx.kernels.elementwise import FUNCTIONS, KINDS, NAMES, number_of
from nnx.layers import ELEMENTWISE
from nnx.testing import reference
from nnx.testing.rounding import rounding

pytestmark = pytest.mark.rounding

Made = Callable[[], nnx.Layer]
LAYERS: dict[str, Made] = {**ELEMENTWISE, "gelu_tanh": lambda: nnx.GELU("tanh")}
SHAPED = [row for row in FUNCTIONS if row.parameter]
EXPECTED = {  # at -2, -0.5 and 1.5, to ten digits
    "leaky_relu": (-0.02, -0.005, 1.5),
    "elu": (-0.8646647168, -0.3934693403, 1.5),
    "gelu": (-0.0455002639, -0.1542687694, 1.3997891981),
    "gelu_tanh": (-0.0454023059, -0.1542859902, 1.3995715770),
    "silu": (-0.2384058440, -0.1887703344, 1.2263617130),
    "softplus": (0.1269280110, 0.4740769842, 1.7014132780),
}


class EagerOnly(NumpyBackend):
    """NumPy, layer by layer."""

    def compile(self, recorder: Any) -> Any:
        raise NotReplayable("asked for")


def network(make: Made, hidden: int, backend: Any, dtype: str = "float64") -> nnx.Sequential:
    layers = [nnx.Dense(3, hidden), make(), nnx.Dense(hidden, 5), make(), nnx.Dense(5, 2)]
    model = nnx.Sequential(*layers, backend=backend, dtype=dtype, seed=4)
    return model.compile(nnx.MeanSquaredError(), nnx.SGD(0.05, momentum=0.5))


def samples() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    return random.normal(size=(37, 3)), random.normal(size=(37, 2))


def trained(model: nnx.Sequential) -> list[float]:
    return model.fit(*samples(), epochs=3, batch_size=19, verbose=0)["loss"]


# ---- the table -------------------------------------------------------------------------------------------------------


def test_every_row_has_a_layer_and_every_kind_a_number_of_its_own() -> None:
    assert {make().operation for make in LAYERS.values()} == set(NAMES)
    assert [number_of(kind) for kind in KINDS] == list(range(len(KINDS)))
    assert len(set(KINDS)) == len(KINDS)


def test_an_unknown_kind_is_refused() -> None:
    for kind in ("swish", "relu_back", "RELU", ""):
        with pytest.raises(ValueError, match="is no elementwise operation: expected one of relu, sigmoid"):
            number_of(kind)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_loops_make_nan_of_an_unknown_kind(dtype: str) -> None:
    pytest.importorskip("numba")
    from nnx.kernels.cpu.ops.elementwise import backward, forward
    from nnx.kernels.cpu.threads import pool

    x, y = np.ones((2, 65), dtype), np.zeros((2, 65), dtype)
    for kind in (-3, len(NAMES), len(KINDS), 1 << 40):
        forward(x, y, pool.board_at, 1, kind, 0.0)
        assert np.isnan(y).all()
    for kind in (-3, 0, len(KINDS)):
        backward(x, x, y, pool.board_at, 2, kind, 0.0)  # parts, of 128 and of 2 numbers
        assert np.isnan(y).all()


def test_a_prediction_of_an_unknown_function_is_refused() -> None:
    pytest.importorskip("numba")
    from nnx.backends.inference import Stage
    from nnx.backends.numba.inference import table_of

    values = np.zeros(64)
    stages = [Stage(values[:4].reshape(2, 2), values[32:34].reshape(1, 2), "swish")]
    with pytest.raises(ValueError, match="'swish' is no elementwise operation"):
        table_of(stages, values)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_known_values(name: str) -> None:
    x = np.array([[-2, -0.5, 1.5]])
    for backend in ("numpy", "numba"):
        if backend == "numba":
            pytest.importorskip("numba")
        with nnx.use_backend(backend):
            np.testing.assert_allclose(LAYERS[name]().forward(x)[0], EXPECTED[name], atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    x = np.random.default_rng(0).uniform(0.1, 3, (5, 17)) * np.random.default_rng(1).choice([-1.0, 1.0], (5, 17))
    with nnx.use_backend("numpy"):
        assert nnx.gradcheck(LAYERS[name](), x) < 1e-6


@pytest.mark.parametrize("name", ["gelu", "softplus", "silu"])
def test_small_shares_keep_their_digits(name: str) -> None:
    """They are far below the rounding of 1, from which they might have been made."""
    with nnx.use_backend("numpy"):
        for dtype in ("float32", "float64"):
            x = -np.linspace(2, 12, 50, dtype=dtype)[None]
            wanted = reference.formula(name)(x.astype(np.float64))["out"].value
            # the exponent, up to 72, is rounded here, and twice in the reference: the argument of erfc is squared
            np.testing.assert_allclose(LAYERS[name]().forward(x), wanted, rtol=rounding(3 * 72 + 20, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_limits_and_nan(dtype: str) -> None:
    x = np.array([[math.inf, -math.inf, math.nan, 1e30, -1e30]], dtype)
    for backend in ("numpy", "numba"):
        if backend == "numba":
            pytest.importorskip("numba")
        with nnx.use_backend(backend):
            for name in ("gelu", "gelu_tanh", "silu"):
                layer = LAYERS[name]()
                np.testing.assert_array_equal(layer.forward(x), np.array([[math.inf, 0, math.nan, 1e30, 0]], dtype))
                np.testing.assert_array_equal(layer.backward(np.ones_like(x)), [[1, 0, math.nan, 1, 0]])


@pytest.mark.parametrize("name", LAYERS)
def test_far_out_every_function_has_its_limit_and_its_gradient(name: str) -> None:
    """Infinity over infinity, or times 0, is NaN: in the reference too, if its formula is the same."""
    x = np.array([[math.inf, -math.inf]])
    with nnx.use_backend("numpy"):
        layer, near = LAYERS[name](), LAYERS[name]()
        limit, value = layer.forward(x), near.forward(np.clip(x, -1e30, 1e30))
        np.testing.assert_array_equal(limit, np.where(np.abs(value) > 1e20, np.copysign(math.inf, value), value))
        np.testing.assert_array_equal(layer.backward(np.ones_like(x)), near.backward(np.ones_like(x)))


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["rows", "lanes"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_recorded_step_learns_what_an_eager_one_does(name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setenv("NNX_PROGRAM", family)
    model, wanted = network(LAYERS[name], 20, "numba"), network(LAYERS[name], 20, EagerOnly())
    np.testing.assert_allclose(trained(model), trained(wanted), rtol=1e-9)
    assert model.eager_reason is None
    for value, expected in zip(model.parameters().values(), wanted.parameters().values(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_prediction_is_what_the_layers_give(name: str, backend: str) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    model, (x, _) = network(LAYERS[name], 20, backend), samples()
    for rows in (1, len(x)):
        wanted = x[:rows]
        for layer in model.layers:
            wanted = layer.forward(wanted)
        np.testing.assert_allclose(model.predict(x[:rows]), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("row", SHAPED, ids=lambda row: row.name)
def test_another_parameter_counts_from_the_next_step_on(row: Any, backend: str) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    kind, (x, _) = ELEMENTWISE[row.name], samples()
    model, wanted = network(kind, 20, backend), network(lambda: kind(0.7), 20, backend)
    trained(model)
    for layer in (model.layers[1], model.layers[3]):
        setattr(layer, row.parameter, 0.7)
    wanted.set_parameters(model.parameters())
    np.testing.assert_allclose(model.predict(x[:1]), wanted.predict(x[:1]), rtol=1e-12)
    np.testing.assert_allclose(model.predict(x), wanted.predict(x), rtol=1e-12)
    model.compile(nnx.MeanSquaredError(), nnx.SGD(0.05, momentum=0.5))
    assert model.step(*samples()) == pytest.approx(wanted.step(*samples()), rel=1e-9)
    for value, expected in zip(model.parameters().values(), wanted.parameters().values(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


def test_one_set_between_steps_records_anew() -> None:
    model, fixed = (network(nnx.LeakyReLU, 20, "numpy") for _ in range(2))
    x, y = samples()
    first = [each.step(x, y) for each in (model, fixed)]
    assert first[0] == first[1]
    model.layers[1].slope = 0.9
    assert model.step(x, y) != fixed.step(x, y)
    assert model.eager_reason is None


@pytest.mark.parametrize("name", LAYERS)
def test_a_file_holds_the_function_and_its_parameter(name: str, tmp_path: Any) -> None:
    pytest.importorskip("safetensors")
    layer = LAYERS[name]()
    if layer.config().keys() & {"slope", "alpha"}:
        layer = type(layer)(0.37)
    model = nnx.Sequential(nnx.Dense(3, 4), layer, backend="numpy")
    model.save(tmp_path / "model.safetensors")
    loaded = nnx.load(tmp_path / "model.safetensors", backend="numpy")
    assert (repr(loaded.layers[1]), loaded.layers[1].config()) == (repr(layer), layer.config())
    x = samples()[0]
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nnx.LeakyReLU(-0.1), r"LeakyReLU: slope=-0\.1: expected a number of at least 0"),
        (lambda: nnx.LeakyReLU(math.nan), "LeakyReLU: slope=nan: expected a number of at least 0"),
        (lambda: nnx.ELU("1"), "ELU: alpha='1': expected a number of at least 0"),
        (lambda: nnx.GELU("sigmoid"), "GELU: approximate='sigmoid': expected one of 'none', 'tanh'"),
        (lambda: nnx.GELU(True), "GELU: approximate=True: expected one of 'none', 'tanh'"),
    ],
)
def test_what_a_function_cannot_have_is_refused(make: Made, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("name", LAYERS)
def test_none_but_sigmoid_gives_probabilities(name: str) -> None:
    model = nnx.Sequential(nnx.Dense(3, 4), LAYERS[name](), backend="numpy")
    if name == "sigmoid":
        model.compile(nnx.BinaryCrossEntropy(), nnx.SGD(0.1))
        return
    with pytest.raises(InputError, match="takes probabilities, but the last layer is"):
        model.compile(nnx.BinaryCrossEntropy(), nnx.SGD(0.1))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("activation", ["leaky_relu", "elu", "swish", "softmax", "dense"])
def test_a_dense_layer_applies_no_function_that_needs_more(activation: str, backend: str) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    x, w, b = np.ones((2, 3)), np.ones((3, 4)), np.ones((1, 4))
    with pytest.raises(InputError, match=f"dense: activation='{activation}': expected one of relu, sigmoid, tanh"):
        nnx.get_backend(backend).dense(x, w, b, activation)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gradient_may_be_written_over_what_it_is_made_of(backend: str, dtype: str) -> None:
    if backend == "numba":
        pytest.importorskip("numba")
    on, random = nnx.get_backend(backend), np.random.default_rng(5)
    for row in FUNCTIONS:
        of, dy = np.abs(random.normal(size=(7, 19))).astype(dtype), random.normal(size=(7, 19)).astype(dtype)
        more = row.given(row.default)
        wanted = getattr(on, row.gradient)(of, dy, *more)
        for place in (0, 1):
            operands = [of.copy(), dy.copy()]
            getattr(on, row.gradient)(*operands, *more, out=operands[place])
            np.testing.assert_array_equal(operands[place], wanted)
            np.testing.assert_array_equal(operands[1 - place], (of, dy)[1 - place])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (700, 900)])
def test_empty_arrays_and_those_that_threads_share(shape: tuple[int, int]) -> None:
    pytest.importorskip("numba")
    numba, numpy, random = nnx.get_backend("numba"), nnx.get_backend("numpy"), np.random.default_rng(6)
    x, dy = random.normal(size=shape).astype("float32"), random.normal(size=shape).astype("float32")
    for row in FUNCTIONS:
        more = row.given(row.default)
        for name, operands in ((row.name, (x,)), (row.gradient, (np.abs(x), dy))):
            result, wanted = (getattr(on, name)(*operands, *more) for on in (numba, numpy))
            np.testing.assert_allclose(result, wanted, rtol=rounding(64, "float32"), atol=rounding(64, "float32"))
