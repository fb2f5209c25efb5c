"""The notes' network as the notes write it: plain NumPy, every result a new array. The yardstick of `step.py`."""

from itertools import pairwise

import numpy as np


class Layer_Dense:
    def __init__(self, n_inputs, n_neurons):
        self.weights = 0.01 * np.random.randn(n_inputs, n_neurons).astype(np.float32)  # noqa: NPY002 - the notes'
        self.biases = np.zeros((1, n_neurons), np.float32)

    def forward(self, inputs):
        self.inputs = inputs
        self.output = np.dot(inputs, self.weights) + self.biases

    def backward(self, dvalues):
        self.dweights = np.dot(self.inputs.T, dvalues)
        self.dbiases = np.sum(dvalues, axis=0, keepdims=True)
        self.dinputs = np.dot(dvalues, self.weights.T)


class Activation_ReLU:
    def forward(self, inputs):
        self.inputs = inputs
        self.output = np.maximum(0, inputs)

    def backward(self, dvalues):
        self.dinputs = dvalues.copy()
        self.dinputs[self.inputs <= 0] = 0


class Softmax_CrossEntropy:
    def forward(self, inputs, y_true):
        exp_values = np.exp(inputs - np.max(inputs, axis=1, keepdims=True))
        self.output = exp_values / np.sum(exp_values, axis=1, keepdims=True)
        clipped = np.clip(self.output, 1e-7, 1 - 1e-7)
        return np.mean(-np.log(clipped[range(len(y_true)), y_true]))

    def backward(self, dvalues, y_true):
        samples = len(dvalues)
        self.dinputs = dvalues.copy()
        self.dinputs[range(samples), y_true] -= 1
        self.dinputs = self.dinputs / samples


class Optimizer_Adam:
    def __init__(self, learning_rate=0.001, decay=0.0, epsilon=1e-7, beta_1=0.9, beta_2=0.999):
        self.learning_rate = self.current_learning_rate = learning_rate
        self.decay, self.epsilon, self.beta_1, self.beta_2 = decay, epsilon, beta_1, beta_2
        self.iterations = 0

    def pre_update_params(self):
        self.current_learning_rate = self.learning_rate / (1 + self.decay * self.iterations)

    def update_params(self, layer):
        if not hasattr(layer, "weight_cache"):
            layer.weight_momentums, layer.weight_cache = np.zeros_like(layer.weights), np.zeros_like(layer.weights)
            layer.bias_momentums, layer.bias_cache = np.zeros_like(layer.biases), np.zeros_like(layer.biases)
        for parameter, gradient, momentum, cache in (
            ("weights", layer.dweights, "weight_momentums", "weight_cache"),
            ("biases", layer.dbiases, "bias_momentums", "bias_cache"),
        ):
            m = self.beta_1 * getattr(layer, momentum) + (1 - self.beta_1) * gradient
            v = self.beta_2 * getattr(layer, cache) + (1 - self.beta_2) * gradient**2
            setattr(layer, momentum, m)
            setattr(layer, cache, v)
            m_corrected = m / (1 - self.beta_1 ** (self.iterations + 1))
            v_corrected = v / (1 - self.beta_2 ** (self.iterations + 1))
            step = -self.current_learning_rate * m_corrected / (np.sqrt(v_corrected) + self.epsilon)
            setattr(layer, parameter, getattr(layer, parameter) + step)

    def post_update_params(self):
        self.iterations += 1


class Network:
    """Layers of the given widths with ReLU between them, softmax cross-entropy and Adam."""

    def __init__(self, widths, learning_rate=0.05, decay=5e-7):
        self.dense = [Layer_Dense(i, o) for i, o in pairwise(widths)]
        self.relu = [Activation_ReLU() for _ in self.dense[1:]]
        self.loss = Softmax_CrossEntropy()
        self.optimizer = Optimizer_Adam(learning_rate, decay)

    def step(self, x, y):
        outputs = x
        for dense, relu in zip(self.dense, self.relu, strict=False):
            dense.forward(outputs)
            relu.forward(dense.output)
            outputs = relu.output
        self.dense[-1].forward(outputs)
        loss = self.loss.forward(self.dense[-1].output, y)
        accuracy = np.mean(np.argmax(self.loss.output, axis=1) == y)
        self.loss.backward(self.loss.output, y)
        self.dense[-1].backward(self.loss.dinputs)
        dvalues = self.dense[-1].dinputs
        for dense, relu in zip(self.dense[-2::-1], self.relu[::-1], strict=True):
            relu.backward(dvalues)
            dense.backward(relu.dinputs)
            dvalues = dense.dinputs
        self.optimizer.pre_update_params()
        for dense in self.dense:
            self.optimizer.update_params(dense)
        self.optimizer.post_update_params()
        return loss, accuracy
