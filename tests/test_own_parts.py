"""Layers, losses, optimizers and metrics of one's own: trained, checked, saved and loaded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import LogCosh, Swish

import nnx
from nnx.backends.errors import NotReplayable
from nnx.backends.formula import COMPILED, FUNCTIONS, UFUNCS, Formula, text
from nnx.testing.rounding import rounding

X, Y = nnx.datasets.spiral(samples=20, classes=3, seed=0)
BACKENDS = [name for name, works in nnx.backends.available().items() if works and name != "cupy"]


class Scale(nnx.Layer):
    """Each column times a number that is learned."""

    def __init__(self, width: int, begin: float = 1.0) -> None:
        self.width, self.begin = width, begin
        self.shapes = {"factors": (1, width)}

    def draw(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        return {"factors": np.full((1, self.width), self.begin)}

    def output_width(self, width: int | None) -> int | None:
        return width

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.inputs = inputs
        self.output = inputs * self.parameter("factors")
        return self.output

    def backward(self, dvalues: Any) -> Any:
        self.gradient("factors")[...] = self.backend.xp.sum(dvalues * self.inputs, axis=0, keepdims=True)
        self.dinputs = dvalues * self.parameter("factors")
        return self.dinputs


class Squares(nnx.Loss):
    """A loss as the notes have it."""

    metric = "regression"

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def forward(self, y_pred: Any, y_true: Any) -> Any:  # type: ignore[override]
        return self.factor * ((y_pred - y_true) ** 2).mean(axis=-1)

    def backward(self, y_pred: Any, y_true: Any) -> None:  # type: ignore[override]
        self.dinputs = self.factor * 2 * (y_pred - y_true) / y_pred.size


class Labels(nnx.Loss):
    """Categorical cross-entropy, by labels as they come."""

    def forward(self, y_pred: Any, y_true: Any) -> Any:  # type: ignore[override]
        return -np.log(y_pred[np.arange(len(y_pred)), y_true])

    def backward(self, y_pred: Any, y_true: Any) -> Any:  # type: ignore[override]
        gradient, rows = np.zeros_like(y_pred), np.arange(len(y_pred))
        gradient[rows, y_true] = -1 / y_pred[rows, y_true] / len(y_pred)
        return gradient


class Slow(nnx.SGD):
    """An optimizer of one's own."""


def misses(y_true: Any, y_pred: Any) -> float:
    return float(np.sum(y_pred.argmax(axis=1) != y_true))


def model(*layers: nnx.Layer, loss: nnx.Loss, backend: str = "numpy", **more: Any) -> nnx.Sequential:
    net = nnx.Sequential(*layers, backend=backend, dtype="float64", seed=1)
    return net.compile(loss, more.pop("optimizer", nnx.Adam(0.02)), **more)


def regression(loss: nnx.Loss, backend: str = "numpy") -> nnx.Sequential:
    return model(nnx.Dense(2, 6), nnx.Tanh(), nnx.Dense(6, 1), loss=loss, backend=backend)


NUMBERS = X[:, 0] - X[:, 1] ** 2  # [N], of a single output
WEIGHTS = np.arange(len(X)) % 3


# ---- losses in two methods -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [Squares(3.0), LogCosh()], ids=str)
def test_a_loss_of_ones_own_is_checked_by_gradcheck(loss: nnx.Loss) -> None:
    outputs = X[:, :1].astype("float64")
    assert nnx.gradcheck(loss, outputs, NUMBERS) < 1e-6
    assert nnx.gradcheck(loss, outputs, NUMBERS, WEIGHTS) < 1e-6
    assert nnx.gradcheck(regression(loss), X[:7], NUMBERS[:7], WEIGHTS[:7]) < 1e-6


def test_gradcheck_finds_a_wrong_backward() -> None:
    class Wrong(Squares):
        def backward(self, y_pred: Any, y_true: Any) -> None:  # type: ignore[override]
            self.dinputs = 2 * (y_pred - y_true)  # not of the mean

    assert nnx.gradcheck(Wrong(), X[:, :1].astype("float64"), NUMBERS) > 0.1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_in_two_methods_trains_as_nnxs_own_does(backend: str) -> None:
    """With weights of samples, in mini-batches, step by step, and in evaluation. Whole weights are repeated rows."""
    own, ours = regression(Squares(), backend), regression(nnx.MeanSquaredError(), "numpy")
    for net in (own, ours):
        net.fit(X, NUMBERS, epochs=4, batch_size=16, sample_weight=WEIGHTS, verbose=0)
        net.step(X[:9], NUMBERS[:9])
    np.testing.assert_allclose(own.predict(X), ours.predict(X), rtol=1e-9)
    expected = ours.evaluate(np.repeat(X, WEIGHTS, 0), np.repeat(NUMBERS, WEIGHTS))
    found = own.evaluate(X, NUMBERS, sample_weight=WEIGHTS)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-9)
    assert found["accuracy"] == pytest.approx(expected["accuracy"], rel=1e-9)
    assert own.eager_reason is not None
    assert "the loss, computes it by other means" in own.eager_reason


def test_labels_come_as_they_are_given() -> None:
    layers = nnx.Dense(2, 6), nnx.Tanh(), nnx.Dense(6, 3), nnx.Softmax()
    own = model(*layers, loss=Labels(), metrics=[])
    ours = model(
        nnx.Dense(2, 6), nnx.Tanh(), nnx.Dense(6, 3), nnx.Softmax(), loss=nnx.CategoricalCrossEntropy(), metrics=[]
    )
    histories = [net.fit(X, Y, epochs=3, batch_size=16, verbose=0)["loss"] for net in (own, ours)]
    np.testing.assert_allclose(*histories, rtol=1e-9)


def test_a_loss_that_makes_another_of_nnxs_twice_as_large() -> None:
    class Twice(nnx.MeanSquaredError):
        def forward(self, y_pred: Any, y_true: Any) -> Any:
            return 2 * super().forward(y_pred, y_true)

        def backward(self, y_pred: Any, y_true: Any) -> Any:  # type: ignore[override]
            return 2 * super().backward(y_pred, y_true)

    once, twice = regression(nnx.MeanSquaredError()), regression(Twice())
    assert twice.evaluate(X, NUMBERS)["loss"] == pytest.approx(2 * once.evaluate(X, NUMBERS)["loss"])
    assert nnx.gradcheck(twice, X[:5], NUMBERS[:5]) < 1e-6


@pytest.mark.parametrize(
    ("forward", "backward", "message"),
    [
        (lambda y_pred, y_true: np.mean(y_pred), lambda y_pred, y_true: y_pred, r"float64 \(\), expected a loss for"),
        (lambda y_pred, y_true: y_pred - y_true, lambda y_pred, y_true: y_pred, r"ndarray \(60, 1\), expected a loss"),
        (lambda y_pred, y_true: y_pred[:, 0], lambda y_pred, y_true: None, r"NoneType \(\), expected a gradient for"),
    ],
)
def test_what_a_loss_returns_is_checked_before_anything_changes(
    forward: Callable[..., Any], backward: Callable[..., Any], message: str
) -> None:
    loss = type("Mine", (nnx.Loss,), {"forward": lambda _, *both: forward(*both)})
    loss.backward = lambda _, *both: backward(*both)  # type: ignore[attr-defined]
    net = regression(loss())
    before = net.flat.values.copy()
    with pytest.raises(nnx.InputError, match=message):
        net.fit(X, NUMBERS, verbose=0)
    np.testing.assert_array_equal(net.flat.values, before)


# ---- formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [Swish(), Swish(0.3)])
def test_a_formula_is_a_layer(layer: nnx.Elementwise) -> None:
    x = X.astype("float64")
    assert nnx.gradcheck(layer, x) < 1e-6
    np.testing.assert_allclose(layer.forward(x), x / (1 + np.exp(-layer.beta * x)), rtol=1e-12)  # type: ignore[attr-defined]


CURVES: dict[str, Callable[[Any], Any]] = {
    "chosen": lambda x: np.where((x > 1) | ~(x > -1) & (x != 0), x, 0.5 * x * x),
    "a mask": lambda x: (x > 0) * x + np.zeros_like(x) - np.ones_like(x),
    "bounded": lambda x: np.clip(x, -1, 2) + np.maximum(x, 0.5) * np.minimum(-x, x),
    "roots": lambda x: np.sqrt(np.abs(x)) + (1 + x * x) ** 0.5 - (2 + x) ** -2,
    "powers": lambda x: x**3 - np.square(x) + np.reciprocal(3 + np.fabs(x)) + np.power(x, 5),
    "waves": lambda x: np.sin(3 * x) * np.cos(x),
    "logarithms": lambda x: np.log(1.5 + np.abs(x)) + np.log1p(np.exp(x)) + np.log1p(-0.01 * x) + np.expm1(x),
    "soft": lambda x: np.logaddexp(0, -2 * x) + np.tanh(x) + np.sign(x) * 2,
    "questions": lambda x: np.where(np.logical_and(x >= 0, x <= 1), 1, 0) + np.where(x == 0.5, 2.0, -x),
    "a constant": lambda x: 2.5,
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_formulas_are_numpys(name: str, dtype: str) -> None:
    """One operation after the other has its turn in a loop of machine code."""
    pytest.importorskip("numba")
    import ctypes

    from nnx.kernels.cpu.ops.formula import Compiled

    formula, real = Formula(name, CURVES[name], lambda x, y: y), np.ctypeslib.as_ctypes_type(np.dtype(dtype))
    code = Compiled(formula.layer, dtype)
    x = np.concatenate([np.linspace(-1.9, 3, 300), [0.0, 0.5, -1.0, 1.0]]).astype(dtype)
    out, pointer = np.empty_like(x), ctypes.c_void_p
    call = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, ctypes.c_int64, real, real)(code.address)
    call(x.ctypes.data, x.ctypes.data, out.ctypes.data, x.size, 0.0, 0.0)
    wanted = np.broadcast_to(CURVES[name](x.astype("float64")), x.shape)
    np.testing.assert_allclose(out, wanted, rtol=rounding(64, dtype), atol=rounding(64, dtype))


def test_every_function_that_is_said_to_be_compiled_is_tried() -> None:
    from itertools import chain

    names = set(chain.from_iterable(curve.__code__.co_names for curve in CURVES.values()))
    operators = {"add", "subtract", "multiply", "divide", "negative", "positive", "less", "less_equal", "greater"}
    operators |= {"greater_equal", "equal", "not_equal", "bitwise_and", "bitwise_or", "invert", "absolute"}
    functions = {each.__name__ for each in (*UFUNCS, *FUNCTIONS)} - operators
    assert functions - names <= {"logical_or", "logical_not", "full_like"}
    assert set(COMPILED.split(", ")) == functions | operators


def branching(x: Any) -> Any:
    return x if x > 0 else -x


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (branching, "branches by the numbers in an array: choose by np.where"),
        (np.arcsinh, "np.arcsinh is not compiled; these are: absolute, "),
        (lambda x: x - np.sum(x), "np.sum is not compiled"),
        (lambda x: x - x.mean(), "takes arrays alone"),
        (lambda x: x * np.ones(3), r"it uses an array \(3,\)"),
        (lambda x: x**1.5, "compiled for n = 0.5 and whole n"),
        (np.add.accumulate, "np.add.accumulate is not compiled"),
    ],
)
def test_what_cannot_be_compiled_is_told(formula: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(NotReplayable, match=f"Mine: .*{message}"):
        text(Formula("Mine", formula, lambda x, y: 1).layer)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_formula_that_cannot_be_compiled_is_run_all_the_same(backend: str) -> None:
    class Bent(nnx.Elementwise):
        def formula(self, x: Any) -> Any:
            return np.arcsinh(x)

        def derivative(self, x: Any, y: Any) -> Any:
            return 1 / np.sqrt(1 + x * x)

    nets = [
        model(nnx.Dense(2, 6), Bent(), nnx.Dense(6, 1), loss=Squares(), backend=name) for name in ("numpy", backend)
    ]
    for net in nets:
        net.fit(X, NUMBERS, epochs=3, verbose=0)
    np.testing.assert_allclose(nets[0].predict(X), nets[1].predict(X), rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_such_a_formula_is_replayed_one_operation_at_a_time(backend: str) -> None:
    class Bent(Swish):
        def formula(self, x: Any) -> Any:
            return np.arcsinh(x)

        def derivative(self, x: Any, y: Any) -> Any:
            return 1 / np.cosh(y)

    net = model(nnx.Dense(2, 6), Bent(), nnx.Dense(6, 1), loss=LogCosh(), backend=backend)
    net.fit(X, NUMBERS, epochs=2, verbose=0)
    assert net.eager_reason is None
    assert (net.replay_reason is None) == (backend == "numpy")
    if backend == "numba":
        assert "Bent: np.arcsinh is not compiled; these are: absolute" in str(net.replay_reason)
        assert "steps are replayed one operation at a time: Bent" in net.summary()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_number_of_a_formula_is_that_of_the_next_step(backend: str) -> None:
    """A recorded step holds it fast; the next one is recorded anew."""

    def trained(begin: float, then: float | None) -> np.ndarray:
        swish = Swish(begin)
        net = model(nnx.Dense(2, 6), swish, nnx.Dense(6, 1), loss=LogCosh(), backend=backend)
        net.fit(X, NUMBERS, epochs=2, verbose=0)
        if then is not None:
            swish.beta = then
        net.fit(X, NUMBERS, epochs=2, verbose=0)
        assert net.eager_reason is None
        return net.predict(X)

    assert not np.allclose(trained(1.0, 2.0), trained(1.0, None), rtol=1e-3)
    eager = model(nnx.Dense(2, 6), swish := Swish(1.0), nnx.Dense(6, 1), loss=LogCosh(), backend="numpy")
    eager.layers[1].forward = eager.layers[1].forward  # type: ignore[method-assign]  # as written from now on
    eager.fit(X, NUMBERS, epochs=2, verbose=0)
    swish.beta = 2.0
    eager.fit(X, NUMBERS, epochs=2, verbose=0)
    np.testing.assert_allclose(trained(1.0, 2.0), eager.predict(X), rtol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_summary_says_what_runs_a_formula(backend: str) -> None:
    net = model(nnx.Dense(2, 6), Swish(), nnx.Dense(6, 1), loss=LogCosh(), backend=backend)
    net.fit(X, NUMBERS, verbose=0)
    line = next(line for line in net.summary().splitlines() if "Swish" in line)
    assert line.split()[-1] == {"numpy": "xp", "numba": "numba:lanes.Swish"}[backend]


def test_a_formula_of_another_shape_is_refused() -> None:
    class Summed(nnx.Elementwise):
        def formula(self, x: Any) -> Any:
            return x.sum(axis=1)

    with pytest.raises(nnx.InputError, match=r"Summed: its formula made \(60,\) of \(60, 2\), expected a number for"):
        Summed().forward(X)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("formula", "error", "words"),
    [
        (lambda x: x if x > 0 else 0 * x, nnx.InputError, r"choose by np\.where"),
        (lambda x: max(x, 0), nnx.InputError, r"take np\.maximum"),
        (lambda x: math.exp(x), nnx.errors.InputTypeError, r"np\.exp for math\.exp"),
        (lambda x: None, nnx.errors.InputTypeError, "made None, expected a real number"),
        (lambda x: x.tolist(), nnx.errors.InputTypeError, r"made \[\["),
        (lambda x: 1j * x, nnx.errors.InputTypeError, "numbers of type complex128, expected a real number"),
    ],
    ids=["if", "max", "math", "none", "list", "complex"],
)
def test_a_formula_of_single_numbers_or_of_none_is_refused(
    formula: Callable[[Any], Any], error: type[Exception], words: str, backend: str
) -> None:
    class Mine(nnx.Elementwise):
        def formula(self, x: Any) -> Any:
            return formula(x)

        def derivative(self, x: Any, y: Any) -> Any:
            return np.ones_like(x)

    net = model(nnx.Dense(2, 6), Mine(), nnx.Dense(6, 1), loss=Squares(), backend=backend)
    before = net._state()["values"]
    with pytest.raises(error, match=words):
        net.fit(X, NUMBERS, verbose=0)
    np.testing.assert_array_equal(net._state()["values"], before)


def same(self: Any, *_: Any, **__: Any) -> Any:
    return None


WRONG_LAYERS: dict[str, tuple[dict[str, Any], str]] = {
    "forward": ({"forward": lambda self, inputs: inputs}, r"write def forward\(self, inputs, training=False\)"),
    "a list": ({"shapes": ["a"]}, r"expected a dict, \{'name': \(rows, columns\)\}"),
    "no tuple": ({"shapes": {"a": 3}}, "the shape of a is 3"),
    "below 0": ({"shapes": {"a": (1, -2)}}, "expected a tuple of numbers above 0"),
    "no draw": ({"shapes": {"a": (1, 2)}, "draw": lambda self, random: None}, r"draw\(\) returned None"),
    "no value": ({"shapes": {"a": (1, 2)}, "draw": lambda self, random: {}}, r"draw\(\) returned nothing, .*: a"),
    "another": ({"shapes": {"a": (1, 2)}, "draw": lambda self, random: {"b": 1}}, r"draw\(\) returned b, .*: a"),
    "nan": ({"shapes": {"a": (1, 1)}, "draw": lambda self, random: {"a": [[np.nan]]}}, "not finite"),
}


@pytest.mark.parametrize("what", WRONG_LAYERS)
def test_a_layer_that_no_model_can_use_is_refused_when_it_is_made(what: str) -> None:
    methods, words = WRONG_LAYERS[what]
    layer = type("Mine", (nnx.Layer,), {"forward": same, **methods})()
    with pytest.raises(nnx.InputError, match=words):
        nnx.Sequential(layer)


@pytest.mark.parametrize("method", ["forward", "backward"])
@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_layer_that_forgets_to_return_is_told_how(method: str, within: bool, backend: str) -> None:
    class Forgetful(Scale):
        pass

    def forgets(self: Scale, *given: Any, **more: Any) -> None:
        getattr(Scale, method)(self, *given, **more)

    setattr(Forgetful, method, forgets)
    layer = nnx.Residual(nnx.Dense(8, 8), Forgetful(8)) if within else Forgetful(8)
    model = nnx.Sequential(nnx.Dense(2, 8), layer, nnx.Dense(8, 3), nnx.Softmax(), backend=backend)
    model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1))
    before = model.flat.state.copy()
    kept = {"forward": "output", "backward": "dinputs"}[method]
    message = rf"{method}\(\) returned None, expected an array; end it with: return self\.{kept}"
    with pytest.raises(nnx.errors.InputTypeError, match=message):
        model.fit(X, Y, verbose=0)
    if method == "forward":
        with pytest.raises(nnx.errors.InputTypeError, match=message):
            model.predict(X)
    np.testing.assert_array_equal(model.flat.state, before)


def test_a_parameter_that_a_layer_has_not_is_told() -> None:
    with pytest.raises(nnx.InputError, match="has no parameter 'gain'; its shapes name weights, biases"):
        nnx.Dense(2, 3).parameter("gain")


def test_a_loss_that_says_nothing_or_has_an_unknown_metric_is_refused() -> None:
    empty, odd = type("Mine", (nnx.Loss,), {})(), type("Odd", (Squares,), {"metric": "mse"})()
    for loss, words in ((empty, r"write forward\(y_pred, y_true\)"), (odd, "metric='mse', expected 'categorical'")):
        with pytest.raises(nnx.InputError, match=words):
            nnx.Sequential(nnx.Dense(2, 1)).compile(loss, nnx.Adam())


def test_gradcheck_refuses_what_is_no_code() -> None:
    with pytest.raises(nnx.InputError, match="gradcheck: x: column 0 holds 7 in row 0"):
        nnx.gradcheck(nnx.Embedding(3, 2), [[7.0]])


# ---- gradients by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_may_be_changed_by_hand_before_the_update(backend: str) -> None:
    with nnx.use_backend(backend):
        dense = nnx.Dense(2, 3)
        dense.forward(X)
        dense.backward(np.ones((len(X), 3)))
        before, gradient = dense.weights.copy(), dense.dweights.copy()
        dense.dweights *= 0.5
        dense.dbiases = np.zeros((1, 3))
        nnx.SGD(0.1).update_params(dense)
        np.testing.assert_allclose(dense.weights, before - 0.05 * gradient, rtol=1e-5)
        np.testing.assert_array_equal(dense.biases, 0)
        with pytest.raises(nnx.InputError, match=r"a gradient of weights \(3,\) was given, expected \(2, 3\)"):
            dense.dweights = np.zeros(3)


# ---- callbacks of batches --------------------------------------------------------------------------------------------


class Noting(nnx.callbacks.Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def on_batch_end(self, model: Any, batch: int, logs: Any) -> None:
        self.seen.append((batch, dict(logs)))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_callback_hears_of_each_batch_and_changes_no_number(backend: str, weights: Any) -> None:
    def net() -> nnx.Sequential:
        layers = nnx.Dense(2, 6, weight_l2=1e-3), nnx.ReLU(), nnx.Dense(6, 3), nnx.Softmax()
        return model(*layers, loss=nnx.CategoricalCrossEntropy(), backend=backend)

    noting, heard, unheard = Noting(), net(), net()
    history = heard.fit(X, Y, 3, 16, callbacks=[noting], sample_weight=weights, verbose=0)
    assert history == unheard.fit(X, Y, 3, 16, sample_weight=weights, verbose=0)
    np.testing.assert_array_equal(heard.flat.values, unheard.flat.values)
    assert [batch for batch, _ in noting.seen] == 3 * [0, 1, 2, 3]
    if weights is None:
        for name in ("loss", "data_loss", "regularization_loss", "accuracy"):
            means = [np.average([logs[name] for _, logs in noting.seen[i : i + 4]], weights=[16, 16, 16, 12])
                     for i in (0, 4, 8)]  # fmt: skip
            np.testing.assert_allclose(means, history[name], rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_callback_changes_before_a_batch_is_that_of_the_batch(backend: str) -> None:
    """The rate of learning, and a number that the recorded step holds fast: each step is as by `step`."""

    class Changing(nnx.callbacks.Callback):
        def on_batch_begin(self, model: Any, batch: int) -> None:
            model.optimizer.learning_rate = 0.1 / (1 + batch)
            model.layers[0].weight_l2 = 1e-2 * batch

    nets = [model(nnx.Dense(2, 3), nnx.Softmax(), loss=nnx.CategoricalCrossEntropy(), backend=backend,
                  optimizer=nnx.SGD(0.1)) for _ in range(2)]  # fmt: skip
    nets[0].fit(X, Y, batch_size=16, shuffle=False, callbacks=[Changing()], verbose=0)
    for batch, first in enumerate(range(0, len(X), 16)):
        Changing().on_batch_begin(nets[1], batch)
        nets[1].step(X[first : first + 16], Y[first : first + 16])
    np.testing.assert_allclose(nets[0].flat.values, nets[1].flat.values, rtol=1e-12)


# ---- files -----------------------------------------------------------------------------------------------------------


def own() -> nnx.Sequential:
    layers = nnx.Dense(2, 6), Swish(0.5), Scale(6, begin=0.5), nnx.Dense(6, 1)
    net = model(*layers, loss=Squares(2.0), optimizer=Slow(0.1, momentum=0.9))
    net.fit(X, NUMBERS, epochs=2, batch_size=16, verbose=0)
    return net


CUSTOM = [Swish, Scale, Squares, Slow]


@pytest.mark.parametrize("backend", BACKENDS)
def test_models_of_ones_own_parts_are_saved_and_go_on_where_they_stopped(backend: str, tmp_path: Path) -> None:
    net = own()
    net.save(tmp_path / "m")
    read = nnx.load(tmp_path / "m", backend=backend, custom=CUSTOM)
    assert [type(layer) for layer in read.layers] == [type(layer) for layer in net.layers]
    assert (read.layers[1].beta, read.loss.factor, type(read.optimizer)) == (0.5, 2.0, Slow)  # type: ignore[attr-defined]
    np.testing.assert_allclose(read.predict(X), net.predict(X), rtol=1e-12)
    for one in (net, read):
        one.fit(X, NUMBERS, epochs=2, batch_size=16, verbose=0)
    np.testing.assert_allclose(read.predict(X), net.predict(X), rtol=1e-9)


def test_whoever_loads_it_is_told_which_classes_to_give(tmp_path: Path) -> None:
    own().save(tmp_path / "m")
    with pytest.raises(nnx.InputError, match=r"of its author's own, Swish, Squares, .*custom=\[Swish, Squares\]\)"):
        nnx.load(tmp_path / "m", custom=[Scale, Slow])
    with pytest.raises(nnx.InputError, match=r"Swish is <function misses.*expected a class made from Layer"):
        nnx.load(tmp_path / "m", custom={"Swish": misses, **{kind.__name__: kind for kind in CUSTOM[1:]}})


def test_a_class_that_is_called_otherwise_now_is_given_by_its_old_name(tmp_path: Path) -> None:
    own().save(tmp_path / "m")
    renamed = type("Silu", (Swish,), {})
    read = nnx.load(tmp_path / "m", custom={"Swish": renamed, **{kind.__name__: kind for kind in CUSTOM[1:]}})
    assert type(read.layers[1]) is renamed


@pytest.mark.parametrize("custom", [3, "Swish", [3], [Scale, type("Scale", (Scale,), {})]])
def test_refuses_what_is_no_list_of_classes(custom: Any, tmp_path: Path) -> None:
    with pytest.raises(nnx.InputError, match="load: custom"):
        nnx.load(tmp_path / "m", custom=custom)


def test_metrics_of_ones_own_come_back_where_they_are_given(tmp_path: Path) -> None:
    net = model(nnx.Dense(2, 3), nnx.Softmax(), loss=nnx.CategoricalCrossEntropy(), metrics=["accuracy", misses])
    net.save(tmp_path / "m")
    assert nnx.load(tmp_path / "m", custom=[misses]).evaluate(X, Y) == net.evaluate(X, Y)
    with pytest.warns(UserWarning, match=r"give them: nnx.load\(path, custom=\[misses\]\)"):
        nnx.load(tmp_path / "m")


def test_a_class_of_ones_own_may_be_called_as_one_of_nnxs_is(tmp_path: Path) -> None:
    mine = type("Dense", (nnx.Dense,), {})
    net = nnx.Sequential(nnx.Dense(2, 3), mine(3, 1), backend="numpy")
    net.save(tmp_path / "m")
    read = nnx.load(tmp_path / "m", backend="numpy", custom=[mine])
    assert [type(layer) for layer in read.layers] == [nnx.Dense, mine]
    np.testing.assert_array_equal(read.predict(X), net.predict(X))


def test_the_command_line_says_that_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer")
    from nnx.cli import main

    own().save(tmp_path / "m")
    np.savez(tmp_path / "x.npz", x=X)
    assert main(["predict", str(tmp_path / "m"), str(tmp_path / "x.npz")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "its author's own, Swish, Scale, Squares, Slow, which no file can hold: load it in Python" in told


def nested(depth: int) -> dict[str, Any]:
    part: dict[str, Any] = {"custom": "Scale", "arguments": {}}
    for _ in range(depth):
        part = {"custom": "Scale", "arguments": {"layers": [part]}}
    return part


SWISH: dict[str, Any] = {"custom": "Swish", "arguments": {"beta": 0.5}}
DAMAGED: dict[str, Any] = {
    "one of nnx's under the name of one's own": SWISH | {"custom": "Dense"},
    "a path": SWISH | {"custom": "os.system"},
    "escape sequences": SWISH | {"custom": "a\x1b[2J"},
    "no name": SWISH | {"custom": 3},
    "a list for a name": SWISH | {"custom": ["Swish"]},
    "nothing for a name": SWISH | {"custom": None},
    "a loss for a layer": SWISH | {"custom": "Squares"},
    "other arguments": SWISH | {"arguments": {"gamma": 1}},
    "a list of arguments": SWISH | {"arguments": [1]},
    "a number of arguments": SWISH | {"arguments": 1},
    "no arguments": {"custom": "Swish"},
    "both": SWISH | {"class": "ReLU"},
    "layers within layers": nested(80),
    "very many": nested(280),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_file_makes_no_class_that_was_not_given_for_it(how: str, tmp_path: Path) -> None:
    own().save(tmp_path / "m")
    data = (tmp_path / "m").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    described = json.loads(header["__metadata__"]["model"])
    assert described["layers"][1] == SWISH
    described["layers"][1] = DAMAGED[how]
    _rewrite(tmp_path / "m", header, json.dumps(described), data[end:])
    if how == "both":  # what else stands there is nobody's
        assert type(nnx.load(tmp_path / "m", custom=CUSTOM).layers[1]) is Swish
        return
    with pytest.raises((nnx.InputError, nnx.errors.FileFormatError)) as caught:
        nnx.load(tmp_path / "m", custom=CUSTOM)
    assert "\x1b" not in str(caught.value)


def _rewrite(path: Path, header: dict[str, Any], text: str, arrays: bytes) -> None:
    """Write a model's file with another description and the checksum that goes with it."""
    from safetensors.numpy import load

    from nnx.model.checkpoint import checksum

    tensors = load(path.read_bytes())
    header["__metadata__"] |= {"model": text, "crc32": checksum(text, tensors)}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + arrays)


class Doubling(nnx.Layer):
    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.output = inputs * 2
        return self.output

    def backward(self, dvalues: Any) -> Any:
        self.dinputs = dvalues * 2
        return self.dinputs


class DoublingInPlace(nnx.Layer):
    """The same, by a layer that spares itself two arrays, at the cost of whoever has its inputs."""

    def forward(self, inputs: Any, training: bool = False) -> Any:
        inputs *= 2
        self.output = inputs
        return inputs

    def backward(self, dvalues: Any) -> Any:
        dvalues *= 2
        self.dinputs = dvalues
        return dvalues


class SquaresInPlace(Squares):
    def forward(self, y_pred: Any, y_true: Any) -> Any:  # type: ignore[override]
        y_true -= y_pred
        return (y_true**2).mean(axis=1)


class DoublingFormula(nnx.Elementwise):
    def formula(self, x: Any) -> Any:
        x *= 2
        return x

    def derivative(self, x: Any, y: Any) -> Any:
        return np.full_like(x, 2)


EDITING: dict[str, Callable[[Any], list[nnx.Layer]]] = {
    "edits its inputs": lambda kind: [kind(), nnx.Dense(2, 1)],
    "edits its inputs in place": lambda kind: [nnx.Dropout(0.0), nnx.Residual(kind()), nnx.Dense(2, 1)],
    "edits its dvalues in place": lambda kind: [
        nnx.Dense(2, 2),
        nnx.Residual(nnx.Dense(2, 2), kind()),
        nnx.Dense(2, 1),
    ],
    "edits the targets": lambda kind: [nnx.Dense(2, 1)],
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reason", EDITING)
def test_who_edits_in_place_what_others_read_edits_a_copy(reason: str, backend: str) -> None:
    x, y = X.astype("float32"), X[:, :1].astype("float32")
    found = []
    for layer, loss in ((Doubling, Squares), (DoublingInPlace, SquaresInPlace)):
        model = nnx.Sequential(*EDITING[reason](layer), backend=backend, seed=1).compile(loss(), nnx.SGD(0.01))
        losses = [
            *model.fit(x, y, epochs=3, verbose=0)["loss"],
            *model.fit(x, y, epochs=2, batch_size=40, accumulate=2, verbose=0)["loss"],
            *model.steps(x, y, 2),
            model.evaluate(x, y)["loss"],
        ]
        found.append([*losses, *model.predict(x)[:, 0]])
    assert np.allclose(*found, rtol=1e-5, atol=1e-6)
    assert "in place" in str(model.eager_reason)
    assert np.array_equal(x, X.astype("float32"))
    assert np.array_equal(y, x[:, :1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_formula_that_writes_into_what_it_is_given_is_refused(backend: str) -> None:
    model = nnx.Sequential(nnx.Dense(2, 2), DoublingFormula(), nnx.Dense(2, 1), backend=backend)
    with pytest.raises(nnx.InputError, match="DoublingFormula: its formula writes into what it is given: compute new"):
        model.compile(nnx.MeanSquaredError(), nnx.SGD(0.01)).fit(X, X[:, :1], verbose=0)


def test_a_layer_keeps_the_rows_it_is_given() -> None:
    class Fewer(Doubling):
        def forward(self, inputs: Any, training: bool = False) -> Any:
            self.output = inputs[:-1]
            return self.output

    model = nnx.Sequential(nnx.Dense(2, 3), Fewer(), nnx.Softmax(), backend="numpy")
    model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.01))
    for call in (lambda: model.fit(X, Y, verbose=0), lambda: model.predict(X)):
        with pytest.raises(nnx.InputError, match=r"Fewer\(\): forward\(\) returned an array of shape"):
            call()


def test_layers_within_a_layer_that_no_step_would_move_are_refused() -> None:
    class Wrapping(nnx.Layer):
        def __init__(self, parts: Any) -> None:
            self.parts = parts

        def forward(self, inputs: Any, training: bool = False) -> Any:
            self.output = self.parts[0].forward(inputs, training)
            return self.output

        def backward(self, dvalues: Any) -> Any:
            self.dinputs = self.parts[0].backward(dvalues)
            return self.dinputs

    with pytest.raises(
        nnx.InputError, match=r"Wrapping\(\): its parts is Dense\(2, 2\), whose parameters the model does"
    ):
        nnx.Sequential(Wrapping([nnx.Dense(2, 2)]), nnx.Dense(2, 3), backend="numpy")
    fixed = nnx.Dense(2, 2)
    fixed.trainable = False
    nnx.Sequential(Wrapping([fixed]), nnx.Dense(2, 3), backend="numpy")
    nnx.Sequential(Wrapping((nnx.ReLU(),)), nnx.Dense(2, 3), backend="numpy")


class Falling(nnx.SGD):
    """An optimizer as the book has it, with a rate of its own."""

    def pre_update_params(self) -> None:
        self.learning_rate *= 0.5


class Plain(nnx.Optimizer):
    """One with an `update` that a test replaces."""

    def update(self, flat: Any, hyper: Any, counters: Any, backend: Any = None) -> None:
        flat.values[...] = flat.values - self.learning_rate * flat.gradients


def test_what_no_step_would_ask_of_an_optimizer_is_refused() -> None:
    def kind(base: type[nnx.Optimizer], **methods: Any) -> Any:
        return type("Mine", (base,), methods)

    compiled = nnx.Sequential(nnx.Dense(2, 3), nnx.Softmax(), backend="numpy")
    refused = {
        "Falling has a pre_update_params of its own": Falling(0.1),
        "Mine has a post_update_params of its own": kind(Plain, post_update_params=lambda self: None)(0.1),
        "Mine has a update_params of its own": kind(nnx.SGD, update_params=lambda self, layer: None)(0.1),
        "Mine has a current_learning_rate of its own": kind(nnx.SGD, current_learning_rate=property(float))(),
        "Mine says nowhere how it moves parameters": kind(nnx.Optimizer)(0.1),
        "Mine: a model calls update(flat, hyper, counters, backend)": kind(Plain, update=lambda self, flat: None)(0.1),
        "Mine: moments='first': expected a tuple": kind(Plain, moments="first")(0.1),
        "Mine.__init__() does not call super().__init__": kind(Plain, __init__=lambda self: None)(),
    }  # fmt: skip
    for message, optimizer in refused.items():
        with pytest.raises(nnx.InputError, match=re.escape(message)):
            compiled.compile(nnx.CategoricalCrossEntropy(), optimizer)
    compiled.compile(nnx.CategoricalCrossEntropy(), Plain(0.1)).step(X, Y)  # without moments
    compiled.optimizer = nnx.SGD(0.1)
    compiled.optimizer.pre_update_params = lambda: None
    with pytest.raises(nnx.InputError, match="pre_update_params of its own"):
        compiled.step(X, Y)


def test_an_update_that_leaves_the_parameters_alone_is_refused() -> None:
    class Rebinding(Plain):
        def update(self, flat: Any, hyper: Any, counters: Any, backend: Any = None) -> None:
            flat.values = flat.values - self.learning_rate * flat.gradients

    class Returning(Plain):
        def update(self, flat: Any, hyper: Any, counters: Any, backend: Any = None) -> Any:
            return flat.values - self.learning_rate * flat.gradients

    for optimizer, message in ((Rebinding(0.1), "another array of flat.values"), (Returning(0.1), "returned an array")):
        model = nnx.Sequential(nnx.Dense(2, 3), nnx.Softmax(), backend="numpy")
        model.compile(nnx.CategoricalCrossEntropy(), optimizer)
        before, values = model.flat.values, model.flat.values.copy()
        with pytest.raises(nnx.InputError, match=message):
            model.fit(X, Y, verbose=0)
        assert model.flat.values is before
        assert np.array_equal(before, values)


def test_a_loss_that_takes_other_arguments_is_refused_when_it_is_compiled() -> None:
    class Alone(Squares):
        def forward(self, y_pred: Any) -> Any:  # type: ignore[override]
            return y_pred

    model = nnx.Sequential(nnx.Dense(2, 1), backend="numpy")
    with pytest.raises(nnx.InputError, match=r"Alone: a model calls forward\(y_pred, y_true\): too many"):
        model.compile(Alone(), nnx.SGD(0.1))


@pytest.mark.parametrize("within", [False, True])
def test_gradcheck_finds_a_gradient_that_is_added_to_the_last_one(within: bool) -> None:
    class Adding(Scale):
        def backward(self, dvalues: Any) -> Any:
            self.gradient("factors")[...] += self.backend.xp.sum(dvalues * self.inputs, axis=0, keepdims=True)
            return dvalues * self.parameter("factors")

    def worst(layer: nnx.Layer) -> float:
        if not within:
            return nnx.gradcheck(layer, X[:5])
        model = nnx.Sequential(layer, nnx.Dense(2, 1), backend="numpy")
        return nnx.gradcheck(model.compile(nnx.MeanSquaredError(), nnx.SGD(0.1)), X[:5], X[:5, :1])

    assert worst(Adding(2)) > 0.1
    assert worst(Scale(2)) < 1e-6
    assert worst(DoublingInPlace()) < 1e-6


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"values": [1, 2]}, r"Mine: its values is \[1, 2\], but values\(\) is a method of Layer"),
        ({"strengths": None}, "Mine: its strengths is None"),
        ({"draw": lambda self: {}}, r"Mine: a model calls draw\(random\): too many .*write def draw\(self, random\)"),
        ({"backward": lambda self: None}, r"Mine: a model calls backward\(dvalues\): too many"),
    ],
)
def test_what_stands_where_a_method_is_called_is_refused(names: dict[str, Any], message: str) -> None:
    within = type("Mine", (Doubling,), names)()
    for layer in (within, nnx.Residual(within)):
        with pytest.raises(nnx.InputError, match=message):
            nnx.Sequential(layer, nnx.Dense(2, 1), backend="numpy")
    formula = type("Mine", (DoublingFormula,), {"derivative": None})()
    with pytest.raises(nnx.InputError, match=r"Mine: its derivative is None, but derivative\(\) is a method of Elem"):
        nnx.Sequential(formula, nnx.Dense(2, 1), backend="numpy")
    other = Doubling()
    for name in ("inner", "paths", "follow", "layers"):  # of which other layers have one
        setattr(other, name, 5)
    model = nnx.Sequential(other, nnx.Dense(2, 1), backend="numpy").compile(nnx.MeanSquaredError(), nnx.SGD(0.01))
    assert "Doubling" in model.summary()
    model.step(X, X[:, :1])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda x: (x, x), "returned a tuple, expected an array"),
        (lambda x: (row for row in x), "returned a generator, expected an array"),
        (lambda x: x[:, 0], r"returned \(60,\), but a model's last layer gives an array \[samples, outputs\]"),
        (lambda x: x.tolist(), "returned list, but a model's last layer"),
    ],
    ids=["tuple", "generator", "a number for each row", "list"],
)
def test_what_a_model_puts_out_is_a_table(made: Callable[[Any], Any], message: str) -> None:
    class Last(Doubling):
        def forward(self, inputs: Any, training: bool = False) -> Any:
            return made(inputs)

    model = nnx.Sequential(nnx.Dense(2, 1), Last(), backend="numpy").compile(nnx.MeanSquaredError(), nnx.SGD(0.1))
    with pytest.raises(nnx.InputError, match=rf"Last\(\): forward\(\) {message}"):
        model.predict(X)
    with pytest.raises(nnx.InputError, match=r"Last\(\): forward\(\) returned"):
        model.fit(X, X[:, 0], verbose=0)


def test_what_json_would_turn_into_something_else_is_not_saved(tmp_path: Path) -> None:
    class Chosen(Doubling):
        def __init__(self, rates: Any) -> None:
            self.rates = rates

    nnx.Sequential(nnx.Dense(2, 1), Chosen({"a": (1, 2)}), backend="numpy").save(tmp_path / "m.safetensors")
    with pytest.raises(nnx.InputError, match="beyond JSON: keys of dictionaries are text there"):
        nnx.Sequential(nnx.Dense(2, 1), Chosen([{1: 0.5}]), backend="numpy").save(tmp_path / "m.safetensors")
