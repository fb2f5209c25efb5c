"""Weights of samples and classes: whole ones are rows that are there as often, in every loss, on every backend."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.errors import InputError, InputTypeError
from nnx.training.step import Feed

X = np.random.default_rng(1).normal(size=(41, 4))
LABELS = np.random.default_rng(2).integers(0, 3, 41)
WEIGHTS = np.random.default_rng(3).integers(0, 4, 41)
OFTEN = np.repeat(np.arange(41), WEIGHTS)  # each row as often as it weighs
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}  # float64: sums in another order, and nothing else

LOSSES: dict[str, tuple[Callable[[], nnx.Loss], list[Any], np.ndarray]] = {
    "labels": (nnx.CategoricalCrossEntropy, [nnx.Dense(6, 3), nnx.Softmax()], LABELS),
    "soft labels": (nnx.CategoricalCrossEntropy, [nnx.Dense(6, 3), nnx.Softmax()],
                    np.random.default_rng(4).dirichlet(np.ones(3), 41)),
    "logits": (nnx.SoftmaxCrossEntropy, [nnx.Dense(6, 3)], LABELS),
    "yes or no": (nnx.BinaryCrossEntropy, [nnx.Dense(6, 1), nnx.Sigmoid()], LABELS > 0),
    "several yes or no": (nnx.SigmoidCrossEntropy, [nnx.Dense(6, 2)], np.stack([LABELS > 0, LABELS > 1], axis=1)),
    "numbers": (nnx.MeanSquaredError, [nnx.Dense(6, 2)], X[:, :2] ** 2),
    "magnitudes": (nnx.MeanAbsoluteError, [nnx.Dense(6, 1)], X.sum(axis=1)),
    "huber": (nnx.Huber, [nnx.Dense(6, 1)], X.sum(axis=1)),
}  # fmt: skip
WAYS = [("numpy", ""), ("numba", "rows"), ("numba", "lanes")]


def model_of(kind: str, backend: str = "numpy", optimizer: Any = None, dtype: str = "float64") -> nnx.Sequential:
    loss, last, _ = LOSSES[kind]
    layers = [nnx.Dense(4, 6, weight_l2=1e-3), nnx.Tanh(), *copy.deepcopy(last)]
    model = nnx.Sequential(*layers, backend=backend, dtype=dtype, seed=3)
    return model.compile(loss(), optimizer or nnx.Adam(0.02))


def numbers(model: nnx.Sequential) -> np.ndarray:
    return np.array(model.backend.to_numpy(model.flat.values))


# ---- the meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "family"), WAYS)
@pytest.mark.parametrize("kind", LOSSES)
def test_whole_weights_are_repeated_rows(kind: str, backend: str, family: str, monkeypatch: pytest.MonkeyPatch):
    if backend == "numba":
        pytest.importorskip("numba")
        monkeypatch.setenv("NNX_PROGRAM", family)
    y, (weighted, repeated) = LOSSES[kind][2], (model_of(kind, backend) for _ in range(2))
    got = weighted.fit(X, y, epochs=12, sample_weight=WEIGHTS, validation_data=(X, y, WEIGHTS), verbose=0)
    wanted = repeated.fit(X[OFTEN], y[OFTEN], epochs=12, validation_data=(X[OFTEN], y[OFTEN]), verbose=0)
    assert (weighted.eager_reason, weighted.replay_reason) == (None, None)
    assert dict(got).keys() == dict(wanted).keys() >= {"accuracy", "val_accuracy"}
    for column in wanted:
        np.testing.assert_allclose(got[column], wanted[column], **EXACT)
    np.testing.assert_allclose(numbers(weighted), numbers(repeated), **EXACT)
    one, other = weighted.evaluate(X, y, 7, WEIGHTS[:, None]), repeated.evaluate(X[OFTEN], y[OFTEN])
    assert one == pytest.approx(other, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_each_batch_is_divided_by_its_own_sum_and_an_epoch_by_all(backend: str):
    if backend == "numba":
        pytest.importorskip("numba")
    weights, size = WEIGHTS.copy(), 8
    weights[8:16] = 0  # a batch that counts for nothing
    layers = [nnx.Dense(4, 6), nnx.Tanh(), nnx.Dense(6, 3), nnx.Softmax()]
    model, plain = (
        nnx.Sequential(*copy.deepcopy(layers), backend=name, dtype="float64", seed=3).compile(
            nnx.CategoricalCrossEntropy(), nnx.SGD(0.5)
        )
        for name in (backend, "numpy")
    )
    history = model.fit(X, LABELS, epochs=2, batch_size=size, shuffle=False, sample_weight=weights, verbose=0)
    for epoch in range(2):
        total = right = 0.0
        for first in range(0, 41, size):
            rows = np.repeat(np.arange(first, min(first + size, 41)), weights[first : first + size])
            if rows.size:
                right += nnx.accuracy(plain.predict(X[rows]), LABELS[rows]) * rows.size
                total += plain.step(X[rows], LABELS[rows]) * rows.size
        assert history["loss"][epoch] == pytest.approx(total / weights.sum(), rel=1e-9)
        assert history["accuracy"][epoch] == pytest.approx(right / weights.sum(), rel=1e-9)
    np.testing.assert_allclose(numbers(model), numbers(plain), **EXACT)


def test_shuffled_batches_count_as_the_same_numbers_by_every_way_of_running(monkeypatch: pytest.MonkeyPatch):
    """Over the epochs of several fits, float32 too, with what is in rows of weight 0 of no importance."""
    pytest.importorskip("numba")
    y, ends = X[:, :2] ** 2, []
    y[WEIGHTS == 0] = 1e30
    for backend, family in WAYS:
        if family:
            monkeypatch.setenv("NNX_PROGRAM", family)
        model = model_of("numbers", backend, dtype="float32")
        for epochs in (2, 3):
            history = model.fit(X, y, epochs, batch_size=16, sample_weight=WEIGHTS, verbose=0)
        assert model.eager_reason is None
        ends.append(np.r_[numbers(model), history["loss"]])
    assert np.isfinite(ends).all()
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ends[2], ends[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_by_themselves(kind: str):
    make, _, y = LOSSES[kind]
    p = np.random.default_rng(5).uniform(0.1, 0.9, (41, 3 if y.ndim == 1 and y is LABELS else y[0].size))
    y = np.asarray(y, int if y.dtype == bool else y.dtype)
    p = p / p.sum(axis=1, keepdims=True) if "labels" in kind else p
    loss = make()
    loss.backend = nnx.get_backend("numpy")
    assert loss.calculate(p, y, WEIGHTS) == pytest.approx(loss.calculate(p[OFTEN], y[OFTEN]), rel=1e-12)
    got = np.array(loss.backward(p, y, WEIGHTS))
    wanted = np.zeros_like(got)
    np.add.at(wanted, OFTEN, loss.backward(p[OFTEN], y[OFTEN]))
    np.testing.assert_allclose(got, wanted, **EXACT)
    assert nnx.gradcheck(make(), p, y, WEIGHTS) < 1e-6
    assert nnx.gradcheck(model_of(kind), X, LOSSES[kind][2], WEIGHTS) < 1e-6


def test_accuracy_by_weights():
    assert nnx.accuracy([0, 1, 1], [0, 1, 0], [1, 2, 5]) == pytest.approx(3 / 8)


def test_without_weights_a_step_has_no_operation_more():
    model = model_of("labels")
    trainer = model._trainer
    assert trainer is not None
    names = []
    for factors in (None, np.ones((41, 1))):
        program = trainer.runner(Feed(X, LABELS, factors=factors))
        names.append([call.name for call in program.calls])  # type: ignore[union-attr]
    assert "tally" in names[0]
    assert not {"weigh", "weighted_tally"} & set(names[0])
    assert {"weigh", "weighted_tally"} <= set(names[1])


# ---- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "logits", "yes or no"])
def test_weights_of_classes_are_those_of_their_samples_and_multiply_with_them(kind: str):
    y = np.asarray(LOSSES[kind][2], int)
    by_class = {0: 0.5, 1: 2, 2: 3.0} if y.max() == 2 else {0: 0.5, 1: 2.0}
    balanced = (len(y) / (len(by_class) * np.bincount(y)))[y]
    each = np.array([by_class[int(label)] for label in y])
    for given, alone in (
        ({"class_weight": by_class}, each),
        ({"class_weight": "balanced"}, balanced),
        ({"class_weight": "balanced", "sample_weight": WEIGHTS}, balanced * WEIGHTS),
    ):
        one, other = model_of(kind), model_of(kind)
        got = one.fit(X, y, epochs=3, batch_size=16, verbose=0, **given)
        wanted = other.fit(X, y, epochs=3, batch_size=16, verbose=0, sample_weight=alone)
        assert got["loss"] == pytest.approx(wanted["loss"], rel=1e-12)
        np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-12)


def test_balanced_weights_let_a_rare_class_be_found():
    rng = np.random.default_rng(0)
    y = (np.arange(400) % 20 == 0).astype(int)
    x = rng.normal(size=(400, 2)) + y[:, None]
    found = []
    for class_weight in (None, "balanced"):
        model = nnx.Sequential(nnx.Dense(2, 2), nnx.Softmax(), backend="numpy", seed=0)
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.1))
        model.fit(x, y, epochs=100, verbose=0, class_weight=class_weight)
        found.append(float((model.predict(x).argmax(axis=1)[y == 1] == 1).mean()))
    assert found[1] > 0.6 > found[0]


# ---- what cannot be used ---------------------------------------------------------------------------------------------

ONES = np.ones(41)
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"sample_weight": ONES[:40]}, InputError, r"sample_weight has shape \(40,\), expected .* \(41,\)"),
    ({"sample_weight": np.ones((41, 2))}, InputError, r"sample_weight has shape \(41, 2\)"),
    ({"sample_weight": 2.0}, InputError, r"sample_weight has shape \(\)"),
    ({"sample_weight": np.where(np.arange(41) == 5, -1, ONES)}, InputError, r"sample_weight\[5\] is -1"),
    ({"sample_weight": np.where(np.arange(41) == 5, np.nan, ONES)}, InputError, r"not finite.*\[5\]"),
    ({"sample_weight": np.where(np.arange(41) == 5, np.inf, ONES)}, InputError, r"not finite.*\[5\]"),
    ({"sample_weight": 0 * ONES}, InputError, "nothing but zeros"),
    ({"sample_weight": 1e308 * ONES}, InputError, "more than float64 holds"),
    ({"sample_weight": ["heavy"] * 41}, InputTypeError, "sample_weight"),
    ({"class_weight": {0: 1, 1: 1}}, InputError, r"no weight for class 2; expected one for each of 0, 1, 2"),
    ({"class_weight": {0: 1, 1: 1, 2: 1, 3: 1}}, InputError, r"class_weight: 3 is no class; expected 0, 1, 2"),
    ({"class_weight": {0: 1, 1: -1, 2: 1}}, InputError, r"class_weight\[1\]=-1: expected a number of at least 0"),
    ({"class_weight": {0: 0, 1: 0, 2: 0}}, InputError, "adds up to 0"),
    ({"class_weight": "even"}, InputError, r"class_weight='even': expected one of 'balanced'"),
    ({"class_weight": [1, 2, 3]}, InputTypeError, "expected 'balanced' or a dictionary"),
    ({"validation_data": (X, LABELS, ONES[:3])}, InputError, r"fit: validation_data: sample_weight has shape \(3,\)"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "error", "message"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_wrong_weights_are_refused_before_anything_changes(given: dict[str, Any], error: type, message: str):
    model = model_of("labels")
    before = model.flat.state.copy()
    with pytest.raises(error, match=message):
        model.fit(X, LABELS, epochs=2, verbose=0, **given)
    if "sample_weight" in given:
        for call in (model.evaluate, model.loss.calculate, model.loss.backward):
            with pytest.raises(error, match=message.replace("fit", "")):
                call(
                    X if call == model.evaluate else np.full((41, 3), 1 / 3),
                    LABELS,
                    sample_weight=given["sample_weight"],
                )
    np.testing.assert_array_equal(model.flat.state, before)
    assert model.epochs_done == model.optimizer.iterations == 0


@pytest.mark.parametrize("kind", ["soft labels", "several yes or no", "numbers"])
def test_targets_that_name_no_class_have_no_weights_of_classes(kind: str):
    with pytest.raises(InputError, match=r"names no single class for each sample; give sample_weight instead"):
        model_of(kind).fit(X, LOSSES[kind][2], verbose=0, class_weight="balanced")


# ---- smoothed and ignored labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("mark", "kind"), [(-1, int), (255, np.uint8), (2, float)])
def test_ignored_samples_are_as_if_they_were_not_there(mark: int, kind: Any, fused: bool, backend: str):
    """In fit, steps, evaluate and the loss by itself; with weights of samples and classes, too."""
    if backend == "numba":
        pytest.importorskip("numba")
    y = LABELS.astype(kind)
    if mark != 2:
        y[::5] = mark
    there = y != mark
    other = LABELS[there].astype(int)
    models = []
    for ignored in (mark, None):
        softmax = nnx.Softmax() if fused else type("Unfused", (nnx.Softmax,), {})()
        layers = nnx.Dense(4, 6), nnx.Tanh(), nnx.Dense(6, 3), softmax
        model = nnx.Sequential(*layers, backend=backend, dtype="float64", seed=3)
        models.append(model.compile(nnx.CategoricalCrossEntropy(ignore_index=ignored), nnx.Adam(0.02)))
    one, two = models
    for more, alone in (
        ({}, {}),
        ({"class_weight": "balanced"}, {"class_weight": "balanced"}),
        ({"sample_weight": WEIGHTS}, {"sample_weight": WEIGHTS[there]}),
    ):
        got = one.fit(X, y, epochs=4, verbose=0, validation_data=(X, y), **more)
        wanted = two.fit(X[there], other, epochs=4, verbose=0, validation_data=(X[there], other), **alone)
        for column in wanted:
            np.testing.assert_allclose(got[column], wanted[column], **EXACT)
    np.testing.assert_allclose(one.steps(X, y, 3), two.steps(X[there], other, 3), **EXACT)
    assert one.step(X, LABELS % 2) == pytest.approx(two.step(X, LABELS % 2), rel=1e-9)  # where none is ignored
    np.testing.assert_allclose(numbers(one), numbers(two), **EXACT)
    assert one.evaluate(X, y) == pytest.approx(two.evaluate(X[there], other), rel=1e-9)
    p, losses = one.predict(X), (one.loss, two.loss)
    assert losses[0].calculate(p, y) == pytest.approx(losses[1].calculate(p[there], other), rel=1e-12)
    each = np.array(losses[0].forward(p, y))
    assert not each[~there].any()
    np.testing.assert_allclose(each[there], losses[1].forward(p[there], other), rtol=1e-12)
    with pytest.raises(InputError, match="adds up to 0"):
        one.fit(X, np.full(41, mark), verbose=0)


def test_labels_beside_the_ignored_one_are_still_checked():
    y = LABELS.copy()
    y[3], y[4] = -100, -1
    model = model_of("labels")
    model.loss = nnx.CategoricalCrossEntropy(ignore_index=-100)
    with pytest.raises(InputError, match=r"label -1 is out of range \(row 4\); expected 0 .. 2"):
        model.fit(X, y, verbose=0)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_smoothed_labels_are_the_distributions_of_the_formula(backend: str):
    if backend == "numba":
        pytest.importorskip("numba")
    soft = 0.9 * np.eye(3)[LABELS] + 0.1 / 3
    one, two = model_of("labels", backend), model_of("labels", backend)
    one.loss = nnx.CategoricalCrossEntropy(label_smoothing=0.1)
    got = one.fit(X, LABELS, epochs=4, batch_size=16, verbose=0)
    wanted = two.fit(X, soft, epochs=4, batch_size=16, verbose=0)
    assert dict(got) == dict(wanted)
    np.testing.assert_array_equal(numbers(one), numbers(two))
    assert nnx.gradcheck(one, X, LABELS) < 1e-6
    p = one.predict(X)
    assert one.loss.calculate(p, np.eye(3)[LABELS]) == pytest.approx(-(soft * np.log(p)).sum(axis=1).mean(), rel=1e-9)


def test_smoothing_and_the_ignored_label_are_torchs():
    torch = pytest.importorskip("torch")
    logits, y = np.random.default_rng(0).normal(size=(41, 3)), LABELS.copy()
    y[::4] = -100
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    loss = nnx.CategoricalCrossEntropy(label_smoothing=0.2, ignore_index=-100)
    loss.backend = nnx.get_backend("numpy")
    t = torch.tensor(logits, requires_grad=True)
    wanted = torch.nn.functional.cross_entropy(t, torch.tensor(y), label_smoothing=0.2, ignore_index=-100)
    wanted.backward()
    assert loss.calculate(p, y) == pytest.approx(wanted.item(), rel=1e-9)
    softmax = nnx.Softmax()
    softmax.backend = loss.backend
    softmax.forward(logits)
    np.testing.assert_allclose(softmax.backward(loss.backward(p, y)), t.grad.numpy(), rtol=1e-6, atol=1e-9)


def test_a_loss_with_settings_is_saved_and_shown(tmp_path: Any):
    model = model_of("labels")
    model.loss = nnx.CategoricalCrossEntropy(label_smoothing=0.1, ignore_index=-1)
    assert str(model.loss) == "CategoricalCrossEntropy(label_smoothing=0.1, ignore_index=-1)"
    model.save(tmp_path / "m.safetensors")
    loss = nnx.load(tmp_path / "m.safetensors").loss
    assert (loss.label_smoothing, loss.ignore_index) == (0.1, -1)
    assert str(nnx.CategoricalCrossEntropy()) == "CategoricalCrossEntropy()"
    for wrong in ({"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"ignore_index": 0.5}, {"ignore_index": "no"}):
        with pytest.raises(
            (InputError, InputTypeError), match=r"CategoricalCrossEntropy: (label_smoothing|ignore_index)="
        ):
            nnx.CategoricalCrossEntropy(**wrong)  # type: ignore[arg-type]


# ---- metrics, and what is held out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "yes or no", "several yes or no", "numbers", "magnitudes"])
def test_metrics_by_whole_weights_are_those_of_repeated_rows(kind: str):
    loss, _, y = LOSSES[kind]
    names = (
        ["mae", "rmse", "r2"]
        if loss.metric == "regression"
        else ["precision", "recall", "f1", "auc", "balanced_accuracy"]
    )
    names += ["top_2"] if kind == "labels" else []
    model = model_of(kind).compile(loss(), nnx.Adam(), metrics=["accuracy", *names])
    got, wanted = model.evaluate(X, y, sample_weight=WEIGHTS), model.evaluate(X[OFTEN], y[OFTEN])
    assert got.keys() == {"loss", "accuracy", *names}
    assert got == pytest.approx(wanted, rel=1e-9)


def test_metrics_by_weights_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    weights, random = np.random.default_rng(8).uniform(0.1, 2, 41), np.random.default_rng(9)
    p = random.dirichlet(np.ones(3), 41)
    best, macro = p.argmax(axis=1), {"average": "macro", "sample_weight": weights}
    many = metrics.roc_auc_score(LABELS, p, multi_class="ovr", sample_weight=weights)
    for name, wanted in (
        ("precision", metrics.precision_score(LABELS, best, **macro)),
        ("recall", metrics.recall_score(LABELS, best, **macro)),
        ("f1", metrics.f1_score(LABELS, best, **macro)),
        ("auc", many),
        ("balanced_accuracy", metrics.balanced_accuracy_score(LABELS, best, sample_weight=weights)),
        ("log_loss", metrics.log_loss(LABELS, p, sample_weight=weights)),
        ("top_k", metrics.top_k_accuracy_score(LABELS, p, k=2, sample_weight=weights)),
    ):
        more = {"k": 2} if name == "top_k" else {}
        assert getattr(nnx.metrics, name)(LABELS, p, sample_weight=weights, **more) == pytest.approx(wanted, rel=1e-12)
    y, found, each = X[:, :2], X[:, 2:], {"sample_weight": weights}
    assert nnx.metrics.mae(y, found, weights) == pytest.approx(metrics.mean_absolute_error(y, found, **each))
    assert nnx.metrics.rmse(y, found, weights) == pytest.approx(metrics.root_mean_squared_error(y, found, **each))
    assert nnx.metrics.r2(y, found, weights) == pytest.approx(metrics.r2_score(y, found, **each))


def test_a_metric_of_ones_own_sees_what_counts_and_takes_no_weights():
    def seen(y_true: np.ndarray, y_pred: np.ndarray) -> float:
        assert len(y_true) == len(y_pred)
        return len(y_true)

    y = LABELS.copy()
    y[::4] = -1
    model = model_of("labels")
    model.compile(nnx.CategoricalCrossEntropy(ignore_index=-1), nnx.Adam(), metrics=[seen, "f1"])
    assert model.evaluate(X, y)["seen"] == (y >= 0).sum()
    for call in (
        lambda: model.evaluate(X, y, sample_weight=WEIGHTS),
        lambda: model.fit(X, y, validation_data=(X, y, WEIGHTS), verbose=0),
        lambda: model.fit(X, y, validation_split=0.5, sample_weight=WEIGHTS, verbose=0),
    ):
        with pytest.raises(InputError, match=r"metric seen: a function .* takes no weights of samples"):
            call()
    assert model.epochs_done == 0


@pytest.mark.parametrize("loss", [
    nnx.CategoricalCrossEntropy(), nnx.CategoricalCrossEntropy(label_smoothing=0.1, ignore_index=-1),
], ids=str)  # fmt: skip
def test_what_a_split_holds_out_keeps_its_labels_and_weights(loss: nnx.Loss):
    y = LABELS.copy()
    if loss.config():
        y[::4] = -1
    one, two = (model_of("labels").compile(loss, nnx.Adam(0.02)) for _ in range(2))
    got = one.fit(X, y, 3, 8, sample_weight=WEIGHTS, class_weight="balanced", validation_split=0.3, verbose=0)
    at = int(41 * 0.7)
    held_out = X[at:], y[at:], WEIGHTS[at:]
    wanted = two.fit(X[:at], y[:at], 3, 8, held_out, sample_weight=WEIGHTS[:at], class_weight="balanced", verbose=0)
    assert dict(got) == dict(wanted)
    assert got["val_loss"][-1] == two.evaluate(held_out[0], held_out[1], sample_weight=held_out[2])["loss"]


def test_a_word_for_weights_of_samples_names_the_argument_that_takes_it():
    model = nnx.Sequential(nnx.Dense(2, 2), nnx.Softmax(), backend="numpy")
    model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1))
    with pytest.raises(nnx.InputError, match=r"sample_weight='balanced': expected one number.*class_weight='balanced'"):
        model.fit(np.eye(2), [0, 1], sample_weight="balanced", verbose=0)
