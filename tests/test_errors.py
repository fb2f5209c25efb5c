"""What is refused, and how: each error says what was given and what was expected, and nothing is changed before it.

The tables list bad inputs; each row's words must stand in the message. Files and disks: test_saving.py.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnx
from nnx import callbacks, datasets, schedules
from nnx.errors import InputTypeError

X = np.random.default_rng(0).standard_normal((6, 3))
LABELS = np.array([0, 1, 0, 1, 1, 0])
EXPECTED = re.compile(r"expected|must|give |takes|convert|fill|drop|scale|call |make |need|as long as|too large|add ")


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


def refused(call: Callable[[], Any], *words: str) -> None:
    """The call raises InputError, whose message has these words and says what was expected."""
    with pytest.raises(nnx.InputError) as caught:
        call()
    text = str(caught.value)
    for word in words:
        assert re.search(word, text), f"{word!r} is missing in: {text}"
    assert EXPECTED.search(text), f"no word on what was expected: {text}"
    assert len(text) < 600, text


# ---- models, and all that must stay as it was ----------------------------------------------------------------------


def classifier() -> nnx.Sequential:
    net = nnx.Sequential(nnx.Dense(3, 4, weight_l2=1e-3), nnx.ReLU(), nnx.Dropout(0.2), nnx.Dense(4, 2), nnx.Softmax())
    return net.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.01))


def regressor() -> nnx.Sequential:
    return nnx.Sequential(nnx.Dense(3, 2)).compile(nnx.MeanSquaredError(), nnx.SGD(0.01, momentum=0.9))


def binary() -> nnx.Sequential:
    return nnx.Sequential(nnx.Dense(3, 2), nnx.Sigmoid()).compile(nnx.BinaryCrossEntropy(), nnx.Adam())


def trained(make: Callable[[], nnx.Sequential]) -> tuple[nnx.Sequential, Any]:
    """A model in the middle of its life, and good targets for X."""
    net = make()
    y = LABELS if make is classifier else np.eye(2)[LABELS]
    net.fit(X, y, epochs=2, batch_size=4, verbose=0)
    return net, y


def snapshot(net: nnx.Sequential) -> tuple[Any, ...]:
    return (
        net.flat.arena.tobytes(), net.penalties.tobytes(), net.layers, net.loss, net.optimizer, net.metrics,
        [] if net.optimizer is None else [net.optimizer.hyper.tobytes(), net.optimizer.counters.tobytes()],
        net.epochs_done, net.dtype, net.seed, net.backend, dict(net.metadata), net.stop_training, net.eager_reason,
        None if net._trainer is None else (net._trainer.tolerance, net._trainer.counters.tobytes()),
        [layer.config() for layer in net.layers], [layer.values() for layer in net.layers if not layer.shapes],
    )  # fmt: skip


def refused_and_unchanged(net: nnx.Sequential, call: Callable[[], Any], *words: str) -> None:
    before = snapshot(net)
    refused(call, *words)
    assert snapshot(net) == before


def short(value: Any) -> str | None:
    """An id that is the same in every process: no address."""
    return None if isinstance(value, list) else repr(value).split(" at 0x")[0][:30]


class Frame:
    """Like a table of another library, whose columns have types of their own."""

    shape = (6, 3)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array([["a", 1, 2.0]] * 6, dtype=object)


class OnDevice:
    """Like a tensor on a device, which refuses to become a NumPy array."""

    shape = (6, 3)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("can't convert a device's tensor to numpy")


def changed(a: Any, place: Any, value: Any) -> np.ndarray:
    a = np.array(a, dtype=np.float64)
    a[place] = value
    return a


# ---- inputs --------------------------------------------------------------------------------------------------------

NOT_NUMBERS: dict[str, tuple[Any, list[str]]] = {
    "text": ([["a", "b", "c"]] * 6, ["of text"]),
    "numbers as text": (X.astype(str), ["of text"]),
    "bytes": (X.astype("S"), ["of bytes"]),
    "an object among numbers": ([[1, 2, len]] * 6, ["builtin_function_or_method", r"\[0, 2\]", "of Python objects"]),
    "None": (None, ["None was given", "lists of numbers"]),
    "None among numbers": ([[1, 2, None]] * 6, ["None", r"\[0, 2\]", "fill it"]),
    "complex": (X + 1j, ["of complex numbers"]),
    "dates": (np.full((6, 3), "2020-01-01", "datetime64[D]"), ["datetime64", r"np.timedelta64\(1, 'D'\)"]),
    "durations": (np.full((6, 3), 1, "timedelta64[s]"), ["timedelta64", r"x / np.timedelta64\(1, 's'\)"]),
    "records": (np.zeros((6, 3), [("a", "f4"), ("b", "i4")]), [r"records \(a, b\)", "structured_to_unstructured"]),
    "beyond float64": (np.full((6, 3), 10**400, object), ["too large|float64"]),
    "rows of different lengths": ([[1, 2, 3]] * 5 + [[1, 2]], ["different lengths"]),
    "a dict": ({"a": 1}, ["type dict", r"np.column_stack\(list\(x.values\(\)\)\)"]),
    "a set": ({1, 2}, ["type set", r"np.array\(sorted\(x\)\)"]),
    "a generator": ((row for row in X), ["generator|batch 1", r"np.array\(list\(x\)\)|expected \[samples, features\]"]),
    "a function": (len, ["type builtin_function_or_method|the function 'len' is called without arguments"]),
    "a file's name": ("x.csv", ["x.csv", "numpy.loadtxt"]),
    "a path": (Path("x.csv"), ["Path|x.csv", "numpy.loadtxt"]),
    "rows of masked arrays": ([np.ma.masked_less(row, 0) for row in X], ["masked", "filled"]),
    "masked": (np.ma.masked_less(X, 0), ["masked"]),
    "a table with text": (Frame(), ["str 'a'", r"\[0, 0\]", "of Python objects"]),
    "a tensor on a device": (OnDevice(), ["OnDevice"]),
}
NOT_A_TABLE: dict[str, tuple[Any, list[str]]] = {
    "a number": (3.0, [r"\(\)"]),
    "one sample": (X[0], [r"\(3,\)", "reshape"]),
    "three dimensions": (X[None], [r"\(1, 6, 3\)", "reshape"]),
    "no samples": (X[:0], [r"\(0, 3\)", "at least one sample|neither of them 0"]),
    "no features": (X[:, :0], [r"\(6, 0\)"]),
    "an empty list": ([], [r"\(0,\)"]),
}
TOO_FEW = {"too few features": (X[:, :2], ["2 features", "3"]), "too many": (np.hstack([X, X]), ["6 features", "3"])}
NOT_FINITE: dict[str, tuple[Any, list[str]]] = {
    "nan": (changed(X, (2, 1), np.nan), ["nan", r"\[2, 1\]"]),
    "infinite": (changed(X, (2, 1), -np.inf), ["-inf", r"\[2, 1\]"]),
    "nan in float32": (changed(X, (0, 0), np.nan).astype(np.float32), ["nan", r"\[0, 0\]"]),
    "beyond float32": (changed(X, (5, 2), 1e39), [r"1e\+39", "float32", r"\[5, 2\]"]),
    "beyond float32, as a list": (changed(X, (5, 2), -4e38).tolist(), [r"-4e\+38", "float32"]),
}
INPUTS = {**NOT_NUMBERS, **NOT_A_TABLE, **TOO_FEW, **NOT_FINITE}
TAKE_INPUTS: dict[str, Callable[[nnx.Sequential, Any, Any], Any]] = {
    "fit": lambda net, x, y: net.fit(x, y, verbose=0),
    "fit, validation": lambda net, x, y: net.fit(X, y, validation_data=(x, y), verbose=0),
    "evaluate": lambda net, x, y: net.evaluate(x, y),
    "predict": lambda net, x, y: net.predict(x),
    "step": lambda net, x, y: net.step(x, y),
    "steps": lambda net, x, y: net.steps(x, y, 3),
    "gradcheck": lambda net, x, y: nnx.gradcheck(net, x, y),
}


@pytest.mark.parametrize("call", TAKE_INPUTS)
@pytest.mark.parametrize("wrong", INPUTS)
def test_inputs_of_a_model(wrong: str, call: str) -> None:
    x, words = INPUTS[wrong]
    if call == "gradcheck" and "beyond float32" in wrong:
        return  # it computes in float64
    net, y = trained(classifier)
    refused_and_unchanged(net, lambda: TAKE_INPUTS[call](net, x, y), *words)


@pytest.mark.parametrize("wrong", {**NOT_NUMBERS, **NOT_A_TABLE})
@pytest.mark.parametrize("make", [
    lambda: nnx.Dense(3, 3), nnx.ReLU, nnx.Softmax, nnx.Sigmoid, nnx.Tanh, nnx.Linear, lambda: nnx.Dropout(0.5),
], ids=["Dense", "ReLU", "Softmax", "Sigmoid", "Tanh", "Linear", "Dropout"])  # fmt: skip
def test_inputs_and_gradients_of_a_layer(make: Callable[[], nnx.Layer], wrong: str) -> None:
    x, words = {**NOT_NUMBERS, **NOT_A_TABLE}[wrong]
    layer = make()
    good = np.array(layer.forward(X, training=True))
    refused(lambda: layer.forward(x, training=True), *words)
    refused(lambda: layer.backward(x), *(words if wrong in NOT_NUMBERS else words[:1]))
    np.testing.assert_array_equal(layer.output, good)
    np.testing.assert_allclose(layer.inputs, X.astype(layer.inputs.dtype))
    assert layer.backward(np.ones((6, 3))).shape == (6, 3)  # of the good forward


def test_a_layers_own_checks() -> None:
    dense = nnx.Dense(3, 4)
    refused(lambda: dense.backward(np.ones((6, 4))), r"Dense\(3, 4\)", "before forward")
    refused(lambda: nnx.Softmax().jacobian(), "before forward")
    dense.forward(X)
    refused(lambda: dense.forward(X[:, :2]), r"Dense\(3, 4\)", "2 features", r"\(6, 2\)", r"\(3, 4\)")
    assert dense.inputs.shape == (6, 3)
    for wrong in (np.ones((6, 3)), np.ones((5, 4)), np.ones(4)):
        refused(lambda wrong=wrong: dense.backward(wrong), re.escape(str(wrong.shape)), r"\(6, 4\)")
    dense.backward(np.ones((6, 4)))


@pytest.mark.parametrize("kind", [nnx.CategoricalCrossEntropy, nnx.SoftmaxCrossEntropy, nnx.MeanSquaredError])
@pytest.mark.parametrize("wrong", {**NOT_NUMBERS, **NOT_A_TABLE})
def test_predictions_given_to_a_loss(kind: type[nnx.Loss], wrong: str) -> None:
    p, words = {**NOT_NUMBERS, **NOT_A_TABLE}[wrong]
    y = LABELS if kind is not nnx.MeanSquaredError else X
    for call in (lambda: kind().forward(p, y), lambda: kind().backward(p, y), lambda: kind().calculate(p, y)):
        refused(call, *words)


# ---- targets -------------------------------------------------------------------------------------------------------

HOT = np.eye(2)[LABELS]
WRONG_KIND: dict[str, tuple[Any, list[str]]] = {
    "text": (["cat", "dog"] * 3, ["of text", r"np.unique\(y", "nnx.sklearn"]),
    "words among labels": (np.array([0, "a"] * 3, dtype=object), ["str 'a'", r"\[1\]", r"np.unique\(y"]),
    "None": (None, ["None was given"]),
    "None among labels": ([0, 1, 0, 1, 0, None], ["None", r"\[5\]", "drop or fill"]),
    "complex": (LABELS + 1j, ["of complex numbers"]),
    "rows of different lengths": ([[1, 0]] * 5 + [[1]], ["different lengths"]),
    "masked": (np.ma.array(LABELS, mask=[1, 0, 0, 0, 0, 0]), ["masked"]),
    "a number": (1, [r"\(\)|shape"]),
    "a dict": ({0: 1}, ["type dict"]),
    "too few": (LABELS[:5], ["5", "6"]),
    "too many": (np.append(LABELS, 0), ["7", "6"]),
    "none at all": (LABELS[:0], ["0", "6"]),
    "three dimensions": (HOT[:, :, None], [r"\(6, 2, 1\)|shape"]),
}
CATEGORICAL: dict[str, tuple[Any, list[str]]] = {
    **WRONG_KIND,
    "negative": (changed(LABELS, 3, -1).astype(int), ["label -1", "row 3", r"0 \.\. 1", "leave rows without a label"]),
    "negative int8": (changed(LABELS, 3, -1).astype(np.int8), ["label -1"]),
    "out of range": (changed(LABELS, 3, 2).astype(int), ["label 2", r"0 \.\. 1"]),
    "out of range uint8": (changed(LABELS, 3, 255).astype(np.uint8), ["label 255"]),
    "counted from 1": (LABELS + 1, ["label 2", r"0 \.\. 1", "y - 1"]),
    "huge": (np.array([2**63] * 6, np.uint64), ["label 9"]),
    "fractional": (changed(LABELS, 3, 0.5), ["label 0.5", "row 3", "whole number"]),
    "nan": (changed(LABELS, 3, np.nan), ["nan", "row 3"]),
    "infinite": (changed(LABELS, 3, np.inf), ["inf"]),
    "rows of three": (np.eye(3)[LABELS], [r"\(6, 3\)"]),
    "transposed rows": (HOT.T, [r"\(2, 6\)|2 targets|shape"]),
    "rows that add up to 2": (HOT * 2, ["row 0", "distribution"]),
    "rows of nothing": (HOT * 0, ["row 0", "distribution"]),
    "two classes at once": (changed(HOT, (4, 0), 1), ["row 4", "distribution"]),
    "negative shares": (changed(HOT, 2, [1.5, -0.5]), ["row 2", "distribution"]),
    "nan shares": (changed(HOT, (2, 0), np.nan), ["nan", r"\[2, 0\]"]),
}
NUMERIC: dict[str, tuple[Any, list[str]]] = {
    **{name: row for name, row in WRONG_KIND.items()
       if name not in ("too few", "too many", "none at all", "text", "None among labels", "complex")},
    "text": ([["a", "b"]] * 6, ["of text"]),
    "complex": (HOT + 1j, ["of complex numbers"]),
    "too few": (HOT[:5], ["5", "6"]),
    "one column for two": (HOT[:, :1], [r"\(6, 1\)", r"\(6, 2\)"]),
    "one number for two": (LABELS, [r"\(6,\)", r"\(6, 2\)"]),
    "three columns": (X, [r"\(6, 3\)", r"\(6, 2\)"]),
    "nan": (changed(HOT, (2, 1), np.nan), ["nan", r"\[2, 1\]"]),
    "infinite": (changed(HOT, (2, 1), np.inf), ["inf", r"\[2, 1\]"]),
    "beyond float32": (changed(HOT, (2, 1), 1e39), [r"1e\+39", "float32"]),
}  # fmt: skip
BINARY: dict[str, tuple[Any, list[str]]] = {
    **NUMERIC,
    "above 1": (changed(HOT, (2, 1), 1.5), ["1.5", r"0 \.\. 1"]),
    "below 0": (changed(HOT, (2, 1), -1), ["-1", r"0 \.\. 1"]),
    "0 and 255": ((HOT * 255).astype(np.uint8), ["255", r"0 \.\. 1"]),
}
TARGETS: list[Any] = [
    pytest.param(make, wrong, *rows[wrong], id=f"{make.__name__}, {wrong}")
    for make, rows in [(classifier, CATEGORICAL), (regressor, NUMERIC), (binary, BINARY)]
    for wrong in rows
]
TAKE_TARGETS: dict[str, Callable[[nnx.Sequential, Any, Any], Any]] = {
    "fit": lambda net, y, good: net.fit(X, y, verbose=0),
    "fit, validation": lambda net, y, good: net.fit(X, good, validation_data=(X, y), verbose=0),
    "evaluate": lambda net, y, good: net.evaluate(X, y),
    "step": lambda net, y, good: net.step(X, y),
    "gradcheck": lambda net, y, good: nnx.gradcheck(net, X, y),
}


@pytest.mark.parametrize("call", TAKE_TARGETS)
@pytest.mark.parametrize(("make", "wrong", "y", "words"), TARGETS)
def test_targets_of_a_model(
    make: Callable[[], nnx.Sequential], wrong: str, y: Any, words: list[str], call: str
) -> None:
    if call == "gradcheck" and wrong == "beyond float32":
        return  # it computes in float64
    net, good = trained(make)
    if call == "gradcheck" and y is None:
        words = ["y is missing"]
    refused_and_unchanged(net, lambda: TAKE_TARGETS[call](net, y, good), *words)


LOSSES: dict[Callable[[], nnx.Sequential], list[type[nnx.Loss]]] = {
    classifier: [nnx.CategoricalCrossEntropy, nnx.SoftmaxCrossEntropy],
    regressor: [nnx.MeanSquaredError, nnx.MeanAbsoluteError],
    binary: [nnx.BinaryCrossEntropy, nnx.SigmoidCrossEntropy],
}


@pytest.mark.parametrize(("make", "wrong", "y", "words"), TARGETS)
def test_targets_of_a_loss(make: Callable[[], nnx.Sequential], wrong: str, y: Any, words: list[str]) -> None:
    outputs = np.full((6, 2), 0.5, np.float32)
    for kind in LOSSES[make]:
        for call in (kind().forward, kind().backward, kind().calculate):
            refused(lambda call=call: call(outputs, y), *words)


def test_one_hot_as_uint8_is_right() -> None:
    net, _ = trained(classifier)
    assert net.evaluate(X, np.eye(2, dtype=np.uint8)[LABELS]) == net.evaluate(X, LABELS)


@pytest.mark.parametrize("what", ["y_pred", "y_true"])
@pytest.mark.parametrize("wrong", [name for name in CATEGORICAL if name not in (
    "negative", "negative int8", "out of range", "out of range uint8", "counted from 1", "huge", "rows of three",
    "rows that add up to 2", "rows of nothing", "two classes at once", "negative shares",
)])  # fmt: skip
def test_accuracy(wrong: str, what: str) -> None:
    """It knows no number of classes, and takes the largest of any row."""
    given, _ = CATEGORICAL[wrong]
    refused(lambda: nnx.accuracy(**{"y_pred": LABELS, "y_true": LABELS, what: given}))


def test_accuracy_refuses_probabilities_of_one_column_and_labels_that_cannot_be() -> None:
    refused(lambda: nnx.accuracy([[0.7], [0.2]], [1, 0]), "0.7", "whole number")
    refused(lambda: nnx.accuracy([[0.7, 0.3], [0.2, 0.8]], [0, 2]), "label 2", r"0 \.\. 1")
    refused(lambda: nnx.accuracy([[0.7, 0.3], [0.2, 0.8]], [0, -1]), "label -1")


# ---- numbers as arguments ------------------------------------------------------------------------------------------

NEVER_NUMBERS: list[Any] = ["1", b"1", None, True, np.True_, [1], (1, 2), {}, 1j, object, np.array([1.0, 2.0])]
NEVER_REAL = [*NEVER_NUMBERS, float("nan"), float("inf"), -float("inf"), 10**400]
NEVER_WHOLE = [*NEVER_NUMBERS, 1.5, 2.0, np.float64(3), float("nan")]

REAL: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {  # with what is out of range
    **{f"Dense: {name}": (lambda v, n=name: nnx.Dense(2, 2, **{n: v}), [-1e-9])
       for name in ("weight_l1", "weight_l2", "bias_l1", "bias_l2")},
    "Dropout: rate": (nnx.Dropout, [-0.1, 1, 1.5]),
    "SoftmaxCrossEntropy: clip": (nnx.SoftmaxCrossEntropy, [-0.1, 0.5, 1]),
    "SigmoidCrossEntropy: clip": (nnx.SigmoidCrossEntropy, [-0.1, 0.5]),
    **{f"{kind.__name__}: learning_rate": (kind, [0, -1]) for kind in
       (nnx.SGD, nnx.AdaGrad, nnx.RMSprop, nnx.Adam, nnx.AdamW)},
    **{f"{kind.__name__}: decay": (lambda v, k=kind: k(decay=v), [-1]) for kind in
       (nnx.SGD, nnx.AdaGrad, nnx.RMSprop, nnx.Adam, nnx.AdamW)},
    **{f"{kind.__name__}: epsilon": (lambda v, k=kind: k(epsilon=v), [0, -1]) for kind in
       (nnx.AdaGrad, nnx.RMSprop, nnx.Adam, nnx.AdamW)},
    "SGD: momentum": (lambda v: nnx.SGD(momentum=v), [-0.1, 1]),
    "RMSprop: rho": (lambda v: nnx.RMSprop(rho=v), [-0.1, 1]),
    "Adam: beta_1": (lambda v: nnx.Adam(beta_1=v), [-0.1, 1]),
    "Adam: beta_2": (lambda v: nnx.Adam(beta_2=v), [-0.1, 1]),
    "AdamW: weight_decay": (lambda v: nnx.AdamW(weight_decay=v), [-0.1]),
    "EarlyStopping: min_delta": (lambda v: callbacks.EarlyStopping(min_delta=v), [-1]),
    "constant: rate": (schedules.constant, [0, -1]),
    "step: rate": (schedules.step, [0]),
    "step: drop": (lambda v: schedules.step(1, v), [0]),
    "cosine: rate": (lambda v: schedules.cosine(v, 3), [0]),
    "cosine: final": (lambda v: schedules.cosine(1, 3, v), [-1]),
}  # fmt: skip
WHOLE: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
    "Dense: n_inputs": (lambda v: nnx.Dense(v, 2), [0, -1]),
    "Dense: n_neurons": (lambda v: nnx.Dense(2, v), [0, -1]),
    "Dropout: seed": (lambda v: nnx.Dropout(0.5, seed=v), [-1]),
    "seed": (lambda v: nnx.Sequential(nnx.Dense(2, 2), seed=v), [-1]),
    "seed of layers": (nnx.seed, [-1]),
    "fit: epochs": (lambda v: trained(classifier)[0].fit(X, LABELS, epochs=v, verbose=0), [0, -1]),
    "fit: batch_size": (lambda v: trained(classifier)[0].fit(X, LABELS, batch_size=v, verbose=0), [0, -1]),
    "evaluate: batch_size": (lambda v: trained(classifier)[0].evaluate(X, LABELS, batch_size=v), [0, -1]),
    "predict: batch_size": (lambda v: trained(classifier)[0].predict(X, batch_size=v), [0, -1]),
    "steps: n": (lambda v: trained(classifier)[0].steps(X, LABELS, v), [0, -1]),
    "EarlyStopping: patience": (lambda v: callbacks.EarlyStopping(patience=v), [0, -1]),
    "ModelCheckpoint: every": (lambda v: callbacks.ModelCheckpoint("m", every=v), [0]),
    "step: every": (lambda v: schedules.step(1, 0.5, v), [0]),
    "cosine: epochs": (lambda v: schedules.cosine(1, v), [0]),
    "warmup: epochs": (lambda v: schedules.warmup(schedules.constant(1), v), [0]),
    "spiral: samples": (datasets.spiral, [0, -1]),
    "spiral: classes": (lambda v: datasets.spiral(3, v), [0]),
    "spiral: seed": (lambda v: datasets.spiral(3, 3, v), [-1, 2**32]),
    "vertical: samples": (datasets.vertical, [0]),
    "sine: samples": (datasets.sine, [0]),
}
NONE_MEANS_ALL = ("fit: batch_size", "evaluate: batch_size", "predict: batch_size")


@pytest.mark.parametrize("name", REAL)
def test_real_numbers(name: str) -> None:
    make, out_of_range = REAL[name]
    word = re.escape(name)
    for value in [*NEVER_REAL, *out_of_range]:
        refused(lambda value=value: make(value), word, "" if isinstance(value, int) else re.escape(repr(value)[:8]))
    for value in ("1", None, True, 1j):
        with pytest.raises(TypeError):  # InputTypeError is both
            make(value)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name: str) -> None:
    make, out_of_range = WHOLE[name]
    word = re.escape(name.removesuffix(" of layers"))
    for value in [*NEVER_WHOLE, *out_of_range]:
        if value is None and name in NONE_MEANS_ALL:
            continue
        refused(lambda value=value: make(value), word, re.escape(repr(value)[:8]))
    with pytest.raises(TypeError):
        make("1")


def test_a_refused_number_changes_no_model() -> None:
    net, y = trained(classifier)
    for value in (0, -1, 1.5, "32", True):
        refused_and_unchanged(net, lambda value=value: net.fit(X, y, batch_size=value, verbose=0), "batch_size")
        refused_and_unchanged(net, lambda value=value: net.fit(X, y, epochs=value, verbose=0), "epochs")
        refused_and_unchanged(net, lambda value=value: net.steps(X, y, value), "n=")
    for value in (0, -1, "fast", None, True, float("nan")):
        refused_and_unchanged(net, lambda value=value: setattr(net.optimizer, "learning_rate", value), "learning_rate")


def test_numbers_of_numpy_are_numbers() -> None:
    dense = nnx.Dense(np.int64(2), np.uint8(3), weight_l1=np.float32(0.5), weight_l2=np.int64(1), init=np.float64(0.1))
    assert (type(dense.n_inputs), type(dense.weight_l1)) == (int, float)
    assert repr(dense) == "Dense(2, 3)"
    nnx.seed(np.int32(3))
    assert nnx.Sequential(dense, seed=np.uint64(2**63)).seed == 2**63
    net, y = trained(classifier)
    assert net.fit(X, y, np.int64(2), np.int16(4), verbose=0).epochs == 2
    net.optimizer.learning_rate = np.float32(0.5)
    assert net.optimizer.learning_rate == 0.5
    nnx.SGD(np.array(0.5), momentum=0)
    datasets.spiral(np.int64(3), np.int64(2), np.int64(1))


# ---- types, backends, layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", ["float32", "float64", np.float32, np.float64, np.dtype("float32"), np.dtype("f8")], ids=repr
)
def test_types_that_are_taken(given: Any) -> None:
    name = np.dtype(given).name
    net = nnx.Sequential(nnx.Dense(2, 3), dtype=given)
    assert net.dtype == net.flat.arena.dtype.name == name
    assert nnx.Sequential(nnx.Dense(2, 3)).to("numpy", given).dtype == name


WRONG_TYPES: list[Any] = [
    "float16", "int32", "float", "f4", "", "Float32", np.float16, np.int32, np.dtype("int8"), int, bool, str, object,
    None, 32, ["float32"],    np.zeros(2, np.float32),
]  # fmt: skip


@pytest.mark.parametrize("given", WRONG_TYPES, ids=short)
def test_types_that_are_refused(given: Any) -> None:
    refused(
        lambda: nnx.Sequential(nnx.Dense(2, 3), dtype=given), "dtype", "'float32' or 'float64'|'float32', 'float64'"
    )
    if given is not None:  # there it means the same as before
        net, _ = trained(classifier)
        refused_and_unchanged(net, lambda: net.to("numpy", given), "dtype")


WRONG_BACKENDS: list[tuple[Any, list[str]]] = [
    ("gpu", ["'gpu' is no backend", "numpy"]), ("", ["''"]), ("numpy,", ["''"]), ("NumPy", ["'NumPy'"]),
    ([], ["at least one"]), (["numpy", 3], ["3"]), (3, ["3"]), (object(), ["object"]), (np, ["module"]),
    (True, ["True"]), ("auto,numpy", ["'auto'"]), ("cuda:0", ["'cuda:0'"]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "words"), WRONG_BACKENDS, ids=short)
def test_backends_that_do_not_exist(given: Any, words: list[str]) -> None:
    for call in (
        lambda: nnx.Sequential(nnx.Dense(2, 3), backend=given), lambda: nnx.get_backend(given),
        lambda: nnx.set_backend(given), lambda: nnx.use_backend(given).__enter__(),
    ):  # fmt: skip
        refused(call, *words)
    net, _ = trained(classifier)
    refused_and_unchanged(net, lambda: net.to(given), *words)
    assert nnx.get_backend().name == "numpy"


def used() -> nnx.Dense:
    layer = nnx.Dense(2, 3)
    nnx.Sequential(layer)
    return layer


TWICE = nnx.ReLU()
SEQUENCES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "nothing": (lambda: nnx.Sequential(), ["at least one layer"]),
    "a list": (lambda: nnx.Sequential([nnx.Dense(2, 3), nnx.ReLU()]), ["one by one"]),
    "a class": (lambda: nnx.Sequential(nnx.Dense(2, 3), nnx.ReLU), ["layer 1", "class ReLU", r"ReLU\(\.\.\.\)"]),
    "None": (lambda: nnx.Sequential(nnx.Dense(2, 3), None), ["layer 1", "None"]),
    "a name": (lambda: nnx.Sequential("relu"), ["layer 0", "'relu'"]),
    "a function": (lambda: nnx.Sequential(nnx.Dense(2, 3), np.tanh), ["layer 1", "tanh"]),
    "a model": (lambda: nnx.Sequential(nnx.Sequential(nnx.Dense(2, 3))), ["layer 0", "Sequential"]),
    "a loss": (lambda: nnx.Sequential(nnx.Dense(2, 3), nnx.MeanSquaredError()), ["layer 1", "a loss", "compile"]),
    "an optimizer": (lambda: nnx.Sequential(nnx.Dense(2, 3), nnx.SGD(0.1)), ["layer 1", "SGD"]),
    "one layer twice": (lambda: nnx.Sequential(TWICE, nnx.Dense(2, 3), TWICE), ["layer 2", "same object"]),
    "a layer of another model": (lambda: nnx.Sequential(used()), ["layer 0", "another model", "deepcopy"]),
    "widths that differ": (
        lambda: nnx.Sequential(nnx.Dense(2, 64), nnx.ReLU(), nnx.Dropout(0.1), nnx.Dense(32, 3)),
        ["layer 3", r"Dense\(32, 3\)", "32", "64"],
    ),
}


@pytest.mark.parametrize("wrong", SEQUENCES)
def test_sequences_of_layers(wrong: str) -> None:
    call, words = SEQUENCES[wrong]
    refused(call, *words)


def test_a_refused_layer_can_be_used_afterwards() -> None:
    layer = nnx.Dense(2, 3)
    for call in (
        lambda: nnx.Sequential(layer, nnx.Dense(2, 3)), lambda: nnx.Sequential(layer, backend="gpu"),
        lambda: nnx.Sequential(layer, dtype="int8"), lambda: nnx.Sequential(layer, seed=-1),
        lambda: nnx.Sequential(layer, layer),
    ):  # fmt: skip
        refused(call)
    assert not layer.in_model
    fresh = nnx.Sequential(nnx.Dense(2, 3), seed=4)
    mine = nnx.Sequential(layer, seed=4)
    np.testing.assert_array_equal(mine.parameters()["0.weights"], fresh.parameters()["0.weights"])


INITS: list[tuple[Any, list[str]]] = [
    ("xavier", ["'xavier'", "'he'"]), (-1, ["-1"]), (float("nan"), ["nan"]), (None, ["None"]), (True, ["True"]),
    (np.ones((3, 2)), [r"\(3, 2\)", r"\(2, 3\)"]), (np.ones(6), [r"\(6,\)", r"\(2, 3\)"]), ([], [r"\(0,\)"]),
    ([[1, 2, 3], [4, 5]], ["different lengths"]), ([["a", "b", "c"]] * 2, ["of text"]),
    (np.ones((2, 3)) * 1j, ["complex"]),
    (np.full((2, 3), np.nan), ["nan"]), (np.full((2, 3), np.inf), ["inf"]),
    (np.ma.masked_equal(np.eye(2, 3), 1), ["masked"]),
    (np.full((2, 3), "a", object), ["Python objects"]), ({"scale": 1}, ["scale|dict"]),
    (np.random.default_rng, ["default_rng|function"]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "words"), INITS, ids=short)
def test_first_weights(given: Any, words: list[str]) -> None:
    refused(lambda: nnx.Dense(2, 3, init=given), "Dense", *words)


VALUES: list[tuple[Any, list[str]]] = [
    (np.ones((3, 2)), [r"\(3, 2\)", r"\(2, 3\)"]), (1.0, [r"\(\)", r"\(2, 3\)"]), (np.ones(3), [r"\(3,\)"]),
    (None, ["None|Python objects"]),
    ([[1, 2, 3], [4, 5]], ["different lengths"]), ([["a"] * 3] * 2, ["of text"]), (np.full((2, 3), np.nan), ["nan"]),
    (np.full((2, 3), 1e39), [r"1e\+39", "float32"]), (np.ones((2, 3)) + 1j, ["complex"]),
    (np.ma.masked_equal(np.eye(2, 3), 1), ["masked"]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "words"), VALUES, ids=short)
def test_assigned_parameters(given: Any, words: list[str]) -> None:
    alone, net = nnx.Dense(2, 3), nnx.Sequential(nnx.Dense(2, 3), nnx.ReLU(), nnx.Dense(3, 1))
    alone.forward([[1, 2]])
    for dense in (alone, net.layers[0]):
        kept = np.array(dense.weights)  # type: ignore[attr-defined]
        refused(lambda dense=dense: setattr(dense, "weights", given), "weights", *words)
        np.testing.assert_array_equal(dense.weights, kept)  # type: ignore[attr-defined]
    good = {name: np.ones_like(a) for name, a in net.parameters().items()}
    refused_and_unchanged(net, lambda: net.set_parameters({**good, "0.weights": given}), "weights", *words)


def test_weights_too_large_for_a_models_type() -> None:
    dense = nnx.Dense(1, 2, init=[[1.0, 1e300]])
    refused(
        lambda: nnx.Sequential(nnx.ReLU(), dense), r"Dense\(1, 2\)", r"weights\[0, 1\] is 1e\+300", "float32", "float64"
    )
    refused(lambda: dense.forward([[1]]), r"1e\+300", "float32")
    net = nnx.Sequential(nnx.ReLU(), dense, dtype="float64")
    assert net.predict([[1]])[0, 1] == 1e300
    refused_and_unchanged(net, lambda: net.to("numpy", "float32"), r"1e\+300", "float32")


def test_sets_of_parameters() -> None:
    net, _ = trained(classifier)
    good = {name: np.ones_like(a) for name, a in net.parameters().items()}
    for wrong, word in [
        ({**good, "4.weights": 1}, "4.weights"), ({k: v for k, v in good.items() if k != "0.biases"}, "0.biases"),
        ({}, "0.weights"), (list(good.values()), "list"), (None, "NoneType"), ({0: 1}, "0"),
    ]:  # fmt: skip
        refused_and_unchanged(net, lambda wrong=wrong: net.set_parameters(wrong), "set_parameters", word)


# ---- compile, fit, optimizers, callbacks ---------------------------------------------------------------------------

CCE, MSE, SGD = nnx.CategoricalCrossEntropy(), nnx.MeanSquaredError(), nnx.SGD(0.1)
COMPILE: dict[str, tuple[tuple[Any, ...], list[str]]] = {
    "a loss's class": ((nnx.MeanSquaredError, SGD), ["loss", "class MeanSquaredError"]),
    "a loss's name": (("mse", SGD), ["loss", "'mse'"]),
    "no loss": ((None, SGD), ["loss", "None"]),
    "a layer": ((nnx.Softmax(), SGD), ["loss", "Softmax"]),
    "an optimizer's class": ((CCE, nnx.Adam), ["optimizer", "class Adam"]),
    "an optimizer's name": ((CCE, "adam"), ["optimizer", "'adam'"]),
    "a rate": ((CCE, 0.1), ["optimizer", "0.1"]),
    "the two the wrong way round": ((SGD, CCE), ["loss", "SGD"]),
    "a metric's name": ((CCE, SGD, "accuracy"), ["metrics", "'accuracy'"]),
    "an unknown metric": ((CCE, SGD, ["f9"]), ["metrics", "f9"]),
    "no metrics": ((CCE, SGD, None), ["metrics", "None"]),
    "a number of metrics": ((CCE, SGD, 3), ["metrics", "3"]),
    "a metric's function": ((CCE, SGD, [nnx.accuracy]), ["metrics", "accuracy"]),
    "logits after softmax": ((nnx.SoftmaxCrossEntropy(), SGD), ["logits", "Softmax"]),
    "logits of sigmoids after softmax": ((nnx.SigmoidCrossEntropy(), SGD), ["logits", "Softmax"]),
    "binary after softmax": ((nnx.BinaryCrossEntropy(), SGD), ["BinaryCrossEntropy", "Softmax"]),
}


@pytest.mark.parametrize("wrong", COMPILE)
def test_compile(wrong: str) -> None:
    arguments, words = COMPILE[wrong]
    net, _ = trained(classifier)
    refused_and_unchanged(net, lambda: net.compile(*arguments), *words)


@pytest.mark.parametrize(("ending", "loss", "words"), [
    (None, nnx.CategoricalCrossEntropy, ["probabilities", "Dense", r"Softmax\(\)"]),
    (nnx.ReLU, nnx.CategoricalCrossEntropy, ["ReLU", r"Softmax\(\)"]),
    (nnx.Tanh, nnx.BinaryCrossEntropy, ["Tanh", r"Sigmoid\(\)"]),
    (nnx.Linear, nnx.BinaryCrossEntropy, ["Linear", r"Sigmoid\(\)"]),
    (nnx.Sigmoid, nnx.SigmoidCrossEntropy, ["logits", "Sigmoid"]),
    (nnx.Sigmoid, nnx.SoftmaxCrossEntropy, ["logits", "Sigmoid"]),
])  # fmt: skip
def test_endings_that_train_badly(ending: Any, loss: type[nnx.Loss], words: list[str]) -> None:
    net = nnx.Sequential(nnx.Dense(3, 2), *([] if ending is None else [ending()]))
    refused_and_unchanged(net, lambda: net.compile(loss(), nnx.SGD(0.1)), *words)


def test_nothing_to_train() -> None:
    net = nnx.Sequential(nnx.ReLU())
    refused_and_unchanged(net, lambda: net.compile(MSE, SGD), "no layer has parameters", "Dense")


@pytest.mark.parametrize("call", [name for name in TAKE_INPUTS if name != "predict"])
def test_before_compile(call: str) -> None:
    net = nnx.Sequential(nnx.Dense(3, 2), nnx.Softmax())
    refused_and_unchanged(net, lambda: TAKE_INPUTS[call](net, X, LABELS), "no loss", "compile")
    assert net.predict(X).shape == (6, 2)


FIT: dict[str, tuple[dict[str, Any], list[str]]] = {
    "validation: x alone": ({"validation_data": X}, ["validation_data", r"\(x, y\)"]),
    "validation: one": ({"validation_data": (X,)}, ["validation_data", r"\(x, y\)"]),
    "validation: a weight": ({"validation_data": (X, LABELS, 1)}, ["validation_data: sample_weight"]),
    "validation: four": ({"validation_data": (X, LABELS, 1, 2)}, ["validation_data", r"\(x, y\)"]),
    "validation: a name": ({"validation_data": "xy"}, ["xy: there is no such file"]),
    "validation: a share": ({"validation_data": 0.2}, ["validation_data", "0.2"]),
    "validation: other features": ({"validation_data": (X[:, :2], LABELS)}, ["validation x", "2 features"]),
    "validation: no rows": ({"validation_data": (X[:0], LABELS[:0])}, ["validation"]),
    "callbacks: one": ({"callbacks": callbacks.EarlyStopping()}, ["callbacks"]),
    "callbacks: None": ({"callbacks": None}, ["callbacks", "None"]),
    "callbacks: a class": ({"callbacks": [callbacks.EarlyStopping]}, ["class EarlyStopping"]),
    "callbacks: a function": ({"callbacks": [print]}, ["callback", "print"]),
    "callbacks: a name": ({"callbacks": "early"}, ["callback", "'e'|early"]),
    "callbacks: a generator": ({"callbacks": (c for c in ())}, ["callbacks", "generator"]),
    "callbacks: what is not measured": ({"callbacks": [callbacks.EarlyStopping()]}, ["'val_loss'", "validation_data"]),
    "callbacks: a misspelt name": ({"callbacks": [callbacks.EarlyStopping("los")]}, ["'los'", "loss, accuracy|loss"]),
}


@pytest.mark.parametrize("wrong", FIT)
def test_fit(wrong: str) -> None:
    arguments, words = FIT[wrong]
    net, y = trained(classifier)
    refused_and_unchanged(net, lambda: net.fit(X, y, verbose=0, **arguments), *words)


CALLBACKS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "EarlyStopping: monitor": (lambda: callbacks.EarlyStopping(3), ["monitor", "3"]),
    "ModelCheckpoint: no path": (lambda: callbacks.ModelCheckpoint(None), ["None"]),
    "ModelCheckpoint: empty path": (lambda: callbacks.ModelCheckpoint(""), ["empty|''"]),
    "ModelCheckpoint: monitor": (lambda: callbacks.ModelCheckpoint("m", 3), ["monitor", "3"]),
    "CSVLogger: no path": (lambda: callbacks.CSVLogger(None), ["None"]),
    "CSVLogger: a number": (lambda: callbacks.CSVLogger(3), ["3"]),
    "LearningRateSchedule: a rate": (lambda: callbacks.LearningRateSchedule(0.1), ["schedule", "0.1"]),
    "warmup: a rate": (lambda: schedules.warmup(0.1, 3), ["warmup", "0.1"]),
}


@pytest.mark.parametrize("wrong", CALLBACKS)
def test_callbacks_and_schedules(wrong: str) -> None:
    call, words = CALLBACKS[wrong]
    refused(call, *words)


def test_optimizers_by_hand() -> None:
    net, _ = trained(classifier)
    refused_and_unchanged(
        net, lambda: nnx.SGD(0.1).update_params(net.layers[0]), r"Dense\(3, 4\)", "belongs to a model"
    )
    for wrong in (None, "dense", nnx.Dense, net):
        refused(lambda wrong=wrong: nnx.SGD(0.1).update_params(wrong), "SGD|update_params|layer")


def test_gradcheck() -> None:
    net, y = trained(classifier)
    for call, words in [
        (lambda: nnx.gradcheck(net, X), ["y is missing"]),
        (lambda: nnx.gradcheck(nnx.MeanSquaredError(), X), ["y is missing"]),
        (lambda: nnx.gradcheck(nnx.ReLU, X), ["ReLU"]), (lambda: nnx.gradcheck(None, X), ["None"]),
        (lambda: nnx.gradcheck(np.tanh, X), ["tanh"]), (lambda: nnx.gradcheck(nnx.Dense(2, 3), X), ["3 features", "2"]),
        (lambda: nnx.gradcheck(nnx.Sequential(nnx.Dense(3, 2)), X, y), ["no loss", "compile"]),
    ]:  # fmt: skip
        refused_and_unchanged(net, call, *words)


# ---- data sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [datasets.load_table, datasets.mnist, datasets.fashion_mnist])
@pytest.mark.parametrize("path", [3, b"x", ""])
def test_data_sets_take_paths(load: Callable[[Any], Any], path: Any) -> None:
    refused(lambda: load(path), re.escape(repr(path)))


# ---- the errors themselves -----------------------------------------------------------------------------------------


def test_types_of_errors() -> None:
    assert issubclass(nnx.InputError, ValueError)
    assert issubclass(InputTypeError, nnx.InputError)
    assert issubclass(InputTypeError, TypeError)
    assert issubclass(nnx.MissingExtra, ImportError)
    assert issubclass(nnx.NonFiniteError, ArithmeticError)
    assert not nnx.BackendUnavailable("a", "b", "c")


def test_everything_goes_on_working_after_all_that() -> None:
    net, y = trained(classifier)
    twin, _ = trained(classifier)
    for (x, _), (name, call) in itertools.product(INPUTS.values(), TAKE_INPUTS.items()):
        if name != "gradcheck":
            with pytest.raises(nnx.InputError):
                call(net, x, y)
    assert net.fit(X, y, 3, 4, verbose=0)["loss"] == twin.fit(X, y, 3, 4, verbose=0)["loss"]


def test_targets_that_a_fit_is_validated_by_are_told_from_those_it_learns() -> None:
    x = np.eye(2)
    model = nnx.Sequential(nnx.Dense(2, 2), nnx.Softmax(), backend="numpy")
    model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1))
    with pytest.raises(
        nnx.InputError, match=r"^fit: validation y: CategoricalCrossEntropy\(\): label 7 is out of range"
    ):
        model.fit(x, [0, 1], validation_data=(x, [0, 7]), verbose=0)


def test_schedules_name_themselves_and_take_an_epoch() -> None:
    with pytest.raises(nnx.InputError, match=r"^exponential: factor=0: expected a number above 0"):
        nnx.schedules.exponential(0.1, 0)
    with pytest.raises(
        nnx.InputError, match=r"cannot be called as schedule\(epoch\): missing a required argument: 'rate'"
    ):
        nnx.callbacks.LearningRateSchedule(lambda epoch, rate: rate)  # as in Keras
