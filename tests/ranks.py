"""Programs of several processes, which test_distributed.py runs under mpiexec: python ranks.py NAME ARGUMENTS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import nnx
from nnx.data import shards
from nnx.data.stored import Stored

ROWS, STEP = 150, 6  # samples; the epoch in which a rank fails
X, Y = nnx.datasets.spiral(ROWS // 3, 3)
WEIGHTS = np.random.default_rng(0).random(ROWS)


def network(*more: nnx.Layer, dtype: str = "float64", backend: str = "numpy", width: int = 16) -> nnx.Sequential:
    first = nnx.Dense(2, width, weight_l2=1e-3, bias_l1=1e-4)
    model = nnx.Sequential(first, nnx.ReLU(), *more, nnx.Dense(width, 3), nnx.Softmax(), backend=backend, dtype=dtype)
    return model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.02, decay=1e-3), metrics=["accuracy", "f1"])


def write(folder: Path, x: np.ndarray = X, y: np.ndarray = Y, cuts: tuple[int, ...] = (20, 21, 90)) -> str:
    """Write samples as shards of uneven sizes, with weights and without."""
    for name in ("plain", "weighted"):
        (folder / name).mkdir(parents=True)
        for number, rows in enumerate(np.split(np.arange(len(x)), cuts)):
            np.save(folder / name / f"x_{number}.npy", x[rows])
            np.save(folder / name / f"y_{number}.npy", y[rows])
            if name == "weighted":
                np.save(folder / name / f"w_{number}.npy", WEIGHTS[rows % ROWS])
    return str(folder / "plain")


def batches(count: int = 9) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of 17 rows, and a last one of 14."""
    for i in range(count):
        yield X[17 * i : 17 * (i + 1)], Y[17 * i : 17 * (i + 1)]


def trainings(folder: str) -> dict[str, np.ndarray]:
    """Numbers of trainings, by name: those of "exact" are to be the same bit for bit, all others to rounding.

    Args:
        folder: where `write` wrote the samples.
    """
    found: dict[str, np.ndarray] = {}

    def train(name: str, model: nnx.Sequential, *data: Any, **options: Any) -> None:
        history = model.fit(*(data or (X, Y)), **{"epochs": 10, "batch_size": 37, "verbose": 0, **options})
        found[f"{name} parameters"] = np.array(model.flat.state)
        for quantity in history.history:
            found[f"{name} {quantity}"] = np.array(history[quantity])

    train("500 steps", network(), epochs=100)  # of uneven parts, and a last batch of two rows
    train("random numbers", network(nnx.Dropout(0.2), nnx.GaussianNoise(0.1)))
    train("fewer rows than ranks", network(), batch_size=2, epochs=2)
    train("one batch", network(), batch_size=None)
    train("weights", network(), sample_weight=WEIGHTS, class_weight="balanced")
    train("validation", network(), validation_data=(X[:70], Y[:70], WEIGHTS[:70]), validation_split=0.0)
    within = nnx.Residual(nnx.Dense(16, 16), nnx.Tanh(), nnx.BatchNorm(16))
    train("means of batches", network(nnx.BatchNorm(16), within), epochs=5)
    train(
        "a batch in several",
        network(nnx.BatchNorm(16), nnx.Dropout(0.2)),
        accumulate=3,
        sample_weight=WEIGHTS,
        epochs=5,
    )
    train("sums begun ahead", network(nnx.Dense(300, 300), width=300), epochs=2)
    model = network()
    found["single steps"] = np.concatenate([model.steps(X[:n], Y[:n], 3) for n in (50, 3, 50)])
    train("exact", network(nnx.Dropout(0.2), dtype="float32"), deterministic=True)
    train("exact, a batch in several", network(), deterministic=True, accumulate=2, epochs=3)

    def read(kind: str = "plain", window: int = 64) -> Any:
        return shards(f"{folder}/{kind}", window=window)

    train("500 steps from shards", network(), read(window=128), epochs=36, batch_size=11)  # chunks of five batches
    few: dict[str, Any] = {"epochs": 3, "batch_size": 11}
    held_out = {"validation_split": 0.4, "class_weight": "balanced"}
    train("shards with weights", network(), read("weighted", 16), **{**few, "batch_size": 7}, **held_out)
    validation = read("weighted", 16)
    train("shards in order", network(), read(), shuffle=False, validation_data=validation, **few)
    train("few rows from shards", network(), read(), batch_size=2, epochs=1)
    train("shards that fit into memory", network(), f"{folder}/plain", **few)
    train("shards, a batch in several", network(), read(), batch_size=7, accumulate=3, epochs=3)
    train("weighted shards, a batch in several", network(), read("weighted", 16), batch_size=4, accumulate=2, epochs=3)
    train("batches", network(), batches, validation_data=lambda: batches(5), epochs=3)
    exact = {"deterministic": True, "validation_data": validation, **few}
    train("exact from shards", network(nnx.Dropout(0.2), dtype="float32"), read("weighted"), **exact)
    train("exact from batches", network(dtype="float32"), batches, **{**exact, "batch_size": 16})
    return found


def wrong_data(folder: str, out: Path) -> list[str]:
    """The errors of fits of data that are wrong on the last rank alone, or of which one alone reads what is wrong."""
    comm = nnx.distributed.current()
    last, errors = comm.rank == comm.size - 1, list[str]()

    def fit(*data: Any, **options: Any) -> None:
        model = network()
        try:
            model.fit(*data, **{"epochs": 2, "batch_size": 12, "verbose": 0, **options})
        except Exception as error:
            errors.append(f"{type(error).__name__} {model.epochs_done} {error}")

    def some(count: int, reason: Exception | None = None) -> Iterator[Any]:
        yield from batches(count if last else 9)
        if last and reason is not None:
            raise reason

    place, many, labels = out / str(comm.rank), np.tile(X, (8, 1)), np.tile(Y, 8)
    many[1000] = np.nan  # which is none of those that are looked at before
    shorter, other = write(place / "a", X[last:]), write(place / "b", np.where(last, X + 1, X))
    missing, broken = write(place / "c"), write(place / "d", many, labels)
    if last:
        os.remove(f"{missing}/y_2.npy")
    fit(shards(shorter, window=64))
    fit(shards(other, window=64))
    fit(missing)
    fit(shards(broken, window=64))
    fit(shards(f"{folder}/plain", window=64), validation_data=shards(broken, window=16))
    fit(lambda: some(6))
    fit(lambda: some(6, ValueError("no more")))
    fit(np.where(last, np.nan, X), Y)
    fit(shards(f"{folder}/plain", window=64), class_weight={0: 1.0, 1: 2.0, 2: 3.0 + last})
    return errors


class Watch(nnx.callbacks.Callback):
    """Does something after the epoch STEP."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def on_epoch_end(self, model: Any, epoch: int, logs: Mapping[str, float]) -> None:
        if model.epochs_done == STEP:
            self.act(model)


def agree(out: str, folder: str) -> None:
    """Train in several ways, and meet what differs from rank to rank."""
    comm = nnx.distributed.init()
    found = trainings(folder)
    last = comm.rank == comm.size - 1
    errors = []
    for x, options in ((X + last, {}), (X, {"epochs": 2 + last}), (X, {"batch_size": 37 + last})):
        try:
            network().fit(x, Y, **{"epochs": 1, "verbose": 0, **options})
        except nnx.InputError as error:
            errors.append(str(error))
    model = network()  # stopped by one rank alone
    stop = Watch(lambda model: setattr(model, "stop_training", comm.rank == comm.size - 1))
    log = nnx.callbacks.CSVLogger(f"{out}.{comm.rank}.csv")
    model.fit(X, Y, epochs=30, batch_size=37, callbacks=[stop, log])
    model.save(f"{out}.{comm.rank}.safetensors")
    told = comm.gather((comm.rank, model.epochs_done, errors, comm.local_size))
    wrong = comm.gather(wrong_data(folder, Path(folder) / f"{comm.size}"))
    if comm.leads:
        np.savez(out, told=np.array(repr((told, wrong))), **found)


def compiled(out: str) -> None:
    """Train a network that Numba takes piece by piece, with its random numbers."""
    comm = nnx.distributed.init()
    more = nnx.Dense(512, 64), nnx.LeakyReLU(), nnx.Dense(64, 512), nnx.Dropout(0.2)
    model = network(*more, backend="numba", width=512)
    history = model.fit(X, Y, epochs=5, batch_size=60, verbose=0)
    narrow = network(nnx.Dropout(0.2), backend="numba")
    narrow.fit(X, Y, epochs=5, batch_size=60, verbose=0)
    pooled = [network(nnx.BatchNorm(width), backend="numba", width=width) for width in (16, 100)]
    for each in pooled:
        each.fit(X, Y, epochs=5, batch_size=30, accumulate=2, verbose=0)
    for each in (model, narrow, *pooled):
        assert each.replay_reason is None, each.replay_reason
        assert comm.size == 1 or "sum" in each._trainer.ran.description
    assert comm.size == 1 or "begun as they are ready" in model._trainer.ran.description
    if comm.leads:
        states = {f"state {number}": each.flat.state for number, each in enumerate((model, narrow, *pooled))}
        np.savez(out, loss=history["loss"], **states)


def fail(how: str, path: str) -> None:
    """Let rank 1 fail in the middle of a fit; the file is rank 0's."""
    comm = nnx.distributed.init()

    def act(model: Any) -> None:
        if comm.rank != 1:
            return
        match how:
            case "raise":
                raise ValueError("the reason")
            case "exit":
                sys.exit(0)
            case "_exit":
                os._exit(0)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "sleep":
                time.sleep(600)
            case "link":
                subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)

    save = nnx.callbacks.ModelCheckpoint(path)
    model = network(nnx.Dropout(0.2))
    model.fit(X, Y, epochs=12, batch_size=37, verbose=0, deterministic=True, callbacks=[save, Watch(act)])
    Path(path).with_suffix(".done").touch()


def memory(window: str) -> None:
    """Train on x.npy and y.npy; print the peak of each rank's resident memory, and how many rows it read."""
    comm = nnx.distributed.init()
    counts, read = list[int](), Stored.read

    def counted(self: Stored, first: int, count: int, *room: Any) -> np.ndarray:
        counts.append(count if self.shape else 0)
        return read(self, first, count, *room)

    Stored.read = counted  # type: ignore[method-assign]
    model = nnx.Sequential(nnx.Dense(1024, 2), nnx.Softmax(), backend="numpy")
    model.compile(nnx.CategoricalCrossEntropy(), nnx.SGD(0.1))
    history = model.fit(shards([("x.npy", "y.npy")], window=int(window)), batch_size=256, verbose=0)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    told = comm.gather([peak, sum(counts), history.streamed])
    if comm.leads:
        print(json.dumps(told))


def copies() -> None:
    """Train without a word to the other processes."""
    network().fit(X, Y, epochs=1, verbose=0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
