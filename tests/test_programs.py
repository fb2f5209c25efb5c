"""A training step that is recorded once and replayed does what the eager step does, or is not replayed."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import threading
import tracemalloc
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import ALIKE, NETS, Data, Doubled, Net, mlp, samples

import nnx
from nnx import rng
from nnx.backends.errors import NotReplayable
from nnx.backends.numpy import NumpyBackend
from nnx.backends.operation_table import OPERATIONS
from nnx.backends.recorder import Program, Rounded
from nnx.testing.rounding import rounding
from nnx.training.eager import Eager
from nnx.training.step import Feed
from nnx.training.trainer import Trainer


@contextmanager
def always_eager() -> Iterator[None]:
    """Let every model run its steps layer by layer."""
    with mock.patch.object(Trainer, "runner", lambda self, feed, part=False: Eager(self, feed, "asked for", part)):
        yield


def state(model: nnx.Sequential) -> dict[str, np.ndarray]:
    """Copies of all that training changes."""
    trainer = model._trainer
    assert trainer is not None
    flat = {name: np.array(getattr(model.flat, name)) for name in ("values", "first", "second")}
    counted = {"counters": np.array(trainer.counters)[[0, 2]], "iterations": np.array(model.optimizer.iterations)}
    return {**flat, **counted, "epochs": np.array(model.epochs_done)}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def trained(net: Net, dtype: str, **more: Any) -> tuple[nnx.Sequential, nnx.History]:
    model = net.model(dtype)
    options = {"epochs": net.epochs, "batch_size": net.batch, "verbose": 0, **net.fit, **more}
    return model, model.fit(*net.samples(), **options)


def same_history(a: nnx.History, b: nnx.History) -> bool:
    return list(a) == list(b) and all(list(a[name]) == list(b[name]) for name in a)


# ---- replayed and eager ----------------------------------------------------------------------------------------------


SINGLE = ["relu", "tanh", "dropout", "binary", "squares", "sgd", "adagrad", "rmsprop", "l2"]  # in float32 too


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float64") for name in NETS), *((n, "float32") for n in SINGLE)])
def test_200_replayed_steps_are_200_eager_ones(name: str, dtype: str):
    """To the last bit: NumPy's replay calls the same operations with the same operands."""
    net = NETS[name]
    model, history = trained(net, dtype)
    with always_eager():
        eager, eager_history = trained(net, dtype)
    assert model.eager_reason is None
    assert eager.eager_reason == "asked for"
    assert model.optimizer.iterations >= 200
    assert model.flat.values.dtype == dtype
    assert_same(state(model), state(eager))
    assert same_history(history, eager_history)
    assert not np.array_equal(model.flat.values, net.model(dtype).flat.values)


@settings(max_examples=30)
@given(
    rows=st.integers(1, 20), batch=st.integers(1, 24), inputs=st.integers(1, 5), hidden=st.integers(1, 70),
    shuffle=st.booleans(), rate=st.sampled_from([0.0, 0.4]), seed=st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_whatever_the_shapes(
    rows: int, batch: int, inputs: int, hidden: int, shuffle: bool, rate: float, seed: int
) -> None:
    x, y = samples("labels", rows, inputs)
    models = []
    for context in (mock.MagicMock(), always_eager()):
        with context:
            layers = [nnx.Dense(inputs, hidden), nnx.ReLU(), nnx.Dropout(rate), nnx.Dense(hidden, 3), nnx.Softmax()]
            model = nnx.Sequential(*layers, backend="numpy", seed=seed)
            model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))
            model.fit(x, y, epochs=2, batch_size=batch, shuffle=shuffle, verbose=0)
            model.step(x, y)
            models.append(model)
    assert models[0].eager_reason is None
    assert_same(state(models[0]), state(models[1]))


def by_hand(
    model: nnx.Sequential, layers: list[nnx.Layer], loss: nnx.Loss, optimizer: nnx.Optimizer, data: Data,
    epochs: int, batch: int, whole: bool = False,
) -> np.ndarray:  # fmt: skip
    """Train layers as the notes do, from the model's weights and with its order of rows; return the losses."""
    x, y = data
    for layer, theirs in zip(layers, model.layers, strict=True):
        layer.backend = loss.backend = nnx.get_backend("numpy")
        if layer.shapes:
            layer.dtype = model.dtype
            for name in layer.shapes:
                layer.assign(name, theirs.parameter(name))
    losses = []
    for epoch in range(epochs):
        order = rng.generator(model.seed, rng.SHUFFLE, epoch).permutation(len(x))
        for at in range(0, len(x), batch):
            rows = order[at : at + batch]
            outputs, wanted = (x, y) if whole else (x[rows], y[rows])
            for layer in layers:
                outputs = layer.forward(outputs, training=True)
            losses.append(loss.calculate(outputs, wanted))
            dvalues = loss.backward(outputs, wanted)
            for layer in reversed(layers):
                dvalues = layer.backward(dvalues)
            optimizer.pre_update_params()
            for layer in layers:
                optimizer.update_params(layer)
            optimizer.post_update_params()
    return np.array(losses)


@pytest.mark.rounding
@pytest.mark.parametrize(
    "name",
    ["relu", "tanh", "softmax inside", "unfused softmax", "binary", "squares", "magnitudes", "adamw", "l1 and l2"],
)
def test_a_replayed_fit_is_the_loop_of_the_notes(name: str):
    net = NETS[name]
    model, data = net.model(), net.samples()
    layers, loss = net.layers(), net.loss()
    epochs, batch = 10, 16
    losses = by_hand(model, layers, loss, net.optimizer(), data, epochs, batch)
    history = model.fit(*data, epochs=epochs, batch_size=batch, verbose=0)
    weights = np.tile([16, 16, 16, 2], epochs).reshape(epochs, 4)
    means = (losses.reshape(epochs, 4) * weights).sum(axis=1) / 50
    column = "data_loss" if model.regularized else "loss"
    np.testing.assert_allclose(history[column], means, rtol=1e-6)  # the fused losses are exacter than the notes'
    for layer, theirs in zip(layers, model.layers, strict=True):
        for parameter in layer.shapes:
            np.testing.assert_allclose(theirs.parameter(parameter), layer.parameter(parameter), rtol=1e-5, atol=1e-8)


# ---- recording -------------------------------------------------------------------------------------------------------


class Spy(NumpyBackend):
    """Keeps what was recorded on it."""

    def __init__(self) -> None:
        self.programs: list[Program] = []

    def compile(self, recorder: Any) -> Program:
        self.programs.append(super().compile(recorder))
        return self.programs[-1]


@pytest.mark.parametrize("replayed", [True, False])
def test_recording_leaves_the_model_as_it_was(replayed: bool):
    layers = mlp(nnx.ReLU, lambda: nnx.Dropout(0.2), *([] if replayed else [Swish]), weight_l2=1e-3)
    model = Net(layers).model()
    x, y = samples("labels", 50)
    model.fit(x, y, epochs=2, batch_size=16, verbose=0)
    before, rate = state(model), model.optimizer.current_learning_rate
    cursor = np.array(model._trainer.counters)
    feed = Feed(x.copy(), y.copy())
    runner = model._trainer.runner(feed)
    assert isinstance(runner, Program) is replayed
    assert_same(state(model), before)
    np.testing.assert_array_equal(model._trainer.counters, cursor)
    np.testing.assert_array_equal(feed.x, x)
    assert model.optimizer.current_learning_rate == rate
    assert all(layer.backend is model.backend for layer in [*model.layers, model._trainer.loss])


def test_float32_stays_float32():
    """What is float64 has to do with the step as a whole; what is int64 names rows and classes."""
    spy = Spy()
    for name in ("l1 and l2", "soft labels", "binary", "unfused binary", "squares", "magnitudes", "two dropouts"):
        net = NETS[name]
        model = net.model("float32", spy)
        model.fit(*net.samples(), epochs=1, batch_size=net.batch, verbose=0)
        model.predict(net.samples()[0])
        assert all(layer.output.dtype == np.float32 for layer in model.layers if "output" in layer.__dict__)
    assert len(spy.programs) == 14
    allowed = {
        "float64": {"hyper", "stats", "history", "penalty", "penalties"},
        "int64": {"counters", "order", "target", "source", "out"},
    }
    calls = [call for program in spy.programs for call in program.calls]
    assert {call.name for call in calls} > {"dropout", "adam", "regularize", "tally", "binary_cross_entropy_backward"}
    for call in calls:
        for operand, value in call.operands.items():
            if isinstance(value, np.ndarray) and value.dtype != np.float32:
                assert operand in allowed[value.dtype.name], f"{call.name}: {operand} is {value.dtype}"
                assert operand not in ("source", "out") or call.name == "gather_rows"


def test_a_step_is_recorded_once_for_each_batch_size():
    spy = Spy()
    model, (x, y) = NETS["relu"].model(backend=spy), samples("labels", 50)
    for rows in (50, 7, 50, 7, 1, 50):
        model.step(x[:rows], y[:rows])
    assert len(spy.programs) == 3
    model.fit(x, y, epochs=3, batch_size=16, verbose=0)
    assert len(spy.programs) == 5


@pytest.mark.parametrize("operation", ["relu", "dense_gradients"])
def test_an_operation_is_recorded_with_its_operands_by_name(operation: str):
    spy = Spy()
    model, (x, y) = NETS["relu"].model(backend=spy), samples("labels", 8)
    model.step(x, y)
    calls = {call.name: call for call in spy.programs[0].calls}
    assert list(calls[operation].operands) == list(OPERATIONS[operation].signature.parameters)[1:]


# ---- what cannot be replayed -----------------------------------------------------------------------------------------


class Own(nnx.Layer):
    """A layer of the user's own."""

    def output_width(self, width: int | None) -> int | None:
        return width

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.inputs, self.output = inputs, self.compute(inputs, training)
        return self.output

    def backward(self, dvalues: Any) -> Any:
        self.dinputs = self.gradient_of(dvalues)
        return self.dinputs

    def compute(self, inputs: Any, training: bool) -> Any:
        return inputs

    def gradient_of(self, dvalues: Any) -> Any:
        return dvalues


class Swish(Own):
    """x * sigmoid(x), by `xp`."""

    def compute(self, inputs: Any, training: bool) -> Any:
        self.share = 1 / (1 + self.backend.xp.exp(-inputs))
        return inputs * self.share

    def gradient_of(self, dvalues: Any) -> Any:
        return dvalues * (self.share + self.output * (1 - self.share))


class ScaledGradient(Own):
    """Computes its gradient alone by `xp`."""

    def gradient_of(self, dvalues: Any) -> Any:
        return 0.5 * dvalues


class Noise(Own):
    """Adds random numbers of its own."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(3)

    def compute(self, inputs: Any, training: bool) -> Any:
        return inputs + 0.1 * self.random.normal(size=inputs.shape) if training else inputs


class NoiseInPlace(Noise):
    """Adds them to the buffer of the layer before."""

    def compute(self, inputs: Any, training: bool) -> Any:
        if training:
            inputs += 0.1 * self.random.normal(size=inputs.shape)
        return inputs


class NoiseInItsOwnBuffer(Noise):
    """Computes into one array for all steps."""

    room: Any = None

    def compute(self, inputs: Any, training: bool) -> Any:
        if not training:
            return inputs
        if self.room is None or self.room.shape != inputs.shape:
            self.room = np.empty_like(inputs)
        np.add(inputs, self.random.normal(size=inputs.shape) * 0.1, out=self.room)
        return self.room


class HalfByHand(Own):
    """Fills one half of its output by an operation, and the other by hand."""

    room: Any = None

    def compute(self, inputs: Any, training: bool) -> Any:
        if self.room is None or self.room.shape != inputs.shape:
            self.room = self.backend.empty(inputs.shape, inputs.dtype)
        half = inputs.shape[1] // 2
        self.room[:, :half] = self.backend.tanh(inputs)[:, :half]
        self.backend.tanh(inputs[:, :half], out=self.room[:, :half])
        self.room[:, half:] = inputs[:, half:]
        return self.room


class DoubledInPlace(Own):
    """Edits what the layer before put out."""

    factor = 2.0

    def compute(self, inputs: Any, training: bool) -> Any:
        inputs *= self.factor
        return inputs


class NudgedInPlace(DoubledInPlace):
    """By so little that the loss hardly shows it."""

    factor = 1 + 1e-9


class GradientClippedInPlace(Own):
    """Edits the gradient in place."""

    def gradient_of(self, dvalues: Any) -> Any:
        np.clip(dvalues, -1e-3, 1e-3, out=dvalues)
        return dvalues


class GradientOfWeightsHalved(nnx.Dense):
    """Edits the gradient of its weights in place, which only the optimizer reads."""

    def backward(self, dvalues: Any) -> Any:
        super().backward(dvalues)
        self.dweights[...] *= 0.5
        return self.dinputs


class WeightsBounded(nnx.Dense):
    """Edits its weights in place."""

    def forward(self, inputs: Any, training: bool = False) -> Any:
        np.clip(self.weights, -0.3, 0.3, out=self.weights)
        return super().forward(inputs, training)


class FadingDropout(nnx.Dropout):
    """Drops less in every step, by a number of its own that a recording would hold fast."""

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.rate *= 0.9 if training else 1
        return super().forward(inputs, training)


class EveryOtherStep(Own):
    """Does something else in every other step."""

    steps = 0

    def compute(self, inputs: Any, training: bool) -> Any:
        self.steps += training
        self.squash = self.steps % 2 == 1
        return self.backend.tanh(inputs) if self.squash else inputs

    def gradient_of(self, dvalues: Any) -> Any:
        return self.backend.tanh_backward(self.output, dvalues) if self.squash else dvalues


NOT_WRITTEN = (
    r"reads \w+ \(\d+, \d\), which no recorded operation wrote: a layer, or the loss, computes it by other means"
)
CHANGED = r"reads \w+ \([\d, ]+\), where something has changed what \w+ wrote: a layer edits a buffer in place"
COUNTS = r"keeps numbers of its own from step to step: its (steps|rate) changed"
DIFFERS = "a replayed step differs from the eager one: a layer changes a buffer in place, or keeps numbers of its own"


def around(layer: Callable[[], nnx.Layer]) -> Callable[[], list[nnx.Layer]]:
    return mlp(nnx.Tanh, layer)


REFUSED: dict[str, tuple[Callable[[], list[nnx.Layer]], str]] = {
    **{
        kind.__name__: (around(kind), reason)
        for kind, reason in [
            (Swish, NOT_WRITTEN),
            (ScaledGradient, NOT_WRITTEN),
            (Noise, NOT_WRITTEN),
            (NoiseInPlace, CHANGED),
            (NoiseInItsOwnBuffer, NOT_WRITTEN),
            (HalfByHand, NOT_WRITTEN),
            (DoubledInPlace, CHANGED),
            (NudgedInPlace, CHANGED),
            (GradientClippedInPlace, CHANGED),
            (EveryOtherStep, COUNTS),
        ]
    },
    "GradientOfWeightsHalved": (
        lambda: [nnx.Dense(2, 6), nnx.Tanh(), GradientOfWeightsHalved(6, 3), nnx.Softmax()],
        CHANGED,
    ),
    "WeightsBounded": (lambda: [WeightsBounded(2, 6), nnx.Tanh(), nnx.Dense(6, 3), nnx.Softmax()], DIFFERS),
    "FadingDropout": (around(lambda: FadingDropout(0.5)), COUNTS),
    "DoubledInPlace first": (
        lambda: [DoubledInPlace(), *mlp(nnx.Tanh)()],
        r"DoubledInPlace\(\) edits its inputs in place",
    ),
    "Noise first": (lambda: [Noise(), *mlp(nnx.Tanh)()], NOT_WRITTEN),
}


@pytest.mark.parametrize(("layers", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_replayed_trains_as_by_hand(
    layers: Callable[[], list[nnx.Layer]], reason: str, capsys: pytest.CaptureFixture[str]
):
    net = Net(layers, nnx.CategoricalCrossEntropy, lambda: nnx.SGD(0.1, momentum=0.5))
    model, data, hand = net.model(), net.samples(), layers()
    for number, layer in enumerate(hand):
        if isinstance(layer, nnx.Dropout):  # the masks that it has in the model
            layer.seed, layer.number = model.seed, number
    losses = by_hand(model, hand, nnx.CategoricalCrossEntropy(), nnx.SGD(0.1, momentum=0.5), data, 5, 16)
    assert model.eager_reason is None
    history = model.fit(*data, epochs=5, batch_size=16, verbose=0)
    assert model.eager_reason is not None
    with pytest.raises(NotReplayable, match=reason):
        raise NotReplayable(model.eager_reason)
    summary = " ".join(model.summary().split())  # it folds long lines
    assert f"steps run eagerly, not replayed: {model.eager_reason}" in summary
    assert "training steps: layer by layer, as written" in summary
    means = (losses.reshape(5, 4) * [16, 16, 16, 2]).sum(axis=1) / 50
    np.testing.assert_allclose(history["loss"], means, **ALIKE)
    for layer, theirs in zip(hand, model.layers, strict=True):
        for parameter in layer.shapes:
            np.testing.assert_allclose(theirs.parameter(parameter), layer.parameter(parameter), **ALIKE)


class TwiceTanh(Own):
    """By operations of the backend alone, into new arrays."""

    def compute(self, inputs: Any, training: bool) -> Any:
        self.once = self.backend.tanh(inputs)
        return self.backend.tanh(self.once)

    def gradient_of(self, dvalues: Any) -> Any:
        return self.backend.tanh_backward(self.once, self.backend.tanh_backward(self.output, dvalues))


class AlternatingDropout(nnx.Dropout):
    """Takes its rate from an array of its own, which it changes in every step."""

    def __init__(self) -> None:
        self.rates = np.array([0.1, 0.6])
        super().__init__(0.0)

    def forward(self, inputs: Any, training: bool = False) -> Any:
        if training:
            self.rates[:] = self.rates[::-1].copy()
        return super().forward(inputs, training)

    @property
    def rate(self) -> float:
        return float(self.rates[0])

    @rate.setter
    def rate(self, value: float) -> None:
        pass


class PoppingDropout(nnx.Dropout):
    """Takes its rates from a list."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.rates = [0.1, 0.6] * 1000

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.now = self.rates.pop() if training else 0.0
        return super().forward(inputs, training)

    @property
    def rate(self) -> float:
        return self.now

    @rate.setter
    def rate(self, value: float) -> None:
        self.now = value


@pytest.mark.parametrize("kind", [AlternatingDropout, PoppingDropout])
def test_numbers_kept_in_arrays_and_lists_count_too(kind: type[nnx.Layer]):
    """Also where an earlier fit has already set whatever the first one sets."""
    net = Net(around(kind))
    model, (x, y) = net.model(), net.samples()
    with always_eager():
        eager = net.model()
        wanted = [*eager.fit(x, y, batch_size=16, verbose=0)["loss"], *eager.fit(x, y, epochs=5, verbose=0)["loss"]]
    got = [*model.fit(x, y, batch_size=16, verbose=0)["loss"], *model.fit(x, y, epochs=5, verbose=0)["loss"]]
    assert got == wanted
    assert model.eager_reason is not None


class Slotted:
    """Counts in a slot."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


class Deciding(Own):
    """Doubles in some steps, by something that it keeps, or that all of a process share."""

    def __init__(self, kept: Any, decide: Callable[[Any], bool]) -> None:
        self.kept, self.decide = kept, decide

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.inputs, self.doubled = inputs, bool(self.decide(self.kept))
        self.output = self.backend.relu(inputs) if self.doubled else self.backend.tanh(inputs)
        return self.output

    def backward(self, dvalues: Any) -> Any:
        back = self.backend.relu_backward if self.doubled else self.backend.tanh_backward
        self.dinputs = back(self.output, dvalues)
        return self.dinputs


DECISIONS: dict[str, tuple[Callable[[], Any], Callable[[Any], bool]]] = {
    "a generator of NumPy": (lambda: np.random.default_rng(0), lambda kept: kept.random() < 0.7),
    "an older one": (lambda: np.random.RandomState(0), lambda kept: kept.random_sample() < 0.7),
    "a generator of Python": (lambda: random.Random(0), lambda kept: kept.random() < 0.7),
    "NumPy's own numbers": (lambda: None, lambda kept: np.random.random() < 0.7),  # noqa: NPY002
    "Python's own numbers": (lambda: None, lambda kept: random.random() < 0.7),
    "an iterator": (lambda: iter(range(99)), lambda kept: next(kept) < 3),  # one that can be copied
    "a slot": (Slotted, lambda kept: kept() < 3),
    "a set": (set, lambda kept: (kept.add(len(kept)), len(kept) < 3)[1]),
    "a queue": (deque, lambda kept: (kept.append(0), len(kept) < 3)[1]),
    "an array of objects": (lambda: np.array([0], object), lambda kept: (kept.__iadd__(1), kept[0] < 3)[1]),
    "bytes": (lambda: bytearray(1), lambda kept: (kept.append(0), len(kept) < 4)[1]),
}


@pytest.mark.parametrize(("make", "decide"), DECISIONS.values(), ids=DECISIONS)
def test_so_does_whatever_else_a_layer_can_count_or_draw_by(make: Callable[[], Any], decide: Callable[[Any], bool]):
    """Recorded, it would do for ever what it did in the first step."""
    net = Net(around(lambda: Deciding(make(), decide)))

    def losses() -> list[float]:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        return list(net.model().steps(*net.samples(), 9))

    got = losses()
    with always_eager():
        wanted = losses()
    assert got == wanted
    assert len({decide(kept) for kept in [make()] for _ in range(9)}) == 2


class Masked(nnx.Dropout):
    """Dropout by another name."""


class Locked(TwiceTanh):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parametrize("layer", [lambda: Masked(0.2), Locked], ids=["a subclass of ours", "what cannot be copied"])
def test_a_harmless_layer_of_ones_own_is_replayed(layer: Callable[[], nnx.Layer]):
    model, (x, y) = Net(around(layer)).model(), samples("labels", 50)
    model.fit(x, y, batch_size=16, verbose=0)
    assert model.eager_reason is None


@pytest.mark.parametrize("layer", [TwiceTanh, Swish])
def test_data_that_may_not_be_written_are_not(layer: Callable[[], nnx.Layer]):
    (x, y), net = samples("labels", 20), Net(around(layer))
    read_only = x.copy()
    read_only.flags.writeable = False
    losses = [net.model().fit(data, y, epochs=2, verbose=0)["loss"] for data in (x, read_only)]
    assert losses[0] == losses[1]


def test_steps_that_cannot_be_replayed_say_so_and_count_on():
    model, (x, y) = Net(around(Noise)).model(), samples("labels", 50)
    hand = around(Noise)()
    losses = by_hand(model, hand, nnx.CategoricalCrossEntropy(), nnx.Adam(0.02, decay=1e-3), (x, y), 6, 50, whole=True)
    got = [model.step(x, y), *model.steps(x, y, 3), model.step(x, y), model.step(x, y)]
    np.testing.assert_allclose(got, losses, **ALIKE)
    assert "no recorded operation wrote" in str(model.eager_reason)


class Reversed(nnx.Dense):
    """Dense by its weights' transpose: a view is not a computation."""

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.output = self.backend.dense(inputs, self.turned(self.turned(self.weights)), self.biases)
        self.inputs = inputs
        return self.output

    def turned(self, a: Any) -> Any:
        return self.backend.xp.matrix_transpose(a)


@pytest.mark.parametrize("kind", [TwiceTanh, Reversed])
def test_a_layer_of_ones_own_by_operations_is_replayed(kind: type[nnx.Layer]):
    layer = kind if kind is TwiceTanh else lambda: Reversed(6, 6)
    net = Net(around(layer))
    model, history = trained(net, "float64")
    assert model.eager_reason is None
    assert "eagerly" not in model.summary()
    with always_eager():
        eager, eager_history = trained(net, "float64")
    assert_same(state(model), state(eager))
    assert same_history(history, eager_history)
    losses = by_hand(net.model(), net.layers(), net.loss(), net.optimizer(), net.samples(), net.epochs, 16)
    np.testing.assert_allclose(history["loss"][-1], losses[-4:] @ [16, 16, 16, 2] / 50, **ALIKE)


def test_an_array_a_layer_keeps_of_its_own_is_not_known():
    """It could change at any time, without the recording's noticing."""

    class Shifted(Own):
        shift: Any = None

        def compute(self, inputs: Any, training: bool) -> Any:
            if self.shift is None:
                self.shift = self.backend.zeros((1, inputs.shape[1]), inputs.dtype)
                self.eye = self.backend.asarray(np.eye(inputs.shape[1]), inputs.dtype)
            return self.backend.dense(inputs, self.eye, self.shift)

    model, (x, y) = Net(around(Shifted)).model(), samples("labels", 20)
    model.fit(x, y, verbose=0)
    assert "dense reads w (6, 6), which no recorded operation wrote" in str(model.eager_reason)


# ---- rounding --------------------------------------------------------------------------------------------------------


def saturated(backend: Any, optimizer: nnx.Optimizer, seed: int = 0) -> tuple[nnx.Sequential, Data]:
    """Raw numbers of 0 to 16 into tanh, which is then within a rounding of 1: so are gradients within one of 0."""
    random = np.random.default_rng(seed)
    x, y = np.round(random.uniform(0, 16, (48, 64))), random.integers(0, 10, 48)
    layers = [nnx.Dense(64, 32), nnx.Tanh(), nnx.Dense(32, 10), nnx.Softmax()]
    model = nnx.Sequential(*layers, backend=backend, seed=seed)
    return model.compile(nnx.CategoricalCrossEntropy(), optimizer), (x, y)


class Replaying(NumpyBackend):
    """Replays with each result off by a rounding, as another order of sums has it; and with one operation changed."""

    def __init__(self, operation: str = "", change: Any = None) -> None:
        self.operation, self.change = operation, change

    def compile(self, recorder: Any) -> Program:
        for number, call in enumerate(recorder.calls):
            if call.name == self.operation:
                return Tampered(recorder, number, self.change)
        return Rounded(recorder, float(np.finfo(np.float32).eps))


class Tampered(Rounded):
    """Changes what the first call of an operation has written."""

    def __init__(self, recorder: Any, number: int, change: Any) -> None:
        super().__init__(recorder, float(np.finfo(np.float32).eps))
        method, operands = self._bound[number]
        written = recorder.calls[number].operands
        self._bound[number] = (lambda *given: (method(*given), change(written)), operands)


@pytest.mark.parametrize(
    "optimizer", [nnx.Adam(0.05), nnx.RMSprop(0.05), nnx.AdaGrad(0.05), nnx.SGD(0.1, 0.9)], ids=str
)
def test_a_saturated_network_is_replayed(optimizer: nnx.Optimizer):
    """Adam goes as far for a gradient of 1e-12 as for one of 1, and rounding decides where to."""
    for seed in range(5):
        for backend in ("numba", Replaying()):
            model, (x, y) = saturated(backend, optimizer, seed)
            model.fit(x, y, epochs=2, batch_size=8, verbose=0)
            assert model.eager_reason is None


def test_so_is_one_whose_steps_are_smaller_than_a_rounding():
    model, (x, y) = saturated(Replaying(), nnx.Adam(1e-9))
    model.fit(x, y, epochs=2, batch_size=8, verbose=0)
    assert model.eager_reason is None


def test_so_is_one_with_codes_where_rounding_decides():
    """Behind BatchNorm the gradient of a bias is 0 but for rounding, whose sign Lion goes by; codes are whole still."""
    layers = [nnx.Embedding({1: (4, 3)}, inputs=2), nnx.Dense(4, 6), nnx.BatchNorm(6), nnx.Dense(6, 3), nnx.Softmax()]
    net = Net(lambda: layers, optimizer=lambda: nnx.Lion(0.01), data="codes")
    model = net.model("float32", Replaying())
    model.fit(*net.samples(), epochs=2, batch_size=16, verbose=0)
    assert model.eager_reason is None
    assert np.isfinite(model.flat.gradients).all()


INPUTS: dict[str, Callable[[np.ndarray], Any]] = {
    "by columns": np.asfortranarray, "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[::-1], "read-only": lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
    "half": lambda x: x.astype("f2"), "in the other byte order": lambda x: x.astype(">f4"),
    "counts": lambda x: (x * 100).astype(np.uint8), "True and False": lambda x: x > 0.5, "lists": np.ndarray.tolist,
    "huge": lambda x: x * 1e12, "tiny": lambda x: x * 1e-30, "zeros": np.zeros_like, "all the same": np.ones_like,
}  # fmt: skip
TARGETS: dict[str, tuple[str, Callable[[np.ndarray], Any]]] = {
    **{f"labels, {kind}": ("labels", lambda y, kind=kind: y.astype(kind)) for kind in ("i1", "u1", ">i4", "u8", "f2")},
    "labels, True and False": ("labels", lambda y: y > 0),
    "labels, the last column of a table": ("labels", lambda y: np.c_[y, y, y][:, -1]),
    "labels, one-hot by columns": ("labels", lambda y: np.asfortranarray(np.eye(3, dtype="u1")[y])),
    "shares, by columns": ("labels", lambda y: np.asfortranarray(np.eye(3)[y] * 0.7 + 0.1)),
    **{f"numbers, {kind}": ("numbers", lambda y, kind=kind: y.astype(kind)) for kind in ("f8", "i4", "u1", "?", ">f8")},
    "numbers, every other": ("numbers", lambda y: np.repeat(y, 2)[::2]),
    "numbers, far off": ("numbers", lambda y: y * 1e6 + 0.5),
    "numbers, learned before the first step": ("numbers", np.zeros_like),
}  # fmt: skip


def fitted(x: Any, y: Any, kind: str, dtype: str, hidden: nnx.Layer, batch_size: int | None) -> nnx.Sequential:
    """Train on labels or numbers by the compiled step, where it can be replayed."""
    ending, loss = {
        "labels": ([nnx.Dense(8, 3), nnx.Softmax()], nnx.CategoricalCrossEntropy()),
        "numbers": ([nnx.Dense(8, 1, init=np.zeros((8, 1)))], nnx.MeanSquaredError()),
    }[kind]
    model = nnx.Sequential(nnx.Dense(4, 8), hidden, *ending, backend="numba", dtype=dtype)
    model.compile(loss, nnx.Adam(0.01)).fit(x, y, epochs=2, batch_size=batch_size, verbose=0)
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_are_replayed_whatever_type_layout_and_size_data_have(dtype: str):
    pytest.importorskip("numba")
    x, labels = np.random.default_rng(0).random((24, 4)), np.arange(24) % 3
    trials = [(f"x {name}", make(x), labels, "labels") for name, make in INPUTS.items()]
    trials += [(name, x, make(labels), kind) for name, (kind, make) in TARGETS.items()]
    for name, some, y, kind in trials:
        for batch_size in (None, 10):
            assert fitted(some, y, kind, dtype, nnx.ReLU(), batch_size).eager_reason is None, (name, batch_size)


@pytest.mark.parametrize("hidden", [nnx.Sigmoid(), nnx.Tanh(), nnx.ELU(), nnx.GELU()], ids=str)
def test_and_however_far_layers_are_saturated(hidden: nnx.Layer):
    pytest.importorskip("numba")
    x, labels = np.random.default_rng(0).normal(size=(24, 4)), np.arange(24) % 3
    for scale, kind, dtype in product((16.0, 1e3, 1e6), ("labels", "numbers"), ("float32", "float64")):
        model = fitted(x * scale, labels, kind, dtype, copy.deepcopy(hidden), 8)
        assert model.eager_reason is None, (scale, kind, dtype)


OTHERWISE: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "outputs a tenth smaller": ("dense", lambda o: o["out"].__imul__(0.9)),
    "one neuron less": ("dense", lambda o: o["out"].__setitem__(np.s_[:, 0], 0)),
    "another sign": ("tanh", lambda o: np.negative(o["out"], out=o["out"])),
    "a larger gradient": ("softmax_cross_entropy", lambda o: o["out"].__imul__(1.1)),
    "a larger loss": ("softmax_cross_entropy", lambda o: o["losses"].__imul__(1.01)),
    "a smaller gradient of weights": ("dense_backward", lambda o: o["dw"].__imul__(0.9)),
    "no gradient of biases": ("dense_backward", lambda o: o["db"].__setitem__(..., 0)),
    "a gradient moved": ("dense_gradients", lambda o: o["dw"].__iadd__(1e-2)),
    "weights moved": ("adam", lambda o: o["p"].__iadd__(0.02)),
    "weights moved by SGD": ("sgd", lambda o: o["p"].__iadd__(0.02)),
    "larger moments": ("adam", lambda o: o["v"].__imul__(1.5)),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_but_not_one_whose_replay_is_another_computation(name: str):
    operation, change = OTHERWISE[name]
    model, (x, y) = saturated(Replaying(operation, change), nnx.SGD(0.1) if operation == "sgd" else nnx.Adam(0.05))
    model.fit(x, y, batch_size=8, verbose=0)
    assert "a replayed step differs from the eager one" in str(model.eager_reason)


# ---- between the steps -----------------------------------------------------------------------------------------------


def by_turns(model: nnx.Sequential, x: np.ndarray, y: np.ndarray) -> list[float]:
    """Fits, steps of several sizes, other rates, evaluation and prediction, in turn."""
    losses: list[float] = []
    losses += [model.step(x[:20], y[:20]) for _ in range(3)]
    losses += model.fit(x, y, epochs=2, batch_size=16, verbose=0)["loss"]
    losses += [model.step(x[:7], y[:7]), *model.steps(x[:20], y[:20], 4)]
    model.optimizer.learning_rate = 0.004
    losses += [model.step(x[:7], y[:7]), model.step(x[:20], y[:20])]
    model.predict(np.concatenate([x] * 4))
    losses += [model.evaluate(x, y)["loss"], model.step(x[:20], y[:20])]
    model.optimizer.learning_rate = 0.05
    losses += model.fit(x, y, epochs=1, batch_size=8, verbose=0)["loss"]
    losses += model.fit(x, y, epochs=2, verbose=0)["loss"]
    losses += [model.step(x[30:50], y[30:50]), model.step(x[:1], y[:1])]
    return losses


class Distant(NumpyBackend):
    """Copies whatever comes in or goes out, as a GPU does: nothing is shared with the host by accident."""

    name = "distant"

    def from_numpy(self, a: np.ndarray) -> np.ndarray:
        return a.copy()

    def to_numpy(self, a: np.ndarray) -> np.ndarray:
        return a.copy()


@pytest.mark.parametrize("name", ["two dropouts", "l1 and l2", "squares", "binary", "sgd with momentum"])
def test_fits_and_steps_by_turns(name: str):
    net = NETS[name]
    model, distant, (x, y) = net.model(), net.model(backend=Distant()), net.samples()
    losses = by_turns(model, x, y)
    assert by_turns(distant, x, y) == losses
    with always_eager():
        eager = net.model()
        assert by_turns(eager, x, y) == losses
    assert_same(state(model), state(eager))
    assert_same(state(model), state(distant))


@pytest.mark.parametrize("backend", [NumpyBackend(), Distant()], ids=lambda backend: backend.name)
def test_steps_on_one_batch_after_the_other_are_an_epoch(backend: NumpyBackend):
    """Each batch is copied into the buffer that the recorded step reads."""
    net = Net(mlp(nnx.ReLU, lambda: nnx.Dropout(0.2)), rows=48)
    stepped, fitted, (x, y) = net.model(backend=backend), net.model(backend=backend), net.samples()
    losses = [stepped.step(x[at : at + 16], y[at : at + 16]) for at in (0, 16, 32)]
    history = fitted.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    np.testing.assert_array_equal(stepped.flat.state, fitted.flat.state)
    np.testing.assert_allclose(history["loss"], [np.mean(losses)], rtol=rounding(8))
    assert stepped.optimizer.iterations == fitted.optimizer.iterations == 3


@pytest.mark.parametrize("how", ["step", "fit"])
def test_a_new_learning_rate_is_that_of_the_next_replayed_step(how: str):
    """SGD without momentum: the step is as long as the rate, and nothing else differs."""
    x, y = samples("labels", 20)
    moved = []
    for rate in (0.1, 0.025):
        model = Net(mlp(nnx.Tanh), optimizer=lambda: nnx.SGD(0.3)).model()
        model.step(x, y)
        before = model.flat.values.copy()
        model.optimizer.learning_rate = rate
        if how == "step":
            model.step(x, y)
        else:
            model.fit(x, y, verbose=0)
        moved.append(model.flat.values - before)
    np.testing.assert_allclose(moved[0], 4 * moved[1], rtol=1e-9, atol=rounding(8))  # differences of numbers near 1
    assert np.abs(moved[0]).max() > 1e-4


@pytest.mark.parametrize("name", ["two dropouts", "sgd with momentum"])
def test_n_steps_in_one_call_are_n_calls(name: str):
    net = NETS[name]
    (x, y), one, many = net.samples(), net.model(), net.model()
    losses = many.steps(x, y, 25)
    assert losses.shape == (25,)
    assert losses.dtype == np.float64
    assert [one.step(x, y) for _ in range(25)] == losses.tolist()
    assert_same(state(one), state(many))


def test_more_steps_than_the_history_holds():
    """The losses of 8192 steps fit on the device at once; a call for more must not read them in a circle."""
    x, y = samples("numbers", 3)
    net = Net(lambda: [nnx.Dense(2, 3)], nnx.MeanSquaredError, lambda: nnx.SGD(0.01, decay=1e-3))
    one, two = net.model(), net.model()
    losses = one.steps(x, y, 9000)
    assert losses.tolist() == [*two.steps(x, y, 5000), *two.steps(x, y, 4000)]
    assert one.optimizer.iterations == 9000


@pytest.mark.parametrize("name", ["two dropouts", "whole", "tail of one", "in order", "l1 and l2"])
@pytest.mark.parametrize("how", ["plainly", "with a callback"])
def test_fitting_3_and_3_epochs_is_fitting_6(name: str, how: str):
    net = NETS[name]
    more = {} if how == "plainly" else {"callbacks": [nnx.callbacks.Callback()]}
    six, history = trained(net, "float32", epochs=6, **more)
    model, first = trained(net, "float32", epochs=3)
    second = model.fit(*net.samples(), epochs=3, batch_size=net.batch, verbose=0, **net.fit, **more)
    assert_same(state(model), state(six))
    for column in history:
        assert list(history[column]) == [*first[column], *second[column]]


def test_looking_at_it_in_between_does_not_change_training():
    """Validation after every epoch; a prediction in larger batches than the workspace has room for; a summary."""

    class Look(nnx.callbacks.Callback):
        def on_epoch_end(self, model: nnx.Sequential, epoch: int, logs: dict[str, float]) -> None:
            model.predict(np.concatenate([x] * (epoch + 2)))
            model.predict(x[:3])
            model.evaluate(x, y)
            model.summary()
            copy.deepcopy(model).fit(x, y, verbose=0)

    net = NETS["two dropouts"]
    x, y = net.samples()
    plain, history = trained(net, "float32", epochs=8)
    looked, other = trained(net, "float32", epochs=8, validation_data=(x[:9], y[:9]), callbacks=[Look()])
    assert_same(state(plain), state(looked))
    assert list(history["loss"]) == list(other["loss"])


def test_models_that_take_turns_do_not_disturb_one_another():
    nets = [NETS["two dropouts"], NETS["two dropouts"], NETS["squares"]]
    alone = [net.model("float32") for net in nets]
    for model, net in zip(alone, nets, strict=True):
        x, y = net.samples()
        for _ in range(20):
            model.step(x, y)
    turns = [net.model("float32") for net in nets]
    for _ in range(20):
        for model, net in zip(turns, nets, strict=True):
            model.step(*net.samples())
    for a, b in zip(alone, turns, strict=True):
        assert_same(state(a), state(b))


def test_a_batch_given_to_step_is_not_kept_nor_changed():
    model, (x, y) = NETS["relu"].model(), samples("labels", 20)
    a, b = x.copy(), y.copy()
    first = model.step(a, b)
    a[...], b[...] = 0, 0
    model.step(a, b)
    np.testing.assert_array_equal(a, 0)
    again = NETS["relu"].model()
    assert again.step(x, y) == first
    again.step(np.zeros_like(x), np.zeros_like(y))
    assert_same(state(model), state(again))


@pytest.mark.parametrize("how", ["step", "steps", "fit"])
def test_a_replay_allocates_nothing_that_grows(how: str):
    model, (x, y) = NETS["l1 and l2"].model("float32"), samples("labels", 50)
    work = {
        "step": lambda n: [model.step(x, y) for _ in range(n)],
        "steps": lambda n: [model.steps(x, y, 10) for _ in range(n // 10)],
        "fit": lambda n: model.fit(x, y, epochs=n // 4, batch_size=16, verbose=0),
    }[how]
    work(40)
    tracemalloc.start()
    try:
        work(40)
        before = tracemalloc.get_traced_memory()[0]
        work(1000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 16384, f"{grown} bytes more after 1000 steps"


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("own", [False, True])
def test_the_memory_of_a_model_comes_back_at_once_when_it_is_no_more(own: bool, backend: str):
    """Without a search for circles, which comes after so many objects, however large each is."""
    pytest.importorskip(backend)
    layers = [nnx.Dense(2, 4), Doubled() if own else nnx.ReLU(), nnx.Dropout(0.1), nnx.Dense(4, 3), nnx.Softmax()]
    model = nnx.Sequential(*layers, backend=backend).compile(nnx.CategoricalCrossEntropy(), nnx.Adam())
    x, y = samples("labels", 20)
    gc.collect()
    gc.disable()
    try:
        model.fit(x, y, batch_size=8, validation_data=(x, y), callbacks=[nnx.callbacks.EarlyStopping()], verbose=0)
        model.step(x, y)
        model.predict(x)
        model.layers = [*layers[:1], nnx.Tanh(), *layers[2:]]
        model.step(x, y)
        seen = [weakref.ref(model), weakref.ref(model.flat.values), weakref.ref(model._owner)]
        del model, layers
        assert [known() for known in seen] == [None] * 3
    finally:
        gc.enable()


# ---- random numbers --------------------------------------------------------------------------------------------------


def test_random_numbers_are_philoxs_under_their_key_and_travel():
    ours = rng.generator(3, rng.SHUFFLE, 5)
    theirs = np.random.Generator(np.random.Philox(key=[3, (rng.SHUFFLE << 48) | 5]))
    assert np.array_equal(ours.permutation(1000), theirs.permutation(1000))
    assert np.array_equal(ours.normal(size=9), theirs.normal(size=9))
    there = pickle.loads(pickle.dumps(ours))
    assert there.random() == copy.deepcopy(ours).random() == theirs.random()
