"""`evaluate`: in one native call where there is one, by operations elsewhere, and the same numbers from both."""

import copy

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import nnx
from nnx.errors import InputError
from nnx.testing.rounding import rounding
from nnx.training.scoring import Scoring

pytest.importorskip("numba")

from nnx.backends.numba import scores as native_scores
from nnx.backends.threads import get_threads, set_threads

DTYPES = ("float32", "float64")


def labels(random, rows, outputs):
    return random.integers(0, outputs, rows)


def soft(random, rows, outputs):
    return random.dirichlet(np.ones(outputs), rows)


def shares(random, rows, outputs):
    return random.random((rows, outputs))


def amounts(random, rows, outputs):
    return random.standard_normal((rows, outputs))


KINDS = {
    "softmax, labels": (nnx.CategoricalCrossEntropy(), nnx.Softmax, labels),
    "softmax, distributions": (nnx.CategoricalCrossEntropy(), nnx.Softmax, soft),
    "softmax, smoothed labels": (nnx.CategoricalCrossEntropy(label_smoothing=0.1), nnx.Softmax, labels),
    "softmax, labels to ignore": (nnx.CategoricalCrossEntropy(ignore_index=1), nnx.Softmax, labels),
    "logits, labels": (nnx.SoftmaxCrossEntropy(), nnx.Linear, labels),
    "logits, distributions": (nnx.SoftmaxCrossEntropy(1e-2), nnx.Linear, soft),
    "sigmoid": (nnx.BinaryCrossEntropy(), nnx.Sigmoid, shares),
    "logits of shares": (nnx.SigmoidCrossEntropy(), nnx.Linear, shares),
    "squares": (nnx.MeanSquaredError(), nnx.Linear, amounts),
    "absolute": (nnx.MeanAbsoluteError(), nnx.Linear, amounts),
    "Huber": (nnx.Huber(0.5), nnx.Linear, amounts),
}


def compiled(loss, end=nnx.Softmax, outputs=3, metrics=("accuracy",), **options):
    layers = nnx.Dense(6, 33), nnx.ReLU(), nnx.Dense(33, outputs), end()
    return nnx.Sequential(*layers, **{"backend": "numba", **options}).compile(loss, nnx.Adam(), metrics)


def data(kind, rows, outputs, dtype="float32"):
    random = np.random.default_rng(rows)
    y = KINDS[kind][2](random, rows, outputs)
    return random.standard_normal((rows, 6)).astype(dtype), y if y.ndim == 1 else y.astype(dtype)


@pytest.fixture
def natively(monkeypatch):
    """Fails where an evaluation is made of operations."""
    monkeypatch.setattr(Scoring, "_by_operations", None)
    monkeypatch.setattr(native_scores, "SAVED", 1e9)  # also of few rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_native_call_says_what_operations_say(kind, dtype, natively):
    loss, end, _ = KINDS[kind]
    for outputs in (1, 3, 40) if end is not nnx.Softmax else (3, 40):
        if kind == "logits, distributions" and outputs == 1:
            continue
        net = compiled(loss, end, outputs, dtype=dtype)
        plain = copy.deepcopy(net).to("numpy")
        for some in (net, plain):
            some._trainer.set_tolerance(0.3)
        for rows in (1, 31, 33, 700):
            x, y = data(kind, rows, outputs, dtype)
            if "ignore" in kind:
                y[0] = 0  # one that counts
            counts = np.random.default_rng(rows).random(rows) * (np.arange(rows) % 3 != 1)
            for weights in (None, counts):
                got = net.evaluate(x, y, sample_weight=weights)
                with pytest.MonkeyPatch.context() as undone:
                    undone.setattr(Scoring, "_by_operations", BY_OPERATIONS)
                    wanted = plain.evaluate(x, y, sample_weight=weights)
                assert got["loss"] == pytest.approx(wanted["loss"], rel=rounding(160, dtype), abs=rounding(4, dtype))
                assert got["accuracy"] == pytest.approx(wanted["accuracy"], abs=1.5 / (rows * outputs))  # at a limit


BY_OPERATIONS = Scoring._by_operations


def test_a_loss_is_the_same_bits_for_any_threads_and_any_division_of_the_work(natively, monkeypatch):
    net, (x, y) = compiled(nnx.CategoricalCrossEntropy()), data("softmax, labels", 3001, 3)
    wanted, before = net.evaluate(x, y, batch_size=100), get_threads()
    try:
        for threads in (1, 2):
            set_threads(threads)
            assert net.evaluate(x, y, batch_size=100) == wanted
    finally:
        set_threads(before)
    native = net.scoring().native
    parts = [native(x[i : i + 100], y[i : i + 100], None, 0.0, 100)[0] for i in range(0, 3001, 100)]
    assert sum(parts) / 3001 == wanted["loss"]
    monkeypatch.setattr(native, "at_once", 256)  # in several calls, so that Ctrl-C is heard
    assert net.evaluate(x, y, batch_size=100) == wanted


@pytest.mark.parametrize("rows", [3, 500])
def test_numbers_that_the_native_call_refuses_are_refused_in_the_same_words(rows):
    net, (x, y) = compiled(nnx.CategoricalCrossEntropy()), data("softmax, labels", rows, 3)
    plain = copy.deepcopy(net).to("numpy")
    faults = {}
    for name, number in ("nan", np.nan), ("infinite", -np.inf):
        faults[name] = (x.copy(), y)
        faults[name][0][rows - 1, 4] = number
    for name, label in ("above", 3), ("below", -1), ("far", 2**40):
        faults[name] = (x, y.copy())
        faults[name][1][rows // 2] = label
    faults |= {"short": (x, y[1:]), "narrow": (x[:, :5], y), "none": (x[:0], y[:0]), "float": (x, y + 0.5)}
    faults |= {"a row": (x[0], y), "a number": (np.array(1.0), y), "labels of a table": (x, np.stack([y, y]))}
    for given in faults.values():
        said = []
        for some in (net, plain):
            with pytest.raises(InputError) as error:
                some.evaluate(*given)
            said.append(str(error.value))
        assert said[0] == said[1]


def test_targets_that_the_native_call_refuses_are_refused_in_the_same_words():
    for kind, numbers in (
        ("sigmoid", (np.nan, -0.5, 1.5)),
        ("logits of shares", (-np.inf, 2)),
        ("squares", (np.nan, np.inf)),
    ):
        for outputs in (1, 20):
            loss, end, _ = KINDS[kind]
            net = compiled(loss, end, outputs)
            net._trainer.set_tolerance(0.3)
            plain = copy.deepcopy(net).to("numpy")
            for number in numbers:
                x, y = data(kind, 70, outputs)
                y[69, outputs - 1], said = number, []
                for some in (net, plain):
                    with pytest.raises(InputError) as error:
                        some.evaluate(x, y)
                    said.append(str(error.value))
                assert said[0] == said[1]


@pytest.mark.parametrize("way", ["frozen", "int32", "list", "column", "strided", "float64", "fortran", "big-endian"])
def test_arrays_that_are_not_ready_as_they_are_give_the_same(way):
    net, (x, y) = compiled(nnx.CategoricalCrossEntropy()), data("softmax, labels", 200, 3)
    wanted = net.evaluate(x, y)
    given = {
        "frozen": lambda: (x.copy(), y.copy()),
        "int32": lambda: (x, y.astype(np.int32)),
        "list": lambda: (x.tolist(), y.tolist()),
        "column": lambda: (x, y[:, None]),
        "strided": lambda: (np.repeat(x, 2, axis=0)[::2], np.repeat(y, 2)[::2]),
        "float64": lambda: (x.astype(np.float64), y.astype(np.float64)),
        "fortran": lambda: (np.asfortranarray(x), y),
        "big-endian": lambda: (x.astype(">f4"), y.astype(">i8")),
    }[way]()
    if way == "frozen":
        for array in given:
            array.setflags(write=False)
    assert net.evaluate(*given) == wanted


def test_a_sample_that_counts_nothing_may_have_an_infinite_loss(natively):
    net = compiled(nnx.MeanSquaredError(), nnx.Linear, 1)
    x, y = data("squares", 100, 1)
    counts = np.ones(100)
    y[7], counts[7] = 3e38, 0
    assert np.isinf(net.evaluate(x, y)["loss"])
    others = np.arange(100) != 7
    net._trainer.set_tolerance(0.1)
    got, wanted = net.evaluate(x, y, sample_weight=counts), net.evaluate(x[others], y[others])
    assert got["loss"] == pytest.approx(wanted["loss"], rel=rounding(100, "float32"))
    assert got["accuracy"] == pytest.approx(wanted["accuracy"])


def test_what_is_assigned_or_replaced_between_two_evaluations_counts():
    x, y = data("logits, labels", 100, 3)
    net = compiled(nnx.SoftmaxCrossEntropy(), nnx.Linear)
    exact = net.evaluate(x, y)["loss"]
    net.loss.clip = 0.4  # of the model's own copy
    clipped = net.evaluate(x, y)["loss"]
    assert exact != clipped
    net.loss.losses = lambda y_pred, target: np.full(len(y_pred), 7, np.float32)
    assert net.evaluate(x, y)["loss"] == 7
    del net.loss.losses
    assert net.evaluate(x, y)["loss"] == clipped
    net.layers[0].weights = 0 * net.layers[0].weights
    net.layers[2].weights = 0 * net.layers[2].weights
    net.layers[2].biases = 0 * net.layers[2].biases
    net.loss.clip = 0.0
    assert net.evaluate(x, y)["loss"] == pytest.approx(np.log(3), rel=1e-6)
    net.loss = nnx.MeanSquaredError()
    assert net.evaluate(x, np.ones((100, 3)))["loss"] == 1
    net.trainable = False
    with pytest.raises(InputError, match="nothing to train"):
        net.evaluate(x, np.ones((100, 3)))


def test_a_copy_and_another_backend_evaluate_by_themselves():
    net, (x, y) = compiled(nnx.CategoricalCrossEntropy()), data("softmax, labels", 100, 3)
    wanted = net.evaluate(x, y)
    other = copy.deepcopy(net)
    other.layers[2].biases = [[1, 2, 3]]
    moved = other.evaluate(x, y)
    assert moved != wanted
    assert net.evaluate(x, y) == wanted
    assert other.to("numpy").evaluate(x, y)["loss"] == pytest.approx(moved["loss"], rel=rounding(160, "float32"))
    assert other.scoring().native is None


def test_validation_in_a_fit_is_the_same_native_call(natively):
    net, (x, y) = compiled(nnx.CategoricalCrossEntropy()), data("softmax, labels", 300, 3)
    stopping = nnx.callbacks.EarlyStopping("val_loss", patience=2)
    history = net.fit(x, y, epochs=4, batch_size=50, validation_data=(x[:99], y[:99]), callbacks=[stopping], verbose=0)
    scores = net.evaluate(x[:99], y[:99])
    assert history["val_loss"][-1] == scores["loss"]
    assert history["val_accuracy"][-1] == scores["accuracy"]


@pytest.mark.parametrize("kind", KINDS)
def test_validation_says_after_each_epoch_what_evaluate_says_of_the_data_as_given(kind):
    loss, end, _ = KINDS[kind]
    x, y = data(kind, 90, 3, "float64")
    net = compiled(loss, end)
    net.fit(x, y, epochs=1, verbose=0)
    history = net.fit(x, y, epochs=1, validation_data=(x, y.tolist()), verbose=0)
    assert history["val_loss"][0] == pytest.approx(net.evaluate(x, y)["loss"], rel=rounding(100, "float32"))
    assert history["val_accuracy"][0] == net.evaluate(x, y)["accuracy"]


def test_metrics_of_all_outputs_go_by_operations_and_agree():
    x, y = data("softmax, labels", 300, 3)
    net = compiled(nnx.CategoricalCrossEntropy(), metrics=["accuracy", "recall"])
    alone = compiled(nnx.CategoricalCrossEntropy())
    alone.set_parameters(net.parameters())
    got, wanted = net.evaluate(x, y), alone.evaluate(x, y)
    assert got["loss"] == pytest.approx(wanted["loss"], rel=rounding(100, "float32"))
    assert got["accuracy"] == wanted["accuracy"]
    assert got["recall"] == pytest.approx(np.mean([np.mean(net.predict(x[y == c]).argmax(1) == c) for c in range(3)]))


def test_a_few_rows_of_a_large_network_go_by_operations():
    layers = nnx.Dense(300, 900), nnx.ReLU(), nnx.Dense(900, 900), nnx.ReLU(), nnx.Dense(900, 3), nnx.Softmax()
    net = nnx.Sequential(*layers, backend="numba").compile(nnx.CategoricalCrossEntropy(), nnx.SGD())
    random = np.random.default_rng(0)
    x, y = random.standard_normal((2, 300)).astype(np.float32), np.array([0, 2])
    assert net.scoring().native.few >= 1
    assert net.scoring().native.few < 64
    p = net.predict(x)
    assert net.evaluate(x[:1], y[:1])["loss"] == pytest.approx(-np.log(p[0, 0]), rel=rounding(100, "float32"))
    assert_array_equal(net.predict(x[:1]), p[:1])
