"""A program as a user writes it: `make lint` has mypy check it against the types that nnx comes with."""

from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nnx


def misses(y_true: NDArray[np.int64], y_pred: NDArray[np.float32]) -> float:
    return float(np.sum(y_pred.argmax(axis=1) != y_true))


class Stop(nnx.callbacks.Callback):
    def on_epoch_end(self, model: nnx.callbacks.Model, epoch: int, logs: Mapping[str, float]) -> None:
        model.stop_training = logs["val_f1"] > 0.9


x, y = nnx.datasets.spiral(samples=20, classes=3, seed=0)
model = nnx.Sequential(nnx.Dense(2, 8), nnx.LeakyReLU(0.1), nnx.Dense(8, 3), nnx.Softmax(), backend="numpy", seed=1)
model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.05, decay=5e-7), metrics=["accuracy", "f1", misses])
history: nnx.History = model.fit(x, y, epochs=2, batch_size=16, validation_split=0.25, callbacks=[Stop()], verbose=0)
losses: list[float] = history["val_loss"]
scores: dict[str, float] = model.evaluate(x, y)
outputs: NDArray[np.float32] = model.predict(x)
best: int = int(model(x[:1]).argmax())
f1: float = nnx.metrics.f1(y, outputs)
with nnx.use_backend("numpy,numpy") as backend:
    name: str = backend.info().ops["softmax"]
error: float = nnx.gradcheck(model, x[:5], y[:5])


# ---- parts of one's own ----------------------------------------------------------------------------------------------


class Swish(nnx.Elementwise):
    def formula(self, x: NDArray[Any]) -> NDArray[Any]:
        value: NDArray[Any] = x / (1 + np.exp(-x))
        return value

    def derivative(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        share: NDArray[Any] = 1 / (1 + np.exp(-x))
        slope: NDArray[Any] = share + y * (1 - share)
        return slope


class Scale(nnx.Layer):
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def forward(self, inputs: NDArray[Any], training: bool = False) -> NDArray[Any]:
        self.inputs, self.output = inputs, nnx.xp.multiply(inputs, self.factor)
        return self.output

    def backward(self, dvalues: NDArray[Any]) -> NDArray[Any]:
        self.dinputs = dvalues * self.factor
        return self.dinputs


class Squares(nnx.Loss):
    def forward(self, y_pred: NDArray[Any], y_true: NDArray[Any]) -> NDArray[Any]:
        losses: NDArray[Any] = np.mean((y_pred - y_true) ** 2, axis=-1)
        return losses

    def backward(self, y_pred: NDArray[Any], y_true: NDArray[Any]) -> NDArray[Any]:
        self.dinputs = 2 * (y_pred - y_true) / y_pred.size
        return self.dinputs


class EachBatch(nnx.callbacks.Callback):
    def on_batch_end(self, model: nnx.callbacks.Model, batch: int, logs: Mapping[str, float]) -> None:
        assert logs["loss"] >= 0


dense = nnx.Dense(2, 1)
weights: NDArray[Any] = dense.weights
own = nnx.Sequential(Scale(2.0), dense, Swish(), backend="numpy").compile(Squares(), nnx.SGD(0.1))
losses = own.fit(x, x[:, 0], callbacks=[EachBatch()], verbose=0)["loss"]
gradient: NDArray[Any] = dense.forward(x)
dense.backward(gradient)
dense.dweights *= 0.5
with TemporaryDirectory() as folder:
    own.save(f"{folder}/own.safetensors")
    loaded: nnx.Sequential = nnx.load(f"{folder}/own.safetensors", backend="numpy", custom=[Scale, Swish, Squares])
