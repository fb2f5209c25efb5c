"""NNClassifier and NNRegressor: scikit-learn's own checks, and what they promise beyond."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import warnings
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx

pytest.importorskip("sklearn")

import joblib
from sklearn.base import clone
from sklearn.datasets import load_iris, make_moons
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import check_estimator

from nnx.sklearn import NNClassifier, NNRegressor
from nnx.testing.rounding import rounding

ROOT = Path(__file__).resolve().parents[1]
BOTH = pytest.mark.parametrize("kind", [NNClassifier, NNRegressor])


def small(kind: type, **arguments: Any) -> Any:
    return kind(**{"backend": "numpy", "epochs": 20, "random_state": 0, **arguments})


def moons(rows: int = 120) -> tuple[np.ndarray, np.ndarray]:
    x, y = make_moons(rows, noise=0.1, random_state=0)
    return x, y


# A matrix product rounds by its size, and these checks want 7 digits and more, which float32 does not have.
EQUIVALENCE = [f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse")]
ROUNDING = dict.fromkeys(
    ("check_methods_subset_invariance", "check_methods_sample_order_invariance", *EQUIVALENCE),
    "float32 may differ in its last digit",
)
BY_ROW = dict.fromkeys(EQUIVALENCE, "a row that is there twice has two masks of dropout, and one may be held out")


@pytest.mark.filterwarnings("ignore")  # theirs
@BOTH
@pytest.mark.parametrize("arguments", [
    {"epochs": 30, "hidden_layers": (16,), "learning_rate": 0.01},
    {"epochs": 30, "dtype": "float32", "hidden_layers": (16, 8), "activation": "tanh", "learning_rate": 0.01},
    {"epochs": 30, "dropout": 0.02, "l2": 1e-4, "validation_fraction": 0.2, "learning_rate": 0.02},
], ids=["float64", "float32", "all"])  # fmt: skip
def test_scikit_learns_own_checks(kind: type, arguments: dict[str, Any]) -> None:
    expected = ROUNDING if arguments.get("dtype") == "float32" else BY_ROW if "dropout" in arguments else None
    results = check_estimator(kind(backend="numpy", **arguments), expected_failed_checks=expected, on_skip=None)
    assert len([result for result in results if result["status"] == "passed"]) >= 48


def test_learns_a_curved_boundary() -> None:
    x, y = moons(300)
    names = np.array(["down", "up"])[y]
    model = small(NNClassifier, epochs=150, learning_rate=0.01).fit(x, names)
    assert model.score(x, names) > 0.97
    assert list(model.classes_) == ["down", "up"]
    assert model.n_features_in_ == 2
    p = model.predict_proba(x)
    assert (p.shape, p.dtype) == ((300, 2), np.float64)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=rounding(8))
    np.testing.assert_array_equal(model.predict(x), model.classes_[p.argmax(axis=1)])
    assert len(model.loss_curve_) == 150
    assert model.loss_curve_[-1] < model.loss_curve_[0] / 2


def test_learns_numbers_one_and_several() -> None:
    x, y = nnx.datasets.sine(200)
    wave = small(NNRegressor, epochs=300, learning_rate=0.01, hidden_layers=(32, 32), activation="tanh").fit(x, y[:, 0])
    assert wave.score(x, y[:, 0]) > 0.99
    assert wave.predict(x).shape == (200,)
    both = small(NNRegressor, epochs=100, learning_rate=0.01).fit(x, np.hstack([x, -x]))
    assert both.predict(x).shape == (200, 2)
    assert both.score(x, np.hstack([x, -x])) > 0.95


def test_in_a_pipeline_and_a_search() -> None:
    x, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), small(NNClassifier, learning_rate=0.02))
    assert cross_val_score(pipeline, x, y, cv=3).mean() > 0.9
    grid = {"nnclassifier__hidden_layers": [(), (8,)], "nnclassifier__l2": [0, 1e-3]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=1).fit(x, y)
    assert search.best_score_ > 0.8
    assert len(search.cv_results_["params"]) == 4


@BOTH
def test_clones_pickles_and_repeats(kind: type) -> None:
    x, y = moons()
    model = small(kind, dropout=0.2, batch_size=50).fit(x, y)
    fresh = clone(model)
    with pytest.raises(NotFittedError):
        fresh.predict(x)
    np.testing.assert_array_equal(fresh.fit(x, y).predict(x), model.predict(x))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    assert again.loss_curve_ == model.loss_curve_
    assert small(kind, random_state=1, dropout=0.2).fit(x, y).loss_curve_ != model.loss_curve_
    np.testing.assert_array_equal(again.partial_fit(x, y).predict(x), model.partial_fit(x, y).predict(x))


@BOTH
def test_the_network_is_as_asked(kind: type) -> None:
    x, y = moons()
    model = small(kind, hidden_layers=(7, 5), activation="tanh", dropout=0.25, l2=0.01, dtype=np.float32).fit(x, y)
    hidden = "Dense(2, 7) -> Tanh() -> Dropout(0.25) -> Dense(7, 5) -> Tanh() -> Dropout(0.25) -> Dense(5, "
    ending = "2) -> Softmax()" if kind is NNClassifier else "1)"
    assert f"{hidden}{ending}, float32 on numpy" in repr(model.model_)
    assert [layer.weight_l2 for layer in model.model_.layers if isinstance(layer, nnx.Dense)] == [0.01] * 3
    assert model.model_.epochs_done == 20
    assert len(small(kind, hidden_layers=()).fit(x, y).model_.parameters()) == 2
    assert small(kind, hidden_layers=9).fit(x, y).model_.layers[0].n_neurons == 9


def test_is_the_sequential_it_says() -> None:
    x, y = load_iris(return_X_y=True)
    seed = int(np.random.RandomState(3).randint(2**31 - 1))
    model = nnx.Sequential(
        nnx.Dense(4, 64),
        nnx.ReLU(),
        nnx.Dense(64, 3, init="glorot"),
        nnx.Softmax(),
        seed=seed,
        backend="numpy",
        dtype="float64",
    )
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.001))
    history = model.fit(x, y, 5, 32, verbose=0)
    assert small(NNClassifier, random_state=3, epochs=5).fit(x, y).loss_curve_ == history["loss"]


@BOTH
def test_early_stopping_holds_rows_out_and_keeps_the_best(kind: type) -> None:
    x, y = moons(200)
    model = small(kind, epochs=1000, learning_rate=0.05, validation_fraction=0.25, patience=3).fit(x, y)
    assert 4 <= len(model.loss_curve_) < 1000
    assert model.score(x, y) > 0.5
    np.testing.assert_array_equal(clone(model).fit(x, y).predict(x), model.predict(x))


def test_of_each_class_the_same_share_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen, fit = np.random.default_rng(0).standard_normal((100, 2)), [], nnx.Sequential.fit

    def watch(self: nnx.Sequential, x: Any, y: Any, *args: Any, **more: Any) -> nnx.History:
        seen.append((x, np.bincount(y), np.bincount(more["validation_data"][1])))
        return fit(self, x, y, *args, **more)

    monkeypatch.setattr(nnx.Sequential, "fit", watch)
    names = np.array(["rare"] * 5 + ["often"] * 95)
    for seed in (0, 1, 0):
        small(NNClassifier, epochs=1, validation_fraction=0.2, random_state=seed).fit(x, names)
        assert [list(counts) for counts in seen[-1][1:]] == [[76, 4], [19, 1]]
    np.testing.assert_array_equal(seen[0][0], seen[2][0])
    assert not np.array_equal(seen[0][0], seen[1][0])
    names[1:5] = "often"
    with pytest.warns(UserWarning, match=r"regardless of classes: .*only 1 member"):
        small(NNClassifier, epochs=1, validation_fraction=0.2).fit(x, names)
    with pytest.warns(UserWarning, match="regardless of classes"):  # one sample for two classes
        small(NNClassifier, epochs=1, validation_fraction=0.01).fit(x, np.arange(100) % 2)
    assert sum(seen[-1][2]) == 1


@BOTH
def test_what_float32_loses_is_refused_and_columns_go_by_their_names(kind: type) -> None:
    x, y = moons()
    clock = np.c_[x, 1.7e12 + np.arange(len(x))]
    small(kind).fit(clock, y)
    with pytest.raises(nnx.InputError, match="column 2 varies by 119 around"):
        small(kind, dtype="float32").fit(clock, y)
    for whole in (np.int64, np.uint64):
        with pytest.raises(nnx.InputError, match=r"column 0 varies by 119 around .*: float64 keeps next to none"):
            small(kind).fit(np.arange(len(x), dtype=whole)[:, None] + whole(2**60), y)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": x[:, 0], "b": x[:, 1] > 0})
    model = small(kind).fit(frame, y)
    assert list(model.feature_names_in_) == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a"]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        same = model.predict(frame.to_numpy(float))
    np.testing.assert_array_equal(same, model.predict(frame))


def test_several_classes_for_a_sample_are_refused_with_a_way_out() -> None:
    x, y = moons()
    with pytest.raises(nnx.InputError, match=r"\(120, 2\).*MultiOutputClassifier"):
        small(NNClassifier).fit(x, np.c_[y, 2 - y])


@pytest.mark.parametrize("kind", ["Int64", "UInt64", "boolean", "int64[pyarrow]", "bool[pyarrow]"])
def test_labels_of_pandas_nullable_types_stay_what_they_are(kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in kind:
        pytest.importorskip("pyarrow")
    x, y = moons()
    codes = y == 1 if "bool" in kind else y + 10**18  # which float64 does not tell apart
    given = pandas.Series(codes, dtype=kind)
    model = small(NNClassifier).fit(x, given)
    assert model.classes_.tolist() == np.unique(codes).tolist()
    assert model.predict(x).dtype.kind == model.classes_.dtype.kind in "bui"
    with pytest.warns(match="column-vector"):
        assert small(NNClassifier).fit(x, given.to_frame()).classes_.dtype == model.classes_.dtype
    classes = pandas.Series(np.unique(codes), dtype=kind)
    assert small(NNClassifier).partial_fit(x, given, classes).classes_.tolist() == classes.tolist()


@BOTH
def test_masked_numbers_are_refused_and_arrays_without_are_taken(kind: type) -> None:
    x, y = moons()
    model = small(kind).fit(np.ma.array(x), np.ma.array(y))
    np.testing.assert_array_equal(model.predict(np.ma.array(x)), small(kind).fit(x, y).predict(x))
    hidden = np.ma.masked_greater(x, 1)
    for call in (lambda: small(kind).fit(hidden, y), lambda: model.predict(hidden)):
        with pytest.raises(
            nnx.InputError, match=rf"{kind.__name__}: .*X: a masked array was given, in which \d+ of 240"
        ):
            call()
    with pytest.raises(nnx.InputError, match="y: a masked array was given, in which 60 of 120"):
        small(kind).fit(x, np.ma.masked_equal(y, 1))


def test_labels_of_numpys_texts_of_any_length_are_texts() -> None:
    x, y = moons()
    texts = np.where(y, "yes", "no").astype(np.dtypes.StringDType())
    assert small(NNClassifier).fit(x, texts).classes_.tolist() == ["no", "yes"]


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (None, r"Input y contains NaN: the label of row 0 is missing \(None\)"),
        (float("nan"), r"Input y contains NaN: the label of row 0 is missing \(nan\)"),  # NumPy makes "nan" of it
        (1, "labels of several types, such as 'a' and 1; write all of them as text"),
        (["a", "b"], "MultiLabelBinarizer"),
        ({"a"}, "MultiLabelBinarizer"),
    ],
    ids=["None", "nan", "number", "list", "set"],
)
def test_labels_that_are_missing_or_of_several_kinds_are_refused(first: Any, message: str) -> None:
    x, _ = moons()
    alike = [["a"]] if isinstance(first, list) else [{"b"}] if isinstance(first, set) else ["a"]
    y = [first, *alike * (len(x) - 1)]
    with pytest.raises(nnx.InputError, match=f"NNClassifier: .*{message}"):
        small(NNClassifier).fit(x, y)
    if isinstance(first, list | set):
        return
    with pytest.raises(nnx.InputError, match=message):
        small(NNClassifier).fit(x, np.array(y, dtype=object))


@BOTH
def test_a_shallow_copy_is_an_estimator_of_its_own(kind: type) -> None:
    x, y = moons()
    model = small(kind).fit(x, y)
    before, curve = model.predict(x), list(model.loss_curve_)
    copied = copy.copy(model)
    np.testing.assert_array_equal(copied.predict(x), before)
    copied.set_params(learning_rate=0.1).partial_fit(x, 1 - y)
    assert model.loss_curve_ == curve != copied.loss_curve_
    np.testing.assert_array_equal(model.predict(x), before)
    assert model.learning_rate != copied.learning_rate
    assert not hasattr(copy.copy(small(kind)), "model_")


@BOTH
def test_partial_fit_goes_on(kind: type) -> None:
    x, y = moons()
    classes = [[0, 1]] if kind is NNClassifier else []
    model = small(kind)
    for epoch in range(5):
        assert model.partial_fit(x, y, *classes) is model
        assert len(model.loss_curve_) == model.model_.epochs_done == epoch + 1
    np.testing.assert_allclose(small(kind, epochs=5).fit(x, y).loss_curve_, model.loss_curve_, rtol=1e-6)
    seen = model.model_
    model.partial_fit(x[:10], y[:10])
    assert model.model_ is seen
    model.fit(x, y)
    assert model.model_ is not seen
    assert len(model.loss_curve_) == 20


@BOTH
def test_what_set_params_changes_between_partial_fits_is_used(kind: type) -> None:
    x, y = moons()
    classes = [[0, 1]] if kind is NNClassifier else []

    def way(first: dict[str, Any], second: dict[str, Any]) -> tuple[Any, float]:
        """How far one weight, and the whole, went in a second epoch."""
        model = small(kind, **{"learning_rate": 0.05, "batch_size": 20, **first}).partial_fit(x, y, *classes)
        before = model.model_.layers[0].weights.copy()
        model.set_params(**second).partial_fit(x, y)
        return model, float(np.abs(model.model_.layers[0].weights - before).max())

    _, far = way({}, {})
    model, near = way({}, {"learning_rate": 1e-9})
    assert near < 1e-6 < far
    assert model.model_.optimizer.learning_rate == 1e-9
    assert way({}, {"batch_size": 120})[1] != far
    for first, second in ((0.0, 10.0), (0.01, 10.0)):
        model, _ = way({"l2": first}, {"l2": second})
        assert [layer.weight_l2 for layer in model.model_.layers if isinstance(layer, nnx.Dense)] == [second] * 2
        assert model.loss_curve_[1] > 10 > model.loss_curve_[0]  # the loss has the penalty
        assert model.model_.optimizer.iterations == 12
    model, _ = way({"l2": 10.0}, {"l2": 0.0})
    assert model.loss_curve_[0] > 10 > model.loss_curve_[1]
    model, _ = way({"dropout": 0.5}, {"dropout": 0.0})
    assert model.loss_curve_[1] == pytest.approx(way({"dropout": 0.5}, {"dropout": 1e-9})[0].loss_curve_[1])
    assert model.loss_curve_[1] != way({"dropout": 0.5}, {})[0].loss_curve_[1]
    assert way({}, {"dtype": np.float64, "hidden_layers": [64], "epochs": 3, "verbose": 0})[1] == far  # nothing changed


@BOTH
def test_what_set_params_takes_back_is_taken_back_though_the_training_between_failed(kind: type) -> None:
    x, y = moons()
    model, twin = (small(kind).fit(x, y) for _ in range(2))
    kept = {name: model.get_params()[name] for name in ("learning_rate", "l2", "batch_size")}
    with pytest.raises(nnx.InputError, match="batch_size"):
        model.set_params(learning_rate=0.5, l2=10.0, batch_size=0).partial_fit(x, y)
    model.set_params(**kept).partial_fit(x, y)
    assert model.model_.optimizer.learning_rate == kept["learning_rate"]
    np.testing.assert_array_equal(model.predict(x), twin.partial_fit(x, y).predict(x))


@BOTH
@pytest.mark.parametrize(("name", "value"), [
    ("hidden_layers", (3,)), ("activation", "tanh"), ("dropout", 0.9), ("dtype", "float32"), ("random_state", 7),
    ("backend", "cupy,numpy"), ("learning_rate", -1), ("l2", "much"),
])  # fmt: skip
def test_what_a_network_cannot_change_any_more_is_refused_by_partial_fit(kind: type, name: str, value: Any) -> None:
    x, y = moons()
    classes = [[0, 1]] if kind is NNClassifier else []
    model, twin = (small(kind).partial_fit(x, y, *classes) for _ in range(2))
    kept = model.get_params()[name]
    with pytest.raises(nnx.InputError, match=name):
        model.set_params(**{name: value}).partial_fit(x, y)
    model.set_params(**{name: kept}).partial_fit(x, y)
    np.testing.assert_array_equal(model.predict(x), twin.partial_fit(x, y).predict(x))


def test_partial_fit_needs_all_classes_and_takes_no_others() -> None:
    x, y = moons()
    for arguments, words in [({}, "classes=None"), ({"classes": ["a", "b"]}, "expected one of the classes")]:
        with pytest.raises(nnx.InputError, match=words):
            small(NNClassifier).partial_fit(x, y, **arguments)
    model = small(NNClassifier).partial_fit(x, y, classes=[0, 1, 2])
    assert model.predict_proba(x).shape == (120, 3)
    with pytest.raises(nnx.InputError, match="those of the first call"):
        model.partial_fit(x, y, classes=[0, 1])
    with pytest.raises(nnx.InputError, match="y holds"):
        model.partial_fit(x, y + 7)
    names = np.array(["b", "d"])[y]
    named = small(NNClassifier, learning_rate=0.02).partial_fit(x, names, classes=["d", "c", "b"])
    for _ in range(40):
        named.partial_fit(x, names)
    assert list(named.classes_) == ["b", "c", "d"]
    assert named.score(x, names) > 0.8


def test_one_class_is_learned_at_once() -> None:
    model = small(NNClassifier).fit(np.eye(3), ["only"] * 3)
    assert list(model.predict(np.eye(3))) == ["only"] * 3
    np.testing.assert_array_equal(model.predict_proba(np.eye(3)), 1)


WRONG = [
    ("hidden_layers", (4, 0)), ("hidden_layers", 2.5), ("hidden_layers", "ab"), ("hidden_layers", None),
    ("activation", "swish"), ("activation", None), ("learning_rate", 0), ("learning_rate", "fast"),
    ("learning_rate", float("nan")), ("epochs", 0), ("epochs", 1.5), ("batch_size", 0), ("batch_size", None),
    ("l2", -1), ("dropout", 1), ("dropout", -0.1), ("validation_fraction", 1), ("validation_fraction", "some"),
    ("patience", 0), ("backend", "gpu"), ("dtype", "int32"), ("dtype", "float16"),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong_arguments_are_refused_by_fit(kind: type, name: str, value: object) -> None:
    x, y = moons()
    model = small(kind, epochs=1).fit(x, y)
    model.set_params(**{name: value})
    with pytest.raises(nnx.InputError) as caught:
        model.fit(x, y)
    assert name in str(caught.value)
    with pytest.raises(NotFittedError):  # rather than half of the old network and half of the new
        model.predict(x)


@BOTH
def test_wrong_data_are_refused(kind: type) -> None:
    x, y = moons()
    model = small(kind).fit(x, y)
    for wrong_x, wrong_y in [(x[:, 0], y), (x, y[:-1]), (x * np.nan, y), (x[:0], y[:0]), (x, None)]:
        with pytest.raises(ValueError):  # noqa: PT011 - scikit-learn's words
            clone(model).fit(wrong_x, wrong_y)
    for wrong in (x[:, :1], x[0], np.full_like(x, np.inf)):
        with pytest.raises(ValueError):  # noqa: PT011
            model.predict(wrong)


@BOTH
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scikit-learn's conversion
def test_numbers_beyond_float32_are_refused_for_float32(kind: type) -> None:
    x, y = moons()
    with pytest.raises(ValueError, match="too large for float32"):
        small(kind, dtype="float32").fit(x * 1e39, y)


@BOTH
def test_ctrl_c_keeps_what_was_learned_and_goes_on_up(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = moons()
    model, evaluate, calls = small(kind, epochs=500, validation_fraction=0.2, patience=500), nnx.Sequential.evaluate, []

    def ask(self: nnx.Sequential, *args: Any, **kwargs: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(nnx.Sequential, "evaluate", ask)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y)
    assert len(model.loss_curve_) == 3
    assert model.predict(x).shape == (120,)


def test_verbose_shows_progress(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = moons()
    small(NNClassifier, epochs=2).fit(x, y)
    assert capsys.readouterr().out == ""
    small(NNClassifier, epochs=2, verbose=True).fit(x, y)
    assert "epoch 2/2" in capsys.readouterr().out


def test_without_scikit_learn_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import nnx\n"
        "try:\n    import nnx.sklearn\n"
        "except nnx.MissingExtra as error:\n    print(error.extra, error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        'sklearn nnx.sklearn needs sklearn, which is not installed: pip install "nnx-backends['
    )


def test_an_estimator_that_joblib_loads_read_only_goes_on_training(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    plain = NNClassifier(epochs=2, random_state=0, backend="numpy").fit(x, y)
    joblib.dump(plain, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    for each in (plain, loaded):
        each.set_params(learning_rate=0.01).partial_fit(x, y)
    np.testing.assert_array_equal(loaded.predict_proba(x), plain.predict_proba(x))


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_weights_of_classes_are_scikit_learns() -> None:
    """By name, and balanced; times those of the samples, held out or not."""
    x, y = moons()
    y[::3] = 0
    names, samples = np.array(["down", "up"])[y], np.arange(len(y)) % 3 + 0.5
    for by_class in ({"up": 3.0, "down": 0.5}, "balanced"):
        for more in ({}, {"validation_fraction": 0.25}):
            got = small(NNClassifier, class_weight=by_class, **more).fit(x, names, sample_weight=samples)
            wanted = compute_sample_weight(by_class, names) * samples
            expected = small(NNClassifier, **more).fit(x, names, sample_weight=wanted)
            np.testing.assert_allclose(got.loss_curve_, expected.loss_curve_, rtol=1e-12)
            np.testing.assert_allclose(got.predict_proba(x), expected.predict_proba(x), rtol=1e-9)


@BOTH
def test_whole_weights_are_repeated_rows_in_partial_fit_too(kind: type) -> None:
    x, y = moons()
    weights = np.arange(len(y)) % 3
    often = np.repeat(np.arange(len(y)), weights)
    first = {"classes": [0, 1]} if kind is NNClassifier else {}
    one, other = (small(kind, batch_size=500) for _ in range(2))
    for _ in range(3):
        one.partial_fit(x, y, sample_weight=weights, **first)
        other.partial_fit(x[often], y[often], **first)
    np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-9)
    assert one.score(x, y, weights) == pytest.approx(other.score(x[often], y[often]), rel=1e-9)


def test_weights_that_cannot_be_used_leave_the_network_as_it_was() -> None:
    x, y = moons()
    model = small(NNClassifier, class_weight={0: 1, 2: 1})
    with pytest.raises(nnx.InputError, match=r"fit: class_weight: 2 is no class; expected 0, 1"):
        model.fit(x, y)
    model.set_params(class_weight=None).fit(x, y)
    before = model.predict_proba(x)
    with pytest.raises(nnx.InputError, match=r"partial_fit: class_weight='balanced' counts all samples there are"):
        model.set_params(class_weight="balanced").partial_fit(x, y)
    with pytest.raises(nnx.InputError, match=r"partial_fit: sample_weight\[0\] is -1"):
        model.set_params(class_weight=None).partial_fit(x, y, sample_weight=-np.ones(len(y)))
    np.testing.assert_array_equal(model.predict_proba(x), before)


DAYS = np.arange("2020-01-01", "2020-01-31", dtype="M8[D]")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (DAYS, "column 'when': an array of datetime64.*count days from a date on"),
        (DAYS - DAYS[0], "column 'when': an array of timedelta64.*count seconds by"),
        (DAYS.astype(object), r"column 'when': an object of type date stands at \[0\].*date.toordinal"),
        (["ab"[day % 2] for day in range(30)], "column 'when': .*get_dummies"),
    ],
    ids=["dates", "durations", "dates as objects", "words"],
)
@BOTH
def test_dates_and_words_among_features_are_refused_by_their_column(kind: type, column: Any, message: str):
    pandas = pytest.importorskip("pandas")
    numbers, y = pandas.DataFrame({"size": np.arange(30.0)}), np.arange(30) % 2
    mixed = numbers.assign(when=column)
    with pytest.raises(nnx.InputError, match=f"^{kind.__name__}: X: {message}"):
        small(kind, epochs=1).fit(mixed, y)
    trained = small(kind, epochs=1).fit(numbers.assign(when=0.0), y)
    with pytest.raises(nnx.InputError, match=f"^{kind.__name__}: X: {message}"):
        trained.predict(mixed)


@BOTH
def test_dates_alone_are_no_features_either(kind: type):
    with pytest.raises(nnx.InputError, match=r"X: an array of datetime64\[D\], shape \(30, 1\), was given"):
        small(kind, epochs=1).fit(DAYS.reshape(-1, 1), np.arange(30) % 2)


@BOTH
def test_dates_in_frames_of_other_libraries_are_refused_too(kind: type):
    frame, y = pytest.importorskip("polars").DataFrame, np.arange(4) % 2
    with pytest.raises(nnx.InputError, match=f"^{kind.__name__}: X: column 'when': an array of datetime64"):
        small(kind, epochs=1).fit(frame({"size": [0.0, 1.0, 2.0, 3.0], "when": DAYS[:4]}), y)


def test_labels_among_python_objects_are_what_they_are():
    """A column of a table with words in it comes as objects, whatever it holds."""
    x = np.arange(20.0)[:, None]
    for y in (np.arange(20) % 2, np.arange(20) % 2 == 1, np.arange(20) % 2 + 2**60, np.array(["a", "b"] * 10)):
        expected = small(NNClassifier, epochs=1).fit(x, y)
        for given in (y.astype(object), y.astype(object)[:, None]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataConversionWarning)
                found = small(NNClassifier, epochs=1).fit(x, given)
            assert found.classes_.tolist() == expected.classes_.tolist()
            assert found.predict(x).tolist() == expected.predict(x).tolist()
    for label in (Decimal(1), date(2020, 1, 1)):
        with pytest.raises(
            nnx.InputError, match=f"labels of type {type(label).__name__}, such as .*write them as text"
        ):
            small(NNClassifier, epochs=1).fit(x, np.array([label] * 20, dtype=object))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((size for size in (4, 2)), "a generator gives its numbers once; give a list"),
        (map(int, "4"), "a map gives its numbers once"),
        ({4, 2}, "a set has no order; give a list"),
        ("64", "hidden_layers='64': expected a whole number"),
    ],
)
def test_layers_that_would_be_others_at_the_next_look_are_refused(sizes: Any, message: str):
    with pytest.raises(nnx.InputError, match=message):
        NNClassifier(sizes, backend="numpy").fit(np.eye(4), [0, 1, 0, 1])


@pytest.mark.parametrize("classes", [2, "ab"])
def test_classes_that_are_no_list_are_refused(classes: Any):
    network = small(NNClassifier)
    with pytest.raises(nnx.InputError, match=f"partial_fit: classes={classes!r}: expected a list of all labels"):
        network.partial_fit(np.eye(4), ["a", "b", "a", "b"], classes=classes)
    assert network.partial_fit(np.eye(4), ["a", "b", "a", "b"], classes={"b", "a"}).classes_.tolist() == ["a", "b"]
