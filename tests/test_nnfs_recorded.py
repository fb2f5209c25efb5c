"""Training of nnx.nnfs by replayed steps: what the steps as written give, and as written where they must be."""

import re

import numpy as np
import pytest

from nnx import nnfs, use_backend
from nnx.nnfs import precision, recorded

pytestmark = pytest.mark.rounding


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    state = np.random.get_state()  # noqa: NPY002
    for name in ("_backend", "_book", "_dtype"):
        monkeypatch.setattr(precision, name, getattr(precision, name))
    yield
    np.random.set_state(state)  # noqa: NPY002


@pytest.fixture(params=["numpy", "numba"])
def _backend(request):
    pytest.importorskip(request.param)
    with use_backend(request.param):
        yield


@pytest.fixture
def replayed(monkeypatch):
    """Return a list of what `Recording.of` gave."""
    given, of = [], recorded.Recording.of
    monkeypatch.setattr(recorded.Recording, "of", lambda *arguments: given.append(of(*arguments)) or given[-1])
    return given


ENDINGS = {
    "classes": (3, nnfs.Activation_Softmax, nnfs.Loss_CategoricalCrossentropy, nnfs.Accuracy_Categorical),
    "binary": (
        2,
        nnfs.Activation_Sigmoid,
        nnfs.Loss_BinaryCrossentropy,
        lambda: nnfs.Accuracy_Categorical(binary=True),
    ),
    "regression": (1, nnfs.Activation_Linear, nnfs.Loss_MeanSquaredError, nnfs.Accuracy_Regression),
}
OPTIMIZERS = {
    "classes": lambda: nnfs.Optimizer_Adam(0.05, decay=5e-5),
    "binary": lambda: nnfs.Optimizer_SGD(0.5, momentum=0.9),
    "regression": lambda: nnfs.Optimizer_RMSprop(0.002, decay=1e-3),
}


def model_and_data(kind, dropout=False, dtype="float64"):
    nnfs.init(default_dtype=dtype, precision="fast")
    outputs, end, loss, accuracy = ENDINGS[kind]
    X, y = nnfs.spiral_data(50, 3)
    if kind != "classes":
        y = np.column_stack([y == 1, X[:, 0] > 0])[:, :outputs] if kind == "binary" else X[:, :1] ** 2
    model = nnfs.Model()
    model.add(nnfs.Layer_Dense(2, 16, weight_regularizer_l2=5e-4, bias_regularizer_l1=1e-4))
    model.add(nnfs.Activation_ReLU())
    if dropout:
        model.add(nnfs.Layer_Dropout(0.1))
    model.add(nnfs.Layer_Dense(16, outputs))
    model.add(end())
    model.set(loss=loss(), optimizer=OPTIMIZERS[kind](), accuracy=accuracy())
    model.finalize()
    return model, X, y


def state(model):
    """Return all numbers that a training leaves, by name."""
    found = {"lr": model.optimizer.current_learning_rate, "iterations": model.optimizer.iterations}
    for number, layer in enumerate(model.layers):
        for name, value in vars(layer).items():
            if isinstance(value, np.ndarray):
                found[f"{number} {name}"] = value
    for part in (model.loss, model.accuracy):
        found |= {f"{type(part).__name__} {name}": v for name, v in vars(part).items() if name.startswith("accum")}
    return found


@pytest.mark.usefixtures("_backend")
@pytest.mark.parametrize("batch_size", [None, 64])
@pytest.mark.parametrize("kind", ENDINGS)
def test_replayed_steps_print_and_leave_what_written_ones_do(kind, batch_size, replayed, monkeypatch, capsys):
    printed, left = [], []
    for written in (False, True):
        model, X, y = model_and_data(kind)
        weights = model.layers[0].weights
        if written:
            monkeypatch.setattr(recorded, "FEWEST", np.inf)
        for epochs in (9, 5):  # the second one goes on from the first
            model.train(X, y, epochs=epochs, batch_size=batch_size, print_every=2, validation_data=(X[:20], y[:20]))
        printed.append(capsys.readouterr().out)
        left.append(state(model))
        assert model.layers[0].weights is weights
    assert printed[0] == printed[1]
    assert len(replayed) == 2 if batch_size else 1
    assert all(replayed)
    assert left[0].keys() == left[1].keys()
    for name, value in left[0].items():
        np.testing.assert_allclose(value, left[1][name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.usefixtures("_backend")
def test_masks_of_replayed_steps_follow_the_scripts_seed(replayed, capsys):
    printed = []
    for seed in (0, 0, 1):
        model, X, y = model_and_data("classes", dropout=True, dtype="float32")
        np.random.seed(seed)  # noqa: NPY002
        model.train(X, y, epochs=100, print_every=20)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]
    assert all(replayed)
    losses = [float(loss) for loss in re.findall(r"data_loss: ([\d.]+)", printed[0])]
    assert losses[-1] < 0.95 * losses[0]  # it learns under them


def own_layer(model):
    model.layers[1].__class__ = type("Own", (nnfs.Activation_ReLU,), {})


def own_method(model):
    model.layers[1].forward = model.layers[1].forward


def other_accuracy(model):
    model.set(accuracy=type("Mine", (nnfs.Accuracy_Categorical,), {})())


@pytest.mark.parametrize("change", [own_layer, own_method, other_accuracy])
def test_what_is_not_the_books_runs_as_written(change, replayed, capsys):
    model, X, y = model_and_data("classes")
    change(model)
    model.train(X, y, epochs=20)
    assert replayed == [None]


def test_a_class_with_a_method_replaced_runs_as_written(replayed, monkeypatch, capsys):
    calls, forward = [], nnfs.Activation_ReLU.forward
    model, X, y = model_and_data("classes")
    monkeypatch.setattr(nnfs.Activation_ReLU, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    model.train(X, y, epochs=20)
    assert replayed == [None]
    assert len(calls) == 20


def test_book_precision_runs_as_written(replayed, capsys):
    model, X, y = model_and_data("classes")
    nnfs.init()
    model.train(X, y, epochs=20)
    assert replayed == [None]


def test_shares_as_targets_run_as_written(replayed, capsys):
    model, X, y = model_and_data("binary")
    model.train(X, y * 0.9, epochs=20)
    assert replayed == [None]


@pytest.mark.usefixtures("_backend")
def test_what_was_trained_when_interrupted_stays(monkeypatch, capsys):
    model, X, y = model_and_data("classes")
    before, reports = model.get_parameters()[0][0], []

    def report(*arguments):
        reports.append(arguments)
        if len(reports) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(model, "_print_training", report)
    with pytest.raises(KeyboardInterrupt):
        model.train(X, y, epochs=200, batch_size=75, print_every=1)
    assert model.optimizer.iterations == 2  # an epoch of two steps, and none beyond
    assert np.abs(model.get_parameters()[0][0] - before).max() > 0
    assert model.layers[0].weight_momentums.any()
