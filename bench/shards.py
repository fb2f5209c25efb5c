"""Fashion-MNIST from shards on disk, of which each process reads its own: the accuracy of one process.

    python bench/shards.py write FOLDER [DATA]
    python bench/shards.py train FOLDER [EPOCHS]
    mpiexec -n 2 python bench/shards.py train FOLDER [EPOCHS]

The first writes ten shards of uneven sizes, and the test set, into a new folder; DATA holds the four files that it
reads, and without it `nnx.datasets` finds or downloads them. The others print a line of JSON.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

import nnx
from nnx.data.stored import Stored

CUTS = np.linspace(0, 1, 11) ** 1.5  # the last shard has five times as many rows as the first


def write(folder: str, data: str | None = None) -> None:
    """Write the training set as shards, and the test set."""
    x, y, x_test, y_test = nnx.datasets.fashion_mnist(data)
    mixed = np.random.default_rng(0).permutation(len(x))  # copies that are sorted by class are about
    train = Path(folder) / "train"
    train.mkdir(parents=True)
    for number, (first, end) in enumerate(pairwise((CUTS * len(x)).astype(int).tolist())):
        np.save(train / f"x_{number}.npy", x[mixed[first:end]])
        np.save(train / f"y_{number}.npy", y[mixed[first:end]])
    np.savez(Path(folder) / "test.npz", x=x_test, y=y_test)


def count_reads() -> list[int]:
    """Have each read of inputs note its rows."""
    rows, read = list[int](), Stored.read

    def counted(self: Stored, first: int, count: int, *room: object) -> np.ndarray:
        rows.append(count if self.shape else 0)
        return read(self, first, count, *room)  # type: ignore[arg-type]

    Stored.read = counted  # type: ignore[method-assign]
    return rows


def peak() -> float:
    """Return the most memory that this process has had, in MB; nan where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM")), float("nan"))


def train(folder: str, epochs: str = "5") -> None:
    """Train a network from the shards, and tell how good it is, and what each process read and held."""
    comm, rows = nnx.distributed.init(), count_reads()
    layers = nnx.Dense(784, 256), nnx.ReLU(), nnx.Dense(256, 128), nnx.ReLU(), nnx.Dense(128, 10), nnx.Softmax()
    model = nnx.Sequential(*layers).compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.001))
    history = model.fit(f"{folder}/train", epochs=int(epochs), batch_size=256, verbose=0)
    told = comm.gather((sum(rows), peak()))
    scores = model.evaluate(f"{folder}/test.npz")
    if comm.leads:
        found = {
            "processes": comm.size, "backend": str(model.backend), "epochs": int(epochs), "loss": history["loss"][-1],
            "test accuracy": scores["accuracy"], "seconds": history.seconds, "streamed": history.streamed,
            "rows read by each": [count for count, _ in told], "peak MB of each": [round(size) for _, size in told],
        }  # fmt: skip
        print(json.dumps(found))


if __name__ == "__main__":
    {"write": write, "train": train}[sys.argv[1]](*sys.argv[2:])
