"""Small networks with every layer, loss and optimizer, on which steps are compared: eager, replayed, elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import nnx
from nnx.kernels.elementwise import NAMES
from nnx.layers import ELEMENTWISE
from nnx.layers.chain import chain

Data = tuple[np.ndarray, np.ndarray]
# How near two trainings of these networks are in float64, where one rounds otherwise: 200 steps differ by 1e-14
# (measured over the BLAS kernels and vector widths of four processors); a wrong term by 1e-6 and more.
ALIKE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-10}
# And in float32: 1e-6 (measured), to which a ReLU may add a rate where its input is rounded to 0.
NEAR: dict[str, Any] = {"rtol": 2e-3, "atol": 2e-4}


@dataclass(frozen=True)
class Net:
    """A network and how it is trained, for some 200 steps."""

    layers: Callable[[], list[nnx.Layer]]
    loss: Callable[[], nnx.Loss] = nnx.CategoricalCrossEntropy
    optimizer: Callable[[], nnx.Optimizer] = lambda: nnx.Adam(0.02, decay=1e-3)
    data: str = "labels"
    rows: int = 50
    batch: int | None = 16
    fit: dict[str, Any] = field(default_factory=dict)

    def model(self, dtype: str = "float64", backend: Any = "numpy") -> nnx.Sequential:
        model = nnx.Sequential(*self.layers(), backend=backend, dtype=dtype, seed=5)
        return model.compile(self.loss(), self.optimizer())

    def samples(self) -> Data:
        return samples(self.data, self.rows, chain(self.layers())[0] or 2)

    @property
    def epochs(self) -> int:
        steps = -(-self.rows // (self.batch or self.rows))
        return -(-200 // -(-steps // self.fit.get("accumulate", 1)))


def trained(net: Net, backend: Any, dtype: str = "float64", **options: Any) -> tuple[nnx.Sequential, nnx.History]:
    """A model after training, and its history; `options` are those of `fit`."""
    model = net.model(dtype, backend)
    options = {"epochs": net.epochs, "batch_size": net.batch, "verbose": 0, **net.fit, **options}
    return model, model.fit(*net.samples(), **options)


def numbers(model: nnx.Sequential) -> np.ndarray:
    """A model's parameters, gradients and moments."""
    return np.array(model.backend.to_numpy(model.flat.state))


def samples(kind: str, rows: int, width: int = 2) -> Data:
    random = np.random.default_rng(rows)
    x = random.normal(size=(rows, width))
    labels = random.integers(0, 3, rows)
    x[:, 0] += labels
    x /= 3  # no probability so small that the notes' loss clips it, where the fused ones go on exactly
    if kind == "codes":
        x[:, 1] = random.integers(0, 4, rows)
    targets = {
        "codes": lambda: labels,
        "labels": lambda: labels,
        "one-hot": lambda: np.eye(3)[labels],
        "soft": lambda: random.dirichlet(np.ones(3), rows),
        "shares": lambda: (np.eye(3)[labels] + random.random((rows, 3))) / 2,
        "numbers": lambda: np.sin(x[:, :1]) * [[1.0, 2.0, 3.0]],
        "number": lambda: x.sum(axis=1),
    }
    return x, targets[kind]()


def mlp(*inside: Callable[[], nnx.Layer], last: Callable[[], nnx.Layer] | None = nnx.Softmax, **dense: Any) -> Any:
    def layers() -> list[nnx.Layer]:
        ends = [] if last is None else [last()]
        return [nnx.Dense(2, 6, **dense), *(make() for make in inside), nnx.Dense(6, 3, **dense), *ends]

    return layers


def deep() -> list[nnx.Layer]:
    hidden = [layer for _ in range(8) for layer in (nnx.Dense(6, 6), nnx.Tanh())]
    return [nnx.Dense(2, 6), nnx.ReLU(), *hidden, nnx.Dropout(0.05), nnx.Dense(6, 3), nnx.Softmax()]


def frozen(*places: int, **dense: Any) -> Any:
    """Three dense layers, of which some are not trained."""

    def layers() -> list[nnx.Layer]:
        made = [
            nnx.Dense(2, 6, **dense),
            nnx.ReLU(),
            nnx.Dense(6, 7, **dense),
            nnx.Tanh(),
            nnx.Dense(7, 3),
            nnx.Softmax(),
        ]
        for place in places:
            made[place].trainable = False
        return made

    return layers


def frozen_norms() -> list[nnx.Layer]:
    """Normalizations between dense layers, none of which is trained."""
    norms = [nnx.BatchNorm(6), nnx.LayerNorm(6)]
    for norm in norms:
        norm.trainable = False
    return [nnx.Dense(2, 6), norms[0], nnx.Tanh(), norms[1], nnx.Dense(6, 3), nnx.Softmax()]


def weights(rows: int) -> np.ndarray:
    """Weights of samples, some of them 0."""
    return np.arange(rows) % 4 * 0.7


class Swish(nnx.Elementwise):
    """x * sigmoid(beta * x): a formula of one's own."""

    def __init__(self, beta: float = 1.0) -> None:
        self.beta = beta

    def formula(self, x: Any) -> Any:
        return x / (1 + np.exp(-self.beta * x))

    def derivative(self, x: Any, y: Any) -> Any:
        share = 1 / (1 + np.exp(-self.beta * x))
        return share + self.beta * y * (1 - share)


class Doubled(nnx.Layer):
    """A layer of one's own in Python: nnx knows neither what it does nor how wide its outputs are."""

    def forward(self, inputs: Any, training: bool = False) -> Any:
        self.inputs, self.output = inputs, inputs * 2
        return self.output

    def backward(self, dvalues: Any) -> Any:
        self.dinputs = dvalues * 2
        return self.dinputs


class LogCosh(nnx.ElementwiseLoss):
    """log(cosh(error)): a loss of one's own."""

    def formula(self, y_pred: Any, y_true: Any) -> Any:
        error = np.abs(y_pred - y_true)
        return error + np.log1p(np.exp(-2 * error)) - np.log(2)

    def derivative(self, y_pred: Any, y_true: Any) -> Any:
        return np.tanh(y_pred - y_true)


NETS: dict[str, Net] = {
    "relu": Net(mlp(nnx.ReLU)),
    "sigmoid": Net(mlp(nnx.Sigmoid)),
    "tanh": Net(mlp(nnx.Tanh)),
    "linear": Net(mlp(nnx.Linear)),
    "softmax inside": Net(mlp(nnx.Softmax)),
    "no activation": Net(lambda: [nnx.Dense(2, 3), nnx.Softmax()]),
    "activation first": Net(lambda: [nnx.Tanh(), *mlp(nnx.ReLU)()]),
    "dropout": Net(mlp(nnx.ReLU, lambda: nnx.Dropout(0.3))),
    "dropout first": Net(lambda: [nnx.Dropout(0.2), *mlp(nnx.ReLU)()]),
    "dropout of nothing": Net(mlp(nnx.ReLU, lambda: nnx.Dropout(0.0))),
    "two dropouts": Net(mlp(nnx.ReLU, lambda: nnx.Dropout(0.3), lambda: nnx.Dropout(0.3))),
    "one-hot": Net(mlp(nnx.ReLU), data="one-hot"),
    "soft labels": Net(mlp(nnx.ReLU), data="soft"),
    "logits": Net(mlp(nnx.ReLU, last=None), nnx.SoftmaxCrossEntropy),
    "unfused softmax": Net(mlp(nnx.ReLU, last=lambda: Unfused()), nnx.CategoricalCrossEntropy),
    "binary": Net(mlp(nnx.ReLU, last=nnx.Sigmoid), nnx.BinaryCrossEntropy, data="shares"),
    "binary logits": Net(mlp(nnx.ReLU, last=None), nnx.SigmoidCrossEntropy, data="shares"),
    "unfused binary": Net(mlp(nnx.ReLU, last=lambda: Halved()), nnx.BinaryCrossEntropy, data="shares"),
    "squares": Net(mlp(nnx.Tanh, last=None), nnx.MeanSquaredError, data="numbers"),
    "magnitudes": Net(mlp(nnx.Tanh, last=nnx.Linear), nnx.MeanAbsoluteError, data="numbers"),
    "huber": Net(mlp(nnx.Tanh, last=None), lambda: nnx.Huber(0.5), data="numbers"),
    "one feature, one output": Net(
        lambda: [nnx.Dense(1, 5), nnx.Tanh(), nnx.Dense(5, 1)], nnx.MeanSquaredError, data="number"
    ),
    "sgd": Net(mlp(nnx.ReLU), optimizer=lambda: nnx.SGD(0.1)),
    "sgd with momentum": Net(mlp(nnx.ReLU), optimizer=lambda: nnx.SGD(0.1, momentum=0.9, decay=1e-2)),
    "nesterov": Net(mlp(nnx.ReLU), optimizer=lambda: nnx.SGD(0.1, momentum=0.9, nesterov=True)),
    "adagrad": Net(mlp(nnx.ReLU), optimizer=lambda: nnx.AdaGrad(0.1, decay=1e-3)),
    "rmsprop": Net(mlp(nnx.ReLU), optimizer=lambda: nnx.RMSprop(0.01, decay=1e-3, rho=0.95)),
    "adamw": Net(mlp(nnx.ReLU), optimizer=lambda: nnx.AdamW(0.02, decay=1e-3, weight_decay=0.1)),
    "amsgrad, clipped": Net(mlp(nnx.ReLU), optimizer=lambda: nnx.AMSGrad(0.02, weight_decay=0.1, clip_norm=0.1)),
    "nadam, clipped": Net(mlp(nnx.ReLU, weight_l2=1e-2), optimizer=lambda: nnx.Nadam(0.02, clip_value=0.01)),
    "lion": Net(mlp(nnx.Tanh), optimizer=lambda: nnx.Lion(0.002, decay=1e-3, weight_decay=0.1)),
    "l2": Net(mlp(nnx.ReLU, weight_l2=1e-2, bias_l2=1e-3)),
    "l1": Net(mlp(nnx.ReLU, weight_l1=1e-3, bias_l1=1e-2)),
    "l1 and l2": Net(mlp(nnx.ReLU, weight_l1=1e-3, weight_l2=1e-2, bias_l1=1e-2, bias_l2=1e-3)),
    "whole": Net(mlp(nnx.ReLU, lambda: nnx.Dropout(0.1)), batch=None),
    "no tail": Net(mlp(nnx.ReLU), rows=48, batch=16),
    "tail of one": Net(mlp(nnx.ReLU, lambda: nnx.Dropout(0.1)), rows=33, batch=16),
    "batches of one": Net(mlp(nnx.ReLU), rows=9, batch=1),
    "one sample": Net(mlp(nnx.ReLU), rows=1, batch=None),
    "in order": Net(mlp(nnx.ReLU), fit={"shuffle": False}),
    "deep": Net(deep),
    "parts of batches": Net(mlp(nnx.ReLU, lambda: nnx.Dropout(0.1), weight_l2=1e-2), fit={"accumulate": 3}, rows=90,
                            optimizer=lambda: nnx.Adam(0.02, clip_norm=1.0)),
    "mean of weights": Net(mlp(nnx.ReLU), fit={"callbacks": [nnx.callbacks.WeightAverage(0.9)]}),
    "weights": Net(mlp(nnx.ReLU, lambda: nnx.Dropout(0.1)), fit={"sample_weight": weights(50)}),
    "weights, whole": Net(mlp(nnx.ReLU), data="soft", batch=None, fit={"sample_weight": weights(50)}),
    "weights of numbers": Net(mlp(nnx.Tanh, last=None), lambda: nnx.Huber(0.5), data="numbers",
                              fit={"sample_weight": weights(50)}),
    "weights of one output": Net(lambda: [nnx.Dense(1, 5), nnx.Tanh(), nnx.Dense(5, 1)], nnx.MeanSquaredError,
                                 data="number", batch=None, fit={"sample_weight": weights(50)}),
    "frozen first": Net(frozen(0)),
    "frozen middle": Net(frozen(2, weight_l2=1e-2, bias_l1=1e-3),
                         optimizer=lambda: nnx.AdamW(0.02, weight_decay=0.1)),
    "frozen last": Net(frozen(4), optimizer=lambda: nnx.SGD(0.1, momentum=0.9)),
    "frozen ends": Net(frozen(0, 4), optimizer=lambda: nnx.RMSprop(0.01)),
    "residual": Net(lambda: [nnx.Dense(2, 6), nnx.ReLU(),
                             nnx.Residual(nnx.Dense(6, 6, weight_l2=1e-2), nnx.ReLU(), nnx.Dropout(0.2),
                                          nnx.Dense(6, 6)),
                             nnx.ReLU(), nnx.Dense(6, 3), nnx.Softmax()]),
    "residuals first, and within": Net(lambda: [nnx.Residual(nnx.Dense(2, 2), nnx.Tanh()),
                                                nnx.Residual(nnx.Dense(2, 2),
                                                             nnx.Residual(nnx.Tanh(), nnx.Dense(2, 2))),
                                                nnx.Dense(2, 3), nnx.Softmax()]),
    "concat": Net(lambda: [nnx.Dense(2, 4), nnx.Concat(nnx.Linear(), [nnx.Dense(4, 5, weight_l1=1e-3), nnx.Tanh()],
                                                       nnx.Dense(4, 2)),
                           nnx.ReLU(), nnx.Dense(11, 3), nnx.Softmax()]),
    "concat first": Net(lambda: [nnx.Concat(nnx.Linear(), nnx.Dense(2, 3)), nnx.Dense(5, 3), nnx.Softmax()],
                        batch=None),
    "embedding": Net(lambda: [nnx.Embedding({1: (4, 3)}, inputs=2), nnx.Dense(4, 6), nnx.ReLU(), nnx.Dense(6, 3),
                              nnx.Softmax()], data="codes"),
    "embedding and residual": Net(lambda: [nnx.Flatten(), nnx.Embedding({1: (4, 3)}, inputs=2), nnx.Dense(4, 6),
                                           nnx.Residual(nnx.ReLU(), nnx.Dense(6, 6)), nnx.Dense(6, 3)],
                                  nnx.SoftmaxCrossEntropy, data="codes", batch=None),
    "norms within": Net(lambda: [nnx.Dense(2, 6), nnx.Residual(nnx.BatchNorm(6), nnx.ReLU(), nnx.Dense(6, 6),
                                                               nnx.LayerNorm(6), nnx.GaussianNoise(0.1)),
                                 nnx.Dense(6, 3), nnx.Softmax()], optimizer=lambda: nnx.SGD(0.05, momentum=0.9)),
    "frozen norms": Net(frozen_norms, optimizer=lambda: nnx.SGD(0.05)),
    "layer norm": Net(mlp(lambda: nnx.LayerNorm(6), nnx.ReLU)),
    "layer norm first": Net(lambda: [nnx.LayerNorm(2, 1e-3), *mlp(nnx.Tanh)()]),
    "batch norm": Net(mlp(lambda: nnx.BatchNorm(6), nnx.ReLU), optimizer=lambda: nnx.SGD(0.1)),
    "batch norm first": Net(lambda: [nnx.BatchNorm(2, momentum=0.5), *mlp(nnx.Tanh)()]),
    "noise": Net(mlp(nnx.ReLU, lambda: nnx.GaussianNoise(0.3))),
    "noise first": Net(lambda: [nnx.GaussianNoise(0.1), *mlp(nnx.Tanh, lambda: nnx.Dropout(0.1))()]),
    "norms": Net(
        mlp(lambda: nnx.BatchNorm(6, epsilon=1e-2), nnx.Sigmoid, lambda: nnx.LayerNorm(6), lambda: nnx.Dropout(0.1),
            lambda: nnx.BatchNorm(6), weight_l2=1e-3),
        optimizer=lambda: nnx.SGD(0.05, momentum=0.9), fit={"sample_weight": weights(50)},
    ),
    "formula": Net(mlp(lambda: Swish(1.5))),
    "formulas in a row": Net(lambda: [Swish(), *mlp(nnx.ReLU, Swish)()], batch=None),
    "loss of a formula": Net(mlp(Swish, last=None), LogCosh, data="numbers", fit={"sample_weight": weights(50)}),
    "loss of a formula, whole": Net(mlp(nnx.Tanh, last=None), LogCosh, data="numbers", batch=None),
    "weights of classes": Net(mlp(nnx.ReLU, last=lambda: Unfused()), fit={"class_weight": {0: 1, 1: 0.5, 2: 3}}),
}  # fmt: skip


OF_FORMULAS = [name for name in NETS if "formula" in name]

# A network for each elementwise function, by its operation's name; those of a layer that has several are added here.
FUNCTIONS: dict[str, Net] = {name: Net(mlp(layer)) for name, layer in ELEMENTWISE.items()}
FUNCTIONS["gelu_tanh"] = Net(mlp(lambda: nnx.GELU("tanh")))
assert FUNCTIONS.keys() == set(NAMES)


class Unfused(nnx.Softmax):
    """Softmax of another class, which therefore is not fused with the loss."""


class Halved(nnx.Sigmoid):
    """Sigmoid of another class."""
