"""What the book's final classes compute, in plain NumPy: the judge of nnx.nnfs, sharing no code with it.

`nnfs.init()` makes NumPy itself round (float32 normal numbers and zeros, dot products in float64 rounded to float32).
Here the same rounding stands where it happens, in `randn`, `zeros` and `dot`; `exp` and `log` go through float64 too,
so that the numbers are the same on every CPU. `init(default_dtype="float64")` rounds nowhere.

The class names are the book's, so that one script can run on either.
"""

import numpy as np

TYPE = np.dtype("float32")


def init(dot_precision_workaround=True, default_dtype="float32", random_seed=0):
    global TYPE
    TYPE = np.dtype(default_dtype)
    np.random.seed(random_seed)  # noqa: NPY002


def randn(*shape):
    return np.random.randn(*shape).astype(TYPE)  # noqa: NPY002


def zeros(*shape):
    return np.zeros(shape, TYPE)


def dot(a, b):
    return np.dot(a.astype(np.float64), b.astype(np.float64)).astype(TYPE)


def exp(a):
    return np.exp(a.astype(np.float64)).astype(a.dtype)


def log(a):
    return np.log(a.astype(np.float64)).astype(a.dtype)


# ---- data ------------------------------------------------------------------------------------------------------------


def spiral_data(samples, classes):
    x, y = zeros(samples * classes, 2), np.zeros(samples * classes, np.uint8)
    for k in range(classes):
        rows = slice(k * samples, (k + 1) * samples)
        r = np.linspace(0.0, 1, samples)
        t = np.linspace(k * 4, (k + 1) * 4, samples) + randn(samples) * 0.2
        x[rows] = np.column_stack([r * np.sin(t * 2.5), r * np.cos(t * 2.5)])
        y[rows] = k
    return x, y


def vertical_data(samples, classes):
    x, y = zeros(samples * classes, 2), np.zeros(samples * classes, np.uint8)
    for k in range(classes):
        rows = slice(k * samples, (k + 1) * samples)
        x[rows] = np.column_stack([randn(samples) * 0.1 + k / 3, randn(samples) * 0.1 + 0.5])
        y[rows] = k
    return x, y


def sine_data(samples=1000):
    x = np.arange(samples).reshape(-1, 1) / samples
    return x, np.sin(2 * np.pi * x).reshape(-1, 1)


# ---- layers ----------------------------------------------------------------------------------------------------------


class Layer_Dense:
    weight_scale = 0.01

    def __init__(
        self,
        n_inputs,
        n_neurons,
        weight_regularizer_l1=0,
        weight_regularizer_l2=0,
        bias_regularizer_l1=0,
        bias_regularizer_l2=0,
    ):
        self.weights, self.biases = self.weight_scale * randn(n_inputs, n_neurons), zeros(1, n_neurons)
        self.penalties = {
            "weights": (weight_regularizer_l1, weight_regularizer_l2),
            "biases": (bias_regularizer_l1, bias_regularizer_l2),
        }

    def forward(self, inputs, training=None):
        self.inputs = inputs
        self.output = dot(inputs, self.weights) + self.biases

    def backward(self, dvalues):
        self.dweights = dot(self.inputs.T, dvalues)
        self.dbiases = np.sum(dvalues, axis=0, keepdims=True)
        for name, (l1, l2) in self.penalties.items():
            value, gradient = getattr(self, name), getattr(self, "d" + name)
            if l1 > 0:
                gradient += l1 * np.where(value < 0, -1, 1).astype(value.dtype)
            if l2 > 0:
                gradient += 2 * l2 * value
        self.dinputs = dot(dvalues, self.weights.T)

    def penalty(self):
        total = 0
        for name, (l1, l2) in self.penalties.items():
            value = getattr(self, name)
            if l1 > 0:
                total += l1 * np.sum(np.abs(value))
            if l2 > 0:
                total += l2 * np.sum(value * value)
        return total


class Layer_Dropout:
    def __init__(self, rate):
        self.keep = 1 - rate

    def forward(self, inputs, training=True):
        if not training:
            self.output = inputs.copy()
            return
        self.mask = np.random.binomial(1, self.keep, size=inputs.shape) / self.keep  # noqa: NPY002
        self.output = inputs * self.mask

    def backward(self, dvalues):
        self.dinputs = dvalues * self.mask


class Activation_ReLU:
    def forward(self, inputs, training=None):
        self.inputs, self.output = inputs, np.maximum(0, inputs)

    def backward(self, dvalues):
        self.dinputs = np.where(self.inputs <= 0, 0, dvalues)


class Activation_Softmax:
    def forward(self, inputs, training=None):
        e = exp(1.0 * np.asarray(inputs) - np.max(inputs, axis=1, keepdims=True))
        self.output = e / np.sum(e, axis=1, keepdims=True)

    def backward(self, dvalues):
        self.dinputs = np.empty_like(dvalues)
        for row, (p, dvalue) in enumerate(zip(self.output, dvalues, strict=True)):
            column = p.reshape(-1, 1)
            self.dinputs[row] = dot(np.diagflat(column) - dot(column, column.T), dvalue)

    def predictions(self, outputs):
        return np.argmax(outputs, axis=1)


class Activation_Sigmoid:
    def forward(self, inputs, training=None):
        self.output = 1 / (1 + exp(-inputs))

    def backward(self, dvalues):
        self.dinputs = dvalues * (1 - self.output) * self.output

    def predictions(self, outputs):
        return (outputs > 0.5) * 1


class Activation_Linear:
    def forward(self, inputs, training=None):
        self.output = inputs

    def backward(self, dvalues):
        self.dinputs = dvalues.copy()

    def predictions(self, outputs):
        return outputs


# ---- optimizers ------------------------------------------------------------------------------------------------------


class Optimizer:
    def __init__(self, learning_rate, decay):
        self.learning_rate = self.current_learning_rate = learning_rate
        self.decay, self.iterations = decay, 0

    def pre_update_params(self):
        if self.decay:
            self.current_learning_rate = self.learning_rate * (1.0 / (1.0 + self.decay * self.iterations))

    def post_update_params(self):
        self.iterations += 1

    def update_params(self, layer):
        state = layer.__dict__.setdefault("state", {})
        for name in ("weights", "biases"):
            value, gradient = getattr(layer, name), getattr(layer, "d" + name)
            value += self.change(gradient, state.setdefault(name, {"m": np.zeros_like(value), "v": 0 * value}))


class Optimizer_SGD(Optimizer):
    def __init__(self, learning_rate=1.0, decay=0.0, momentum=0.0):
        super().__init__(learning_rate, decay)
        self.momentum = momentum

    def change(self, g, s):
        if not self.momentum:
            return -self.current_learning_rate * g
        s["m"] = self.momentum * s["m"] - self.current_learning_rate * g
        return s["m"]


class Optimizer_Adagrad(Optimizer):
    def __init__(self, learning_rate=1.0, decay=0.0, epsilon=1e-7):
        super().__init__(learning_rate, decay)
        self.epsilon = epsilon

    def change(self, g, s):
        s["v"] = s["v"] + g**2
        return -self.current_learning_rate * g / (np.sqrt(s["v"]) + self.epsilon)


class Optimizer_RMSprop(Optimizer):
    def __init__(self, learning_rate=0.001, decay=0.0, epsilon=1e-7, rho=0.9):
        super().__init__(learning_rate, decay)
        self.epsilon, self.rho = epsilon, rho

    def change(self, g, s):
        s["v"] = self.rho * s["v"] + (1 - self.rho) * g**2
        return -self.current_learning_rate * g / (np.sqrt(s["v"]) + self.epsilon)


class Optimizer_Adam(Optimizer):
    def __init__(self, learning_rate=0.001, decay=0.0, epsilon=1e-7, beta_1=0.9, beta_2=0.999):
        super().__init__(learning_rate, decay)
        self.epsilon, self.beta_1, self.beta_2 = epsilon, beta_1, beta_2

    def change(self, g, s):
        s["m"] = self.beta_1 * s["m"] + (1 - self.beta_1) * g
        s["v"] = self.beta_2 * s["v"] + (1 - self.beta_2) * g**2
        m = s["m"] / (1 - self.beta_1 ** (self.iterations + 1))
        v = s["v"] / (1 - self.beta_2 ** (self.iterations + 1))
        return -self.current_learning_rate * m / (np.sqrt(v) + self.epsilon)


# ---- losses ----------------------------------------------------------------------------------------------------------


class Loss:
    total, count = 0, 0

    def calculate(self, output, y, *, include_regularization=False):
        losses = self.forward(output, y)
        self.total, self.count = self.total + np.sum(losses), self.count + len(losses)
        mean = np.mean(losses)
        return (mean, self.regularization_loss()) if include_regularization else mean

    def calculate_accumulated(self, *, include_regularization=False):
        mean = self.total / self.count
        return (mean, self.regularization_loss()) if include_regularization else mean

    def new_pass(self):
        self.total, self.count = 0, 0

    def remember_trainable_layers(self, layers):
        self.trainable_layers = layers

    def regularization_loss(self, layer=None):
        total = 0
        for one in self.trainable_layers if layer is None else [layer]:
            total += one.penalty()
        return total


class Loss_CategoricalCrossentropy(Loss):
    def forward(self, p, y):
        p = np.clip(p, 1e-7, 1 - 1e-7)
        return -log(p[np.arange(len(p)), y] if y.ndim == 1 else np.sum(p * y, axis=1))

    def backward(self, p, y):
        y = np.eye(p.shape[1], dtype=TYPE)[y] if y.ndim == 1 else y.astype(TYPE)
        self.dinputs = -y / p / len(p)


class Activation_Softmax_Loss_CategoricalCrossentropy:
    def __init__(self):
        self.activation, self.loss = Activation_Softmax(), Loss_CategoricalCrossentropy()

    def forward(self, inputs, y):
        self.activation.forward(inputs)
        self.output = self.activation.output
        return self.loss.calculate(self.output, y)

    def backward(self, p, y):
        self.dinputs = p.copy()
        self.dinputs[np.arange(len(p)), y if y.ndim == 1 else y.argmax(axis=1)] -= 1
        self.dinputs = self.dinputs / len(p)


class Loss_BinaryCrossentropy(Loss):
    def forward(self, p, y):
        p = np.clip(p, 1e-7, 1 - 1e-7)
        return np.mean(-(y * log(p) + (1 - y) * log(1 - p)), axis=-1)

    def backward(self, p, y):
        p = np.clip(p, 1e-7, 1 - 1e-7)
        self.dinputs = -(y / p - (1 - y) / (1 - p)) / p.shape[1] / len(p)


class Loss_MeanSquaredError(Loss):
    def forward(self, p, y):
        return np.mean((y - p) ** 2, axis=-1)

    def backward(self, p, y):
        self.dinputs = -2 * (y - p) / p.shape[1] / len(p)


class Loss_MeanAbsoluteError(Loss):
    def forward(self, p, y):
        return np.mean(np.abs(y - p), axis=-1)

    def backward(self, p, y):
        self.dinputs = np.sign(p - y) / p.shape[1] / len(p)  # the book has y - p, which climbs


# ---- model -----------------------------------------------------------------------------------------------------------


class Accuracy:
    total, count = 0, 0

    def calculate(self, predictions, y):
        right = self.compare(predictions, y)
        self.total, self.count = self.total + np.sum(right), self.count + len(right)
        return np.mean(right)

    def new_pass(self):
        self.total, self.count = 0, 0

    def calculate_accumulated(self):
        return self.total / self.count


class Accuracy_Categorical(Accuracy):
    def __init__(self, *, binary=False):
        self.binary = binary

    def init(self, y):
        pass

    def compare(self, predictions, y):
        return predictions == (y.argmax(axis=1) if y.ndim == 2 and not self.binary else y)


class Accuracy_Regression(Accuracy):
    precision = None

    def init(self, y, reinit=False):
        if self.precision is None or reinit:
            self.precision = np.std(y) / 250

    def compare(self, predictions, y):
        return np.absolute(predictions - y) < self.precision


class Model:
    def __init__(self):
        self.layers = []

    def add(self, layer):
        self.layers.append(layer)

    def set(self, *, loss, optimizer, accuracy):
        self.loss, self.optimizer, self.accuracy = loss, optimizer, accuracy

    def finalize(self):
        self.trainable = [layer for layer in self.layers if hasattr(layer, "weights")]
        self.loss.remember_trainable_layers(self.trainable)
        self.fused = isinstance(self.layers[-1], Activation_Softmax) and isinstance(
            self.loss, Loss_CategoricalCrossentropy
        )

    def forward(self, x, training):
        for layer in self.layers:
            layer.forward(x, training)
            x = layer.output
        return x

    def backward(self, output, y):
        last = Activation_Softmax_Loss_CategoricalCrossentropy() if self.fused else self.loss
        last.backward(output, y)
        gradient = last.dinputs
        for layer in reversed(self.layers[:-1] if self.fused else self.layers):
            layer.backward(gradient)
            gradient = layer.dinputs

    @staticmethod
    def batches(batch_size, *arrays):
        size = batch_size or len(arrays[0])
        return [[a[i : i + size] for a in arrays] for i in range(0, len(arrays[0]), size)]

    def train(self, X, y, *, epochs=1, batch_size=None, print_every=1, validation_data=None):
        self.accuracy.init(y)
        for epoch in range(1, epochs + 1):
            if batch_size is None:  # chapter 18
                losses = self.step(X, y)
                if not epoch % print_every:
                    self.report(f"epoch: {epoch}", *losses)
                continue
            print(f"epoch: {epoch}")
            self.loss.new_pass()
            self.accuracy.new_pass()
            batches = self.batches(batch_size, X, y)
            for step, batch in enumerate(batches):
                losses = self.step(*batch)
                if step % print_every == 0 or step == len(batches) - 1:
                    self.report(f"step: {step}", *losses)
            losses = self.loss.calculate_accumulated(include_regularization=True)
            self.report("training", self.accuracy.calculate_accumulated(), *losses)
            if validation_data is not None:
                self.evaluate(*validation_data, batch_size=batch_size)
        if batch_size is None and validation_data is not None:
            self.evaluate(*validation_data)

    def step(self, x, y):
        output = self.forward(x, True)
        losses = self.loss.calculate(output, y, include_regularization=True)
        accuracy = self.accuracy.calculate(self.layers[-1].predictions(output), y)
        self.backward(output, y)
        self.optimizer.pre_update_params()
        for layer in self.trainable:
            self.optimizer.update_params(layer)
        self.optimizer.post_update_params()
        return accuracy, *losses

    def report(self, what, accuracy, data, penalty):
        print(
            f"{what}, acc: {accuracy:.3f}, loss: {data + penalty:.3f} (data_loss: {data:.3f}, "
            f"reg_loss: {penalty:.3f}), lr: {self.optimizer.current_learning_rate}"
        )

    def evaluate(self, X, y, *, batch_size=None):
        self.loss.new_pass()
        self.accuracy.new_pass()
        for batch_x, batch_y in self.batches(batch_size, X, y):
            output = self.forward(batch_x, False)
            self.loss.calculate(output, batch_y)
            self.accuracy.calculate(self.layers[-1].predictions(output), batch_y)
        accuracy, loss = self.accuracy.calculate_accumulated(), self.loss.calculate_accumulated()
        print(f"validation, acc: {accuracy:.3f}, loss: {loss:.3f}")

    def predict(self, X, *, batch_size=None):
        return np.vstack([self.forward(x, False) for (x,) in self.batches(batch_size, X)])

    def get_parameters(self):
        return [(layer.weights.copy(), layer.biases.copy()) for layer in self.trainable]
