"""What `fit` returns: how loss and accuracy went, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class History(Mapping[str, list[float]]):
    """A read-only mapping from a quantity to its value after each epoch: "loss", "accuracy", "val_loss", ...

    "loss" is what training minimises. Where layers are regularized it is the sum of "data_loss" and
    "regularization_loss", which are then listed too. Each is the mean over the epoch's samples, taken while training;
    "val_..." are taken after the epoch, without regularization.

    Attributes:
        first_epoch: the number of the first epoch of this fit; 0 for a new model.
        interrupted: Ctrl-C ended the fit early. complete: neither that nor an error did, so no epoch is half done.
        seconds: time spent in training steps. samples: samples trained on, each epoch anew.
        streamed: why the data set was streamed to the device, and how; None where all of it was there.
    """

    def __init__(self, first_epoch: int = 0) -> None:
        self.first_epoch = first_epoch
        self.interrupted = False
        self.complete = False
        self.seconds = 0.0
        self.samples = 0
        self.streamed: str | None = None
        self._lists: dict[str, list[float]] = {}

    def add(self, logs: Mapping[str, float]) -> None:
        """Append one epoch's values."""
        for name, value in logs.items():
            self._lists.setdefault(name, []).append(value)

    @property
    def epochs(self) -> int:
        """How many epochs were completed."""
        return len(self._lists.get("loss", ()))

    @property
    def samples_per_second(self) -> float:
        """Training throughput."""
        return self.samples / self.seconds if self.seconds else 0.0

    def __getitem__(self, name: str) -> list[float]:
        return self._lists[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lists)

    def __len__(self) -> int:
        return len(self._lists)

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self._lists.items())
        return f"<History of {self.epochs} epochs{': ' + last if last else ''}>"
