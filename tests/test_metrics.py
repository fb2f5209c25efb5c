"""Metrics: scikit-learn's values, of all samples at once, by their names in evaluate, histories and files."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx
from nnx import metrics
from nnx.errors import InputError

RANDOM = np.random.default_rng(0)
X, Y = nnx.datasets.spiral(40, 3)
ORDER = np.random.default_rng(1).permutation(len(X))
X, Y = X[ORDER], Y[ORDER]


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


def near(ours: float, theirs: float) -> None:
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-14)


# ---- the functions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_classes_are_judged_as_scikit_learn_does(classes: int):
    sk = pytest.importorskip("sklearn.metrics")
    y = RANDOM.integers(0, classes, 200)
    p = np.round(RANDOM.dirichlet(np.ones(classes), 200), 1) + 0.01  # so that some scores are equal
    p /= p.sum(axis=1, keepdims=True)
    predicted, average = p.argmax(axis=1), "binary" if classes == 2 else "macro"
    for ours, theirs in {
        metrics.precision: sk.precision_score, metrics.recall: sk.recall_score, metrics.f1: sk.f1_score,
    }.items():  # fmt: skip
        near(ours(y, p), theirs(y, predicted, average=average))
        near(ours(y, predicted), theirs(y, predicted, average=average))
    near(metrics.auc(y, p), sk.roc_auc_score(y, p[:, 1] if classes == 2 else p, multi_class="ovr"))
    if classes > 2:
        near(metrics.top_k(y, p, 2), sk.top_k_accuracy_score(y, p, k=2))


@pytest.mark.parametrize("outputs", [1, 3])
def test_questions_and_numbers_are_judged_as_scikit_learn_does(outputs: int):
    sk = pytest.importorskip("sklearn.metrics")
    y, p = RANDOM.integers(0, 2, (100, outputs)), np.round(RANDOM.random((100, outputs)), 1)
    average = "binary" if outputs == 1 else "macro"
    near(metrics.precision(y, p), sk.precision_score(y, p > 0.5, average=average))
    near(metrics.recall(y, p), sk.recall_score(y, p > 0.5, average=average))
    balanced = [sk.balanced_accuracy_score(y[:, i], p[:, i] > 0.5) for i in range(outputs)]
    near(metrics.balanced_accuracy(y, p), np.mean(balanced))
    near(metrics.f1(y, p), sk.f1_score(y, p > 0.5, average=average))
    near(metrics.auc(y, p), sk.roc_auc_score(y, p))
    a = RANDOM.standard_normal((100, outputs))
    b = a + RANDOM.standard_normal((100, outputs)) * [1, 5, 9][:outputs]
    near(metrics.mae(a, b), sk.mean_absolute_error(a, b))
    near(metrics.rmse(a, b), sk.root_mean_squared_error(a, b))
    near(metrics.r2(a, b), sk.r2_score(a, b))


def test_what_has_no_value_is_nan_or_0():
    assert metrics.precision([1, 1], [0, 0]) == metrics.f1([1, 1], [0, 0]) == 0
    assert math.isnan(metrics.auc([1, 1], [0.1, 0.9]))
    assert math.isnan(metrics.r2([1.0], [2.0]))
    assert metrics.r2([1.0, 1.0], [1.0, 1.0]) == 1
    assert metrics.r2([1.0, 1.0], [1.0, 2.0]) == 0


@pytest.mark.parametrize(
    ("y_true", "y_pred"), [([0, 1], [0.1]), ([], []), ([[0, 1]], [[0.1, 0.2, 0.3]]), ([0, 1], [np.nan, 1.0])]
)
def test_operands_that_do_not_fit_are_refused(y_true: Any, y_pred: Any):
    with pytest.raises(InputError):
        metrics.f1(y_true, y_pred)


# ---- of a model ------------------------------------------------------------------------------------------------------


def misses(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    return float(np.sum(y_pred.argmax(axis=1) != y_true))


def classifier(names: Any, loss: nnx.Loss | None = None) -> nnx.Sequential:
    ending = [] if isinstance(loss, nnx.SoftmaxCrossEntropy) else [nnx.Softmax()]
    model = nnx.Sequential(nnx.Dense(2, 8), nnx.Tanh(), nnx.Dense(8, 3), *ending)
    return model.compile(loss or nnx.CategoricalCrossEntropy(), nnx.Adam(0.05), metrics=names)


@pytest.mark.parametrize("y", [Y, np.eye(3)[Y], np.full((120, 3), 0.1) + 0.7 * np.eye(3)[Y]])
def test_a_model_measures_all_samples_at_once_whatever_the_batches(y: np.ndarray):
    names = ["f1", "accuracy", "precision", "recall", "auc", "top_2"]
    model = classifier(names)
    history = model.fit(X, y, 2, batch_size=16, validation_data=(X, y), verbose=0)
    assert list(history) == ["loss", "accuracy", *(f"val_{n}" for n in ["loss", "accuracy", "f1", *names[2:]])]
    scores, outputs = model.evaluate(X, y, batch_size=7), model.predict(X)
    for name in ("f1", "precision", "recall", "auc"):
        assert scores[name] == getattr(metrics, name)(Y, outputs) == history[f"val_{name}"][-1]
    assert scores["top_2"] == metrics.top_k(Y, outputs, 2)


def test_a_function_of_ones_own_gets_targets_and_outputs():
    model = classifier([misses])
    history = model.fit(X, Y, 1, validation_data=(X, Y), verbose=0)
    assert history["val_misses"] == [misses(Y, model.predict(X))]
    assert "accuracy" not in history


def test_logits_are_judged_as_the_probabilities_that_they_mean():
    fused, plain = classifier(["auc", "f1"], nnx.SoftmaxCrossEntropy()), classifier(["auc", "f1"])
    assert fused.evaluate(X, Y) == pytest.approx(plain.evaluate(X, Y), rel=1e-5)
    y = (Y[:, None] == [1, 2]).astype(float)
    layers = lambda: (nnx.Dense(2, 2, init=np.array([[1.0, -2.0], [3.0, 0.5]])),)  # noqa: E731
    logits = nnx.Sequential(*layers()).compile(nnx.SigmoidCrossEntropy(), nnx.SGD(0.1), ["precision", "auc"])
    shares = nnx.Sequential(*layers(), nnx.Sigmoid()).compile(
        nnx.BinaryCrossEntropy(), nnx.SGD(0.1), ["precision", "auc"]
    )
    assert logits.evaluate(X, y) == pytest.approx(shares.evaluate(X, y), rel=1e-5)


def test_numbers_are_judged_by_their_errors():
    model = nnx.Sequential(nnx.Dense(2, 1)).compile(nnx.MeanSquaredError(), nnx.SGD(0.1), ["mae", "rmse", "r2"])
    scores = model.evaluate(X, X[:, :1])
    assert scores["rmse"] == pytest.approx(np.sqrt(scores["loss"]), rel=1e-6)
    assert scores["r2"] == pytest.approx(metrics.r2(X[:, :1], model.predict(X)), rel=1e-6)


MISTAKES: dict[str, tuple[Any, str]] = {
    "of numbers": (["mae"], "mae.*f1"),
    "unknown": (["f7"], "'f1'"),
    "top of none": (["top_0"], "top_5"),
    "twice": (["f1", "f1"], "f1"),
    "a function's name taken": ([misses, misses], "misses"),
    "a lambda": ([lambda a, b: 0.0], "__name__"),
    "nnx's own function": ([nnx.accuracy], "'accuracy'"),
    "a word": ("f1", "list"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_metrics_that_cannot_be_are_refused(name: str):
    given, words = MISTAKES[name]
    with pytest.raises(InputError, match=words):
        classifier(given)


def test_what_a_function_returns_must_be_a_number():
    def odd(y_true: np.ndarray, y_pred: np.ndarray) -> Any:
        return "good"

    with pytest.raises(InputError, match=r"odd.*'good'"):
        classifier([odd]).evaluate(X, Y)


def test_the_largest_is_best_of_what_is_better_when_larger():
    model = classifier(["f1", misses])
    stop = nnx.callbacks.EarlyStopping("val_f1", patience=100)
    history = model.fit(X, Y, 8, batch_size=20, validation_data=(X, Y), callbacks=[stop], verbose=0)
    assert stop.best_epoch == int(np.argmax(history["val_f1"]))
    with pytest.raises(InputError, match="mode='max'"):
        model.fit(X, Y, validation_data=(X, Y), callbacks=[nnx.callbacks.EarlyStopping("val_misses")], verbose=0)
    fewest = nnx.callbacks.EarlyStopping("val_misses", patience=100, mode="min")
    history = model.fit(X, Y, 8, batch_size=20, validation_data=(X, Y), callbacks=[fewest], verbose=0)
    assert fewest.best_epoch - history.first_epoch == int(np.argmin(history["val_misses"]))
    with pytest.raises(InputError, match="'min'"):
        nnx.callbacks.ModelCheckpoint("m", "val_misses", mode="least")


def test_names_are_saved_and_functions_are_missed(tmp_path: Path):
    pytest.importorskip("safetensors")
    model = classifier(["accuracy", "top_k", misses])
    assert copy.deepcopy(model).metrics == ("accuracy", "top_5", misses)
    model.save(tmp_path / "m.safetensors")
    with pytest.warns(UserWarning, match="misses"):
        assert nnx.load(tmp_path / "m.safetensors").metrics == ("accuracy", "top_5")


# ---- samples held out, and calling a model ---------------------------------------------------------------------------


def test_validation_split_holds_out_the_last_samples_before_they_are_shuffled():
    split, given = classifier(["accuracy"]), classifier(["accuracy"])
    frame = [row.tolist() for row in X]  # what is given need not be an array
    ours = split.fit(frame, Y, 3, batch_size=10, validation_split=0.25, verbose=0)
    assert ours == given.fit(X[:90], Y[:90], 3, batch_size=10, validation_data=(X[90:], Y[90:]), verbose=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"validation_split": 1.0}, "below 1"),
        ({"validation_split": -0.1}, "at least 0"),
        ({"validation_split": "much"}, "validation_split"),
        ({"validation_split": 1e-18}, "0 to hold out"),
        ({"validation_split": 0.999}, "0 to train on"),
        ({"validation_split": 0.5, "validation_data": (X, Y)}, "one of them"),
    ],
)
def test_a_split_that_cannot_be_is_refused(arguments: dict[str, Any], words: str):
    model = classifier(["accuracy"])
    before = model.flat.values.copy()
    with pytest.raises(InputError, match=words):
        model.fit(X, Y, verbose=0, **arguments)
    np.testing.assert_array_equal(model.flat.values, before)


def test_labels_that_a_callback_changes_are_noticed_with_a_split_too():
    y = Y.copy()

    class Changes(nnx.callbacks.Callback):
        def on_epoch_end(self, model: Any, epoch: int, logs: Any) -> None:
            y[:] = (y + 1) % 3

    with pytest.raises(InputError, match="changed while it trained"):
        classifier([]).fit(X, y, 2, validation_split=0.5, callbacks=[Changes()], verbose=0)


def test_calling_a_model_is_predicting():
    model = nnx.Sequential(nnx.Dense(2, 8), nnx.Dropout(0.5), nnx.Dense(8, 3))
    np.testing.assert_array_equal(model(X), model.predict(X))
