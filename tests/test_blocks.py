"""Blocks of layers, flattened images and embedded codes: what they compute, and that they are layers as any."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx
from nnx.errors import FileFormatError

BACKENDS = ["numpy", "numba"]
RANDOM = np.random.default_rng(11)
X, Y = RANDOM.standard_normal((60, 4)), RANDOM.integers(0, 3, 60)
CODES = X.copy()
CODES[:, 1], CODES[:, 3] = RANDOM.integers(0, 5, 60), RANDOM.integers(0, 3, 60)

Make = Callable[[], list[nnx.Layer]]
MODELS: dict[str, tuple[Make, np.ndarray]] = {
    "residual": (lambda: [nnx.Dense(4, 6), nnx.Residual(nnx.Dense(6, 6, weight_l2=1e-2), nnx.Tanh(), nnx.Dropout(0.2)),
                          nnx.Dense(6, 3), nnx.Softmax()], X),
    "residual first": (lambda: [nnx.Residual(nnx.Dense(4, 4), nnx.Residual(nnx.Sigmoid(), nnx.Dense(4, 4))),
                                nnx.Dense(4, 3), nnx.Softmax()], X),
    "concat": (lambda: [nnx.Dense(4, 5), nnx.Concat(nnx.Linear(), [nnx.Dense(5, 2, bias_l1=1e-3), nnx.Tanh()],
                                                    nnx.Residual(nnx.Dense(5, 5))),
                        nnx.Dense(12, 3), nnx.Softmax()], X),
    "norms within": (lambda: [nnx.Dense(4, 6), nnx.Residual(nnx.Dense(6, 6), nnx.BatchNorm(6), nnx.Tanh()),
                              nnx.Concat(nnx.LayerNorm(6), [nnx.BatchNorm(6), nnx.GaussianNoise(0.1)]),
                              nnx.Dense(12, 3), nnx.Softmax()], X),
    "concat first": (lambda: [nnx.Concat(nnx.Dense(4, 2), nnx.Dense(4, 3)), nnx.Dense(5, 3), nnx.Softmax()], X),
    "embedding": (lambda: [nnx.Embedding({1: (5, 3), 3: (3, 2)}, inputs=4), nnx.Dense(7, 3), nnx.Softmax()], CODES),
    "branches of codes": (lambda: [nnx.Concat(nnx.Embedding({3: (3, 2)}, inputs=4), [nnx.Flatten(), nnx.Dense(4, 2)]),
                                   nnx.Dense(7, 3), nnx.Softmax()], CODES),
    "flatten": (lambda: [nnx.Flatten(), nnx.Dense(4, 5), nnx.ReLU(), nnx.Dense(5, 3), nnx.Softmax()],
                X.reshape(60, 2, 2)),
}  # fmt: skip
every_model = pytest.mark.parametrize("name", MODELS)


def built(name: str, backend: str = "numpy") -> tuple[nnx.Sequential, np.ndarray]:
    make, x = MODELS[name]
    model = nnx.Sequential(*make(), backend=backend, dtype="float64", seed=3)
    return model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.05)), x


def fitted(model: nnx.Sequential, x: np.ndarray, epochs: int = 3) -> list[float]:
    return model.fit(x, Y, epochs=epochs, batch_size=16, verbose=0)["loss"]


# ---- as any layer ----------------------------------------------------------------------------------------------------


@every_model
def test_gradients_are_right(name: str) -> None:
    model, x = built(name)
    assert nnx.gradcheck(model, x[:7], Y[:7]) < 1e-6
    assert nnx.gradcheck(model.layers[0], x[:7]) < 1e-6


@every_model
@pytest.mark.parametrize("backend", BACKENDS)
def test_they_train_and_are_replayed(name: str, backend: str) -> None:
    (model, x), (wanted, _) = built(name, backend), built(name)
    losses = fitted(model, x, 8)
    assert losses[-1] < losses[0]
    assert model.eager_reason is model.replay_reason is None
    np.testing.assert_allclose(losses, fitted(wanted, x, 8), rtol=1e-9)
    assert model.evaluate(x, Y).keys() == {"loss", "accuracy"}
    np.testing.assert_allclose(model.predict(x[:1]), wanted.predict(x)[:1], rtol=1e-9)
    kept = [layer.output for layer in wanted.layers if "output" in vars(layer)]
    wanted.predict(x)
    assert all(a is b for a, b in zip(kept, [layer.output for layer in wanted.layers if "output" in vars(layer)],
                                      strict=True))  # fmt: skip
    outputs = x  # and by hand, layer by layer
    for layer in copy.deepcopy(list(wanted.layers)):
        outputs = layer.forward(outputs)
    np.testing.assert_allclose(wanted.predict(x), outputs, rtol=1e-6)


@every_model
@pytest.mark.parametrize("way", ["saved", "copied", "pickled", "moved"])
def test_they_travel(name: str, way: str, tmp_path: Path) -> None:
    model, x = built(name)
    fitted(model, x)
    if way == "saved":
        model.save(tmp_path / "m.safetensors")
    other = {
        "saved": lambda: nnx.load(tmp_path / "m.safetensors", backend="numpy"),
        "copied": lambda: copy.deepcopy(model),
        "pickled": lambda: pickle.loads(pickle.dumps(model)),
        "moved": lambda: copy.deepcopy(model).to("numba"),
    }[way]()
    assert list(map(repr, other.layers)) == list(map(repr, model.layers))
    np.testing.assert_allclose(fitted(other, x), fitted(model, x), rtol=1e-9)
    fitted(model, x)
    assert any(not np.array_equal(a, b) for a, b in zip(other._state().values(), model._state().values(), strict=True))


@every_model
def test_parameters_are_reached_by_their_places(name: str) -> None:
    model, x = built(name)
    parameters = {place: np.array(a) * 0.5 for place, a in model.parameters().items()}
    model.set_parameters(parameters)
    for place, value in model.parameters().items():
        np.testing.assert_array_equal(value, parameters[place])
    assert np.shares_memory(next(iter(model.parameters().values())), model.flat.values)
    frozen, *_ = [layer for layer in model.layers if layer.shapes]
    before = {name: np.array(frozen.parameter(name)) for name in frozen.shapes}
    frozen.trainable = False
    assert not frozen.trainable
    model.step(x, Y)
    for each, value in before.items():
        np.testing.assert_array_equal(frozen.parameter(each), value)


# ---- blocks ----------------------------------------------------------------------------------------------------------


def test_a_residual_adds_and_a_concat_sets_side_by_side() -> None:
    w = RANDOM.standard_normal((4, 4))
    dense, other = nnx.Dense(4, 4, init=w), nnx.Dense(4, 2, init=w[:, :2])
    block = nnx.Residual(dense, nnx.Tanh())
    block.dtype = "float64"
    np.testing.assert_allclose(block.forward(X), X + np.tanh(X @ w), rtol=0, atol=1e-12)
    d = RANDOM.standard_normal((60, 4))
    inside = d * (1 - np.tanh(X @ w) ** 2)
    np.testing.assert_allclose(block.backward(d), d + inside @ w.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(dense.dweights, X.T @ inside, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(block.gradient("0.weights"), dense.dweights)

    beside = nnx.Concat(nnx.Linear(), other)
    beside.dtype = "float64"
    np.testing.assert_allclose(beside.forward(X), np.hstack([X, X @ w[:, :2]]), rtol=0, atol=1e-12)
    d = RANDOM.standard_normal((60, 6))
    np.testing.assert_allclose(beside.backward(d), d[:, :4] + d[:, 4:] @ w[:, :2].T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(other.dbiases, d[:, 4:].sum(axis=0, keepdims=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("in_model", [False, True])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))])
def test_copies_of_blocks_have_layers_of_their_own(copied: Callable[..., Any], in_model: bool) -> None:
    for block in (nnx.Residual(nnx.Dense(4, 4), nnx.Tanh()), nnx.Concat(nnx.Linear(), nnx.Dense(4, 2))):
        _ = in_model and nnx.Sequential(block, backend="numpy", dtype="float64")
        x = X.astype(np.float64 if in_model else np.float32)
        outputs, other = block.forward(x).copy(), copied(block)
        assert repr(other) == repr(block)
        np.testing.assert_allclose(other.forward(x), outputs, rtol=1e-6)
        for name in block.shapes:
            block.assign(name, np.full(block.shapes[name], 7.0))
            assert not (np.asarray(other.parameter(name)) == 7).any()
        nnx.Sequential(copied(block))


def test_layers_may_be_given_as_a_list_or_as_a_model_which_keeps_its_own() -> None:
    model = nnx.Sequential(nnx.Dense(4, 4), nnx.ReLU(), dtype="float64")
    for block in (nnx.Residual(model), nnx.Residual([nnx.Dense(4, 4), nnx.ReLU()]), nnx.Residual([[nnx.Linear()]])):
        assert isinstance(block.layers, tuple)
    block = nnx.Residual(model)
    np.testing.assert_array_equal(block.layers[0].weights, model.layers[0].weights)
    assert block.layers[0] is not model.layers[0]
    assert str(nnx.Concat(model, nnx.Linear())) == "Concat([Dense(4, 4), ReLU()], [Linear()])"


def test_penalties_of_layers_within_count() -> None:
    model = nnx.Sequential(
        nnx.Residual(nnx.Dense(4, 4, weight_l2=0.5)), nnx.Dense(4, 3), nnx.Softmax(), backend="numba"
    )
    model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(1e-9))
    history = model.fit(X, Y, verbose=0)
    wanted = 0.5 * np.square(np.asarray(model.layers[0].layers[0].weights, np.float64)).sum()
    assert history["regularization_loss"][0] == pytest.approx(wanted, rel=1e-5)
    model.layers[0].layers[0].weight_l2 = 0.25  # and what is changed within is recorded anew
    assert model.fit(X, Y, verbose=0)["regularization_loss"][0] == pytest.approx(wanted / 2, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_layer_within_may_be_frozen_and_dropouts_within_differ(backend: str) -> None:
    inside = nnx.Residual(nnx.Dense(4, 4), nnx.Dropout(0.5), nnx.Dense(4, 4), nnx.Dropout(0.5))
    model = nnx.Sequential(inside, nnx.Dense(4, 3), nnx.Softmax(), backend=backend)
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.1))
    first, drop, last, other = inside.layers
    assert drop.number != other.number
    first.trainable = False
    assert inside.trainable
    before = np.array(first.weights), np.array(last.weights)
    fitted(model, X)
    assert model.eager_reason is model.replay_reason is None
    np.testing.assert_array_equal(first.weights, before[0])
    assert not np.array_equal(last.weights, before[1])
    assert not model.flat.views(model.flat.gradients)[0].any()


def test_a_method_replaced_within_is_obeyed() -> None:
    model, x = built("residual first")
    before = model.predict(x)
    model.layers[0].layers[0].forward = lambda inputs, training=False: inputs * 0
    assert not np.array_equal(model.predict(x), before)


def test_the_summary_shows_what_is_within(capsys: pytest.CaptureFixture[str]) -> None:
    text = built("concat")[0].summary()
    for place, name, depth in (("1", "Concat", 0), ("1.1.0", "Dense(5, 2)", 1), ("1.2.0.0", "Dense(5, 5)", 2)):
        row = next(line for line in text.splitlines() if line.startswith(f"{place} "))
        assert row[9:].startswith(" " * 2 * depth + name)


def nested(blocks: int) -> nnx.Layer:
    """Return blocks in each other."""
    layer: nnx.Layer = nnx.Linear()
    for _ in range(blocks):
        layer = nnx.Residual(layer)
    return layer


def test_blocks_in_each_other_ask_each_layer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not twice at each level, which for 32 of them would never end; nor each layer of all before it."""
    asked = [0]
    ask = nnx.Linear.output_width

    def counted(self: nnx.Linear, width: int | None) -> int | None:
        asked[0] += 1
        return ask(self, width)

    monkeypatch.setattr(nnx.Linear, "output_width", counted)
    model = nnx.Sequential(nested(32), backend="numpy")
    assert asked[0] <= 4 * 32
    np.testing.assert_array_equal(model.predict([[1.0]]), [[33.0]])
    np.testing.assert_array_equal(copy.deepcopy(model).predict([[1.0]]), [[33.0]])


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: nnx.Residual(), "at least one layer"),
    "an empty list": (lambda: nnx.Residual([]), "at least one layer"),
    "too deep": (lambda: nested(33), "33 deep in each other, expected at most 32"),
    "too many within": (lambda: nnx.Sequential(nnx.Concat(nnx.Embedding(1 << 25, 1), nnx.Linear())), "use dtype"),
    "no memory": (lambda: nnx.Sequential(nnx.Residual(nnx.LayerNorm(1 << 62))), "larger than this machine's memory"),
    "no array": (lambda: nnx.Sequential(nnx.LayerNorm(10**40)), "larger than this machine's memory"),
    "other width": (lambda: nnx.Residual(nnx.Dense(4, 5)), "of 4 features it makes 5"),
    "no fit": (lambda: nnx.Sequential(nnx.Dense(4, 3), nnx.Residual(nnx.Dense(5, 5))), "takes 5 inputs"),
    "no fit within": (lambda: nnx.Residual(nnx.Dense(4, 3), nnx.Dense(4, 4)), "layer 1: .* takes 4 inputs"),
    "a class": (lambda: nnx.Residual(nnx.ReLU), "the class ReLU"),
    "a loss": (lambda: nnx.Residual(nnx.MeanSquaredError()), "is a loss"),
    "a word": (lambda: nnx.Residual("relu"), "expected a Layer"),
    "one branch": (lambda: nnx.Concat(nnx.Dense(4, 4)), r"Concat\(Linear\(\), f\)"),
    "no layers": (lambda: nnx.Concat([], nnx.Linear()), "a branch is empty"),
    "branches apart": (lambda: nnx.Concat(nnx.Dense(4, 4), nnx.Dense(5, 4)), "take 4 and 5 features"),
    "ending": (lambda: nnx.Sequential(nnx.Dense(4, 3), nnx.Residual(nnx.Softmax())).compile(
        nnx.CategoricalCrossEntropy(), nnx.Adam()), "add Softmax"),
    "other columns": (lambda: nnx.Sequential(nnx.Dense(4, 3), nnx.Embedding({0: (2, 2)}, inputs=3)), "must come first"),
    "codes of a layer": (lambda: nnx.Sequential(nnx.Tanh(), nnx.Embedding(3, 2)), "must come first"),
    "column": (lambda: nnx.Embedding({4: (2, 2)}, inputs=4), "column 4 of inputs=4"),
    "no width": (lambda: nnx.Embedding(5), "or a width too"),
    "two widths": (lambda: nnx.Embedding({0: (2, 2)}, width=3, inputs=4), "have their own"),
    "no inputs": (lambda: nnx.Embedding({0: (2, 2)}), "inputs=None"),
    "no pair": (lambda: nnx.Embedding({0: 5}, inputs=4), r"expected \(categories, width\)"),
    "no category": (lambda: nnx.Embedding({0: (0, 2)}, inputs=4), "categories of column 0=0"),
    "too many": (lambda: nnx.Sequential(nnx.Embedding({0: (1 << 25, 1)}, inputs=4)), "use dtype='float64'"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused(what: str) -> None:
    make, reason = REFUSED[what]
    with pytest.raises(nnx.InputError, match=reason):
        make()


def test_a_layer_stands_in_one_place() -> None:
    dense = nnx.Dense(4, 4)
    with pytest.raises(nnx.InputError, match="stands in it twice"):
        nnx.Residual(dense, dense)
    block = nnx.Residual(dense)
    with pytest.raises(nnx.InputError, match="same object"):
        nnx.Sequential(block, dense)
    model = nnx.Sequential(block)
    for make in (
        lambda: nnx.Residual(dense),
        lambda: nnx.Sequential(dense),
        lambda: nnx.Sequential(nnx.Residual(block)),
    ):
        with pytest.raises(nnx.InputError, match="belongs to"):
            make()
    with pytest.raises(AttributeError, match="make a new block"):
        block.layers = (nnx.ReLU(),)
    model.layers[0] = nnx.Linear()
    assert not dense.in_model
    nnx.Sequential(dense)


def test_a_file_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    from nnx.model import checkpoint
    from nnx.model.custom import Custom

    described: dict[str, Any] = {"class": "ReLU"}
    for _ in range(3000):
        described = {"class": "Residual", "layers": [described]}
    with pytest.raises(FileFormatError, match="does not describe"), checkpoint.making_sense(tmp_path):
        checkpoint._make(described, checkpoint.LAYERS, Custom(), nnx.Layer)


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_go_in_as_they_are_or_as_rows(backend: str) -> None:
    images, (make, _) = X.reshape(60, 2, 2), MODELS["flatten"]
    models = [nnx.Sequential(*make()[start:], backend=backend, seed=3) for start in (0, 0, 1)]
    drawn = [np.array(a) for a in models[0].parameters().values()]
    for model, x in zip(models, (images, X, X), strict=True):
        model.set_parameters(dict(zip(model.parameters(), drawn, strict=True)))
        model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.05))
        model.fit(x, Y, epochs=2, batch_size=16, verbose=0, validation_data=(x, Y))
        model.step(x, Y)
    a, b, c = ([model.predict(x), *map(float, model.evaluate(x, Y).values())] for model, x in
               zip(models, (images, X, X), strict=True))  # fmt: skip
    for one, two, three in zip(a, b, c, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    np.testing.assert_array_equal(models[0].predict(images[:1]), models[0].predict(X[:1]))
    with pytest.raises(nnx.InputError, match=r"begin the model with nnx\.Flatten"):
        models[2].predict(images)
    with pytest.raises(nnx.InputError, match="9 features"):
        models[0].predict(np.zeros((2, 3, 3)))


def test_flatten_by_hand() -> None:
    flatten, images = nnx.Flatten(), X.reshape(60, 2, 2).astype("float32")
    assert flatten.forward(images).shape == (60, 4)
    np.testing.assert_array_equal(flatten.backward(flatten.output), images)
    for wrong in (np.zeros(3), np.zeros((0, 2, 2))):
        with pytest.raises(nnx.InputError, match=r"expected \[samples, \.\.\.\]"):
            flatten.forward(wrong)


# ---- codes -----------------------------------------------------------------------------------------------------------


def test_codes_become_their_vectors_and_other_columns_stay() -> None:
    layer = nnx.Embedding({1: (5, 3), 3: (3, 2)}, inputs=4)
    layer.dtype = "float64"
    out = layer.forward(CODES)
    one, three = (np.asarray(layer.weights[column]) for column in (1, 3))
    wanted = np.hstack([CODES[:, :1], one[CODES[:, 1].astype(int)], CODES[:, 2:3], three[CODES[:, 3].astype(int)]])
    np.testing.assert_array_equal(out, wanted)
    d = RANDOM.standard_normal(out.shape)
    dinputs = layer.backward(d)
    np.testing.assert_array_equal(dinputs[:, [0, 2]], d[:, [0, 4]])
    assert not dinputs[:, [1, 3]].any()
    for column, first in ((1, 1), (3, 5)):
        sums = np.zeros_like(layer.weights[column])
        np.add.at(sums, CODES[:, column].astype(int), d[:, first : first + sums.shape[1]])
        np.testing.assert_allclose(layer.dweights[column], sums, rtol=1e-12)
    layer.assign("1.weights", np.zeros((5, 3)))
    assert not layer.forward(CODES)[:, 1:4].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", ["fit", "step", "predict", "evaluate", "validate"])
@pytest.mark.parametrize("code", [5, -1, 0.5])
def test_what_is_no_code_is_refused_where_data_comes_in(call: str, code: float, backend: str) -> None:
    model, x = built("embedding", backend)
    wrong, before = x.copy(), model._state()["values"]
    wrong[7, 1] = code
    calls: dict[str, Callable[[], Any]] = {
        "fit": lambda: model.fit(wrong, Y, verbose=0),
        "step": lambda: model.step(wrong, Y),
        "predict": lambda: model.predict(wrong),
        "evaluate": lambda: model.evaluate(wrong, Y),
        "validate": lambda: model.fit(x, Y, validation_data=(wrong, Y), verbose=0),
    }
    with pytest.raises(nnx.InputError, match=rf"column 1 holds {code:g} in row 7, .* from 0 to 4 there"):
        calls[call]()
    np.testing.assert_array_equal(model._state()["values"], before)


@pytest.mark.parametrize("rows", [60, 5000])  # more than are added up in one run
def test_gradients_of_vectors_are_sums_in_one_order(rows: int) -> None:
    """The same bits on each call and for any number of threads; and near what float64 gives."""
    codes = RANDOM.integers(0, 3, (rows, 1)).astype("float32")
    y = RANDOM.integers(0, 2, rows)
    results = []
    for dtype in ("float32", "float32", "float64"):
        model = nnx.Sequential(nnx.Embedding(3, 2), nnx.Dense(2, 2), nnx.Softmax(), backend="numba", dtype=dtype)
        model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1))
        model.steps(codes, y, 3)
        results.append(np.array(model.layers[0].dweights[0]))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[0], results[2], rtol=1e-4, atol=1e-6)


def test_blocks_in_each_other_ask_each_layer_a_few_times_for_its_width() -> None:
    """Twice at every level would be 2**16 times, and a model file of a few kilobytes would take for ever."""

    class Asked(nnx.Tanh):
        times = 0

        def output_width(self, width: int | None) -> int | None:
            Asked.times += 1
            return super().output_width(width)

    block: nnx.Layer = Asked()
    for _ in range(16):
        block = nnx.Concat(nnx.Linear(), block)
    nnx.Sequential(nnx.Dense(2, 2), block, backend="numpy")
    assert 0 < Asked.times <= 16**2
