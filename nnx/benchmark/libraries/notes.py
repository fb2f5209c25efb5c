"""The notes: a network as the book writes it, in plain NumPy, every result a new array. In float64 it is the judge."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.benchmark.libraries import Absent, Ready, repeated, taking_turns
from nnx.benchmark.networks import BETA_1, BETA_2, CHECKED, EPSILON, MOMENTUM, RATE, Network
from nnx.benchmark.operations import HYPER, OPERATIONS
from nnx.benchmark.workloads import FROM_HOST

Array = np.ndarray
MOST_JACOBIANS = 200_000  # numbers in all Jacobians of a batch, beyond which the loop takes seconds


class Dense:
    """A layer of neurons."""

    def __init__(self, weights: Array) -> None:
        self.weights = weights.copy()
        self.biases = np.zeros((1, weights.shape[1]), weights.dtype)

    def forward(self, inputs: Array) -> None:
        self.inputs = inputs
        self.output = np.dot(inputs, self.weights) + self.biases

    def backward(self, dvalues: Array) -> None:
        self.dweights = np.dot(self.inputs.T, dvalues)
        self.dbiases = np.sum(dvalues, axis=0, keepdims=True)
        self.dinputs = np.dot(dvalues, self.weights.T)


class ReLU:
    """What is negative becomes 0."""

    def forward(self, inputs: Array) -> None:
        self.inputs = inputs
        self.output = np.maximum(0, inputs)

    def backward(self, dvalues: Array) -> None:
        self.dinputs = dvalues.copy()
        self.dinputs[self.inputs <= 0] = 0


class SoftmaxCrossEntropy:
    """Softmax and its loss in one."""

    def forward(self, inputs: Array, y_true: Array) -> float:
        self.output = softmax(inputs)
        clipped = np.clip(self.output, 1e-7, 1 - 1e-7)
        return float(np.mean(-np.log(clipped[range(len(y_true)), y_true])))

    def backward(self, dvalues: Array, y_true: Array) -> None:
        samples = len(dvalues)
        self.dinputs = dvalues.copy()
        self.dinputs[range(samples), y_true] -= 1
        self.dinputs = self.dinputs / samples


def softmax(inputs: Array) -> Array:
    """Return each row's probabilities."""
    exp_values = np.exp(inputs - np.max(inputs, axis=1, keepdims=True))
    probabilities: Array = exp_values / np.sum(exp_values, axis=1, keepdims=True)
    return probabilities


def jacobian_loop(output: Array, dvalues: Array) -> Array:
    """Return the gradient of softmax, one Jacobian after the other."""
    dinputs = np.empty_like(dvalues)
    for index, (single_output, single_dvalues) in enumerate(zip(output, dvalues, strict=True)):
        column = single_output.reshape(-1, 1)
        jacobian_matrix = np.diagflat(column) - np.dot(column, column.T)
        dinputs[index] = np.dot(jacobian_matrix, single_dvalues)
    return dinputs


class Optimizer:
    """Adam, or SGD with momentum."""

    def __init__(self, kind: str) -> None:
        self.kind, self.iterations = kind, 0

    def update_params(self, layer: Any) -> None:
        if not hasattr(layer, "weights_momentums"):
            for name in ("weights", "biases"):
                setattr(layer, f"{name}_momentums", np.zeros_like(getattr(layer, name)))
                setattr(layer, f"{name}_cache", np.zeros_like(getattr(layer, name)))
        for name in ("weights", "biases"):
            gradient, momentum = getattr(layer, f"d{name}"), getattr(layer, f"{name}_momentums")
            if self.kind == "momentum":
                momentum = MOMENTUM * momentum - RATE * gradient
                step = momentum
            else:
                momentum = BETA_1 * momentum + (1 - BETA_1) * gradient
                cache = BETA_2 * getattr(layer, f"{name}_cache") + (1 - BETA_2) * gradient**2
                setattr(layer, f"{name}_cache", cache)
                momentum_corrected = momentum / (1 - BETA_1 ** (self.iterations + 1))
                cache_corrected = cache / (1 - BETA_2 ** (self.iterations + 1))
                step = -RATE * momentum_corrected / (np.sqrt(cache_corrected) + EPSILON)
            setattr(layer, f"{name}_momentums", momentum)
            setattr(layer, name, getattr(layer, name) + step)

    def post_update_params(self) -> None:
        self.iterations += 1


class Training:
    """A network of the notes and its steps, in the type of the data."""

    def __init__(self, network: Network, dtype: str = "float32") -> None:
        x, y = network.batches()
        self.batches = list(zip(np.split(x.astype(dtype), network.turns), np.split(y, network.turns), strict=True))
        self.dense = [Dense(weights.astype(dtype)) for weights in network.weights()]
        self.relu = [ReLU() for _ in self.dense[1:]]
        self.loss, self.optimizer, self.at = SoftmaxCrossEntropy(), Optimizer(network.optimizer), 0

    def forward(self, x: Array) -> Array:
        """Return the logits."""
        for dense, relu in zip(self.dense, self.relu, strict=False):
            dense.forward(x)
            relu.forward(dense.output)
            x = relu.output
        self.dense[-1].forward(x)
        logits: Array = self.dense[-1].output
        return logits

    def step(self) -> float:
        """Do a step on the next batch; return its loss."""
        x, y = self.batches[self.at % len(self.batches)]
        self.at += 1
        loss = self.loss.forward(self.forward(x), y)
        self.loss.backward(self.loss.output, y)
        self.dense[-1].backward(self.loss.dinputs)
        dvalues = self.dense[-1].dinputs
        for dense, relu in zip(self.dense[-2::-1], self.relu[::-1], strict=True):
            relu.backward(dvalues)
            dense.backward(relu.dinputs)
            dvalues = dense.dinputs
        for dense in self.dense:
            self.optimizer.update_params(dense)
        self.optimizer.post_update_params()
        return loss

    def first_steps(self) -> dict[str, Array]:
        """Do the steps that players are compared by; return the losses, and the parameters after them."""
        losses = [self.step() for _ in range(CHECKED)]
        parameters = [a.ravel() for dense in self.dense for a in (dense.weights, dense.biases)]
        return {"losses": np.array(losses), "parameters": np.concatenate(parameters)}

    def predictions(self) -> dict[str, Array]:
        """Return the probabilities of every batch."""
        return {"out": np.concatenate([softmax(self.forward(x)) for x, _ in self.batches])}

    def evaluate(self, x: Array, y: Array) -> tuple[float, float]:
        """Return the mean loss and the accuracy of a batch."""
        loss = self.loss.forward(self.forward(x), y)
        return loss, float(np.mean(np.argmax(self.loss.output, axis=1) == y))

    def evaluations(self) -> dict[str, Array]:
        """Return those of every batch."""
        return {"scores": np.array([self.evaluate(x, y) for x, y in self.batches])}


# ---- as a player -----------------------------------------------------------------------------------------------------


def prepare(workload: Any, how: str, device: str) -> Ready:
    """Get a workload ready."""
    if workload.kind in ("step", *FROM_HOST):
        training = Training(workload.what)
        if workload.kind == "step":
            return Ready(repeated(training.step), training.first_steps(), "", workload.what.turns)
        if workload.kind == "evaluate":
            run, turns = taking_turns(training.evaluate, training.batches)
            return Ready(run, training.evaluations(), "", turns)
        run, turns = taking_turns(lambda x: softmax(training.forward(x)), [(x,) for x, _ in training.batches])
        return Ready(run, training.predictions(), "", turns)
    if workload.kind not in CALLS:
        raise Absent("the notes have no such operation by itself")
    if workload.kind == "softmax_backward" and workload.rows * workload.what[1] ** 2 > MOST_JACOBIANS:
        raise Absent("the notes' loop over Jacobians would take seconds")
    operands = OPERATIONS[workload.kind].operands(*workload.what)
    call = CALLS[workload.kind]
    return Ready(repeated(lambda: call(**operands)), call(**operands), "")


def _adam(p: Array, g: Array, m: Array, v: Array, **_: Any) -> dict[str, Array]:
    rate, _decay, beta_1, beta_2, epsilon, _weight_decay = HYPER["adam"]
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g**2
    corrected, cache = m / (1 - beta_1), v / (1 - beta_2)
    return {"p": p - rate * corrected / (np.sqrt(cache) + epsilon), "m": m, "v": v}


def _sgd(p: Array, g: Array, m: Array, **_: Any) -> dict[str, Array]:
    rate, momentum = HYPER["sgd"][0], HYPER["sgd"][2]
    m = momentum * m - rate * g
    return {"p": p + m, "m": m}


def _dense_backward(x: Array, w: Array, dy: Array) -> dict[str, Array]:
    return {"dw": np.dot(x.T, dy), "db": np.sum(dy, axis=0, keepdims=True), "out": np.dot(dy, w.T)}


def _relu_backward(y: Array, dy: Array) -> dict[str, Array]:
    dinputs = dy.copy()
    dinputs[y <= 0] = 0
    return {"out": dinputs}


def _cross_entropy(p: Array, target: Array) -> dict[str, Array]:
    return {"out": -np.log(np.clip(p, 1e-7, 1 - 1e-7)[range(len(p)), target])}


CALLS: dict[str, Any] = {
    "dense": lambda x, w, b: {"out": np.dot(x, w) + b},
    "dense_backward": _dense_backward,
    "relu": lambda x: {"out": np.maximum(0, x)},
    "relu_backward": _relu_backward,
    "sigmoid": lambda x: {"out": 1 / (1 + np.exp(-x))},
    "softmax": lambda x: {"out": softmax(x)},
    "cross_entropy": _cross_entropy,
    "mean_squared_error": lambda prediction, target: {"out": np.mean((target - prediction) ** 2, axis=-1)},
    "mean_squared_error_backward": lambda prediction, target: {
        "out": -2 * (target - prediction) / prediction.shape[1] / len(prediction)
    },
    "softmax_backward": lambda y, dy: {"out": jacobian_loop(y, dy)},
    "sgd": _sgd,
    "adam": _adam,
}
