"""What is assigned to a model, its layers, its loss or its optimizer counts from the next step on, or is refused."""

from __future__ import annotations

import copy
import pickle
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from test_programs import Spy, Swish, always_eager

import nnx
from nnx.errors import InputAttributeError

X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, 60)
BACKENDS = ["numpy", "numba"]
WAYS = ["step", "steps", "fit", "fit in batches"]


def built(backend: Any = "numpy", rate: float = 0.2, loss: Any = None, optimizer: Any = None, **dense: Any) -> Any:
    """A model whose first layer is regularized, and that drops."""
    first = nnx.Dense(5, 16, **{"weight_l2": 1e-3, **dense})
    layers = [first, nnx.ReLU(), nnx.Dropout(rate), nnx.Dense(16, 3), nnx.Softmax()]
    model = nnx.Sequential(*layers, backend=backend, seed=3)
    return model.compile(loss or nnx.CategoricalCrossEntropy(), optimizer or nnx.Adam(0.01))


def trained(model: Any, way: str, n: int, y: Any = Y, callbacks: Any = ()) -> list[float]:
    """The losses of some steps or epochs."""
    if way == "step":
        return [model.step(X, y) for _ in range(n)]
    if way == "steps":
        return list(model.steps(X, y, n))
    batch = 25 if way == "fit in batches" else None
    return list(model.fit(X, y, epochs=n, batch_size=batch, callbacks=callbacks, verbose=0)["loss"])


def at_the_state_of(model: Any, other: Any) -> Any:
    """A model, moved to where training has brought another one."""
    model.flat.state[...] = other.flat.state
    model.resume(other.optimizer.iterations, other._trainer.tolerance)
    model.epochs_done = other.epochs_done
    return model


class Calls(nnx.callbacks.Callback):
    """Does something before or after an epoch."""

    def __init__(self, when: str, epoch: int, action: Callable[[Any], None]) -> None:
        self.when, self.epoch, self.action = when, epoch, action

    def on_epoch_begin(self, model: Any, epoch: int) -> None:
        if (self.when, self.epoch) == ("begin", epoch):
            self.action(model)

    def on_epoch_end(self, model: Any, epoch: int, logs: Any) -> None:
        if (self.when, self.epoch) == ("end", epoch):
            self.action(model)


# ---- numbers that a recording would hold fast ------------------------------------------------------------------------


def layer(number: int, name: str, value: Any) -> Callable[[Any], None]:
    return lambda model: setattr(model.layers[number], name, value)


def optimizer(name: str, value: Any) -> Callable[[Any], None]:
    return lambda model: setattr(model.optimizer, name, value)


CHANGES: dict[str, tuple[Callable[[Any], None], dict[str, Any]]] = {
    "another rate": (layer(2, "rate", 0.6), {"rate": 0.6}),
    "no dropout": (layer(2, "rate", 0), {"rate": 0.0}),
    "another penalty": (layer(0, "weight_l2", 0.5), {"weight_l2": 0.5}),
    "no penalty": (layer(0, "weight_l2", 0), {"weight_l2": 0.0}),
    "one more penalty": (layer(0, "bias_l1", 0.3), {"bias_l1": 0.3}),
    "learning rate": (optimizer("learning_rate", 0.2), {"optimizer": nnx.Adam(0.2)}),
    "decay": (optimizer("decay", 0.5), {"optimizer": nnx.Adam(0.01, decay=0.5)}),
    "beta_1": (optimizer("beta_1", 0.5), {"optimizer": nnx.Adam(0.01, beta_1=0.5)}),
    "epsilon": (optimizer("epsilon", 0.1), {"optimizer": nnx.Adam(0.01, epsilon=0.1)}),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changed_between_two_calls_is_that_of_the_next_step(name: str, way: str, backend: str) -> None:
    change, made = CHANGES[name]
    model, wanted = built(backend), built(backend, **made)
    before = trained(model, way, 3)
    change(model)
    at_the_state_of(wanted, model)
    losses = trained(model, way, 3)
    np.testing.assert_allclose(losses, trained(wanted, way, 3), rtol=1e-6)
    assert model.eager_reason is None
    assert not np.allclose(losses, trained(at_the_state_of(built(backend), wanted), way, 3), rtol=1e-6)
    assert len(before) == 3


@pytest.mark.parametrize("name", CHANGES)
def test_an_eager_step_has_it_too(name: str) -> None:
    change, _ = CHANGES[name]
    losses = []
    for eager in (False, True):
        model = built()
        with always_eager() if eager else nullcontext():
            trained(model, "steps", 2)
            change(model)
            losses.append(trained(model, "steps", 3))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_so_has_one_of_a_model_that_cannot_be_replayed(way: str, backend: str) -> None:
    def unreplayed(l2: float, rate: float) -> Any:
        layers = [Swish(), nnx.Dense(5, 8, weight_l2=l2), nnx.Dropout(rate), nnx.Dense(8, 3), nnx.Softmax()]
        return nnx.Sequential(*layers, backend=backend).compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))

    model, wanted = unreplayed(0.0, 0.3), unreplayed(0.5, 0.0)
    trained(model, way, 2)
    model.layers[1].weight_l2, model.layers[2].rate = 0.5, 0.0
    at_the_state_of(wanted, model)
    np.testing.assert_allclose(trained(model, way, 2), trained(wanted, way, 2), rtol=1e-6)
    assert model.eager_reason is not None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", ["fit", "fit in batches"])
@pytest.mark.parametrize("when", ["begin", "end"])
def test_a_callback_changes_a_setting_from_the_next_epoch_on(when: str, way: str, backend: str) -> None:
    def change(model: Any) -> None:
        model.layers[2].rate, model.layers[0].weight_l2, model.layers[3].bias_l2 = 0.0, 0.5, 0.1

    model, parts = built(backend), built(backend)
    losses = trained(model, way, 4, callbacks=[Calls(when, 2 if when == "begin" else 1, change)])
    wanted = trained(parts, way, 2)
    change(parts)
    assert losses == pytest.approx([*wanted, *trained(parts, way, 2)], rel=1e-6)
    assert model.eager_reason is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_dropout_a_step_is_what_evaluate_says(backend: str) -> None:
    model = built(backend, rate=0.5, weight_l2=0, optimizer=nnx.SGD(1e-9))
    assert abs(model.step(X, Y) - model.evaluate(X, Y)["loss"]) > 1e-3
    model.layers[2].rate = 0.0
    assert model.step(X, Y) == pytest.approx(model.evaluate(X, Y)["loss"], abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_penalty_that_is_removed_is_not_reported(backend: str) -> None:
    model = built(backend, rate=0.0, weight_l2=3.0, optimizer=nnx.SGD(1e-9))
    assert model.step(X, Y) > model.evaluate(X, Y)["loss"] + 1
    model.layers[0].weight_l2 = 0.0
    assert model.step(X, Y) == pytest.approx(model.evaluate(X, Y)["loss"], abs=1e-5)
    assert not model.regularized


def test_columns_of_a_history_are_the_same_for_all_epochs() -> None:
    """Whether penalties come or go while it is written."""
    for begin, end in ((0.0, 1.0), (1.0, 0.0)):
        model = built(rate=0.0, weight_l2=begin, optimizer=nnx.SGD(1e-9))
        history = model.fit(X, Y, epochs=3, callbacks=[Calls("begin", 2, layer(0, "weight_l2", end))], verbose=0)
        assert {len(values) for values in history.values()} == {3}
        assert ("regularization_loss" in history) == bool(begin)
        squares = float((model.layers[0].weights ** 2).sum())
        assert history["loss"][2] - history["loss"][1] == pytest.approx((end - begin) * squares, rel=1e-4)


def test_a_layer_by_hand_has_its_settings_at_once() -> None:
    dense, inputs = nnx.Dense(2, 3), np.ones((4, 2), np.float32)
    dense.forward(inputs)
    dense.backward(np.ones((4, 3), np.float32))
    gradient = dense.dweights.copy()
    dense.weight_l2 = 0.5
    dense.backward(np.ones((4, 3), np.float32))
    np.testing.assert_allclose(dense.dweights, gradient + dense.weights, rtol=1e-5)
    assert dense.penalties["weights"][0] == pytest.approx(0.5 * float((dense.weights**2).sum()), rel=1e-5)
    dense.weight_l2 = 0.0
    assert sum(float(penalty[0]) for penalty in dense.penalties.values()) == 0


def test_a_setting_assigned_as_it_is_records_nothing_anew() -> None:
    spy = Spy()
    model = built(spy)
    for _ in range(3):
        model.step(X, Y)
        model.layers[2].rate, model.layers[0].weight_l2 = 0.2, 1e-3
        model.layers[0].weights = model.layers[0].weights * 0.9
        model.optimizer.learning_rate *= 0.5
    assert len(spy.programs) == 1
    model.layers[2].rate = 0.3
    model.step(X, Y)
    assert len(spy.programs) == 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("number", "name", "value", "expected"),
    [
        (2, "rate", 1.0, "Dropout: rate=1.0: expected a number of at least 0 and below 1"),
        (2, "rate", "half", "Dropout: rate='half': expected a number"),
        (0, "weight_l2", -1, "Dense: weight_l2=-1: expected a number of at least 0"),
        (0, "bias_l1", float("nan"), "Dense: bias_l1=nan: expected a number"),
    ],
)
def test_a_value_out_of_range_is_refused_and_changes_nothing(
    number: int, name: str, value: Any, expected: str, backend: str
) -> None:
    model, twin = built(backend), built(backend)
    losses = [model.step(X, Y)]
    with pytest.raises(nnx.InputError) as caught:
        setattr(model.layers[number], name, value)
    assert str(caught.value).startswith(expected)
    assert [*losses, model.step(X, Y)] == [twin.step(X, Y), twin.step(X, Y)]


def test_numbers_of_optimizers_and_losses_are_checked_too() -> None:
    for part, name, value in [
        (nnx.Adam(), "beta_1", 1.0), (nnx.SGD(), "momentum", -0.1), (nnx.RMSprop(), "rho", 2),
        (nnx.Adam(), "epsilon", 0), (nnx.AdamW(), "weight_decay", "x"), (nnx.SGD(), "decay", -1),
        (nnx.SoftmaxCrossEntropy(), "clip", 0.5),
    ]:  # fmt: skip
        before = getattr(part, name)
        with pytest.raises(nnx.InputError, match=rf"{type(part).__name__}: {name}="):
            setattr(part, name, value)
        assert getattr(part, name) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_has_its_settings_at_once(backend: str) -> None:
    """A clipped loss cannot exceed -log(clip)."""
    layers = [nnx.Dense(5, 3, init=np.full((5, 3), 1e3) * [1, 0, -1])]
    model = nnx.Sequential(*layers, backend=backend).compile(nnx.SoftmaxCrossEntropy(), nnx.SGD(1e-9))
    exact = model.step(X, Y)
    model.loss.clip = 0.25
    clipped = model.step(X, Y)
    assert clipped < -np.log(0.25) < exact
    assert model.evaluate(X, Y)["loss"] == pytest.approx(clipped, rel=1e-4)


# ---- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_replaced_forward_is_seen_by_all_that_comes_after(backend: str) -> None:
    model = built(backend, rate=0.0, optimizer=nnx.SGD(1e-9))
    relu, plain = model.layers[1], (model.predict(X), model.predict(X[:1]), model.step(X, Y))
    model.fit(X, Y, verbose=0)
    real = relu.forward
    relu.forward = lambda inputs, training=False: real(inputs * 0, training)
    for outputs in (model.predict(X), model.predict(X[:1])):
        assert np.ptp(outputs, axis=0).max() == 0
    assert model.step(X, Y) == pytest.approx(model.evaluate(X, Y)["loss"] + plain[2] - data_loss(plain[0]), rel=1e-4)
    assert model.eager_reason is not None  # it computes by NumPy
    del relu.forward
    np.testing.assert_allclose(model.predict(X), plain[0], rtol=1e-4)
    np.testing.assert_allclose(model.predict(X[:1]), plain[1], rtol=1e-4)
    assert model.step(X, Y) == pytest.approx(plain[2], rel=1e-5)
    assert model.eager_reason is None


def data_loss(outputs: np.ndarray) -> float:
    return float(-np.log(outputs[np.arange(len(Y)), Y]).mean())


def test_a_replaced_backward_is_that_of_the_next_step() -> None:
    model = built(rate=0.0, weight_l2=0, optimizer=nnx.SGD(0.1))
    model.step(X, Y)
    model.layers[1].backward = lambda dvalues: dvalues * 0
    before = model.layers[0].weights.copy()
    model.step(X, Y)
    np.testing.assert_array_equal(model.layers[0].weights, before)


def test_a_replaced_method_of_the_loss_is_that_of_the_next_step() -> None:
    """Also where loss and softmax were computed together."""
    model = built(rate=0.0, weight_l2=0)
    model.step(X, Y)
    gradients = model.loss.gradients
    model.loss.gradients = lambda outputs, target: gradients(outputs, target) * 0
    before = model.flat.values.copy()
    model.optimizer = nnx.SGD(0.1)
    model.step(X, Y)
    np.testing.assert_array_equal(model.flat.values, before)
    del model.loss.gradients
    model.step(X, Y)
    assert not np.array_equal(model.flat.values, before)


def test_a_loss_of_which_one_half_alone_is_by_hand_is_refused() -> None:
    class Mine(nnx.MeanSquaredError):
        def forward(self, y_pred: Any, y_true: Any) -> Any:
            return super().forward(y_pred, y_true) * 2

    with pytest.raises(nnx.InputError, match=r"has a forward\(\) of its own, and no backward\(\): write backward"):
        built(loss=Mine())
    model = built()
    model.step(X, Y)
    model.loss.backward = lambda outputs, wanted: None
    for call in (lambda: model.step(X, Y), lambda: model.fit(X, Y, verbose=0), lambda: model.evaluate(X, Y)):
        with pytest.raises(nnx.InputError, match=r"has a backward\(\) of its own, and no forward\(\)"):
            call()


# ---- parts of the user's own -----------------------------------------------------------------------------------------


class Squash(nnx.Layer):
    """tanh where it is told so, by operations of the backend."""

    def __init__(self, told: Any = None) -> None:
        self.squash, self.told = True, told or SimpleNamespace(on=True)

    def output_width(self, width: int | None) -> int | None:
        return width

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.now = self.squash and self.told.on
        self.inputs, self.output = inputs, self.backend.tanh(inputs) if self.now else inputs
        return self.output

    def backward(self, dvalues: Any) -> Any:
        self.dinputs = self.backend.tanh_backward(self.output, dvalues) if self.now else dvalues
        return self.dinputs


class Bounded(nnx.SoftmaxCrossEntropy):
    """Computes with a number of its own."""

    bound = 0.0

    def both(self, y_pred: Any, target: Any, probabilities: Any = None) -> tuple[Any, Any]:
        losses, out = self._room("output", (y_pred.shape[0],), y_pred), self._room("dinputs", y_pred.shape, y_pred)
        self.output = losses
        self.dinputs = self.backend.softmax_cross_entropy(y_pred, target, losses, None, self.bound, out=out)
        return self.output, self.dinputs


def with_own(backend: str, told: Any = None) -> Any:
    layers = [nnx.Dense(5, 8), Squash(told), nnx.Dense(8, 3)]
    return nnx.Sequential(*layers, backend=backend, seed=2).compile(Bounded(), nnx.SGD(1e-9))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_numbers_of_ones_own_layers_and_losses_count_from_the_next_step_on(way: str, backend: str) -> None:
    told = SimpleNamespace(on=True)
    model = with_own(backend, told)
    first = trained(model, way, 2)
    assert model.eager_reason is None
    for change, undo in [
        (lambda: setattr(model.layers[1], "squash", False), lambda: setattr(model.layers[1], "squash", True)),
        (lambda: setattr(told, "on", False), lambda: setattr(told, "on", True)),
        (lambda: setattr(model.loss, "bound", 0.4), lambda: setattr(model.loss, "bound", 0.0)),
    ]:
        change()
        changed = trained(model, way, 2)
        assert model.eager_reason is None
        with always_eager():
            eager = trained(copy.deepcopy(model), way, 2)
        np.testing.assert_allclose(changed, eager, rtol=1e-5)
        assert not np.allclose(changed, first, rtol=1e-4)
        undo()
        np.testing.assert_allclose(trained(model, way, 2), first, rtol=1e-5)


def test_a_class_of_ones_own_may_be_changed_too() -> None:
    class Mine(Squash):
        pass

    model = nnx.Sequential(nnx.Dense(5, 8), Mine(), nnx.Dense(8, 3), backend="numpy")
    model.compile(nnx.SoftmaxCrossEntropy(), nnx.SGD(1e-9))
    first = model.step(X, Y)
    Mine.forward = lambda self, inputs, training=False: nnx.Linear.forward(self, inputs)  # type: ignore[assignment]
    Mine.backward = nnx.Linear.backward  # type: ignore[assignment]
    assert abs(model.step(X, Y) - first) > 1e-3


class Around:
    """What a method may read from around it: a class used as a namespace, a dictionary, an object."""

    table: ClassVar[dict[str, float]] = {"l2": 0.0}
    namespace = Namespace(l2=0.0)
    l2 = 0.0


STRENGTH = 0.0


def strength() -> float:
    """The sum of all; it comes back to itself by way of another function."""
    if STRENGTH < 0:
        return other_strength()
    return STRENGTH + Around.l2 + Around.namespace.l2 + Around.table["l2"]


def other_strength() -> float:
    return strength()


@pytest.mark.parametrize("way", ["step", "fit"])
@pytest.mark.parametrize("where", ["global", "class", "object", "dictionary", "enclosing function", "layer outside"])
def test_variables_around_methods_of_ones_own_count_from_the_next_step_on(where: str, way: str) -> None:
    inner, outside = 0.0, nnx.Dropout(0.0)

    class Mine(nnx.Dense):
        def strengths(self) -> dict[str, tuple[float, float]]:
            l2 = strength() + inner + outside.rate
            return {"weights": (0.0, l2)} if l2 else {}

    model = nnx.Sequential(Mine(5, 3), backend="numpy").compile(nnx.SoftmaxCrossEntropy(), nnx.SGD(1e-9))
    (first,) = trained(model, way, 1)
    with pytest.MonkeyPatch.context() as patch:
        if where == "enclosing function":
            inner = 0.5
        elif where == "layer outside":
            outside.rate = 0.5
        elif where == "dictionary":
            patch.setitem(Around.table, "l2", 0.5)
        else:
            place = {"global": sys.modules[__name__], "class": Around, "object": Around.namespace}[where]
            patch.setattr(place, "STRENGTH" if where == "global" else "l2", 0.5)
        (second,) = trained(model, way, 1)
    penalty = 0.5 * np.square(model.layers[0].weights, dtype=np.float64).sum()
    assert second - first == pytest.approx(penalty, rel=1e-5)
    assert model.eager_reason is None


@pytest.mark.parametrize("part", ["layer", "loss", "optimizer"])
def test_a_method_put_around_one_of_nnx_runs_at_every_step(part: str) -> None:
    """It may do more than the operations that a recording would hold, such as to keep what it sees."""
    model, plain, seen = built(), built(), []
    model.step(X, Y)
    name = {"layer": "forward", "loss": "gradients", "optimizer": "update"}[part]
    place = model.layers[0] if part == "layer" else getattr(model, part)
    real = getattr(place, name)
    setattr(place, name, lambda *a, **k: (seen.append(1), real(*a, **k))[1])
    model.steps(X, Y, 5)
    counted = len(seen)
    assert counted >= 5
    model.fit(X, Y, epochs=4, verbose=0)
    assert len(seen) - counted >= 4
    plain.steps(X, Y, 6)
    plain.fit(X, Y, epochs=4, verbose=0)
    np.testing.assert_allclose(model.predict(X), plain.predict(X), rtol=1e-3)


RATE, NORM = 0.1, 0.35


class Third(nnx.SGD):
    """Moves in every third step."""

    def update(self, flat: Any, hyper: Any, counters: Any, backend: Any = None) -> None:
        if self.iterations % 3 == 0:
            super().update(flat, hyper, counters, backend)


class Warming(nnx.SGD):
    """Begins with small steps."""

    def update(self, flat: Any, hyper: Any, counters: Any, backend: Any = None) -> None:
        hyper[0] = self.learning_rate * min(1.0, (self.iterations + 1) / 10)
        super().update(flat, hyper, counters, backend)


class Falling(nnx.SGD):
    """Sets its own rate for the next step."""

    def update(self, flat: Any, hyper: Any, counters: Any, backend: Any = None) -> None:
        super().update(flat, hyper, counters, backend)
        self.learning_rate = RATE / (self.iterations + 2)


class Clipping(nnx.SGD):
    """Makes long gradients as long as NORM."""

    def update(self, flat: Any, hyper: Any, counters: Any, backend: Any = None) -> None:
        norm = np.linalg.norm(flat.gradients)
        if norm > NORM:
            flat.gradients[...] *= NORM / norm
        super().update(flat, hyper, counters, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", ["step", "steps", "fit"])
@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        (Third, lambda step, norm: RATE * (step % 3 == 0)),
        (Warming, lambda step, norm: RATE * min(1.0, (step + 1) / 10)),
        (Falling, lambda step, norm: RATE / (step + 1)),
        (Clipping, lambda step, norm: RATE * min(1.0, NORM / norm)),
    ],
)
def test_an_optimizer_of_ones_own_decides_anew_in_every_step(
    kind: Any, rate: Callable[[int, float], float], way: str, backend: str
) -> None:
    def build(optimizer: nnx.Optimizer) -> nnx.Sequential:
        layers = nnx.Dense(5, 8), nnx.Tanh(), nnx.Dense(8, 3), nnx.Softmax()
        model = nnx.Sequential(*layers, backend=backend, dtype="float64")
        return model.compile(nnx.CategoricalCrossEntropy(), optimizer)

    model, twin, norms = build(kind(RATE)), build(nnx.SGD(RATE)), []
    trained(model, way, 12)
    for step in range(12):
        before = twin.flat.values.copy()
        twin.step(X, Y)
        norms.append(float(np.linalg.norm(twin.flat.gradients)))
        twin.flat.values[...] = before - rate(step, norms[-1]) * twin.flat.gradients
    np.testing.assert_allclose(model.flat.values, twin.flat.values, rtol=1e-9, atol=1e-12)
    assert kind is not Clipping or min(norms) < NORM < max(norms)
    assert model.optimizer.iterations == 12


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_class_of_nnx_that_was_changed_predicts_as_it_trains(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = nnx.ReLU.forward
    monkeypatch.setattr(nnx.ReLU, "forward", lambda self, inputs, training=False: real(self, inputs * 0, training))
    model = built(backend)
    for rows in (1, 60):
        assert np.ptp(model.predict(X[:rows]), axis=0).max() == 0


def test_predicting_in_between_records_nothing_anew() -> None:
    spy = Spy()
    model = with_own(spy)
    for rows in (3, 60, 7):
        model.step(X, Y)
        model.predict(X[:rows])
        model.evaluate(X, Y)
    assert len(spy.programs) == 1


def test_recording_leaves_what_a_layer_shares_with_others_shared() -> None:
    told = SimpleNamespace(on=True)
    model = with_own("numpy", told)
    model.step(X, Y)
    assert model.layers[1].told is told


def test_a_loss_that_counts_its_steps_is_not_replayed() -> None:
    class Fading(Bounded):
        steps = 0

        def both(self, y_pred: Any, target: Any, probabilities: Any = None) -> tuple[Any, Any]:
            self.steps += 1
            self.bound = 0.04 * self.steps
            return super().both(y_pred, target)

    model = nnx.Sequential(nnx.Dense(5, 3), backend="numpy").compile(Fading(), nnx.SGD(1e-9))
    losses = trained(model, "steps", 5)
    assert "keeps numbers of its own from step to step" in str(model.eager_reason)
    assert len(set(losses)) == 5


# ---- layers, loss and optimizer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("when", ["before compile", "after it", "after training"])
def test_a_new_head_is_trained_used_and_checked(when: str, backend: str) -> None:
    model = nnx.Sequential(nnx.Dense(5, 16), nnx.ReLU(), nnx.Dense(16, 3), nnx.Softmax(), backend=backend)
    if when != "before compile":
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.05))
    if when == "after training":
        model.fit(X, Y, epochs=3, verbose=0)
        model.step(X, Y)
    body = np.array(model.layers[0].weights)
    model.predict(X[:1])
    model.layers = (*model.layers[:2], nnx.Dropout(0.1), nnx.Dense(16, 7, weight_l2=1e-3), nnx.Softmax())
    np.testing.assert_array_equal(model.layers[0].weights, body)
    if when == "before compile":
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.05))
    assert model.n_outputs == 7
    assert model.predict(X[:1]).shape == (1, 7)
    assert model.optimizer.iterations == 0  # it has never moved these parameters
    y = np.arange(60) % 7
    history = model.fit(X, y, epochs=40, batch_size=20, verbose=0)
    assert model.eager_reason is None
    assert history["loss"][-1] < history["loss"][0]
    assert history["regularization_loss"][0] > 0
    assert not np.array_equal(model.layers[0].weights, body)
    assert model.evaluate(X, y)["loss"] == pytest.approx(loss_by_hand(model, y), rel=1e-4)
    with pytest.raises(nnx.InputError, match="7"):
        model.step(X, np.full(60, 7))


def loss_by_hand(model: Any, y: np.ndarray) -> float:
    outputs = X
    for each in model.layers:
        outputs = each.forward(outputs)
    return float(nnx.CategoricalCrossEntropy().calculate(np.array(outputs), y))


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_without_parameters_leave_the_optimizer_as_it_was(backend: str) -> None:
    """A dropout that comes in on the way: as if it had been there, and had dropped nothing."""
    model, wanted = built(backend, rate=0.0), built(backend, rate=0.0)
    for each in (model, wanted):
        each.steps(X, Y, 3)
    layers = model.layers
    model.layers = (*layers[:2], nnx.Dropout(0.4), *layers[3:])
    wanted.layers[2].rate = 0.4
    assert model.optimizer.iterations == 3
    np.testing.assert_array_equal(model.steps(X, Y, 3), wanted.steps(X, Y, 3))
    assert not layers[2].in_model


def test_a_layer_that_was_taken_out_can_go_into_another_model() -> None:
    model = built()
    model.step(X, Y)
    head = model.layers[3]
    weights = head.weights.copy()
    model.layers = (*model.layers[:3], nnx.Dense(16, 3), nnx.Softmax())
    model.step(X, Y)
    np.testing.assert_array_equal(head.weights, weights)
    other = nnx.Sequential(head, nnx.Softmax(), backend="numba", dtype="float64")
    np.testing.assert_allclose(other.layers[0].weights, weights)


def test_layers_that_do_not_fit_are_refused_and_nothing_changes() -> None:
    model, twin, other = built(), built(), built()
    for layers, reason in [
        ([*model.layers[:3], nnx.Dense(7, 3), nnx.Softmax()], "takes 7 inputs"),
        ([*model.layers[:3], other.layers[3], nnx.Softmax()], "belongs to another model"),
        ([*model.layers, model.layers[1]], "same object"),
        ((), "at least one layer"),
        (model.layers[0], "expected a list or a tuple"),
        ([nnx.Dense], "the class Dense"),
    ]:
        with pytest.raises(nnx.InputError, match=reason):
            model.layers = layers
    assert model.steps(X, Y, 2).tolist() == twin.steps(X, Y, 2).tolist()


def test_layers_that_do_not_fit_the_loss_predict_and_are_not_trained() -> None:
    """So that a head may be taken off and another one put on, in two assignments."""
    model = built()
    model.step(X, Y)
    model.layers = model.layers[:2]
    assert model.predict(X).shape == (60, 16)
    for call in (lambda: model.step(X, Y), lambda: model.fit(X, Y, verbose=0), lambda: model.evaluate(X, Y)):
        with pytest.raises(nnx.InputError, match=r"takes probabilities, but the last layer is .*; add Softmax"):
            call()
    model.layers = (*model.layers, nnx.Dense(16, 4), nnx.Softmax())
    assert np.isfinite(model.step(X, np.arange(60) % 4))
    model.layers = (nnx.Linear(), nnx.Softmax())
    with pytest.raises(nnx.InputError, match="has no parameters"):
        model.step(X, Y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_another_loss_is_minimised_reported_and_evaluated(way: str, backend: str) -> None:
    one_hot = np.eye(3)[Y]
    model, wanted = built(backend), built(backend, loss=nnx.MeanSquaredError())
    trained(model, way, 3)
    model.loss = nnx.MeanSquaredError()
    at_the_state_of(wanted, model)
    np.testing.assert_allclose(trained(model, way, 3, one_hot), trained(wanted, way, 3, one_hot), rtol=1e-6)
    assert model.evaluate(X, one_hot) == pytest.approx(wanted.evaluate(X, one_hot), rel=1e-5)
    assert type(copy.deepcopy(model).loss) is type(pickle.loads(pickle.dumps(model)).loss) is nnx.MeanSquaredError


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_another_optimizer_begins_anew(way: str, backend: str) -> None:
    model, wanted = built(backend), built(backend)
    trained(model, way, 3)
    wanted.set_parameters(model.parameters())
    model.optimizer = mine = nnx.SGD(0.1, momentum=0.9)
    wanted.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1, momentum=0.9))
    wanted.epochs_done = model.epochs_done
    np.testing.assert_allclose(trained(model, way, 3), trained(wanted, way, 3), rtol=1e-6)
    assert model.optimizer.iterations == wanted.optimizer.iterations > 0
    assert mine.iterations == 0


def test_what_cannot_be_minimised_or_move_anything_is_refused() -> None:
    model, twin = built(), built()
    for name, value, reason in [
        ("loss", None, "expected a Loss"), ("loss", nnx.SoftmaxCrossEntropy(), "takes logits"),
        ("loss", nnx.MeanSquaredError, "the class"), ("optimizer", None, "expected a Optimizer"),
        ("optimizer", 0.1, "expected a Optimizer"),
    ]:  # fmt: skip
        with pytest.raises(nnx.InputError, match=reason):
            setattr(model, name, value)
    assert model.steps(X, Y, 2).tolist() == twin.steps(X, Y, 2).tolist()
    fresh = nnx.Sequential(nnx.Dense(5, 3), nnx.Softmax())
    for name, value in (("loss", nnx.CategoricalCrossEntropy()), ("optimizer", nnx.Adam())):
        with pytest.raises(nnx.InputError, match=r"call model\.compile"):
            setattr(fresh, name, value)


# ---- what nothing would read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "name", "expected"),
    [
        ("loss", "trainable", "cannot be assigned"),
        ("layers[0]", "weight_regularizer_l2", "did you mean weight_l2?"),
        ("layers[0]", "bias", "did you mean biases?"),
        ("layers[2]", "p", "What can be assigned: backend, number, rate, seed"),
        ("layers[0]", "n_inputs", "cannot be assigned"),
        ("layers[0]", "shapes", "cannot be assigned"),
        ("layers[0]", "penalties", "takes no attribute"),
        ("layers[0]", "dtype", r"use model\.to\("),
        ("layers[0]", "in_model", "is computed, and cannot be assigned"),
        ("layers[2]", "seed", r"Sequential\(\.\.\., seed=\.\.\.\)"),
        ("self", "learning_rate", r"did you mean model\.optimizer\.learning_rate\?"),
        ("self", "optimiser", "did you mean optimizer?"),
        ("self", "backend", r"use model\.to\("),
        ("self", "dtype", r"use model\.to\("),
        ("self", "precision", r"use model\.to\("),
        ("self", "metrics", r"use model\.compile\("),
        ("self", "seed", r"Sequential\(\.\.\., seed=\.\.\.\)"),
        ("self", "n_outputs", "it follows from the layers"),
        ("self", "flat", "cannot be assigned"),
        ("optimizer", "lr", "did you mean learning_rate?"),
        ("optimizer", "iterations", "is computed, and cannot be assigned"),
        ("optimizer", "hyper", "cannot be assigned"),
        ("loss", "reduction", "takes no attribute 'reduction'"),
        ("loss", "metric", "takes no attribute 'metric'"),
        ("layers[1]", "operation", "takes no attribute 'operation'"),
    ],
)
def test_what_nothing_would_read_cannot_be_assigned(part: str, name: str, expected: str) -> None:
    model = built()
    targets = {"self": model, "loss": model.loss, "optimizer": model.optimizer}
    target = targets.get(part) or model.layers[int(part[7])]
    before = dict(vars(target))
    with pytest.raises(InputAttributeError, match=expected) as caught:
        setattr(target, name, 1)
    assert isinstance(caught.value, AttributeError)
    assert isinstance(caught.value, nnx.InputError)
    assert vars(target).keys() == before.keys()
    assert str(target) in str(caught.value)


def test_what_is_ones_own_takes_any_name() -> None:
    class Mine(nnx.Dense):
        def __init__(self) -> None:
            super().__init__(5, 3)
            self.shapes = {**self.shapes, "scales": (1, 3)}
            self.note = "mine"

        def draw(self, random: np.random.Generator) -> dict[str, np.ndarray]:
            return {**super().draw(random), "scales": np.ones((1, 3))}

    class Model(nnx.Sequential):
        note = ""

    model = Model(Mine(), nnx.Softmax())
    model.layers[0].hint, model.note, model.author = "x", "y", "z"
    model.layers[1]._private = model._private = 1
    model.metadata, model.stop_training, model.epochs_done = {"a": 1}, True, 4
    assert model.layers[0].note == "mine"
    with pytest.raises(AttributeError, match="cannot be assigned"):
        model.seed = 4


@pytest.mark.parametrize("kind", [nnx.Dense, nnx.ReLU, nnx.Softmax, nnx.Dropout, nnx.MeanSquaredError])
def test_results_stay_assignable(kind: Callable[..., Any]) -> None:
    made = {nnx.Dense: lambda: nnx.Dense(2, 3), nnx.Dropout: lambda: nnx.Dropout(0.1)}.get(kind, kind)()
    made.inputs = made.output = made.dinputs = np.zeros((1, 3))
    made.dtype = "float64"


def test_copies_of_layers_tell_their_own_model() -> None:
    """And not the one they were copied from."""
    model = built()
    model.step(X, Y)
    other = copy.deepcopy(model)
    edition = model._trainer.edition
    losses = []
    for each in (model, other):
        each.layers[2].rate = 0.0 if each is other else 0.2
        losses.append(each.step(X, Y))
    assert model._trainer.refresh() == edition
    assert abs(losses[0] - losses[1]) > 1e-3
