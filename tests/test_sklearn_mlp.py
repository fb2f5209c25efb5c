"""NNClassifier and NNRegressor by the names, and the meaning, of scikit-learn's MLPClassifier and MLPRegressor."""

from __future__ import annotations

import inspect
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import nnx

pytest.importorskip("sklearn")

import scipy.sparse
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_moons, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, minmax_scale, scale

from nnx.kernels.step_state import CLIP
from nnx.sklearn import NNClassifier, NNRegressor
from nnx.testing.rounding import rounding

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
PAIRS = {NNClassifier: MLPClassifier, NNRegressor: MLPRegressor}
BOTH = pytest.mark.parametrize("kind", PAIRS)


def iris() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return scale(x)[order], y[order]


def moons(rows: int = 120) -> tuple[np.ndarray, np.ndarray]:
    x, y = make_moons(rows, noise=0.1, random_state=0)
    return x, y


def tags() -> tuple[np.ndarray, np.ndarray]:
    x, y = make_multilabel_classification(150, 6, random_state=0)  # a smaller batch has another penalty
    return scale(x), y


def numbers() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_diabetes(return_X_y=True)
    return scale(x)[:150], scale(y)[:150]


def several_numbers() -> tuple[np.ndarray, np.ndarray]:
    x, y = numbers()
    return x, np.c_[y, -y, y**2 - 1]


def small(kind: type, **arguments: Any) -> Any:
    return kind(**{"backend": "numpy", "hidden_layer_sizes": 8, "random_state": 0, "max_iter": 20, **arguments})


# ---- the same numbers ------------------------------------------------------------------------------------------------

SGD = {"solver": "sgd", "learning_rate_init": 0.05, "tol": 0.0}
SOLVERS = {
    "nesterov": {**SGD, "alpha": 0.5},
    "momentum": {**SGD, "nesterovs_momentum": False, "momentum": 0.5},
    "invscaling": {**SGD, "learning_rate": "invscaling", "learning_rate_init": 0.2, "power_t": 0.3},
    "adaptive": {**SGD, "learning_rate": "adaptive", "tol": 1e-2, "n_iter_no_change": 1},
    "adam": {"solver": "adam", "alpha": 1.0, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-12},
}
DATA = {
    "classes": (NNClassifier, iris), "labels": (NNClassifier, tags),
    "numbers": (NNRegressor, numbers), "several numbers": (NNRegressor, several_numbers),
}  # fmt: skip


@pytest.mark.parametrize("activation", ["logistic", "relu"])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize(("kind", "data"), DATA.values(), ids=DATA)
def test_from_the_same_weights_in_the_same_order_losses_and_weights_are_the_mlps(
    kind: type, data: Any, solver: dict[str, Any], activation: str
) -> None:
    (x, y), epochs = data(), 15
    arguments = {"alpha": 1e-4, "batch_size": 25, "activation": activation, **solver}
    arguments |= {"hidden_layer_sizes": (7,), "shuffle": False, "warm_start": True, "random_state": 0, "max_iter": 1}
    theirs, ours = PAIRS[kind](**arguments).fit(x, y), kind(**arguments, backend="numpy").fit(x, y)
    ours.coefs_, ours.intercepts_, ours.loss_curve_ = theirs.coefs_, theirs.intercepts_, [*theirs.loss_curve_]
    for fit in (theirs, ours):
        fit.set_params(max_iter=epochs).fit(x, y)
    # Gradients meet those of the true loss, not of the clipped one; Adam's first steps divide by what they are.
    rtol = 1e-6 if solver["solver"] == "adam" else rounding(epochs * len(x) * 64)
    for mine, their in zip(
        [*ours.coefs_, *ours.intercepts_], [*theirs.coefs_, *theirs.intercepts_], strict=True
    ):  # no reductions: a step's error is of the size of what it adds up
        np.testing.assert_allclose(mine, their, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=rtol, atol=rtol + 2 * CLIP)
    assert (ours.n_iter_, ours.t_, ours.n_layers_, ours.n_outputs_, ours.out_activation_) == (
        theirs.n_iter_, theirs.t_, theirs.n_layers_, theirs.n_outputs_, theirs.out_activation_,
    )  # fmt: skip
    assert [a.shape for a in ours.coefs_] == [a.shape for a in theirs.coefs_]


@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # of older versions' MLP
@pytest.mark.parametrize(("kind", "data"), [DATA[name] for name in ("classes", "labels", "numbers")])
def test_lbfgs_takes_the_mlps_way(kind: type, data: Any) -> None:
    x, y = data()
    arguments = {"solver": "lbfgs", "alpha": 0.5, "activation": "tanh", "hidden_layer_sizes": (4,), "random_state": 0}
    arguments |= {"warm_start": True, "max_iter": 1}
    theirs, ours = PAIRS[kind](**arguments).fit(x, y), kind(**arguments, backend="numpy").fit(x, y)
    for rounds in (1, 8):
        ours.coefs_, ours.intercepts_ = theirs.coefs_, theirs.intercepts_
        for fit in (theirs, ours):
            fit.set_params(max_iter=rounds).fit(x, y)
        assert (ours.n_iter_, ours.loss_) == (theirs.n_iter_, pytest.approx(theirs.loss_, rel=1e-6))  # probabilities
        for mine, their in zip(ours.coefs_, theirs.coefs_, strict=True):  # are clipped at 1e-7
            np.testing.assert_allclose(mine, their, rtol=1e-4, atol=1e-4)  # errors grow along the way
    with pytest.warns(ConvergenceWarning, match="L-BFGS did 8 iterations"):
        ours.fit(x, y)
    assert not hasattr(ours, "partial_fit")


def test_lbfgs_with_nothing_to_do() -> None:
    model = small(NNClassifier, solver="lbfgs").fit(np.eye(3), ["only"] * 3)
    assert (list(model.predict(np.eye(3))), model.n_iter_, model.loss_) == (
        ["only"] * 3,
        1,
        pytest.approx(0, abs=CLIP * 2),
    )


@BOTH
def test_lbfgs_ends_where_gradients_are_small_and_keeps_what_it_reached(kind: type, capsys: Any) -> None:
    x, y = moons()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = small(kind, solver="lbfgs", max_iter=500, alpha=10.0, tol=1e-3, verbose=True).fit(x, y)
    assert f"iteration {model.n_iter_}: loss" in capsys.readouterr().out
    assert len(model.loss_curve_) == model.n_iter_ < 500
    assert model.loss_curve_ == sorted(model.loss_curve_, reverse=True)
    steep = 1 if kind is NNClassifier else 0.5
    assert steep * model.model_.step(x, y) == pytest.approx(model.loss_, rel=1e-9)  # not a trial's weights
    assert model.score(x, y) > 0.4
    with pytest.warns(ConvergenceWarning, match="max_fun=3"):
        small(kind, solver="lbfgs", max_fun=3).fit(x, y)


def test_the_penalty_is_shared_among_what_samples_count_as_the_mlp_does() -> None:
    x, y = iris()
    arguments = {"solver": "sgd", "alpha": 2.0, "max_iter": 1, "batch_size": 150, "learning_rate_init": 0.1}
    arguments |= {"hidden_layer_sizes": 4, "shuffle": False, "random_state": 0, "warm_start": True}
    if "sample_weight" not in inspect.signature(MLPClassifier.fit).parameters:
        pytest.skip("the MLP of this scikit-learn takes no sample_weight")
    counts = np.arange(150) % 3 + 0.5
    theirs = MLPClassifier(**arguments).fit(x, y, sample_weight=counts)
    ours = NNClassifier(**arguments, backend="numpy").fit(x, y, sample_weight=counts)
    ours.coefs_, ours.intercepts_ = theirs.coefs_, theirs.intercepts_
    for fit in (theirs, ours):
        fit.fit(x, y, sample_weight=counts)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=rounding(150 * 64))
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=rounding(150 * 64), atol=rounding(150 * 64))


@pytest.mark.parametrize("schedule", ["invscaling", "adaptive"])
def test_partial_fits_follow_the_mlps_schedules(schedule: str) -> None:
    x, y = iris()
    arguments = {"solver": "sgd", "learning_rate": schedule, "learning_rate_init": 0.1, "batch_size": 50, "tol": 1.0}
    arguments |= {"hidden_layer_sizes": 4, "shuffle": False, "random_state": 0, "n_iter_no_change": 2, "alpha": 1e-4}
    theirs, ours = MLPClassifier(**arguments), NNClassifier(**arguments, backend="numpy")
    for fit in (theirs, ours):
        fit.partial_fit(x, y, classes=[0, 1, 2])
    ours.coefs_, ours.intercepts_, ours.loss_curve_ = theirs.coefs_, theirs.intercepts_, [*theirs.loss_curve_]
    theirs._optimizer.velocities = [np.zeros_like(v) for v in theirs._optimizer.velocities]
    ours.model_.flat.first[...] = 0  # the two began with other weights
    for _ in range(12):
        for fit in (theirs, ours):
            fit.partial_fit(x, y)
        assert ours.model_.optimizer.learning_rate == pytest.approx(
            theirs._optimizer.learning_rate if schedule == "adaptive" else 0.1 / np.sqrt(ours.t_ - 150 + 1), rel=1e-12
        )
    assert ours.model_.optimizer.learning_rate < 0.02
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=1e-9, atol=1e-9)


@BOTH
def test_ctrl_c_in_lbfgs_keeps_what_iterations_reached(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), step, calls = moons(), nnx.Sequential.step, []

    def stopped(self: nnx.Sequential, *args: Any, **kwargs: Any) -> float:
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    model = small(kind, solver="lbfgs", max_iter=50)
    monkeypatch.setattr(nnx.Sequential, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y)
    monkeypatch.undo()
    assert 1 <= model.n_iter_ < 9
    again = small(kind, solver="lbfgs", max_iter=model.n_iter_).fit(x, y)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


SETS = {
    "moons": (NNClassifier, lambda: moons(200), {"max_iter": 100, "learning_rate_init": 0.02}),
    "digits": (NNClassifier, lambda: (load_digits().data[:400] / 16, load_digits().target[:400]), {"max_iter": 40}),
    "diabetes": (NNRegressor, numbers, {"max_iter": 60, "learning_rate_init": 0.01, "alpha": 1.0}),
}


@pytest.mark.parametrize(("kind", "data", "arguments"), SETS.values(), ids=SETS)
def test_scores_on_samples_not_seen_are_the_mlps_within_their_own_spread(
    kind: type, data: Any, arguments: dict[str, Any]
) -> None:
    (x, y), seeds = data(), range(6)
    order = np.random.default_rng(1).permutation(len(y))
    learned, asked = order[: len(y) * 2 // 3], order[len(y) * 2 // 3 :]

    def scores(kind: type, **more: Any) -> np.ndarray:
        arguments_ = {**arguments, "hidden_layer_sizes": (32,), "batch_size": 32, **more}
        fits = (kind(**arguments_, random_state=seed).fit(x[learned], y[learned]) for seed in seeds)
        return np.array([fit.score(x[asked], y[asked]) for fit in fits])

    ours, theirs = scores(kind, backend="numpy"), scores(PAIRS[kind])
    spread = np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / len(seeds))  # of the difference of two means
    assert abs(ours.mean() - theirs.mean()) <= 4 * spread + 1 / len(asked)  # and no finer than one sample


# ---- the names -------------------------------------------------------------------------------------------------------


@BOTH
def test_all_names_of_the_mlp_are_known_and_all_of_its_parameters_taken(kind: type) -> None:
    x, y = moons()
    parameters = PAIRS[kind](hidden_layer_sizes=(5, 4), max_iter=7, tol=0.0, random_state=1).get_params()
    model = kind(**parameters, backend="numpy").fit(x, y)
    assert (model.n_iter_, [a.shape for a in model.coefs_][:2]) == (7, [(2, 5), (5, 4)])
    assert model.loss_ == model.loss_curve_[-1]
    assert model.best_loss_ == min(model.loss_curve_)
    assert (model.validation_scores_, model.best_validation_score_) == (None, None)
    assert (model.t_, model.n_layers_) == (7 * 120, 4)
    assert model.model_.optimizer.config() == {
        "learning_rate": 0.001, "decay": 0.0, "epsilon": 1e-8 if kind is NNClassifier else 2e-8, "beta_1": 0.9,
        "beta_2": 0.999,
    }  # fmt: skip
    fitted = {name for name in vars(PAIRS[kind](max_iter=1).fit(x, y)) if name[-1] == "_" and name[0] != "_"}
    assert not [name for name in fitted if not hasattr(model, name)]
    assert not [name for name in dir(PAIRS[kind]) if name[0] != "_" and not hasattr(kind, name)]


TWICE = [
    ("hidden_layers", (3,), "hidden_layer_sizes", (4,)), ("learning_rate", 0.1, "learning_rate_init", 0.2),
    ("epochs", 30, "max_iter", 20), ("patience", 3, "n_iter_no_change", 4),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("ours", "value", "theirs", "other"), TWICE)
def test_two_names_of_one_thing_are_refused_where_they_differ(
    kind: type, ours: str, value: Any, theirs: str, other: Any
) -> None:
    x, y = moons()
    few = {} if ours == "epochs" else {"epochs": 2}
    with pytest.raises(nnx.InputError, match=f"{kind.__name__}: {ours}=.*{theirs}="):
        kind(**few, **{ours: value, theirs: other}, backend="numpy").fit(x, y)
    for arguments in ({ours: value, theirs: value}, {theirs: other}):
        fit = kind(**few, **arguments, backend="numpy").fit(x, y)
        again = kind(**few, **{ours: arguments[theirs]}, tol=None if few else 1e-4, backend="numpy", random_state=0)
        assert fit.n_iter_ == again.fit(x, y).n_iter_


WRONG = [
    ("solver", "newton"), ("learning_rate", "cosine"), ("learning_rate_init", 0),
    ("hidden_layer_sizes", 0), ("alpha", -1), ("max_iter", 0), ("tol", -1), ("n_iter_no_change", 0.5),
    ("momentum", 1), ("nesterovs_momentum", "no"), ("power_t", -1), ("beta_1", 1), ("beta_2", -0.1), ("epsilon", 0),
    ("early_stopping", "yes"), ("batch_size", "all"), ("shuffle", 1), ("warm_start", "no"), ("max_fun", 0),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_cannot_be_done_is_refused_in_the_name_of_the_class(kind: type, name: str, value: Any) -> None:
    class Mine(kind):  # type: ignore[misc]
        pass

    x, y = moons()
    first = {"classes": [0, 1]} if kind is NNClassifier else {}
    for begin in (lambda: Mine(**{name: value}).fit(x, y), lambda: Mine(**{name: value}).partial_fit(x, y, **first)):
        with pytest.raises(nnx.InputError, match=rf"^Mine: {name}={value!r}"):
            begin()


def test_what_has_no_meaning_together_is_refused() -> None:
    x, y = moons()
    with pytest.raises(nnx.InputError, match="NNRegressor: fit: loss='poisson': expected 'squared_error'"):
        NNRegressor(loss="poisson").fit(x, y)
    held_out = [{"early_stopping": True}, {"validation_fraction": 0.1}]
    for more, words in [({"dropout": 0.5}, "dropout=0.5"), *((one, "early stopping") for one in held_out)]:
        with pytest.raises(nnx.InputError, match=f"solver='lbfgs' and {words}"):
            small(NNClassifier, solver="lbfgs", **more).fit(x, y)
    with pytest.raises(nnx.InputError, match="learning_rate='adaptive' goes by"):
        small(NNClassifier, solver="sgd", learning_rate="adaptive", validation_fraction=0.1).fit(x, y)


@BOTH
def test_errors_of_the_network_name_the_class_too(kind: type) -> None:
    x, y = moons()
    with pytest.raises(nnx.InputError, match=rf"^{kind.__name__}: .*column 0 varies by"):
        small(kind, dtype="float32").fit(x + 1e9, y)
    with pytest.raises(nnx.InputError, match=rf"^{kind.__name__}: fit: sample_weight has shape"):
        small(kind).fit(x, y, sample_weight=[1, 2])
    if kind is NNRegressor:
        with pytest.raises(nnx.NonFiniteError, match=r"^NNRegressor: "):
            small(kind, solver="sgd", learning_rate_init=1e9).fit(x * 1e9, y)


# ---- when it ends ----------------------------------------------------------------------------------------------------


def test_epochs_are_so_many_and_max_iter_at_most_so_many() -> None:
    x, y = moons()
    arguments = {"backend": "numpy", "random_state": 0, "hidden_layers": 4, "learning_rate": 0.01}
    assert NNClassifier(epochs=60, **arguments).fit(x, y).n_iter_ == 60
    early = NNClassifier(max_iter=60, tol=0.05, n_iter_no_change=2, **arguments).fit(x, y)
    assert early.n_iter_ < 60
    losses = np.array(early.loss_curve_)
    assert (losses[-3:] > np.minimum.accumulate(losses)[-4:-1] - 0.05).all()  # three in a row were no better by tol
    assert NNClassifier(epochs=5, max_iter=60, **arguments).fit(x, y).n_iter_ == 5
    for how in ({"max_iter": 3}, {"epochs": 3, "tol": 0.0}, {"epochs": 3, "early_stopping": True}):
        with pytest.warns(ConvergenceWarning, match="NNClassifier: all 3 epochs are done"):
            NNClassifier(**how, **arguments).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for how in ({"epochs": 3}, {"epochs": 3, "validation_fraction": 0.2}):
            NNClassifier(**how, **arguments).fit(x, y)


@BOTH
def test_early_stopping_goes_by_the_score_and_keeps_the_best(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), seen = moons(200), []
    y = np.where(y, "up", "down").astype(object) if kind is NNClassifier else y - 0.5
    score = kind._score
    monkeypatch.setattr(kind, "_score", lambda *a: seen.append(a) or score(*a))
    model = small(kind, early_stopping=True, n_iter_no_change=3, tol=1e-3, max_iter=300, learning_rate_init=0.02)
    model.fit(x, y)
    assert 5 <= model.n_iter_ == len(model.validation_scores_) == len(seen) < 300
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.best_loss_ is None
    _, _, outputs, *wanted = seen[0]
    assert len(outputs) == 20  # a tenth
    if kind is NNClassifier:
        assert list(np.bincount(wanted[0])) == [10, 10]
        assert set(model.predict(x)) == {"up", "down"}
    best = seen[int(np.argmax(model.validation_scores_))][2]
    monkeypatch.undo()
    held_out = pickle.loads(pickle.dumps(model))
    assert any(np.allclose(held_out.model_.predict(x[i : i + 1]), best[0]) for i in range(len(x)))
    assert model.score(x, y) > 0.7


def test_early_stopping_needs_samples_of_each_class_and_two_to_score() -> None:
    x, y = moons(40)
    y[:] = 0
    y[0] = 1
    with pytest.raises(nnx.InputError, match=r"NNClassifier: validation_fraction=0\.1: The least populated class"):
        small(NNClassifier, early_stopping=True).fit(x, y)
    with pytest.raises(nnx.InputError, match=r"The validation set is too small: validation_fraction=0\.1 of 5"):
        small(NNRegressor, early_stopping=True).fit(x[:5], y[:5])
    with pytest.raises(nnx.InputError, match="sample_weight is 0 for all 4 samples held out"):
        small(NNRegressor, early_stopping=True).fit(x, y, sample_weight=[0] * 39 + [1])
    with pytest.raises(nnx.InputError, match="partial_fit does not support early_stopping=True"):
        small(NNRegressor, early_stopping=True).partial_fit(x, y)
    assert small(NNClassifier, early_stopping=False, validation_fraction=0.5).fit(x, y).t_ == 40 * 20


# ---- going on --------------------------------------------------------------------------------------------------------


@BOTH
def test_a_warm_start_goes_on_and_refuses_another_network(kind: type) -> None:
    x, y = moons()
    model = small(kind, warm_start=True, tol=0.0).fit(x, y)
    seen = model.model_
    model.set_params(max_iter=7, solver="sgd", learning_rate_init=0.01).fit(x, y)
    assert model.model_ is seen
    assert (model.n_iter_, len(model.loss_curve_), model.t_) == (7, 27, 27 * 120)
    assert isinstance(seen.optimizer, nnx.SGD)
    assert seen.optimizer.iterations == 7 * 4  # of its own: Adam's are gone
    before = model.predict(x)
    others = [({"hidden_layer_sizes": 9}, y, "hidden_layer_sizes=\\(9,\\)"), ({"activation": "tanh"}, y, "activation")]
    others += [({}, y + 1, "classes")] if kind is NNClassifier else [({}, np.c_[y, y], "2 numbers for each")]
    for change, target, words in others:
        with pytest.raises(nnx.InputError, match=rf"^{kind.__name__}: fit with warm_start=True: .*{words}"):
            clone_of(model).set_params(**change).fit(x, target)
    np.testing.assert_array_equal(model.predict(x), before)
    cold = model.set_params(warm_start=False, hidden_layer_sizes=9).fit(x, y)
    assert cold.model_ is not seen
    assert len(cold.loss_curve_) == cold.n_iter_


def clone_of(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


@BOTH
def test_a_warm_start_holds_out_the_same_samples_and_keeps_the_best_of_all(kind: type) -> None:
    x, y = moons()
    model = small(kind, warm_start=True, early_stopping=True, max_iter=5).fit(x, y)
    first, scores = model.best_validation_score_, len(model.validation_scores_)
    model.set_params(learning_rate_init=1e-12, max_iter=3).fit(x, y)
    assert len(model.validation_scores_) == scores + 3
    np.testing.assert_allclose(model.validation_scores_[scores:], first)
    assert model.best_validation_score_ == pytest.approx(first)


@BOTH
def test_partial_fit_obeys_or_refuses_what_set_params_changed(kind: type) -> None:
    x, y = moons()
    first = {"classes": [0, 1]} if kind is NNClassifier else {}
    model = small(kind, solver="sgd").partial_fit(x, y, **first)
    model.set_params(momentum=0.25, nesterovs_momentum=False, learning_rate_init=0.5, alpha=12.0, batch_size=60)
    model.partial_fit(x, y)
    optimizer, steep = model.model_.optimizer, 1 if kind is NNClassifier else 0.5
    assert (optimizer.momentum, optimizer.nesterov, optimizer.learning_rate) == (0.25, False, 0.5 * steep)
    assert [d.weight_l2 for d in model.model_.layers if isinstance(d, nnx.Dense)] == [0.1 / steep] * 2
    assert model.n_iter_ == 1
    for change in ({"solver": "adam"}, {"hidden_layer_sizes": (3, 3)}):
        (name,) = change
        with pytest.raises(nnx.InputError, match=f"partial_fit: {name}="):
            clone_of(model).set_params(**change).partial_fit(x, y)
    adam = small(kind).partial_fit(x, y, **first).set_params(beta_1=0.5, beta_2=0.6, epsilon=0.1).partial_fit(x, y)
    assert (adam.model_.optimizer.beta_1, adam.model_.optimizer.beta_2) == (0.5, 0.6)
    assert adam.model_.optimizer.epsilon == pytest.approx(0.1 / steep)


def test_weights_are_read_only_copies_and_assigned_as_a_whole() -> None:
    x, y = moons()
    with pytest.raises(NotFittedError):
        _ = NNClassifier().coefs_
    assert not hasattr(NNClassifier(), "intercepts_")
    one, other = small(NNClassifier).fit(x, y), small(NNClassifier, random_state=1).fit(x, y)
    with pytest.raises(ValueError, match="read-only"):
        one.coefs_[0][0] = 0
    one.coefs_, one.intercepts_ = other.coefs_, other.intercepts_
    np.testing.assert_array_equal(one.predict_proba(x), other.predict_proba(x))
    with pytest.raises(nnx.InputError, match="NNClassifier: coefs_: 1 arrays, expected one for each of 2 layers"):
        one.coefs_ = other.coefs_[:1]
    before = one.coefs_
    for wrong in (None, [other.coefs_[0] + 1, *[np.ones(3)] * (len(before) - 1)]):
        with pytest.raises(nnx.InputError, match=r"coefs_|weights given have shape"):
            one.coefs_ = wrong
    assert all(np.array_equal(a, b) for a, b in zip(one.coefs_, before, strict=True))


# ---- data ------------------------------------------------------------------------------------------------------------


def test_several_labels_are_learned_at_once() -> None:
    x = np.random.default_rng(0).standard_normal((100, 5))
    y = (x > 0).astype(int)
    model = small(NNClassifier, max_iter=200, learning_rate_init=0.02).fit(x, y)
    p, labels = model.predict_proba(x), model.predict(x)
    assert (p.shape, labels.shape, list(model.classes_)) == (y.shape, y.shape, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(labels, p > 0.5)
    assert np.mean(labels == y) > 0.9
    assert model.score(x, y) > 0.7
    assert (model.n_outputs_, model.out_activation_) == (5, "logistic")
    sparse = small(NNClassifier, max_iter=200, learning_rate_init=0.02).fit(
        scipy.sparse.csr_array(x), scipy.sparse.csr_array(y)
    )
    np.testing.assert_allclose(sparse.predict_proba(x), p)
    one_by_one = small(NNClassifier).partial_fit(x, y, classes=range(5)).partial_fit(x, y)
    assert one_by_one.predict(x).shape == y.shape
    small(NNClassifier, early_stopping=True, max_iter=3).fit(x, y)
    for wrong, words in ((y[:, :3], "columns"), (y[:, 0], "one label for each sample")):
        with pytest.raises(nnx.InputError, match=words):
            clone_of(model).partial_fit(x, wrong)
    with pytest.raises(nnx.InputError, match="class_weight is for one label"):
        small(NNClassifier, class_weight="balanced").fit(x, y)


@BOTH
def test_sparse_rows_are_the_dense_ones(kind: type) -> None:
    x, y = moons()
    x[x < 0] = 0
    dense = small(kind).fit(x, y)
    for form in (scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.coo_array):
        sparse = small(kind).fit(form(x), y)
        np.testing.assert_array_equal(sparse.predict(form(x)), dense.predict(x))
        np.testing.assert_array_equal(sparse.loss_curve_, dense.loss_curve_)


def test_logarithms_of_probabilities() -> None:
    x, y = iris()
    model = small(NNClassifier).fit(x, y)
    np.testing.assert_array_equal(model.predict_log_proba(x), np.log(model.predict_proba(x)))
    assert model.predict_log_proba(x * 1e5).min() == -np.inf  # without a warning


# ---- scikit-learn's tools --------------------------------------------------------------------------------------------


def test_searches_importances_and_calibration_take_them() -> None:
    x, y = moons()
    search = GridSearchCV(
        small(NNClassifier, max_iter=5), {"solver": ["adam", "sgd"], "early_stopping": [True, False]}, cv=2
    ).fit(x, y)
    assert len(search.cv_results_["params"]) == 4
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    model = small(NNClassifier, max_iter=60, learning_rate_init=0.05).fit(x, y)
    assert permutation_importance(model, x, y, n_repeats=2, random_state=0).importances_mean.max() > 0.1
    counts = np.where(y == 1, 3.0, 1.0)
    calibrated = CalibratedClassifierCV(small(NNClassifier), cv=2).fit(x, y, sample_weight=counts)
    plain = CalibratedClassifierCV(small(NNClassifier), cv=2).fit(x, y)
    assert calibrated.predict_proba(x)[:, 1].mean() > plain.predict_proba(x)[:, 1].mean()


def test_weights_are_routed_through_pipelines_and_validation() -> None:
    x, y = moons()
    counts = np.where(y == 1, 5.0, 0.2)
    with sklearn.config_context(enable_metadata_routing=True):
        model = small(NNClassifier).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        pipeline = make_pipeline(MinMaxScaler(), model).fit(x, y, sample_weight=counts)
        more = {"return_estimator": True, "return_indices": True}
        routed = cross_validate(model, x, y, cv=2, params={"sample_weight": counts}, **more)
    alone = small(NNClassifier).fit(minmax_scale(x), y, sample_weight=counts)
    np.testing.assert_allclose(pipeline.predict_proba(x), alone.predict_proba(minmax_scale(x)), rtol=1e-9)
    for one, rows in zip(routed["estimator"], routed["indices"]["train"], strict=True):
        alone = small(NNClassifier).fit(x[rows], y[rows], sample_weight=counts[rows])
        np.testing.assert_array_equal(one.predict_proba(x), alone.predict_proba(x))
