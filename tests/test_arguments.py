"""Names of arguments that there are not: refused with the one that was meant, at no cost where all are right."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.arguments import ELSEWHERE, NAMES
from nnx.errors import InputTypeError

X, Y = np.eye(3, dtype=np.float32), np.arange(3)


def network() -> nnx.Sequential:
    model = nnx.Sequential(nnx.Dense(3, 3), nnx.Softmax(), backend="numpy")
    return model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nnx.Adam(lr=0.1),
            "^Adam: there is no argument 'lr'; did you mean learning_rate[?] It takes: learn",
        ),
        (lambda: nnx.Adam(betas=(0.9, 0.99)), "did you mean beta_1 and beta_2[?]"),
        (lambda: nnx.SGD(momentun=0.9), "^SGD: .*did you mean momentum[?]"),
        (lambda: nnx.Adam(weight_decay=0.1), "AdamW takes it"),
        (lambda: nnx.Dense(2, units=3), "^Dense: .*did you mean n_neurons[?]"),
        (lambda: nnx.Dense(2, 3, activation="relu"), r"a layer of its own, such as nnx.ReLU\(\)"),
        (lambda: nnx.Dense(2, 3, use_bias=False), "there is no argument 'use_bias'. It takes: n_inputs, n_neurons, "),
        (lambda: nnx.LayerNorm(normalized_shape=3), "^LayerNorm: .*did you mean n_features[?]"),
        (lambda: nnx.Sequential(nnx.Dense(2, 3), device="cpu"), "^Sequential: .*did you mean backend[?]"),
        (lambda: nnx.callbacks.EarlyStopping(restore_best_weights=True), "did you mean restore_best[?]"),
        (lambda: nnx.schedules.cosine(0.1, T_max=5), "^cosine: .*did you mean epochs[?]"),
        (lambda: nnx.datasets.spiral(n_samples=5), "^spiral: .*did you mean samples[?]"),
        (lambda: network().fit(X, Y, validation=(X, Y)), "^fit: .*did you mean validation_data[?]"),
        (lambda: nnx.fit_many([network()], X, Y, nb_epoch=2), "^fit_many: .*did you mean epochs[?]"),
        (lambda: nnx.Ensemble(members=[network()]), "^Ensemble: there is no argument 'members'. It takes: models$"),
        (lambda: network().fit(X, Y, lr=0.1), "it is the optimizer's"),
        (lambda: network().evaluate(X=X, y=Y), "^evaluate: .*did you mean x[?]"),
        (lambda: network().compile(criterion=None, optimizer=None), "^compile: .*did you mean loss[?]"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_one_that_was_meant(call: Callable[[], Any], message: str):
    with pytest.raises(InputTypeError, match=message) as caught:
        call()
    assert caught.value.__cause__ is None


def test_the_books_classes_and_the_estimators_tell_as_well():
    from nnx.nnfs import Layer_Dense, Optimizer_Adam

    with pytest.raises(InputTypeError, match=r"^Layer_Dense: .*did you mean n_neurons[?]"):
        Layer_Dense(2, units=3)
    with pytest.raises(InputTypeError, match=r"^Optimizer_Adam: .*did you mean learning_rate[?]"):
        Optimizer_Adam(lr=0.1)
    pytest.importorskip("sklearn")
    from nnx.sklearn import NNClassifier

    with pytest.raises(InputTypeError, match=r"^NNClassifier: .*did you mean hidden_layers[?]"):
        NNClassifier(hidden_units=3)


class Wide(nnx.Dense):
    def __init__(self, **more: Any) -> None:
        super().__init__(2, 3, **more)


class Own(nnx.Layer):
    def __init__(self, size: int) -> None:
        self._size = size


def test_a_class_of_ones_own_has_the_errors_that_it_makes():
    with pytest.raises(InputTypeError, match=r"^Dense: there is no argument 'units'"):
        Wide(units=3)
    with pytest.raises(TypeError, match=r"Own.__init__\(\) got an unexpected keyword argument 'width'"):
        Own(width=3)  # type: ignore[call-arg]


def test_an_error_of_another_kind_is_left_as_it_is():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'loss'"):
        network().compile(optimizer=nnx.SGD(0.1))  # type: ignore[call-arg]

    class Stumbling(nnx.callbacks.Callback):
        def on_epoch_end(self, model: Any, epoch: int, logs: Any) -> None:
            len(epoch)  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="object of type 'int' has no len"):
        network().fit(X, Y, callbacks=[Stumbling()], verbose=0)


def test_signatures_and_pickles_are_those_of_the_functions_as_written():
    assert list(inspect.signature(nnx.Dense).parameters)[:2] == ["n_inputs", "n_neurons"]
    assert list(inspect.signature(nnx.Sequential.fit).parameters)[:3] == ["self", "x", "y"]
    assert pickle.loads(pickle.dumps(nnx.Adam(0.25))).learning_rate == 0.25


def test_the_table_names_what_there_is():
    """Each of nnx's names is an argument somewhere: one that is renamed leaves no advice behind."""
    pytest.importorskip("sklearn")
    from nnx.sklearn import NNClassifier

    kinds = [getattr(nnx, name) for name in nnx.__all__ if inspect.isclass(getattr(nnx, name))]
    kinds = [kind for kind in kinds if not issubclass(kind, BaseException)]
    calls = [*kinds, NNClassifier, nnx.Sequential.fit, nnx.Sequential.compile, nnx.load, nnx.datasets.load_table]
    calls += [nnx.find_learning_rate, nnx.datasets.spiral, *map(nnx.schedules.__dict__.get, ("cosine", "step"))]
    calls += [getattr(nnx.callbacks, name) for name in nnx.callbacks.__all__ if name not in ("Callback", "Model")]
    taken = {name for call in calls for name in inspect.signature(call).parameters}
    assert {ours for row in NAMES.values() for ours in row.split()} <= taken
    assert not set(ELSEWHERE) & {"x", "y"}
