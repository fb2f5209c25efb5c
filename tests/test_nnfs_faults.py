"""The book's faults, none of which nnx.nnfs has, and its errors, each of which says what was expected."""

import numpy as np
import pytest

from nnx import errors, nnfs
from nnx.backends import Resolution
from nnx.backends.numpy import NumpyBackend
from nnx.nnfs import precision

pytestmark = pytest.mark.rounding


@pytest.fixture(autouse=True, params=["book", "fast"])
def _both_precisions(request, monkeypatch):
    state = np.random.get_state()  # noqa: NPY002
    for name in ("_backend", "_book", "_dtype"):
        monkeypatch.setattr(precision, name, getattr(precision, name))
    nnfs.init(default_dtype="float64", precision=request.param)
    yield
    np.random.set_state(state)  # noqa: NPY002


def slope(function, x):
    """Return the gradient of a number by central differences: like x."""
    result = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = x.copy()
            moved[place] += step
            ends.append(function(moved))
        result[place] = (ends[0] - ends[1]) / 2e-6
    return result


LABELS = np.array([0, 2, 1, 1])
ONE_HOT = np.eye(3)[LABELS]
RANDOM = np.random.default_rng(3)
PROBABILITIES = RANDOM.dirichlet(np.ones(3), 4)
NUMBERS = RANDOM.random((4, 3))


@pytest.mark.parametrize(
    ("name", "outputs", "y"),
    [
        ("Loss_MeanAbsoluteError", NUMBERS, NUMBERS[::-1]),
        ("Loss_MeanSquaredError", NUMBERS, NUMBERS[::-1]),
        ("Loss_BinaryCrossentropy", NUMBERS, ONE_HOT.astype("uint8")),
        ("Loss_CategoricalCrossentropy", PROBABILITIES, LABELS),
        ("Loss_CategoricalCrossentropy", PROBABILITIES, LABELS.astype("uint8")),
        ("Loss_CategoricalCrossentropy", PROBABILITIES, ONE_HOT),
        ("Loss_CategoricalCrossentropy", PROBABILITIES, ONE_HOT.astype("uint8")),  # the book: -1 wraps to 255
        ("Loss_CategoricalCrossentropy", PROBABILITIES, PROBABILITIES[::-1]),
    ],
)
def test_every_loss_goes_down_along_its_gradient(name, outputs, y):
    loss = getattr(nnfs, name)()
    loss.backward(outputs, y)
    expected = slope(lambda p: loss.calculate(p, y), outputs)
    np.testing.assert_allclose(loss.dinputs, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("y", [LABELS, LABELS.astype("uint8"), ONE_HOT.astype("uint8"), PROBABILITIES[::-1]])
def test_softmax_and_loss_together_and_apart(y):
    logits = RANDOM.normal(size=(4, 3))
    both = nnfs.Activation_Softmax_Loss_CategoricalCrossentropy()
    both.forward(logits, y)
    both.backward(both.output, y)
    np.testing.assert_allclose(both.dinputs, slope(lambda x: both.forward(x, y), logits), rtol=1e-6, atol=1e-8)
    softmax, loss = nnfs.Activation_Softmax(), nnfs.Loss_CategoricalCrossentropy()
    softmax.forward(logits)
    loss.backward(softmax.output, y)
    softmax.backward(loss.dinputs)
    np.testing.assert_allclose(softmax.dinputs, both.dinputs, rtol=1e-6)


def test_gradient_is_finite_where_the_wanted_class_has_probability_0():
    loss = nnfs.Loss_CategoricalCrossentropy()
    loss.backward(np.array([[0.0, 1.0]]), np.array([0]))
    np.testing.assert_allclose(loss.dinputs, [[-1e7, 0]])
    assert loss.calculate(np.array([[0.0, 1.0]]), np.array([0])) == pytest.approx(-np.log(1e-7))


def test_a_saturated_sigmoid_is_silent():
    sigmoid = nnfs.Activation_Sigmoid()
    sigmoid.forward(np.array([[-1e4, 0.0, 1e4]]))
    assert sigmoid.output.tolist() == [[0, 0.5, 1]]


def test_columns_and_rows_are_not_broadcast():
    accuracy = nnfs.Accuracy_Regression()
    column, flat = np.array([[1.0], [2.0], [3.0]]), np.array([1.0, 2.0, 4.0])
    accuracy.init(column)
    assert accuracy.compare(column, flat).tolist() == [True, True, False]
    assert nnfs.Accuracy_Categorical(binary=True).compare(column, flat).tolist() == [True, True, False]
    assert nnfs.Accuracy_Categorical().compare(np.array([1, 2]), np.array([[1], [2]])).all()
    loss = nnfs.Loss_MeanSquaredError()
    assert loss.forward(column, flat).tolist() == [0, 0, 1]
    for mistaken in (np.ones((3, 3)), np.ones((1, 3)), np.ones(2)):
        with pytest.raises(errors.InputError):
            loss.forward(column, mistaken)
        with pytest.raises(errors.InputError, match="expected one for each"):
            accuracy.compare(column, mistaken)


def test_accumulated_accuracy_of_several_outputs_is_a_share():
    accuracy = nnfs.Accuracy_Categorical(binary=True)
    for right in (ONE_HOT, 1 - ONE_HOT):
        accuracy.calculate(ONE_HOT, right)
    assert accuracy.calculate_accumulated() == 0.5
    accuracy.new_pass()
    assert accuracy.calculate(ONE_HOT, ONE_HOT) == accuracy.calculate_accumulated() == 1


def test_accumulated_loss_is_the_mean_over_all_samples():
    loss = nnfs.Loss_MeanSquaredError()
    loss.calculate(np.ones((3, 1)), np.zeros((3, 1)))
    loss.calculate(np.ones((1, 1)), np.ones((1, 1)))
    assert loss.calculate_accumulated() == 0.75
    assert loss.calculate_accumulated(include_regularization=True) == (0.75, 0)
    loss.new_pass()
    with pytest.raises(errors.InputError, match="before any calculate"):
        loss.calculate_accumulated()


def test_a_layer_of_your_own_trains_in_a_model(capsys):
    class Scale:
        def forward(self, inputs, training):
            self.output = inputs * 2

        def backward(self, dvalues):
            self.dinputs = dvalues * 2

    model = nnfs.Model()
    for layer in (nnfs.Layer_Dense(2, 3), Scale(), nnfs.Activation_Softmax()):
        model.add(layer)
    model.set(
        loss=nnfs.Loss_CategoricalCrossentropy(),
        optimizer=nnfs.Optimizer_Adam(learning_rate=0.05),
        accuracy=nnfs.Accuracy_Categorical(),
    )
    model.finalize()
    X, y = nnfs.vertical_data(50, 3)
    model.train(X, y, epochs=60)
    assert "acc: 0.9" in capsys.readouterr().out.splitlines()[-1]


def test_a_loss_and_an_accuracy_of_your_own():
    class Doubled(nnfs.Loss):
        def forward(self, y_pred, y_true):
            return 2 * np.abs(y_pred - y_true)[:, 0]

    class Near(nnfs.Accuracy):
        def compare(self, predictions, y):
            return np.abs(predictions - y) < 1

    y_pred, y = np.array([[1.0], [3.0]]), np.array([[0.5], [1.0]])
    assert Doubled().calculate(y_pred, y, include_regularization=True) == (2.5, 0)
    assert Near().calculate(y_pred, y) == 0.5


# ---- errors ----------------------------------------------------------------------------------------------------------


def model(*layers, finalize=True, **parts):
    made = nnfs.Model()
    for layer in layers:
        made.add(layer)
    made.set(**parts)
    if finalize:
        made.finalize()
    return made


def classifier(*without, finalize=True):
    parts = {
        "loss": nnfs.Loss_CategoricalCrossentropy(),
        "optimizer": nnfs.Optimizer_Adam(),
        "accuracy": nnfs.Accuracy_Categorical(),
    }
    kept = {name: part for name, part in parts.items() if name not in without}
    return model(nnfs.Layer_Dense(2, 3), nnfs.Activation_Softmax(), finalize=finalize, **kept)


def half_run_dense():
    dense = nnfs.Layer_Dense(2, 3)
    dense.forward(np.ones((4, 2)))
    return dense


X, Y = np.ones((4, 2)), LABELS
ERRORS = {
    "no layers": (lambda: model(), "0 layers; expected at least two"),
    "one layer": (lambda: model(nnfs.Layer_Dense(2, 3)), "1 layers; expected at least two"),
    "no activation at the end": (
        lambda: model(nnfs.Activation_ReLU(), nnfs.Layer_Dense(2, 3)),
        "the last layer is Layer_Dense, which has no predictions",
    ),
    "train, not finalized": (lambda: classifier(finalize=False).train(X, Y), r"call finalize\(\)"),
    "predict, not finalized": (lambda: classifier(finalize=False).predict(X), r"call finalize\(\)"),
    "without set": (
        lambda: classifier("loss", "optimizer", "accuracy").train(X, Y),
        "no loss and no optimizer and no accuracy",
    ),
    "evaluate without accuracy": (lambda: classifier("accuracy").evaluate(X, Y), r"no accuracy; give it by set"),
    "nothing to train": (
        lambda: model(
            nnfs.Activation_ReLU(),
            nnfs.Activation_Softmax(),
            loss=nnfs.Loss_CategoricalCrossentropy(),
            optimizer=nnfs.Optimizer_Adam(),
            accuracy=nnfs.Accuracy_Categorical(),
        ).train(X, Y),
        "no layer has weights",
    ),
    "lengths": (lambda: classifier().train(X, Y[:3]), r"X has 4 rows, y has shape \(3,\)"),
    "nan in X": (lambda: classifier().train(X * np.nan, Y), "Model.train: X hold 8 numbers that are not finite"),
    "weights of validation": (
        lambda: classifier().train(X, Y, validation_data=(X, Y, Y)),
        r"validation_data is a tuple; expected a pair \(X, y\)",
    ),
    "rows of validation": (
        lambda: classifier().train(X, Y, validation_data=(X, Y[:3])),
        r"^Model.train: validation_data: X has 4 rows, y has shape \(3,\)",
    ),
    "flat X": (lambda: classifier().predict(np.ones(4)), r"X have shape \(4,\)"),
    "batch size": (lambda: classifier().train(X, Y, batch_size=0), "batch_size=0"),
    "epochs": (lambda: classifier().train(X, Y, epochs=0), "epochs=0"),
    "label out of range": (lambda: classifier().train(X, Y + 1), "label 3 is out of range"),
    "negative label": (lambda: classifier().train(X, Y - 1), "label -1 is out of range"),
    "features": (lambda: nnfs.Layer_Dense(2, 3).forward(np.ones((4, 5))), "inputs have 5 features, expected 2"),
    "gradient's shape": (lambda: half_run_dense().backward(np.ones((4, 2))), r"dvalues have shape \(4, 2\)"),
    "backward first": (lambda: nnfs.Layer_Dense(2, 3).backward(X), "called before forward"),
    "activation backward first": (lambda: nnfs.Activation_ReLU().backward(X), "called before forward"),
    "dropout backward first": (lambda: nnfs.Layer_Dropout(0.1).backward(X), "there is no mask"),
    "update first": (lambda: nnfs.Optimizer_Adam().update_params(half_run_dense()), r"call backward\(\)"),
    "rate": (lambda: nnfs.Layer_Dropout(1.0), "Layer_Dropout: rate=1.0"),
    "momentum": (lambda: nnfs.Optimizer_SGD(momentum=2), "Optimizer_SGD: momentum=2"),
    "regularizer": (lambda: nnfs.Layer_Dense(2, 3, bias_regularizer_l2=-1), "bias_regularizer_l2=-1"),
    "neurons": (lambda: nnfs.Layer_Dense(2, 0), "n_neurons=0"),
    "parameters": (lambda: nnfs.Layer_Dense(2, 3).set_parameters(np.ones((3, 2)), np.ones((1, 3))), "expected"),
    "layers of parameters": (lambda: classifier().set_parameters([]), r"parameters have shapes \[\], expected"),
    "text": (lambda: nnfs.Activation_ReLU().forward([["a"]]), "of text"),
    "nan target": (lambda: nnfs.Loss_MeanSquaredError().forward([[1.0]], [[np.nan]]), "not finite"),
    "no precision": (lambda: nnfs.Accuracy_Regression().compare(X, X), "no precision yet"),
    "precision of init": (lambda: nnfs.init(precision="double"), "expected one of 'book', 'fast'"),
    "dtype of init": (lambda: nnfs.init(default_dtype="float16"), "expected one of 'float32', 'float64'"),
}


def test_what_is_wrong_with_validation_data_is_told_before_training(capsys):
    made = classifier()
    before = made.get_parameters()[0][0]
    with pytest.raises(errors.InputError):
        made.train(X, Y, validation_data=(X, Y[:3]))
    np.testing.assert_array_equal(made.get_parameters()[0][0], before)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("case", ERRORS)
def test_error_says_what_was_expected(case):
    call, message = ERRORS[case]
    with pytest.raises(errors.InputError, match=message):
        call()


def test_parameters_are_checked_before_any_is_changed():
    made = model(nnfs.Layer_Dense(2, 3), nnfs.Layer_Dense(3, 3), nnfs.Activation_Softmax())
    before = made.get_parameters()
    with pytest.raises(errors.InputError, match="expected"):
        made.set_parameters([(np.ones((2, 3)), np.ones((1, 3))), (np.ones((2, 3)), np.ones((1, 3)))])
    np.testing.assert_array_equal(made.get_parameters()[0][0], before[0][0])


def test_models_never_share_weights():
    one, other = classifier(), classifier()
    parameters = one.get_parameters()
    other.set_parameters(parameters)
    one.layers[0].weights += 1
    np.testing.assert_array_equal(other.layers[0].weights, parameters[0][0])
    assert not np.shares_memory(other.layers[0].weights, parameters[0][0])


def test_a_gpu_asked_for_by_name_is_passed_over_with_a_warning(monkeypatch):
    class Elsewhere(NumpyBackend):
        xp = object()

    monkeypatch.setattr(precision, "resolve", lambda: Resolution(Elsewhere(), "cupy"))
    with pytest.warns(errors.BackendFallbackWarning, match="takes the place of 'cupy'"):
        nnfs.init(precision="fast")
    assert precision.backend().xp is np
    monkeypatch.setattr(precision, "resolve", lambda: Resolution(Elsewhere(), "auto"))
    nnfs.init(precision="fast")
