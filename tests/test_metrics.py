"""Metrics: scikit-learn's values, of all samples at once, by their names in evaluate, histories and files."""

from __future__ import annotations

import copy
import math
import re
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


@pytest.mark.parametrize("digits", [1, 9], ids=["some scores are equal", "all differ"])
@pytest.mark.parametrize(("classes", "rows"), [(2, 7), (2, 200), (3, 200), (10, 120)])
def test_classes_are_judged_as_scikit_learn_does(classes: int, rows: int, digits: int):
    sk = pytest.importorskip("sklearn.metrics")
    y = RANDOM.permutation(np.arange(rows) % classes)
    p = np.round(RANDOM.dirichlet(np.ones(classes), rows), digits) + 0.01
    p /= p.sum(axis=1, keepdims=True)
    predicted, average = p.argmax(axis=1), "binary" if classes == 2 else "macro"
    for ours, theirs in {
        metrics.precision: sk.precision_score, metrics.recall: sk.recall_score, metrics.f1: sk.f1_score,
    }.items():  # fmt: skip
        near(ours(y, p), theirs(y, predicted, average=average))
        near(ours(y, predicted), theirs(y, predicted, average=average))
    near(metrics.balanced_accuracy(y, predicted), sk.balanced_accuracy_score(y, predicted))
    near(metrics.log_loss(y, p), sk.log_loss(y, p))
    assert metrics.confusion(y, p).tolist() == sk.confusion_matrix(y, predicted).tolist()
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
    for offset in (0, 4e5):  # of numbers far from 0, whose squares are large
        wanted, found = a + offset, b + offset
        near(metrics.mae(wanted, found), sk.mean_absolute_error(wanted, found))
        near(metrics.rmse(wanted, found), sk.root_mean_squared_error(wanted, found))
        near(metrics.r2(wanted, found), sk.r2_score(wanted, found))


def test_classes_that_no_sample_has_do_not_count():
    sk = pytest.importorskip("sklearn.metrics")
    y, p = np.arange(60) % 3, RANDOM.dirichlet(np.ones(4), 60)
    predicted = np.minimum(p.argmax(axis=1), 2)
    near(metrics.balanced_accuracy(y, predicted), sk.balanced_accuracy_score(y, predicted))
    near(metrics.auc(y, p), np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in range(3)]))
    assert math.isnan(metrics.auc(y[y == 0], p[y == 0]))


def test_log_loss_of_a_sure_mistake_is_finite():
    sk = pytest.importorskip("sklearn.metrics")
    p = np.eye(2, dtype=np.float32)
    assert metrics.log_loss([1, 1], p) == pytest.approx(sk.log_loss([1, 1], p, labels=[0, 1]), rel=1e-5)


def test_what_has_no_value_is_nan_or_0():
    assert metrics.precision([1, 1], [0, 0]) == metrics.f1([1, 1], [0, 0]) == 0
    assert math.isnan(metrics.auc([1, 1], [0.1, 0.9]))
    assert math.isnan(metrics.r2([1.0], [2.0]))
    assert metrics.r2([1.0, 1.0], [1.0, 1.0]) == 1
    assert metrics.r2([1.0, 1.0], [1.0, 2.0]) == 0


THREE = [[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]]  # outputs of two samples, three classes
ODD: dict[str, tuple[Any, Any, str]] = {
    "other samples": ([0, 1], [0.1], "same N samples"),
    "none": ([], [], "at least one"),
    "no column": ([0, 1], np.zeros((2, 0)), "at least one"),
    "other columns": ([[0, 1]], [[0.1, 0.2, 0.3]], "same N samples"),
    "nan": ([0, 1], [np.nan, 1.0], "not finite"),
    "a label too large": ([0, 3], THREE, "label 3 is out of range"),
    "a negative label": ([-1, 2], THREE, "label -1 is out of range"),
    "a label between": ([0.5, 2], THREE, "no whole number"),
    "negative classes": ([-1, 1], [1, -1], "label -1 is out of range"),
    "no answer": ([0, 2], [0.2, 0.9], "y_true reaches from 0 to 2"),
    "logits": ([0, 1], [-3.0, 5.0], "y_pred reaches from -3 to 5"),
    "classes as floats": ([0, 1, 2], [0.0, 1.0, 2.0], "classes as integers"),
    "rows and one number": (np.eye(3), [0.1, 0.5, 0.9], "expected"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("metric", [metrics.precision, metrics.recall, metrics.f1, metrics.balanced_accuracy])
def test_operands_that_do_not_fit_are_refused(metric: Any, name: str):
    y_true, y_pred, words = ODD[name]
    with pytest.raises(InputError, match=words):
        metric(y_true, y_pred)


@pytest.mark.parametrize("metric", [metrics.confusion, metrics.log_loss, metrics.auc, metrics.top_k])
def test_labels_of_no_class_are_refused(metric: Any):
    for labels in ([0, 3], [-1, 2], [0.5, 2]):
        with pytest.raises(InputError, match="label"):
            metric(labels, THREE)
    with pytest.raises(InputError, match="expected"):
        metric(np.eye(3), [0.1, 0.5, 0.9])


def test_labels_may_stand_in_a_column_and_classes_in_one_hot_rows():
    for metric in (metrics.f1, metrics.auc, metrics.log_loss, metrics.top_k, metrics.balanced_accuracy):
        assert metric([[0], [1]], THREE) == metric([0, 1], THREE)
    assert metrics.f1(np.eye(3)[[0, 2, 1]], [0, 1, 1]) == metrics.f1([0, 2, 1], [0, 1, 1])
    assert metrics.log_loss(np.eye(3)[[0, 1]], THREE) == metrics.log_loss([0, 1], THREE)


def test_log_loss_takes_no_logits_and_numbers_no_rows():
    with pytest.raises(InputError, match="softmax"):
        metrics.log_loss([0, 1], [[3.0, -1.0], [0.0, 2.0]])
    for metric in (metrics.mae, metrics.rmse, metrics.r2):
        with pytest.raises(InputError, match="nothing is broadcast"):
            metric([[1.0, 2.0], [3.0, 4.0]], [1.0, 2.0])
        metric([1e308, -1e308], [-1e308, 1e308])  # no warning


@pytest.mark.parametrize("k", [0, -1, 1.5, "2", None, True])
def test_k_counts_outputs(k: Any):
    with pytest.raises(InputError, match="whole number"):
        metrics.top_k([0, 1], THREE, k)


# ---- of a model ------------------------------------------------------------------------------------------------------


def misses(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    return float(np.sum(y_pred.argmax(axis=1) != y_true))


def of_three(a: np.ndarray, b: np.ndarray, c: float) -> float:
    return c


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


def test_a_function_of_ones_own_may_change_and_keep_what_it_gets():
    kept = []

    def greedy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
        kept.append((y_true, y_pred, y_true.copy()))
        y_true[...], y_pred[...] = 0, 0
        return 1.0

    labels = Y.copy()
    fit = {"validation_data": (X, labels), "verbose": 0}
    ours, theirs = classifier([greedy, "f1"]).fit(X, labels, 3, **fit), classifier(["f1"]).fit(X, labels, 3, **fit)
    assert ours["val_f1"] == theirs["val_f1"]
    for y_true, y_pred, given in kept:
        assert not y_true.any()
        assert not y_pred.any()
        np.testing.assert_array_equal(given, Y)
    np.testing.assert_array_equal(labels, Y)


def test_a_function_that_fails_does_so_before_any_training():
    """With those of the loss that it does not fit, whatever the error is."""

    def second(y_true: np.ndarray, y_pred: np.ndarray) -> float:
        return float(np.mean(y_pred[:, 3]))

    model = classifier([second])
    before = model.flat.values.copy()
    with pytest.raises(IndexError):
        model.fit(X, Y, 2, validation_split=0.25, verbose=0)
    np.testing.assert_array_equal(model.flat.values, before)
    assert model.epochs_done == 0


def test_nnxs_own_functions_stand_for_their_names():
    model = classifier([metrics.f1, metrics.top_k], nnx.SoftmaxCrossEntropy())
    assert model.metrics == ("f1", "top_5")


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
    "its own twice": (["f1", metrics.f1], "f1"),
    "a function of one array": ([np.shape], "shape cannot be called as"),
    "a function of three": ([of_three], "'c'"),
    "a class": ([float], "float"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_metrics_that_cannot_be_are_refused(name: str):
    given, words = MISTAKES[name]
    with pytest.raises(InputError, match=words):
        classifier(given)


@pytest.mark.parametrize("value", ["good", "0.5", None, np.array([0.5]), [0.5], 1j, 10**400], ids=repr)
def test_what_a_function_returns_must_be_a_number(value: Any):
    def odd(y_true: np.ndarray, y_pred: np.ndarray) -> Any:
        return value

    with pytest.raises(InputError, match=rf"odd.*{re.escape(repr(value)[:60])}.*number"):
        classifier([odd]).evaluate(X, Y)


def test_a_monitor_says_that_what_it_watches_is_no_number():
    model, sorted_labels = classifier(["auc"]), np.sort(Y)
    stop = nnx.callbacks.EarlyStopping("val_auc", patience=2)
    with pytest.warns(UserWarning, match="EarlyStopping: 'val_auc' is nan, which is no improvement"):
        model.fit(X, sorted_labels, 3, validation_split=0.1, callbacks=[stop], verbose=0)


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


def test_a_split_of_nine_tenths_of_ten_leaves_one():
    assert classifier([]).fit(X[:10], Y[:10], 1, validation_split=0.9, verbose=0).samples == 1


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


@pytest.mark.parametrize("unit", [2.0**-900, 2.0**900])
def test_numbers_whose_squares_float64_cannot_hold_are_measured(unit: float) -> None:
    wanted, outputs = np.array([[1.0], [2.0], [4.0]]), np.array([[1.5], [2.0], [3.0]])
    assert nnx.metrics.rmse(wanted * unit, outputs * unit) == nnx.metrics.rmse(wanted, outputs) * unit
    assert nnx.metrics.r2(wanted * unit, outputs * unit) == nnx.metrics.r2(wanted, outputs)
