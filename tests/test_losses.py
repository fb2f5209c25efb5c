"""Losses and accuracy against their formulas in float64, at their extremes, and for every way of writing targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.testing.rounding import rounding

pytestmark = pytest.mark.rounding

CLIP = 1e-7
RTOL = {dtype: rounding(84, dtype) for dtype in ("float32", "float64")}  # sums of up to 40, a log, a mean
both_types = pytest.mark.parametrize("dtype", ["float32", "float64"])


# NumPy warns of 0 * inf and inf - inf also where the result is not taken; models turn that off around their steps.
infinite = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


# ---- the formulas, straight and slow: loss of each sample, gradient of their mean -----------------------------------


def one_hot(y: Any, classes: int) -> np.ndarray:
    y = np.asarray(y)
    return np.eye(classes)[y] if y.ndim == 1 else y


def cross_entropy(p: np.ndarray, y: Any) -> tuple[np.ndarray, np.ndarray]:
    t, p = one_hot(y, p.shape[1]), np.clip(p, CLIP, 1 - CLIP)
    return -(t * np.log(p)).sum(axis=1), -t / p / len(p)


def softmax_cross_entropy(z: np.ndarray, y: Any) -> tuple[np.ndarray, np.ndarray]:
    t, z = one_hot(y, z.shape[1]), z - z.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return -np.where(t > 0, t * log_p, 0).sum(axis=1), (np.exp(log_p) - t) / len(z)


def binary_cross_entropy(p: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = np.clip(p, CLIP, 1 - CLIP)
    return -(t * np.log(p) + (1 - t) * np.log1p(-p)).mean(axis=1), ((1 - t) / (1 - p) - t / p) / p.size


def sigmoid_cross_entropy(z: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (np.logaddexp(0, z) - t * z).mean(axis=1), ((1 + np.tanh(z / 2)) / 2 - t) / z.size


def squared(a: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ((a - t) ** 2).mean(axis=1), 2 * (a - t) / a.size


def absolute(a: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.abs(a - t).mean(axis=1), np.sign(a - t) / a.size


def probabilities(rows: int, columns: int) -> np.ndarray:
    p = np.random.default_rng(0).uniform(0.01, 1, (rows, columns))
    return p / p.sum(axis=1, keepdims=True)


def shares(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(4).uniform(0.01, 0.99, (rows, columns))


def numbers(rows: int, columns: int) -> np.ndarray:
    return 3 * np.random.default_rng(1).standard_normal((rows, columns))


def labels(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, columns, rows)


def bits(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 2, (rows, columns))


def soft(rows: int, columns: int) -> np.ndarray:
    return probabilities(rows, columns)[::-1]


CASES: dict[str, tuple[type[nnx.Loss], Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "categorical, labels": (nnx.CategoricalCrossEntropy, cross_entropy, probabilities, labels),
    "categorical, soft": (nnx.CategoricalCrossEntropy, cross_entropy, probabilities, soft),
    "softmax and categorical, labels": (nnx.SoftmaxCrossEntropy, softmax_cross_entropy, numbers, labels),
    "softmax and categorical, soft": (nnx.SoftmaxCrossEntropy, softmax_cross_entropy, numbers, soft),
    "binary": (nnx.BinaryCrossEntropy, binary_cross_entropy, shares, bits),
    "binary, shares": (nnx.BinaryCrossEntropy, binary_cross_entropy, shares, soft),
    "sigmoid and binary": (nnx.SigmoidCrossEntropy, sigmoid_cross_entropy, numbers, bits),
    "sigmoid and binary, shares": (nnx.SigmoidCrossEntropy, sigmoid_cross_entropy, numbers, soft),
    "squared": (nnx.MeanSquaredError, squared, numbers, probabilities),
    "absolute": (nnx.MeanAbsoluteError, absolute, numbers, probabilities),
}


@both_types
@pytest.mark.parametrize("shape", [(1, 2), (7, 3), (300, 3), (5, 40), (1, 1), (6, 1)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_formulas(case: str, shape: tuple[int, int], dtype: str) -> None:
    kind, formula, outputs, wanted = CASES[case]
    x, y = outputs(*shape).astype(dtype), wanted(*shape)
    if case == "categorical, soft":
        y = y.astype(dtype)
    want, want_gradient = formula(x.astype(np.float64), y)
    loss = kind()
    got = loss.forward(x, y)
    assert loss.output is got
    assert (got.shape, got.dtype) == ((shape[0],), dtype)
    tolerance = rounding(16, dtype)  # of differences of numbers about 1
    np.testing.assert_allclose(got, want, rtol=RTOL[dtype], atol=tolerance)
    assert loss.calculate(x, y) == pytest.approx(want.mean(), rel=RTOL[dtype], abs=tolerance)
    gradient = loss.backward(x, y)
    assert loss.dinputs is gradient
    assert (gradient.shape, gradient.dtype) == (shape, dtype)
    np.testing.assert_allclose(gradient, want_gradient, rtol=RTOL[dtype], atol=tolerance / shape[0])


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_of_the_mean_and_arguments_stay(case: str) -> None:
    kind, _, outputs, wanted = CASES[case]
    x, y = outputs(6, 4), wanted(6, 4)
    kept_x, kept_y = x.copy(), y.copy()
    once = kind().backward(x, y)
    twice = kind().backward(np.concatenate([x, x]), np.concatenate([y, y]))
    np.testing.assert_allclose(twice[:6], once / 2, rtol=rounding(16))
    np.testing.assert_array_equal(x, kept_x)
    np.testing.assert_array_equal(y, kept_y)


@pytest.mark.parametrize("case", CASES)
def test_smaller_batches_after_larger_ones(case: str) -> None:
    kind, formula, outputs, wanted = CASES[case]
    loss = kind()
    for rows in (9, 4, 9, 1):
        x, y = outputs(rows, 3), wanted(rows, 3)
        np.testing.assert_allclose(loss.forward(x, y), formula(x, y)[0], rtol=RTOL["float64"])
        np.testing.assert_allclose(loss.backward(x, y), formula(x, y)[1], rtol=RTOL["float64"], atol=1e-16)


# ---- extremes ------------------------------------------------------------------------------------------------------


@both_types
def test_probabilities_of_0_and_1(dtype: str) -> None:
    p = np.array([[0.0, 1, 0], [1, 0, 0]], dtype)
    loss = nnx.CategoricalCrossEntropy()
    close, one = rounding(16, dtype), rounding(1, dtype)  # of 1 - CLIP, which in float32 is 1 - 1.2e-7
    np.testing.assert_allclose(loss.forward(p, [0, 0]), [-np.log(CLIP), -np.log1p(-CLIP)], rtol=close, atol=one)
    np.testing.assert_allclose(
        loss.backward(p, [0, 0]), [[-0.5 / CLIP, 0, 0], [-0.5 / (1 - CLIP), 0, 0]], rtol=close, atol=one
    )
    binary = nnx.BinaryCrossEntropy()
    right = -np.log1p(-CLIP)
    wrong = -np.log(CLIP)
    np.testing.assert_allclose(
        binary.forward(p, [[0, 1, 0], [0, 0, 1]]), [right, (right + 2 * wrong) / 3], rtol=one / CLIP / wrong, atol=one
    )
    assert np.isfinite(binary.backward(p, [[0, 1, 0], [0, 0, 1]])).all()


@both_types
@infinite
def test_large_and_infinite_logits(dtype: str) -> None:
    z = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [-np.inf, 0, 0], [-np.inf, -np.inf, 5]], dtype)
    loss = nnx.SoftmaxCrossEntropy()
    np.testing.assert_allclose(loss.forward(z, [1, 0, 2, 2]), [2e4, np.log(3), np.log(2), 0], rtol=rounding(16, dtype))
    third = 1 / 3
    want = np.array([[1, -1, 0], [third - 1, third, third], [0, 0.5, -0.5], [0, 0, 0]]) / 4
    np.testing.assert_allclose(loss.backward(z, [1, 0, 2, 2]), want, rtol=rounding(16, dtype), atol=rounding(1, dtype))
    distributions = np.array([[0, 1, 0], [1, 0, 0], [0, 0.5, 0.5], [0, 0, 1]])  # an impossible class costs nothing
    np.testing.assert_allclose(loss.forward(z, distributions), [2e4, np.log(3), np.log(2), 0], rtol=rounding(16, dtype))
    assert loss.forward(z[2:3], [0]) == np.inf


@both_types
@infinite
def test_large_and_infinite_logits_of_sigmoids(dtype: str) -> None:
    z = np.array([[1e4, -1e4, 0], [np.inf, -np.inf, 0]], dtype)
    loss = nnx.SigmoidCrossEntropy()
    np.testing.assert_allclose(
        loss.forward(z, [[1, 0, 1], [1, 0, 0]]), [np.log(2) / 3, np.log(2) / 3], rtol=rounding(16, dtype)
    )
    close = rounding(16, dtype)
    np.testing.assert_allclose(loss.forward(z[:1], [[0, 1, 0]]), [(2e4 + np.log(2)) / 3], rtol=close)
    want = [[0, 0, -0.5 / 6], [0, 0, 0.5 / 6]]
    np.testing.assert_allclose(loss.backward(z, [[1, 0, 1], [1, 0, 0]]), want, rtol=close)


@both_types
@pytest.mark.parametrize("clip", [0, 1e-7, 1e-3])
def test_clipped_fused_losses_are_those_of_clipped_probabilities(clip: float, dtype: str) -> None:
    z = np.array([[30.0, -30, 0], [0.1, 0.2, 0.3], [-50, 50, 50]], dtype)
    lowest, highest = (0, np.inf) if clip == 0 else (-np.log1p(-clip), -np.log(clip))
    want = np.clip(softmax_cross_entropy(z.astype(np.float64), [1, 0, 0])[0], lowest, highest)
    for y in ([1, 0, 0], np.eye(3)[[1, 0, 0]]):
        close = {"rtol": rounding(16, dtype), "atol": rounding(1, dtype)}
        np.testing.assert_allclose(nnx.SoftmaxCrossEntropy(clip).forward(z, y), want, **close)
    np.testing.assert_allclose(  # the gradient is the exact one
        nnx.SoftmaxCrossEntropy(clip).backward(z, [1, 0, 0]), nnx.SoftmaxCrossEntropy().backward(z, [1, 0, 0])
    )


def test_perfect_predictions_cost_nothing_and_pull_nowhere() -> None:
    x = numbers(5, 3)
    for loss in (nnx.MeanSquaredError(), nnx.MeanAbsoluteError()):
        assert loss.calculate(x, x) == 0
        assert not loss.backward(x, x).any()


# ---- every way of writing the same targets -------------------------------------------------------------------------

WAYS: dict[str, Callable[[np.ndarray], Any]] = {
    **{dtype: (lambda y, t=dtype: y.astype(t)) for dtype in (
        "int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64", "float16", "float32", "float64", "longdouble",
    )},
    "list": lambda y: y.tolist(),
    "list of floats": lambda y: y.astype(float).tolist(),
    "column": lambda y: y[:, None],
    "column of uint8": lambda y: y[:, None].astype(np.uint8),
    "big-endian": lambda y: y.astype(">i4"),
    **{f"one-hot {dtype}": (lambda y, t=dtype: np.eye(3)[y].astype(t)) for dtype in (
        "bool", "int8", "uint8", "int64", "float16", "float32", "float64",
    )},
    "one-hot list": lambda y: np.eye(3)[y].tolist(),
    "one-hot by columns": lambda y: np.asfortranarray(np.eye(3)[y]),
}  # fmt: skip


@both_types
@pytest.mark.parametrize("kind", [nnx.CategoricalCrossEntropy, nnx.SoftmaxCrossEntropy])
@pytest.mark.parametrize("way", WAYS)
def test_labels_and_one_hot_of_every_type_are_the_same(way: str, kind: type[nnx.Loss], dtype: str) -> None:
    x, y = probabilities(7, 3).astype(dtype), labels(7, 3)
    given = WAYS[way](y)
    loss, plain = kind(), kind()
    np.testing.assert_array_equal(loss.forward(x, given), plain.forward(x, y))
    np.testing.assert_array_equal(loss.backward(x, given), plain.backward(x, y))
    assert loss.dinputs.dtype == dtype
    assert nnx.accuracy(x, given) == nnx.accuracy(x, y)


@pytest.mark.parametrize("kind", [nnx.BinaryCrossEntropy, nnx.SigmoidCrossEntropy, nnx.MeanSquaredError])
@pytest.mark.parametrize("given", ["bool", "int8", "uint8", "int64", "float16", "float32"])
def test_bits_of_every_type_are_the_same(kind: type[nnx.Loss], given: str) -> None:
    x, y = probabilities(7, 3), bits(7, 3)
    np.testing.assert_array_equal(kind().backward(x, y.astype(given)), kind().backward(x, y.astype(float)))
    one = kind().backward(x[:, :1], y[:, 0].astype(given))  # [N] where there is one output
    np.testing.assert_array_equal(one, kind().backward(x[:, :1], y[:, :1].astype(float)))


def test_bool_labels_are_two_classes() -> None:
    p = probabilities(4, 2)
    y = np.array([True, False, False, True])
    np.testing.assert_array_equal(
        nnx.CategoricalCrossEntropy().backward(p, y), nnx.CategoricalCrossEntropy().backward(p, y.astype(int))
    )


def test_the_books_fault_uint8_one_hot_does_not_wrap() -> None:
    y = np.eye(3, dtype=np.uint8)
    gradient = nnx.CategoricalCrossEntropy().backward(np.full((3, 3), 1 / 3), y)
    # The book's is 255 times as large, and positive.
    np.testing.assert_allclose(gradient, -np.eye(3), rtol=rounding(16, "float32"))


def test_the_books_fault_mean_absolute_error_points_downhill() -> None:
    x, y = np.array([[2.0], [-3]]), np.array([[1.0], [1]])
    loss = nnx.MeanAbsoluteError()
    assert loss.calculate(x - 0.1 * loss.backward(x, y), y) < loss.calculate(x, y)


def test_the_books_fault_nothing_is_broadcast() -> None:
    for loss in (nnx.MeanSquaredError(), nnx.MeanAbsoluteError(), nnx.BinaryCrossEntropy()):
        x = probabilities(4, 1)
        assert loss.forward(x, x[:, 0]).shape == (4,)
        for wrong in (x[:, 0][None], np.ones((4, 4)), np.ones(3), 1.0, np.ones((4, 1, 1)), np.ones((4, 2))):
            with pytest.raises(nnx.InputError, match=r"broadcast|shape"):
                loss.forward(x, wrong)


# ---- accuracy ------------------------------------------------------------------------------------------------------


def test_accuracy_of_labels_and_rows() -> None:
    outputs = [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [0.4, 0.5, 0.1]]
    for y in ([0, 2, 1, 0], [[0], [2], [1], [0]], np.eye(3, dtype=np.uint8)[[0, 2, 1, 0]], np.float32([0, 2, 1, 0])):
        assert nnx.accuracy(outputs, y) == 0.75
        assert nnx.accuracy([0, 2, 1, 1], y) == 0.75
    assert isinstance(nnx.accuracy(outputs, [0, 0, 0, 0]), float)


def fixed(outputs: np.ndarray, loss: nnx.Loss, ending: nnx.Layer | None = None) -> nnx.Sequential:
    """A model whose outputs for rows of the unit matrix are these."""
    dense = nnx.Dense(*outputs.shape, init=outputs)
    model = nnx.Sequential(*([dense] if ending is None else [dense, ending]), dtype="float64")
    return model.compile(loss, nnx.SGD(0.1))


@pytest.mark.parametrize("batch", [None, 1, 3, 4])
def test_metrics_of_a_model(batch: int | None) -> None:
    z = np.array([[2.0, -1, 0.5], [-1, 3, -2], [0.2, 0.1, -0.3], [-1, -2, -3], [1, 2, 3]])
    x = np.eye(5)
    y, t = np.array([0, 1, 1, 0, 0]), np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 0]])
    p, s = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), 1 / (1 + np.exp(-z))
    categorical, binary = 3 / 5, ((z > 0) == t).mean()
    target = z + np.array([[0], [0], [0], [0], [1]])
    cases = [
        (nnx.CategoricalCrossEntropy(), nnx.Softmax(), y, cross_entropy(p, y)[0].mean(), categorical),
        (nnx.CategoricalCrossEntropy(), nnx.Softmax(), np.eye(3)[y], cross_entropy(p, y)[0].mean(), categorical),
        (nnx.SoftmaxCrossEntropy(), None, y, softmax_cross_entropy(z, y)[0].mean(), categorical),
        (nnx.BinaryCrossEntropy(), nnx.Sigmoid(), t, binary_cross_entropy(s, t)[0].mean(), binary),
        (nnx.SigmoidCrossEntropy(), None, t, sigmoid_cross_entropy(z, t)[0].mean(), binary),
        (nnx.MeanSquaredError(), None, target, 0.2, 0.8),
        (nnx.MeanAbsoluteError(), nnx.Linear(), target, 0.2, 0.8),
    ]
    for loss, ending, wanted, mean, accuracy in cases:
        scores = fixed(z, loss, ending).evaluate(x, wanted, batch_size=batch)
        assert scores == {"loss": pytest.approx(mean, rel=1e-12), "accuracy": pytest.approx(accuracy)}


def test_the_books_faults_in_regression_accuracy() -> None:
    z = np.array([[1.0], [2], [3], [4]])
    model = fixed(z, nnx.MeanSquaredError())
    assert model.evaluate(np.eye(4), z[:, 0])["accuracy"] == 1  # the book compares each with each
    many = fixed(np.repeat(z, 3, axis=1), nnx.MeanSquaredError())
    for batch in (1, 3, None):
        assert many.evaluate(np.eye(4), np.repeat(z, 3, axis=1), batch_size=batch)["accuracy"] == 1  # the book: 3.0


def test_regression_counts_what_is_within_a_250th_of_the_deviation() -> None:
    y = np.random.default_rng(0).standard_normal((200, 1))
    near = y.std() / 250
    off = np.where(np.arange(200)[:, None] % 4 == 0, 1.01, 0.99) * near
    model = fixed(y + off, nnx.MeanSquaredError())
    assert model.evaluate(np.eye(200), y)["accuracy"] == 0.75


def test_evaluate_leaves_penalties_out_and_fit_lists_both() -> None:
    model = nnx.Sequential(nnx.Dense(2, 1, weight_l2=0.5, init=[[1.0], [1.0]]), dtype="float64")
    model.compile(nnx.MeanSquaredError(), nnx.SGD(1e-12))
    x, y = np.eye(2), np.zeros((2, 1))
    assert model.evaluate(x, y)["loss"] == 1
    history = model.fit(x, y, verbose=0)
    assert history["data_loss"] == [pytest.approx(1)]
    assert history["regularization_loss"] == [pytest.approx(1)]
    assert history["loss"] == [pytest.approx(2)]
    assert model.step(x, y) == pytest.approx(2)


# ---- Huber -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_huber_is_half_a_square_and_then_its_tangent(backend):
    if backend == "numba":
        pytest.importorskip("numba")
    y, target = np.array([[0.0, 0.5], [2.0, -3.0], [0.5, -0.5]]), np.zeros((3, 2))
    with nnx.use_backend(backend):
        loss = nnx.Huber(0.5)
        np.testing.assert_allclose(loss.forward(y, target), [0.0625, (0.875 + 1.375) / 2, 0.125])
        np.testing.assert_allclose(loss.backward(y, target), np.array([[0, 0.5], [0.5, -0.5], [0.5, -0.5]]) / 6)
        far = np.array([[np.inf, 1], [np.nan, 1], [-1e30, 1]])
        assert np.isposinf(loss.forward(far, target)[0])
        assert np.isnan(loss.forward(far, target)[1])
        np.testing.assert_array_equal(loss.backward(far, target)[:, 0] * 6, [0.5, np.nan, -0.5])


@pytest.mark.parametrize("family", ["rows", "lanes"])
def test_huber_in_a_recorded_step_and_with_another_delta(family, monkeypatch, tmp_path):
    pytest.importorskip("numba")
    monkeypatch.setenv("NNX_PROGRAM", family)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(37, 3)), 3 * random.normal(size=(37, 2))
    losses = []
    for backend in ("numpy", "numba"):
        layers = nnx.Dense(3, 20), nnx.Tanh(), nnx.Dense(20, 2)
        model = nnx.Sequential(*layers, backend=backend, dtype="float64", seed=1)
        model.compile(nnx.Huber(0.5), nnx.SGD(0.1))
        history = model.fit(x, y, epochs=2, batch_size=19, verbose=0)["loss"]
        model.loss.delta = 2.0
        losses.append([*history, *model.fit(x, y, epochs=2, batch_size=19, verbose=0)["loss"]])
        assert model.eager_reason is None
    np.testing.assert_allclose(*losses, rtol=1e-9)
    assert losses[0][2] > 1.5 * losses[0][1]
    pytest.importorskip("safetensors")
    model.save(tmp_path / "model.safetensors")
    assert nnx.load(tmp_path / "model.safetensors").loss.delta == 2.0


@pytest.mark.parametrize("delta", [0, -1.0, np.nan, np.inf, "1"])
def test_a_delta_that_is_no_bound_is_refused(delta):
    with pytest.raises(nnx.InputError, match=r"Huber: delta=.*: expected a number above 0"):
        nnx.Huber(delta)
