"""Layers that are not trained: steps leave them alone, gradients flow through, and it is said at any time."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx

BACKENDS = ["numpy", "numba"]
RANDOM = np.random.default_rng(7)
X, Y = RANDOM.standard_normal((60, 5)), RANDOM.integers(0, 3, 60)


def layers(width: int = 8) -> list[nnx.Layer]:
    first, middle = nnx.Dense(5, width, weight_l2=1e-2), nnx.Dense(width, width, weight_l1=1e-3)
    return [first, nnx.ReLU(), middle, nnx.Tanh(), nnx.Dense(width, 3), nnx.Softmax()]


def built(
    *frozen: int, backend: str = "numpy", optimizer: nnx.Optimizer | None = None, width: int = 8
) -> nnx.Sequential:
    model = nnx.Sequential(*layers(width), backend=backend, dtype="float64", seed=3)
    for place in frozen:
        model.layers[place].trainable = False
    return model.compile(nnx.CategoricalCrossEntropy(), optimizer or nnx.AdamW(0.02, weight_decay=0.1))


def fitted(model: nnx.Sequential, epochs: int = 3, **options: Any) -> list[float]:
    return model.fit(X, Y, epochs=epochs, batch_size=16, verbose=0, **options)["loss"]


def parts(model: nnx.Sequential, *names: str) -> dict[str, np.ndarray]:
    """Parameters, or moments, by layer and name."""
    shapes = model.parameters()
    return {
        f"{part} {name}": np.array(view)
        for part in names
        for name, view in zip(shapes, model.flat.views(getattr(model.flat, part)), strict=True)
    }


# ---- what steps do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [8, 150])  # updated in one go, and piece by piece
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("frozen", [(0,), (2,), (4,), (0, 4), (0, 2)])
def test_a_step_moves_the_others_as_ever_and_nothing_of_the_frozen(
    frozen: tuple[int, ...], backend: str, width: int
) -> None:
    """Their parameters stay to the last bit, weight decay included, and so do their moments."""
    model, free = (built(*places, backend=backend, width=width) for places in (frozen, ()))
    model.step(X, Y)
    free.step(X, Y)
    assert model.eager_reason is model.replay_reason is None
    wanted, start = parts(free, "values", "first", "second"), parts(built(width=width), "values", "first", "second")
    for name, got in parts(model, "values", "first", "second").items():
        if any(f" {place}." in name for place in frozen):
            np.testing.assert_array_equal(got, start[name])
        else:
            # The others' penalties are no part of these gradients, so one step is the same.
            np.testing.assert_allclose(got, wanted[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_behind_frozen_ones_train_as_a_model_on_their_outputs(backend: str) -> None:
    model = built(0, 2, backend=backend)
    body, (*_, dense, ending) = nnx.Sequential(*copy.deepcopy(list(model.layers[:4])), dtype="float64"), layers()
    head = nnx.Sequential(dense, ending, backend=backend, dtype="float64", seed=3)
    head.set_parameters({name.replace("4.", "0."): a for name, a in model.parameters().items() if name[0] == "4"})
    head.compile(nnx.CategoricalCrossEntropy(), nnx.AdamW(0.02, weight_decay=0.1))
    wanted = head.fit(body.predict(X), Y, epochs=3, batch_size=16, verbose=0)
    history = model.fit(X, Y, epochs=3, batch_size=16, verbose=0)
    np.testing.assert_allclose(history["loss"], wanted["loss"], rtol=1e-9)
    assert "regularization_loss" not in history  # nothing is shrunk, so no penalty counts


def test_gradients_are_right_and_flow_through() -> None:
    assert nnx.gradcheck(built(2), X[:6], Y[:6]) < 1e-6
    dense = nnx.Dense(3, 4)
    dense.trainable = False
    assert nnx.gradcheck(dense, X[:6, :3]) < 1e-6
    dense.forward(X[:, :3])
    dense.backward(np.ones((60, 4)))
    assert not dense.dweights.any()
    np.testing.assert_allclose(dense.dinputs, np.ones((60, 4)) @ np.asarray(dense.weights).T, rtol=1e-6)


def test_by_hand_the_optimizer_leaves_it_alone() -> None:
    dense, optimizer = nnx.Dense(3, 4, weight_l2=0.1), nnx.SGD(1.0)
    before = np.array(dense.weights)
    dense.trainable = False
    for moved in (False, True):
        dense.trainable = moved
        dense.forward(X[:, :3].astype("float32"))
        dense.backward(np.ones((60, 4), "float32"))
        optimizer.update_params(dense)
        assert np.array_equal(before, dense.weights) is not moved


def test_by_hand_a_block_moves_those_of_its_layers_that_are_trained() -> None:
    """What a frozen layer's gradient was before, and its momentum, moved it on."""
    first, last = nnx.Dense(5, 4), nnx.Dense(4, 5)
    block, optimizer = nnx.Residual(first, nnx.Tanh(), last), nnx.SGD(0.1, momentum=0.9)
    for frozen in (False, True):
        first.trainable = not frozen
        block.forward(X.astype("float32"))
        block.backward(np.ones((60, 5), "float32"))
        before = np.array(first.weights), np.array(last.weights)
        optimizer.update_params(block)
        assert np.array_equal(before[0], first.weights) is frozen
        assert not np.array_equal(before[1], last.weights)


class Halving(nnx.SGD):
    """An update of the user's own, over all that there is."""

    def update(self, flat: Any, hyper: Any, counters: Any, backend: Any = None) -> None:
        flat.values[...] = flat.values * 0.5
        flat.first[...] = 1


def test_an_update_of_ones_own_does_not_move_them_either() -> None:
    model = built(2, optimizer=Halving(0.1))
    before = parts(model, "values", "first")
    model.step(X, Y)
    for name, got in parts(model, "values", "first").items():
        factor, kept = (0.5, 0.0) if name[0] == "v" else (0.0, 1.0)
        np.testing.assert_array_equal(got, before[name] if " 2." in name else before[name] * factor + kept)


class Own(nnx.Layer):
    """A layer of the user's own with a parameter, which knows nothing of all that."""

    def __init__(self) -> None:
        self.shapes = {"scales": (1, 5)}

    def draw(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        return {"scales": np.ones((1, 5))}

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.inputs = inputs
        self.output = inputs * self.parameter("scales")
        return self.output

    def backward(self, dvalues: Any) -> Any:
        self.gradient("scales")[...] = (dvalues * self.inputs).sum(axis=0, keepdims=True)
        self.dinputs = dvalues * self.parameter("scales")
        return self.dinputs


def test_a_layer_of_ones_own_is_kept_as_well_and_may_be_let_go() -> None:
    model = nnx.Sequential(nnx.Dense(5, 5), Own(), nnx.Dense(5, 3), nnx.Softmax(), backend="numpy")
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.1))
    model.layers[1].trainable = False
    fitted(model)
    assert np.all(model.layers[1].parameter("scales") == 1)
    assert not model.flat.views(model.flat.gradients)[2].any()  # what clips gradients by their norm sees none
    model.layers[1].trainable = True
    fitted(model)
    assert np.all(model.layers[1].parameter("scales") != 1)


def test_a_frozen_layer_of_ones_own_is_so_in_its_file_as_well(tmp_path: Path) -> None:
    within = nnx.Residual(Own(), nnx.Dense(5, 5))
    model = nnx.Sequential(Own(), within, nnx.Dense(5, 3), nnx.Softmax(), backend="numpy")
    for own in (model.layers[0], within.layers[0]):
        own.trainable = False
    model.save(tmp_path / "m.safetensors")
    loaded = nnx.load(tmp_path / "m.safetensors", backend="numpy", custom=[Own])
    block = loaded.layers[1]
    assert [layer.trainable for layer in (loaded.layers[0], *block.layers)] == [False, False, True]
    with pytest.raises(nnx.InputError, match="Own"):
        nnx.load(tmp_path / "m.safetensors")


WITH: dict[str, tuple[Any, dict[str, Any]]] = {
    "clipped": (lambda: nnx.Adam(0.02, clip_norm=0.05), {}),
    "amsgrad": (lambda: nnx.AMSGrad(0.02), {}),
    "lion, clipped by value": (lambda: nnx.Lion(0.01, clip_value=0.01), {}),
    "accumulated": (lambda: nnx.SGD(0.1, momentum=0.9), {"accumulate": 3}),
    "averaged": (lambda: nnx.Adam(0.02), {"callbacks": lambda: [nnx.callbacks.WeightAverage(0.9)]}),
    "all": (lambda: nnx.AdamW(0.02, clip_norm=0.1), {"accumulate": 2, "callbacks": lambda: [
        nnx.callbacks.WeightAverage(0.9)]}),
}  # fmt: skip


@pytest.mark.parametrize("width", [8, 150])
@pytest.mark.parametrize("frozen", [(0,), (2,), (4,), (0, 4)])
@pytest.mark.parametrize("way", WITH)
def test_what_goes_with_an_optimizer_takes_what_is_trained(way: str, frozen: tuple[int, ...], width: int) -> None:
    """The norm of gradients is that of the trained, and compiled steps do as NumPy's, operation by operation."""
    optimizer, options = WITH[way]
    models = [built(*frozen, backend=backend, optimizer=optimizer(), width=width) for backend in BACKENDS]
    before = {place: models[0].layers[place].weights.copy() for place in frozen}
    losses = [
        fitted(model, 3, **{name: value() if callable(value) else value for name, value in options.items()})
        for model in models
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)
    for model in models:
        assert model.eager_reason is model.replay_reason is None
        for place, weights in before.items():
            np.testing.assert_array_equal(model.layers[place].weights, weights)
    np.testing.assert_allclose(models[0].predict(X), models[1].predict(X), rtol=1e-7)
    if way == "clipped":
        norm = np.linalg.norm(models[1].flat.gradients)
        assert norm <= 0.05 * (1 + 1e-9)


# ---- when it is said -------------------------------------------------------------------------------------------------


class Freeze(nnx.callbacks.Callback):
    """Freezes a layer after an epoch, and lets it go after another."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def on_epoch_end(self, model: Any, epoch: int, logs: dict[str, float]) -> None:
        self.seen.append(model.layers[2].weights.copy())
        model.layers[2].trainable = epoch not in (1, 2)


class FreezeLater(nnx.callbacks.Callback):
    """Freezes a layer before the second epoch."""

    def on_epoch_begin(self, model: Any, epoch: int) -> None:
        model.layers[2].trainable = epoch == 0


@pytest.mark.parametrize("width", [8, 150])
def test_a_mean_of_weights_goes_on_to_what_was_frozen_on_the_way(width: int) -> None:
    """On the Numba backend the mean of what is frozen stayed behind, or the steps with it ran layer by layer."""
    models = [built(backend=backend, width=width) for backend in BACKENDS]
    for model in models:
        fitted(model, 3, callbacks=[FreezeLater(), nnx.callbacks.WeightAverage(0.9)])
        assert model.eager_reason is model.replay_reason is None
    means = [parts(model, "values")["values 2.weights"] for model in models]
    np.testing.assert_allclose(*means, rtol=0, atol=1e-10)


class FreezeBetweenParts(nnx.callbacks.Callback):
    """Freezes a layer after the first part of a batch."""

    def on_batch_end(self, model: Any, batch: int, logs: dict[str, float]) -> None:
        model.layers[2].trainable = False


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_earlier_parts_are_dropped_where_a_layer_is_frozen(backend: str) -> None:
    """They counted in the norm by which all are clipped, of this batch and of those to come."""
    model = built(backend=backend, optimizer=nnx.SGD(0.1, clip_norm=1e-3))
    fitted(model, 1, callbacks=[FreezeBetweenParts()], accumulate=2)
    gradients = parts(model, "gradients")
    assert not gradients["gradients 2.weights"].any()
    assert np.isclose(np.linalg.norm(np.concatenate([g.ravel() for g in gradients.values()])), 1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_may_be_said_at_any_time(backend: str) -> None:
    model, freeze = built(backend=backend), Freeze()
    fitted(model, 5, callbacks=[freeze])
    same = [np.array_equal(a, b) for a, b in zip(freeze.seen, freeze.seen[1:], strict=False)]
    assert same == [False, True, True, False]
    model.layers[2].trainable = False
    before = model.layers[2].weights.copy()
    model.steps(X, Y, 3)
    np.testing.assert_array_equal(model.layers[2].weights, before)
    model.layers[2].weights = before * 2  # by hand it can be changed all the same
    np.testing.assert_array_equal(model.layers[2].weights, before * 2)


def test_of_a_whole_model_it_is_said_of_all_layers_and_then_nothing_is_left_to_train() -> None:
    model = built()
    model.trainable = False
    assert not any(layer.trainable for layer in model.layers)
    for call in (lambda: model.step(X, Y), lambda: fitted(model)):
        with pytest.raises(nnx.InputError, match="trainable=False, so there is nothing to train"):
            call()
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.1))
    with pytest.raises(nnx.InputError, match="nothing to train"):
        model.step(X, Y)
    model.layers[4].trainable = True
    assert model.trainable
    assert np.isfinite(model.step(X, Y))
    for part in (model, model.layers[0]):
        with pytest.raises(nnx.InputError, match="trainable=1: expected True or False"):
            part.trainable = 1


@pytest.mark.parametrize("way", ["saved", "copied", "pickled", "moved"])
def test_it_travels_with_the_layer(way: str, tmp_path: Path) -> None:
    model = built(0, 2)
    fitted(model)
    if way == "saved":
        model.save(tmp_path / "m.safetensors")
    other = {
        "saved": lambda: nnx.load(tmp_path / "m.safetensors", backend="numpy"),
        "copied": lambda: copy.deepcopy(model),
        "pickled": lambda: pickle.loads(pickle.dumps(model)),
        "moved": lambda: copy.deepcopy(model).to("numba"),
    }[way]()
    assert [layer.trainable for layer in other.layers] == [False, True, False, True, True, True]
    np.testing.assert_allclose(fitted(other), fitted(model), rtol=1e-9)


def test_the_summary_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    text = built(0).summary()
    assert "Dense(5, 8), not trained" in text
    assert "Dense(8, 8), not" not in text
    assert "147 parameters, 48 of them not trained" in text


# ---- other layers in a model -----------------------------------------------------------------------------------------


def head(width: int = 3) -> nnx.Dense:
    return nnx.Dense(8, width)


EXCHANGES = {
    "an item": lambda model, new: model.layers.__setitem__(-2, new),
    "a slice": lambda model, new: model.layers.__setitem__(slice(4, 5), [new]),
    "a list": lambda model, new: setattr(model, "layers", [*model.layers[:4], new, model.layers[5]]),
    "pop and insert": lambda model, new: (model.layers.pop(4), model.layers.insert(4, new)),
    "del and append": lambda model, new: (model.layers.__delitem__(slice(4, None)), model.layers.append(new),
                                          model.layers.append(nnx.Softmax())),
    "remove and extend": lambda model, new: (model.layers.pop(), model.layers.remove(model.layers[4]),
                                             model.layers.extend([new, nnx.Softmax()])),
}  # fmt: skip


@pytest.mark.parametrize("fitted_before", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", EXCHANGES)
def test_every_way_of_exchanging_layers_is_obeyed(way: str, backend: str, fitted_before: bool) -> None:
    model = built(backend=backend)
    if fitted_before:
        fitted(model)
    body, old, new = model.layers[0].weights.copy(), model.layers[4], head()
    EXCHANGES[way](model, new)
    assert model.layers[4] is new
    assert len(model.layers) == 6
    assert not old.in_model
    assert model.optimizer.iterations == 0
    assert not model.flat.first.any()
    np.testing.assert_array_equal(model.layers[0].weights, body)
    before, gone = np.array(new.weights), np.array(old.weights)
    fitted(model)
    assert not np.array_equal(new.weights, before)  # the new one is trained, and predicts
    np.testing.assert_array_equal(old.weights, gone)
    outputs = X
    for layer in copy.deepcopy(list(model.layers)):
        outputs = layer.forward(outputs)
    np.testing.assert_allclose(model.predict(X), outputs, rtol=1e-6)


def test_a_new_head_on_a_frozen_body() -> None:
    model = built(backend="numba")
    fitted(model)
    model.trainable = False
    model.layers[-2] = head()
    body = model.layers[0].weights.copy()
    first, *_, last = fitted(model, 20)
    assert last < first
    np.testing.assert_array_equal(model.layers[0].weights, body)


def test_what_cannot_be_exchanged_is_refused_and_nothing_changes() -> None:
    model, twin = built(), built()
    kept = model.layers
    for change, reason in [
        (lambda: model.layers.append(model.layers[0]), "same object"),
        (lambda: model.layers.insert(1, nnx.Dense(7, 7)), "takes 7 inputs"),
        (lambda: model.layers.__setitem__(0, twin.layers[0]), "belongs to another model"),
        (lambda: model.layers.__setitem__(0, "ReLU"), "expected a Layer"),
        (lambda: model.layers.__setitem__(slice(0, 1), head()), "take a list of layers"),
        (lambda: model.layers.clear(), "at least one layer"),
    ]:
        with pytest.raises(nnx.InputError, match=reason):
            change()
    with pytest.raises(IndexError):
        model.layers.pop(9)
    assert tuple(model.layers) == tuple(kept)
    kept.insert(1, nnx.Linear())
    assert len(model.layers) == 7
    with pytest.raises(nnx.InputError, match=r"change model\.layers itself"):
        kept.append(nnx.Linear())
    assert len(model.layers) == 7
    assert fitted(model) == fitted(twin)
    layers_alone = built().layers
    with pytest.raises(nnx.InputError, match="a model that is no more"):
        layers_alone.append(nnx.Linear())


def test_layers_are_a_tuple_whose_copies_belong_to_no_model() -> None:
    model = built()
    assert isinstance(model.layers, tuple)
    assert type(copy.copy(model.layers)) is type(copy.deepcopy(model.layers)) is tuple
    assert [type(layer) for layer in pickle.loads(pickle.dumps(model.layers))] == [type(a) for a in model.layers]
