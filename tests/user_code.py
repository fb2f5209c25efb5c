"""A program as a user writes it: `make lint` has mypy check it against the types that nnx comes with."""

from collections.abc import Mapping

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
