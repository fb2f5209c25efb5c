"""Training history, which `fit` returns: loss and accuracy, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class History(dict[str, list[float]]):
    """A dict from the name of a quantity to its value in each epoch: "loss", "accuracy", "val_loss", ...

    So `pandas.DataFrame(history)`, `json.dump(history, file)` and `matplotlib.pyplot.plot(history["loss"])` take it.

    "loss" is what training minimises. Where layers are regularized, it is the sum of "data_loss" and
    "regularization_loss", which are then listed too. Each is the mean over the epoch's samples, measured during
    training. The "val_..." quantities are measured after the epoch, without regularization, and include all metrics;
    of the metrics, training itself measures the accuracy alone.

    Attributes:
        first_epoch: the number of the first epoch of this fit; 0 for a new model.
        interrupted: whether Ctrl-C ended the fit early. complete: whether the fit ended neither by that nor by an
            error, so that no epoch is half done.
        seconds: time spent in training steps. samples: how many samples were trained on, counted anew in each epoch.
        streamed: why and how the samples were streamed to the device; None if all of them were there at once.
    """

    def __init__(self, first_epoch: int = 0) -> None:
        super().__init__()
        self.first_epoch = first_epoch
        self.interrupted = False
        self.complete = False
        self.seconds = 0.0
        self.samples = 0
        self.streamed: str | None = None

    def add(self, logs: Mapping[str, float]) -> None:
        """Append one epoch's values."""
        for name, value in logs.items():
            self.setdefault(name, []).append(float(value))

    def extend(self, logs: Mapping[str, np.ndarray]) -> None:
        """Append the values of several epochs."""
        for name, values in logs.items():
            if len(values):
                self.setdefault(name, []).extend(values.tolist())

    @property
    def history(self) -> dict[str, list[float]]:
        """The same as a plain dict, under the name that Keras has for it."""
        return dict(self)

    @property
    def epochs(self) -> int:
        """How many epochs were completed."""
        return len(self.get("loss", ()))

    @property
    def samples_per_second(self) -> float:
        """Training throughput."""
        return self.samples / self.seconds if self.seconds else 0.0

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.items())
        return f"<History of {self.epochs} epochs{': ' + last if last else ''}>"
