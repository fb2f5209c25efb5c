"""nnx.nnfs against the book: its scripts print what they print there, and every number is the oracle's."""

import contextlib
import io
import os
import re
import subprocess
import sys

import numpy as np
import oracle_nnfs as oracle
import pytest

from nnx import nnfs, use_backend
from nnx.nnfs import layers, precision
from nnx.nnfs.datasets import sine_data, spiral_data, vertical_data
from nnx.testing.rounding import assert_within, drift, rounding

pytestmark = pytest.mark.rounding

# Scripts in the manner of the book's, one for what each group of chapters adds. Only the header tells which classes.
HEADERS = {
    nnfs: """
import numpy as np
from nnx import nnfs
from nnx.nnfs import *
from nnx.nnfs.datasets import spiral_data, vertical_data, sine_data
nnfs.init()
""",
    oracle: """
import numpy as np
import oracle_nnfs as nnfs
from oracle_nnfs import *
nnfs.init()
""",
}

SCRIPTS = {
    "3: a layer": """
X, y = spiral_data(samples=100, classes=3)
dense1 = Layer_Dense(2, 3)
dense1.forward(X)
print(dense1.output[:5])
""",
    "4: activations": """
X, y = spiral_data(samples=100, classes=3)
dense1, activation1 = Layer_Dense(2, 3), Activation_ReLU()
dense2, activation2 = Layer_Dense(3, 3), Activation_Softmax()
dense1.forward(X)
activation1.forward(dense1.output)
dense2.forward(activation1.output)
activation2.forward(dense2.output)
print(activation1.output[:5])
print(activation2.output[:5])
softmax = Activation_Softmax()
for row in [[1, 2, 3]], [[-2, -1, 0]], [[0.5, 1, 1.5]]:
    softmax.forward(row)
    print(softmax.output)
""",
    "5: loss and accuracy": """
softmax_outputs = np.array([[0.7, 0.1, 0.2], [0.1, 0.5, 0.4], [0.02, 0.9, 0.08]])
class_targets = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0]])
loss_function = Loss_CategoricalCrossentropy()
print(loss_function.calculate(softmax_outputs, class_targets))
print(loss_function.calculate(softmax_outputs, np.array([0, 1, 1])))
X, y = spiral_data(samples=100, classes=3)
dense1, activation1 = Layer_Dense(2, 3), Activation_ReLU()
dense2, activation2 = Layer_Dense(3, 3), Activation_Softmax()
dense1.forward(X)
activation1.forward(dense1.output)
dense2.forward(activation1.output)
activation2.forward(dense2.output)
loss = loss_function.calculate(activation2.output, y)
print('loss:', loss)
print('acc:', np.mean(np.argmax(activation2.output, axis=1) == y))
""",
    "6: a random search": """
X, y = vertical_data(samples=100, classes=3)
dense1, activation1 = Layer_Dense(2, 3), Activation_ReLU()
dense2, activation2 = Layer_Dense(3, 3), Activation_Softmax()
loss_function = Loss_CategoricalCrossentropy()
lowest_loss = 9999999
best = [dense1.weights.copy(), dense1.biases.copy(), dense2.weights.copy(), dense2.biases.copy()]
for iteration in range(100):
    dense1.weights += 0.05 * np.random.randn(2, 3)
    dense1.biases += 0.05 * np.random.randn(1, 3)
    dense2.weights += 0.05 * np.random.randn(3, 3)
    dense2.biases += 0.05 * np.random.randn(1, 3)
    dense1.forward(X)
    activation1.forward(dense1.output)
    dense2.forward(activation1.output)
    activation2.forward(dense2.output)
    loss = loss_function.calculate(activation2.output, y)
    accuracy = np.mean(np.argmax(activation2.output, axis=1) == y)
    if loss < lowest_loss:
        print('New set of weights found, iteration:', iteration, 'loss:', loss, 'acc:', accuracy)
        best = [dense1.weights.copy(), dense1.biases.copy(), dense2.weights.copy(), dense2.biases.copy()]
        lowest_loss = loss
    else:
        dense1.weights, dense1.biases, dense2.weights, dense2.biases = [a.copy() for a in best]
""",
    "9: backwards": """
X, y = spiral_data(samples=100, classes=3)
dense1, activation1, dense2 = Layer_Dense(2, 3), Activation_ReLU(), Layer_Dense(3, 3)
loss_activation = Activation_Softmax_Loss_CategoricalCrossentropy()
dense1.forward(X)
activation1.forward(dense1.output)
dense2.forward(activation1.output)
loss = loss_activation.forward(dense2.output, y)
print(loss_activation.output[:5])
print('loss:', loss)
loss_activation.backward(loss_activation.output, y)
dense2.backward(loss_activation.dinputs)
activation1.backward(dense2.dinputs)
dense1.backward(activation1.dinputs)
print(dense1.dweights)
print(dense1.dbiases)
print(dense2.dweights)
print(dense2.dbiases)
softmax_outputs = np.array([[0.7, 0.1, 0.2], [0.1, 0.5, 0.4], [0.02, 0.9, 0.08]])
class_targets = np.array([0, 1, 1])
loss_activation.backward(softmax_outputs, class_targets)
print(loss_activation.dinputs)
activation, loss = Activation_Softmax(), Loss_CategoricalCrossentropy()
activation.output = softmax_outputs
loss.backward(softmax_outputs, class_targets)
activation.backward(loss.dinputs)
print(activation.dinputs)
""",
    "10 and 11: optimizers": """
for optimizer in (
    Optimizer_SGD(),
    Optimizer_SGD(decay=1e-2),
    Optimizer_SGD(decay=1e-3, momentum=0.9),
    Optimizer_Adagrad(decay=1e-4),
    Optimizer_RMSprop(learning_rate=0.02, decay=1e-5, rho=0.999),
    Optimizer_Adam(learning_rate=0.05, decay=5e-7),
):
    nnfs.init()
    print(type(optimizer).__name__)
    X, y = spiral_data(samples=100, classes=3)
    dense1, activation1, dense2 = Layer_Dense(2, 64), Activation_ReLU(), Layer_Dense(64, 3)
    loss_activation = Activation_Softmax_Loss_CategoricalCrossentropy()
    for epoch in range(101):
        dense1.forward(X)
        activation1.forward(dense1.output)
        dense2.forward(activation1.output)
        loss = loss_activation.forward(dense2.output, y)
        accuracy = np.mean(np.argmax(loss_activation.output, axis=1) == y)
        if not epoch % 50:
            print(f'epoch: {epoch}, acc: {accuracy:.3f}, loss: {loss:.3f}, lr: {optimizer.current_learning_rate}')
        loss_activation.backward(loss_activation.output, y)
        dense2.backward(loss_activation.dinputs)
        activation1.backward(dense2.dinputs)
        dense1.backward(activation1.dinputs)
        optimizer.pre_update_params()
        optimizer.update_params(dense1)
        optimizer.update_params(dense2)
        optimizer.post_update_params()
    X_test, y_test = spiral_data(samples=100, classes=3)
    dense1.forward(X_test)
    activation1.forward(dense1.output)
    dense2.forward(activation1.output)
    print('validation, loss:', loss_activation.forward(dense2.output, y_test), optimizer.iterations)
""",
    "14 and 15: regularization and dropout": """
X, y = spiral_data(samples=100, classes=3)
dense1 = Layer_Dense(2, 64, weight_regularizer_l2=5e-4, bias_regularizer_l2=5e-4)
activation1, dropout1 = Activation_ReLU(), Layer_Dropout(0.1)
dense2 = Layer_Dense(64, 3, weight_regularizer_l1=1e-5, bias_regularizer_l1=1e-5)
loss_activation = Activation_Softmax_Loss_CategoricalCrossentropy()
optimizer = Optimizer_Adam(learning_rate=0.05, decay=5e-5)
for epoch in range(51):
    dense1.forward(X)
    activation1.forward(dense1.output)
    dropout1.forward(activation1.output)
    dense2.forward(dropout1.output)
    data_loss = loss_activation.forward(dense2.output, y)
    regularization_loss = loss_activation.loss.regularization_loss(dense1) + \\
        loss_activation.loss.regularization_loss(dense2)
    loss = data_loss + regularization_loss
    accuracy = np.mean(np.argmax(loss_activation.output, axis=1) == y)
    if not epoch % 10:
        print(f'epoch: {epoch}, acc: {accuracy:.3f}, loss: {loss:.3f} (data_loss: {data_loss:.3f}, '
              f'reg_loss: {regularization_loss:.3f}), lr: {optimizer.current_learning_rate}')
    loss_activation.backward(loss_activation.output, y)
    dense2.backward(loss_activation.dinputs)
    dropout1.backward(dense2.dinputs)
    activation1.backward(dropout1.dinputs)
    dense1.backward(activation1.dinputs)
    optimizer.pre_update_params()
    optimizer.update_params(dense1)
    optimizer.update_params(dense2)
    optimizer.post_update_params()
print(dense1.weights[:, :4], dense2.biases)
""",
    "16: binary logistic regression": """
X, y = spiral_data(samples=100, classes=2)
y = y.reshape(-1, 1)
dense1 = Layer_Dense(2, 64, weight_regularizer_l2=5e-4, bias_regularizer_l2=5e-4)
activation1, dense2, activation2 = Activation_ReLU(), Layer_Dense(64, 1), Activation_Sigmoid()
loss_function = Loss_BinaryCrossentropy()
optimizer = Optimizer_Adam(decay=5e-7)
for epoch in range(101):
    dense1.forward(X)
    activation1.forward(dense1.output)
    dense2.forward(activation1.output)
    activation2.forward(dense2.output)
    data_loss = loss_function.calculate(activation2.output, y)
    regularization_loss = loss_function.regularization_loss(dense1) + loss_function.regularization_loss(dense2)
    accuracy = np.mean(((activation2.output > 0.5) * 1) == y)
    if not epoch % 20:
        print(f'epoch: {epoch}, acc: {accuracy:.3f}, loss: {data_loss + regularization_loss:.3f} (data_loss: '
              f'{data_loss:.3f}, reg_loss: {regularization_loss:.3f}), lr: {optimizer.current_learning_rate}')
    loss_function.backward(activation2.output, y)
    activation2.backward(loss_function.dinputs)
    dense2.backward(activation2.dinputs)
    activation1.backward(dense2.dinputs)
    dense1.backward(activation1.dinputs)
    optimizer.pre_update_params()
    optimizer.update_params(dense1)
    optimizer.update_params(dense2)
    optimizer.post_update_params()
print(data_loss, dense2.weights[:3])
""",
    "17: regression": """
X, y = sine_data()
Layer_Dense.weight_scale = 0.1  # as chapter 17's own class has it
dense1, activation1, dense2 = Layer_Dense(1, 64), Activation_ReLU(), Layer_Dense(64, 64)
activation2, dense3, activation3 = Activation_ReLU(), Layer_Dense(64, 1), Activation_Linear()
loss_function = Loss_MeanSquaredError()
optimizer = Optimizer_Adam(learning_rate=0.005, decay=1e-3)
accuracy_precision = np.std(y) / 250
for epoch in range(101):
    dense1.forward(X)
    activation1.forward(dense1.output)
    dense2.forward(activation1.output)
    activation2.forward(dense2.output)
    dense3.forward(activation2.output)
    activation3.forward(dense3.output)
    data_loss = loss_function.calculate(activation3.output, y)
    accuracy = np.mean(np.absolute(activation3.output - y) < accuracy_precision)
    if not epoch % 50:
        print(f'epoch: {epoch}, acc: {accuracy:.3f}, loss: {data_loss:.3f}, lr: {optimizer.current_learning_rate}')
    loss_function.backward(activation3.output, y)
    activation3.backward(loss_function.dinputs)
    dense3.backward(activation3.dinputs)
    activation2.backward(dense3.dinputs)
    dense2.backward(activation2.dinputs)
    activation1.backward(dense2.dinputs)
    dense1.backward(activation1.dinputs)
    optimizer.pre_update_params()
    for dense in dense1, dense2, dense3:
        optimizer.update_params(dense)
    optimizer.post_update_params()
print(repr(data_loss), dense3.biases)
Layer_Dense.weight_scale = 0.01
""",
    "18 to 22: a classifier in batches": """
X, y = spiral_data(samples=100, classes=3)
X_test, y_test = spiral_data(samples=50, classes=3)
keys = np.array(range(X.shape[0]))
np.random.shuffle(keys)
X, y = X[keys], y[keys]
model = Model()
model.add(Layer_Dense(X.shape[1], 64, weight_regularizer_l2=5e-4, bias_regularizer_l2=5e-4))
model.add(Activation_ReLU())
model.add(Layer_Dropout(0.1))
model.add(Layer_Dense(64, 3))
model.add(Activation_Softmax())
model.set(
    loss=Loss_CategoricalCrossentropy(),
    optimizer=Optimizer_Adam(learning_rate=0.05, decay=5e-5),
    accuracy=Accuracy_Categorical(),
)
model.finalize()
model.train(X, y, validation_data=(X_test, y_test), epochs=5, batch_size=128, print_every=2)
model.evaluate(X_test, y_test)
model.evaluate(X_test, y_test, batch_size=64)
confidences = model.predict(X_test[:4])
print(confidences)
print(model.layers[-1].predictions(confidences))
print(model.predict(X_test, batch_size=64).shape)
for weights, biases in model.get_parameters():
    print(weights.sum(), biases.sum())
""",
    "18: two classes": """
X, y = spiral_data(samples=100, classes=2)
y = y.reshape(-1, 1)
model = Model()
model.add(Layer_Dense(2, 64, weight_regularizer_l2=5e-4, bias_regularizer_l2=5e-4))
model.add(Activation_ReLU())
model.add(Layer_Dense(64, 1))
model.add(Activation_Sigmoid())
model.set(
    loss=Loss_BinaryCrossentropy(),
    optimizer=Optimizer_Adam(decay=5e-7),
    accuracy=Accuracy_Categorical(binary=True),
)
model.finalize()
model.train(X, y, validation_data=(X, y), epochs=10, print_every=5)
""",
    "18: regression": """
X, y = sine_data()
model = Model()
model.add(Layer_Dense(1, 64))
model.add(Activation_ReLU())
model.add(Layer_Dense(64, 64))
model.add(Activation_ReLU())
model.add(Layer_Dense(64, 1))
model.add(Activation_Linear())
model.set(
    loss=Loss_MeanSquaredError(),
    optimizer=Optimizer_Adam(learning_rate=0.005, decay=1e-3),
    accuracy=Accuracy_Regression(),
)
model.finalize()
model.train(X, y, epochs=200, print_every=100)
""",
}

# What the book prints there. From chapter 10 on these are the last lines before rounding noise takes over.
PRINTED = {
    "3: a layer": """
[[ 0.0000000e+00  0.0000000e+00  0.0000000e+00]
 [-1.0475188e-04  1.1395361e-04 -4.7983500e-05]
 [-2.7414842e-04  3.1729150e-04 -8.6921798e-05]
 [-4.2188365e-04  5.2666257e-04 -5.5912682e-05]
 [-5.7707680e-04  7.1401405e-04 -8.9430439e-05]]
""",
    "4: activations": """
[[0.         0.         0.        ]
 [0.         0.00011395 0.        ]
 [0.         0.00031729 0.        ]
 [0.         0.00052666 0.        ]
 [0.         0.00071401 0.        ]]
[[0.33333334 0.33333334 0.33333334]
 [0.33333316 0.3333332  0.33333364]
 [0.33333287 0.3333329  0.33333418]
 [0.3333326  0.33333263 0.33333477]
 [0.33333233 0.3333324  0.33333528]]
[[0.09003057 0.24472847 0.66524096]]
[[0.09003057 0.24472847 0.66524096]]
[[0.18632372 0.30719589 0.50648039]]
""",
    "5: loss and accuracy": """
0.38506088005216804
0.38506088005216804
loss: 1.0986104
acc: 0.34
""",
    "9: backwards": """
[[0.33333334 0.33333334 0.33333334]
 [0.33333316 0.3333332  0.33333364]
 [0.33333287 0.3333329  0.33333418]
 [0.3333326  0.33333263 0.33333477]
 [0.33333233 0.3333324  0.33333528]]
loss: 1.0986104
[[ 1.5766358e-04  7.8368575e-05  4.7324404e-05]
 [ 1.8161036e-04  1.1045571e-05 -3.3096316e-05]]
[[-3.6055347e-04  9.6611722e-05 -1.0367142e-04]]
[[ 5.4410957e-05  1.0741142e-04 -1.6182236e-04]
 [-4.0791339e-05 -7.1678100e-05  1.1246944e-04]
 [-5.3011299e-05  8.5817286e-05 -3.2805994e-05]]
[[-1.0732794e-05 -9.4590941e-06  2.0027626e-05]]
[[-0.1         0.03333333  0.06666667]
 [ 0.03333333 -0.16666667  0.13333333]
 [ 0.00666667 -0.03333333  0.02666667]]
[[-0.09999999  0.03333334  0.06666667]
 [ 0.03333334 -0.16666667  0.13333334]
 [ 0.00666667 -0.03333333  0.02666667]]
""",
}
PRINTED_AMONG_OTHERS = {
    "6: a random search": [
        "New set of weights found, iteration: 0 loss: 1.0987684 acc: 0.3333333333333333",
        "New set of weights found, iteration: 30 loss: 1.0724432 acc: 0.3466666666666667",
        "New set of weights found, iteration: 48 loss: 1.0303522 acc: 0.6666666666666666",
        "New set of weights found, iteration: 97 loss: 0.9277446 acc: 0.7333333333333333",
    ],
    "10 and 11: optimizers": [
        "epoch: 0, acc: 0.360, loss: 1.099, lr: 1.0",
        "epoch: 100, acc: 0.400, loss: 1.087, lr: 1.0",
        "epoch: 100, acc: 0.443, loss: 1.053, lr: 0.9099181073703367",
        "epoch: 100, acc: 0.457, loss: 1.012, lr: 0.9901970492127933",
        "epoch: 100, acc: 0.713, loss: 0.684, lr: 0.04999752512250644",
    ],
    "17: regression": [
        "epoch: 0, acc: 0.003, loss: 0.496, lr: 0.005",
        "epoch: 100, acc: 0.017, loss: 0.048, lr: 0.004549590536851684",
    ],
    "18: regression": [
        "epoch: 100, acc: 0.006, loss: 0.085 (data_loss: 0.085, reg_loss: 0.000), lr: 0.004549590536851684",
        "epoch: 200, acc: 0.032, loss: 0.035 (data_loss: 0.035, reg_loss: 0.000), lr: 0.004170141784820684",
    ],
}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Undo init(): it is for the whole process, as in the book."""
    state = np.random.get_state()  # noqa: NPY002
    for name in ("_backend", "_book", "_dtype"):
        monkeypatch.setattr(precision, name, getattr(precision, name))
    yield
    np.random.set_state(state)  # noqa: NPY002


@pytest.fixture(scope="module")
def printed():
    """Return what each script prints with nnx.nnfs: all in one process of their own, which imports nothing else."""
    mark = "\n--- next script ---\n"
    program = f"print({mark!r})".join(HEADERS[nnfs] + script for script in SCRIPTS.values())
    command = [sys.executable, "-W", "error", "-c", program]
    one_thread = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # as the oracle has here
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(zip(SCRIPTS, re.split(f"{mark}\n", done.stdout), strict=True))


@pytest.mark.parametrize("chapter", SCRIPTS)
def test_script_prints_what_the_oracle_prints(chapter, printed):
    with contextlib.redirect_stdout(io.StringIO()) as expected:
        exec(compile(HEADERS[oracle] + SCRIPTS[chapter], chapter, "exec"), {})
    assert printed[chapter] == expected.getvalue()


@pytest.mark.parametrize("chapter", PRINTED)
def test_script_prints_what_the_book_prints(chapter, printed):
    assert printed[chapter].strip() == PRINTED[chapter].strip()


@pytest.mark.parametrize("chapter", PRINTED_AMONG_OTHERS)
def test_script_prints_these_lines_of_the_book(chapter, printed):
    assert [line for line in PRINTED_AMONG_OTHERS[chapter] if line not in printed[chapter].splitlines()] == []


# ---- numbers ---------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": ("Optimizer_SGD", {"learning_rate": 0.5, "decay": 1e-3}),
    "momentum": ("Optimizer_SGD", {"learning_rate": 0.5, "decay": 1e-3, "momentum": 0.9}),
    "Adagrad": ("Optimizer_Adagrad", {"decay": 1e-4}),
    "RMSprop": ("Optimizer_RMSprop", {"learning_rate": 0.02, "decay": 1e-5, "rho": 0.999}),
    "Adam": ("Optimizer_Adam", {"learning_rate": 0.05, "decay": 5e-7}),
}


def train(classes, optimizer, epochs, dropout=False, points=None):
    """Train the spiral's network with a module's classes; return the losses of every epoch and the parameters."""
    X, y = classes.spiral_data(samples=100, classes=3)  # drawn in any case, for the weights that are drawn next
    X, y = points or (X, y)
    dense1, dense2 = classes.Layer_Dense(2, 64, weight_regularizer_l2=5e-4), classes.Layer_Dense(64, 3, 0, 0, 1e-4)
    relu, drop = classes.Activation_ReLU(), classes.Layer_Dropout(0.1)
    last = classes.Activation_Softmax_Loss_CategoricalCrossentropy()
    name, arguments = OPTIMIZERS[optimizer]
    optimizer = getattr(classes, name)(**arguments)
    layers = [dense1, relu, drop, dense2] if dropout else [dense1, relu, dense2]
    losses = []
    for _ in range(epochs):
        x = X
        for layer in layers:
            layer.forward(x)
            x = layer.output
        losses.append(last.forward(x, y) + last.loss.regularization_loss(dense1))
        last.backward(last.output, y)
        gradient = last.dinputs
        for layer in reversed(layers):
            layer.backward(gradient)
            gradient = layer.dinputs
        optimizer.pre_update_params()
        optimizer.update_params(dense1)
        optimizer.update_params(dense2)
        optimizer.post_update_params()
    return [np.array(losses), dense1.weights, dense1.biases, dense2.weights, dense2.biases]


@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_book_precision_is_the_oracle_to_the_last_bit(optimizer, dropout):
    oracle.init()
    expected = train(oracle, optimizer, 30, dropout)
    nnfs.init()
    for own, theirs in zip(train(nnfs, optimizer, 30, dropout), expected, strict=True):
        assert own.dtype == theirs.dtype == np.float32
        np.testing.assert_array_equal(own, theirs)


def taught(optimizer, epochs, dtype):
    """What the oracle learns, and how far others may be off: as far as it is itself where it rounds otherwise."""
    runs = []
    shuffled, backward = np.random.default_rng(0).permutation(300), slice(None, None, -1)
    for order, number in ((slice(None), dtype), (shuffled, dtype), (backward, "float64")):
        oracle.init(default_dtype=number)
        points = oracle.spiral_data(samples=100, classes=3)
        oracle.init(default_dtype=number)
        runs.append(train(oracle, optimizer, epochs, points=[a[order] for a in points]))
    return points, runs[0], drift(*runs)


@pytest.mark.parametrize("wanted", ["book", "fast"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_in_float64_a_hundred_epochs_agree(optimizer, wanted):
    """To fourteen digits with SGD; Adam makes of the fourteenth the ninth."""
    points, expected, bounds = taught(optimizer, 100, "float64")  # the book's points are float32 in any precision
    with use_backend("numpy"):
        nnfs.init(default_dtype="float64", precision=wanted)
    for own, theirs, bound in zip(train(nnfs, optimizer, 100, points=points), expected, bounds, strict=True):
        assert own.dtype == np.float64
        assert_within(own, theirs, bound)
    assert max(bounds) < 1e-6


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fast_precision_begins_as_the_book_does(optimizer):
    _, (expected, *_), (bound, *_) = taught(optimizer, 10, "float32")
    nnfs.init(precision="fast")
    assert_within(train(nnfs, optimizer, 10)[0], expected, bound)


def chapter_9():
    """Return all that chapter 9 prints, as the classes compute it now."""
    X, y = spiral_data(samples=100, classes=3)
    dense1, activation1, dense2 = nnfs.Layer_Dense(2, 3), nnfs.Activation_ReLU(), nnfs.Layer_Dense(3, 3)
    both = nnfs.Activation_Softmax_Loss_CategoricalCrossentropy()
    dense1.forward(X)
    activation1.forward(dense1.output)
    dense2.forward(activation1.output)
    loss = both.forward(dense2.output, y)
    both.backward(both.output, y)
    dense2.backward(both.dinputs)
    activation1.backward(dense2.dinputs)
    dense1.backward(activation1.dinputs)
    return [loss, both.output, dense1.dweights, dense1.dbiases, dense2.dweights, dense2.dbiases]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_chapter_9_is_within_1e_7_in_fast_precision_too(backend):
    pytest.importorskip(backend)
    nnfs.init()
    expected = chapter_9()
    with use_backend(backend):
        nnfs.init(precision="fast")
    for own, theirs in zip(chapter_9(), expected, strict=True):
        assert own.dtype == np.float32
        np.testing.assert_allclose(own, theirs, rtol=0, atol=1e-7)  # what the printed digits promise


def test_data_are_the_books_to_the_last_bit():
    for draw, theirs in (spiral_data, oracle.spiral_data), (vertical_data, oracle.vertical_data):
        oracle.init()
        expected = theirs(100, 3)
        nnfs.init()
        for own, other in zip(draw(samples=100, classes=3), expected, strict=True):
            assert own.dtype == other.dtype
            np.testing.assert_array_equal(own, other)
        assert np.random.randn() == np.random.RandomState(0).randn(100 * 3 * (1 + (draw is vertical_data)) + 1)[-1]  # noqa: NPY002
    for own, other in zip(sine_data(), oracle.sine_data(), strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("name", ["Loss_MeanSquaredError", "Loss_MeanAbsoluteError", "Loss_BinaryCrossentropy"])
def test_losses_of_several_outputs(name):
    nnfs.init()
    random = np.random.default_rng(1)
    p, y = random.random((20, 3)).astype("float32"), random.random((20, 3)).astype("float32")
    own, theirs = getattr(nnfs, name)(), getattr(oracle, name)()
    np.testing.assert_allclose(own.forward(p, y), theirs.forward(p, y), rtol=rounding(32, "float32"))  # a log, 3 terms
    own.backward(p, y)
    theirs.backward(p, y)
    np.testing.assert_allclose(own.dinputs, theirs.dinputs, rtol=rounding(16, "float32"))


# ---- what scripts rely on --------------------------------------------------------------------------------------------


def test_numpy_stays_as_it_is():
    before = {name: getattr(np, name) for name in ("dot", "zeros", "eye")}
    randn = np.random.randn
    nnfs.init()
    assert {name: getattr(np, name) for name in before} == before
    assert np.random.randn is randn
    assert np.dot([1, 2, 3], [0.2, 0.8, -0.5]) == pytest.approx(0.3)  # lists, as in chapter 2
    assert np.zeros(1).dtype == np.float64


def test_init_takes_the_books_arguments():
    nnfs.init(True, "float64", 7)
    assert nnfs.Layer_Dense(2, 3).weights.dtype == np.float64
    assert np.random.randn() == np.random.RandomState(7).randn(7)[-1]  # noqa: NPY002
    nnfs.init(dot_precision_workaround=False)
    assert precision.backend().name != "book"
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    nnfs.init(random_seed=None)
    assert precision.backend().name == "book"
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_without_init_the_fast_backend_computes():
    code = (
        "import sys; import numpy as np; from nnx.nnfs import *; from nnx.nnfs import precision;"
        "assert not {'numba', 'cupy', 'safetensors', 'matplotlib'} & sys.modules.keys();"
        "d = Layer_Dense(2, 3); d.forward(np.ones((4, 2))); print(precision.backend().name, d.output.dtype)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, dtype = done.stdout.split()
    assert (name in ("numba", "numpy"), dtype) == (True, "float32")


@pytest.mark.parametrize("wanted", ["book", "fast"])
def test_every_call_makes_new_arrays(wanted):
    nnfs.init(precision=wanted)
    X, y = spiral_data(10, 3)
    loss = nnfs.Activation_Softmax_Loss_CategoricalCrossentropy()
    for layer in (nnfs.Layer_Dense(2, 3), nnfs.Activation_ReLU(), nnfs.Activation_Softmax(), nnfs.Activation_Sigmoid()):
        layer.forward(X)
        first = layer.output
        layer.backward(first)
        gradient, kept = layer.dinputs, (first.copy(), layer.dinputs.copy())
        layer.forward(X * 2)
        layer.backward(layer.output)
        np.testing.assert_array_equal(first, kept[0])
        np.testing.assert_array_equal(gradient, kept[1])
    first = loss.forward(X, y * 0)
    assert isinstance(first, np.float32)


def test_weights_are_assignable():
    nnfs.init()
    dense = nnfs.Layer_Dense(2, 3)
    dense.forward(np.ones((1, 2), "float32"))
    output = dense.output
    kept = dense.weights
    dense.weights += 0.05 * np.random.randn(2, 3)  # noqa: NPY002
    assert dense.weights is kept
    dense.weights = [[1, 2, 3], [4, 5, 6]]
    assert dense.weights.dtype == np.float32
    dense.forward(np.ones((1, 2), "float32"))
    assert dense.output.tolist() == [[5, 7, 9]]
    assert output is not dense.output
    best = dense.weights.copy().T.copy().T  # not contiguous
    dense.weights = best
    dense.weight_regularizer_l2 = 0.5
    dense.backward(np.zeros((1, 3)))
    np.testing.assert_array_equal(dense.dweights, dense.weights)
    nnfs.Optimizer_SGD(1.0).update_params(dense)
    assert not dense.weights.any()
    assert not hasattr(dense, "weight_momentums")


def test_optimizers_keep_their_state_on_the_layer():
    nnfs.init()
    for optimizer, names in (
        (nnfs.Optimizer_SGD(momentum=0.9), {"momentums"}),
        (nnfs.Optimizer_Adagrad(), {"cache"}),
        (nnfs.Optimizer_RMSprop(), {"cache"}),
        (nnfs.Optimizer_Adam(), {"momentums", "cache"}),
    ):
        dense = nnfs.Layer_Dense(2, 3)
        dense.forward(np.ones((4, 2)))
        dense.backward(np.ones((4, 3)))
        optimizer.update_params(dense)
        expected = {f"{prefix}_{name}" for prefix in ("weight", "bias") for name in names}
        assert {name for name in vars(dense) if name.startswith(("weight_", "bias_")) and "reg" not in name} == expected
        assert dense.weight_cache.shape == (2, 3) if "cache" in names else dense.weight_momentums.shape == (2, 3)


def test_a_learning_rate_set_by_hand_is_used():
    nnfs.init()
    optimizer, dense = nnfs.Optimizer_SGD(), nnfs.Layer_Dense(1, 1)
    dense.dweights, dense.dbiases = np.ones((1, 1)), np.ones((1, 1))
    optimizer.current_learning_rate = 0.25
    optimizer.pre_update_params()
    optimizer.update_params(dense)
    assert dense.biases.item() == -0.25


def test_dropout_draws_the_books_masks():
    nnfs.init()
    dropout = nnfs.Layer_Dropout(0.3)
    dropout.forward(np.ones((20, 5), "float32"))
    expected = np.random.RandomState(0).binomial(1, 0.7, (20, 5)) / 0.7
    np.testing.assert_array_equal(dropout.binary_mask, expected)
    np.testing.assert_array_equal(dropout.output, expected)
    dropout.backward(np.full((20, 5), 2.0))
    np.testing.assert_array_equal(dropout.dinputs, 2 * expected)
    dropout.forward(np.ones((20, 5)), training=False)
    assert (dropout.output == 1).all()
    assert dropout.rate == 0.7


@pytest.mark.parametrize("near", [None, 0.01], ids=["in doubt never", "in doubt often"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.8, 0.999])
def test_dropout_draws_what_binomial_draws(rate, near, monkeypatch):
    monkeypatch.setattr(layers, "NEAR", near or layers.NEAR)
    for shape in (1, 3), (0, 2), (500, 7):
        nnfs.init()
        expected = [np.random.binomial(1, 1 - rate, shape) == 1, np.random.randn()]  # noqa: NPY002
        nnfs.init()
        np.testing.assert_array_equal(layers.kept(1 - rate, shape), expected[0])
        assert np.random.randn() == expected[1]  # noqa: NPY002 - the numbers after it


def test_a_script_with_classes_of_its_own_is_told(tmp_path):
    head = "from nnx import nnfs\nfrom nnx.nnfs import *\nnnfs.init()\n"
    told = []
    for text in (
        "class Layer_Dense:\n    pass\nclass Mine:\n    pass\n",
        "class Layer_Dense(Layer_Dense):\n    pass\nclass Model(nnfs.Model):\n    pass\n",
        "class Loss:\n    pass\ndel __file__\nnnfs.init()\n",  # as in a notebook
    ):
        (tmp_path / "script.py").write_text(head + text)
        done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True)
        told.append(re.findall(r"script.py:(\d+): UserWarning: this script defines (\w+) itself", done.stderr))
    assert told == [[("3", "Layer_Dense")], [], [("3", "Loss"), ("7", "Loss")]]


def test_weight_scale_of_chapter_17(monkeypatch):
    nnfs.init()
    before = nnfs.Layer_Dense(3, 4).weights
    monkeypatch.setattr(nnfs.Layer_Dense, "weight_scale", 0.1)
    nnfs.init()
    np.testing.assert_allclose(nnfs.Layer_Dense(3, 4).weights, 10 * before, rtol=rounding(4, "float32"))


def test_the_notes_spelling():
    assert nnfs.Loss_CategoricalCrossEntropy is nnfs.Loss_CategoricalCrossentropy
    both = nnfs.Activation_Softmax_Loss_CategoricalCrossentropy
    assert nnfs.Activation_Softmax_Loss_CategoricalCrossEntropy is both
    assert sorted(nnfs.__all__) == nnfs.__all__
    assert all(hasattr(nnfs, name) for name in nnfs.__all__)


def test_layers_of_a_model_know_their_neighbours():
    nnfs.init()
    model = nnfs.Model()
    dense, softmax = nnfs.Layer_Dense(2, 3), nnfs.Activation_Softmax()
    model.add(dense)
    model.add(softmax)
    model.set(loss=nnfs.Loss_CategoricalCrossentropy())
    model.finalize()
    assert (dense.prev, dense.next, softmax.prev, softmax.next) == (model.input_layer, softmax, dense, model.loss)
    assert model.loss.trainable_layers == [dense]
    assert isinstance(model.softmax_classifier_output, nnfs.Activation_Softmax_Loss_CategoricalCrossentropy)
