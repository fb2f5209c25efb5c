"""The notes' own worked examples, as they stand there: by hand, by plain loops, and by nnx."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

import nnx
from nnx.testing.rounding import rounding

pytestmark = pytest.mark.rounding

INPUTS = [[1, 2, 3, 2.5], [2, 5, -1, 2], [-1.5, 2.7, 3.3, -0.8]]
WEIGHTS = [[0.2, 0.8, -0.5, 1], [0.5, -0.91, 0.26, -0.5], [-0.26, -0.27, 0.17, 0.87]]
BIASES = [2.0, 3.0, 0.5]
OUTPUTS = [[4.8, 1.21, 2.385], [8.9, -1.81, 0.2], [1.41, 1.051, 0.026]]  # worked out by hand
SOFTMAX = [[0.7, 0.1, 0.2], [0.1, 0.5, 0.4], [0.02, 0.9, 0.08]]
TARGETS = [0, 1, 1]


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with nnx.use_backend("numpy"):
        yield


CLOSE = rounding(64, "float32")  # sums of up to six terms, each up to 10


def close(a: object, b: object) -> None:
    np.testing.assert_allclose(a, b, rtol=CLOSE, atol=CLOSE)


def layer() -> nnx.Dense:
    """The notes keep one row of weights a neuron; Dense keeps one column a neuron, so it takes the transpose."""
    dense = nnx.Dense(4, 3)
    dense.weights, dense.biases = np.array(WEIGHTS).T, BIASES
    return dense


def test_single_neuron() -> None:
    inputs, weights, bias = [1, 2, 3], [0.2, 0.8, -0.5], 2
    by_hand = inputs[0] * weights[0] + inputs[1] * weights[1] + inputs[2] * weights[2] + bias
    neuron = nnx.Dense(3, 1, init=np.array(weights)[:, None])
    neuron.biases = [bias]
    close(by_hand, 2.3)
    close(neuron.forward([inputs]), [[by_hand]])


def test_layer_by_loops_and_by_dot() -> None:
    layer_output = []
    for n_weights, n_bias in zip(WEIGHTS, BIASES, strict=True):
        n_output = 0.0
        for n_input, weight in zip(INPUTS[0], n_weights, strict=True):
            n_output += n_input * weight
        layer_output.append(n_output + n_bias)
    close(layer_output, OUTPUTS[0])
    close(np.dot(WEIGHTS, INPUTS[0]) + BIASES, OUTPUTS[0])
    close(layer().forward(INPUTS[:1]), [OUTPUTS[0]])


def test_batch() -> None:
    close(np.dot(INPUTS, np.array(WEIGHTS).T) + BIASES, OUTPUTS)
    close(layer().forward(INPUTS), OUTPUTS)


def test_layer_dense_begins_as_the_notes_do() -> None:
    dense = nnx.Dense(200, 300, init=0.01)
    assert dense.weights.shape == (200, 300)
    assert dense.biases.shape == (1, 300)
    assert not dense.biases.any()
    assert float(dense.weights.std()) == pytest.approx(0.01, rel=0.02)


def test_relu() -> None:
    close(nnx.ReLU().forward(OUTPUTS), [[max(0, x) for x in row] for row in OUTPUTS])


def test_softmax() -> None:
    by_hand = []
    for row in OUTPUTS:
        exp_values = [math.exp(x - max(row)) for x in row]
        by_hand.append([value / sum(exp_values) for value in exp_values])
    close(nnx.Softmax().forward(OUTPUTS), by_hand)
    close(by_hand[0], [0.89528266, 0.02470831, 0.08000903])  # chapter 4 prints these


@pytest.mark.parametrize("y", [TARGETS, [[1, 0, 0], [0, 1, 0], [0, 1, 0]]], ids=["indices", "one-hot"])
def test_categorical_cross_entropy_and_accuracy(y: list) -> None:
    by_hand = [-math.log(row[k]) for row, k in zip(SOFTMAX, TARGETS, strict=True)]
    loss = nnx.CategoricalCrossEntropy()
    close(loss.forward(SOFTMAX, y), by_hand)
    close(loss.calculate(SOFTMAX, y), sum(by_hand) / 3)
    close(sum(by_hand) / 3, 0.38506088)  # chapter 5 prints this
    assert nnx.accuracy(SOFTMAX, y) == 1.0


def test_accuracy_counts() -> None:
    outputs = [[0.7, 0.2, 0.1], [0.5, 0.1, 0.4], [0.02, 0.9, 0.08]]
    assert nnx.accuracy(outputs, TARGETS) == pytest.approx(2 / 3)
    assert nnx.accuracy(outputs, np.eye(3)[TARGETS]) == pytest.approx(2 / 3)


def test_clipping_keeps_a_certain_mistake_finite() -> None:
    loss = nnx.CategoricalCrossEntropy()
    close(loss.forward([[1, 0, 0]], [1]), [-math.log(1e-7)])
    assert np.isfinite(loss.backward([[1, 0, 0]], [1])).all()


def test_chain_rule_of_one_neuron() -> None:
    x, w, b, dvalue = [1.0, -2.0, 3.0], [-3.0, -1.0, 2.0], 1.0, 1.0  # chapter 9's
    z = x[0] * w[0] + x[1] * w[1] + x[2] * w[2] + b
    drelu_dz = dvalue * (1.0 if z > 0 else 0.0)
    dx, dw, db = [drelu_dz * wi for wi in w], [drelu_dz * xi for xi in x], drelu_dz

    neuron, relu = nnx.Dense(3, 1, init=np.array(w)[:, None]), nnx.ReLU()
    neuron.biases = [b]
    assert relu.forward(neuron.forward([x])).item() == z == 6
    neuron.backward(relu.backward([[dvalue]]))
    close(neuron.dinputs, [dx])
    close(neuron.dweights[:, 0], dw)
    close(neuron.dbiases, [[db]])


def test_relu_backward_is_zero_at_and_below_zero() -> None:
    relu = nnx.ReLU()
    relu.forward([[1, -2, 0, 3]])
    close(relu.backward([[5, 6, 7, -8]]), [[5, 0, 0, -8]])


def test_dense_backward() -> None:
    dvalues = np.array([[1.0, 1, 1], [2, 2, 2], [3, 3, 3]])
    dense = layer()
    dense.forward(INPUTS)
    close(dense.backward(dvalues), np.dot(dvalues, np.array(WEIGHTS)))
    close(dense.dweights, np.dot(np.array(INPUTS).T, dvalues))
    close(dense.dbiases, np.sum(dvalues, axis=0, keepdims=True))
    close(dense.dbiases, [[6, 6, 6]])


def test_cross_entropy_backward() -> None:
    y = np.eye(3)[TARGETS]
    close(nnx.CategoricalCrossEntropy().backward(SOFTMAX, TARGETS), -y / np.array(SOFTMAX) / 3)


def test_softmax_backward_is_the_loop_over_jacobians() -> None:
    dvalues = np.array([[1.0, -2, 3], [0.5, 0, -1], [4, 4, 4]])
    softmax = nnx.Softmax()
    softmax.forward(np.log(SOFTMAX))
    dinputs, jacobians = np.empty_like(dvalues), []
    for index, (single_output, single_dvalues) in enumerate(zip(np.array(SOFTMAX), dvalues, strict=True)):
        single_output = single_output.reshape(-1, 1)
        jacobian = np.diagflat(single_output) - np.dot(single_output, single_output.T)
        dinputs[index] = np.dot(jacobian, single_dvalues)
        jacobians.append(jacobian)
    close(softmax.backward(dvalues), dinputs)
    close(softmax.jacobian(), jacobians)


def test_softmax_and_loss_together_give_the_difference() -> None:
    loss = nnx.SoftmaxCrossEntropy()
    close(loss.backward(np.log(SOFTMAX), TARGETS), (np.array(SOFTMAX) - np.eye(3)[TARGETS]) / 3)
    softmax, apart = nnx.Softmax(), nnx.CategoricalCrossEntropy()
    p = softmax.forward(np.log(SOFTMAX))
    close(softmax.backward(apart.backward(p, TARGETS)), loss.dinputs)


def test_the_spiral_trains_as_the_notes_write_it() -> None:
    x, y = nnx.datasets.spiral(samples=100, classes=3)
    nnx.seed(0)
    dense_1, relu = nnx.Dense(2, 64, init=0.01), nnx.ReLU()
    dense_2, softmax = nnx.Dense(64, 3, init=0.01), nnx.Softmax()
    loss, optimizer = nnx.CategoricalCrossEntropy(), nnx.Adam(0.05, decay=5e-7)
    losses = []
    for _ in range(150):
        outputs = softmax.forward(dense_2.forward(relu.forward(dense_1.forward(x))))
        losses.append(loss.calculate(outputs, y))
        dense_1.backward(relu.backward(dense_2.backward(softmax.backward(loss.backward(outputs, y)))))
        optimizer.pre_update_params()
        for part in (dense_1, relu, dense_2, softmax):
            optimizer.update_params(part)
        optimizer.post_update_params()
    assert losses[0] == pytest.approx(math.log(3), abs=1e-3)
    assert losses[-1] < 0.75 * losses[0]
    assert nnx.accuracy(outputs, y) > 0.6
