"""Programs of several processes, which test_distributed.py runs under mpiexec: python ranks.py NAME ARGUMENTS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import nnx

ROWS, STEP = 150, 6  # samples; the epoch in which a rank fails
X, Y = nnx.datasets.spiral(ROWS // 3, 3)
WEIGHTS = np.random.default_rng(0).random(ROWS)


def network(*more: nnx.Layer, dtype: str = "float64", backend: str = "numpy", width: int = 16) -> nnx.Sequential:
    first = nnx.Dense(2, width, weight_l2=1e-3, bias_l1=1e-4)
    model = nnx.Sequential(first, nnx.ReLU(), *more, nnx.Dense(width, 3), nnx.Softmax(), backend=backend, dtype=dtype)
    return model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.02, decay=1e-3), metrics=["accuracy", "f1"])


def trainings() -> dict[str, np.ndarray]:
    """Numbers of trainings, by name: those of "exact" are to be the same bit for bit, all others to rounding."""
    found: dict[str, np.ndarray] = {}

    def train(name: str, model: nnx.Sequential, **options: Any) -> None:
        history = model.fit(X, Y, **{"epochs": 10, "batch_size": 37, "verbose": 0, **options})
        found[f"{name} parameters"] = np.array(model.flat.state)
        for quantity in history.history:
            found[f"{name} {quantity}"] = np.array(history[quantity])

    train("500 steps", network(), epochs=100)  # of uneven parts, and a last batch of two rows
    train("random numbers", network(nnx.Dropout(0.2), nnx.GaussianNoise(0.1)))
    train("fewer rows than ranks", network(), batch_size=2, epochs=2)
    train("one batch", network(), batch_size=None)
    train("weights", network(), sample_weight=WEIGHTS, class_weight="balanced")
    train("validation", network(), validation_data=(X[:70], Y[:70], WEIGHTS[:70]), validation_split=0.0)
    model = network()
    found["single steps"] = np.concatenate([model.steps(X[:n], Y[:n], 3) for n in (50, 3, 50)])
    train("exact", network(nnx.Dropout(0.2), dtype="float32"), deterministic=True)
    return found


class Watch(nnx.callbacks.Callback):
    """Does something after the epoch STEP."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def on_epoch_end(self, model: Any, epoch: int, logs: Mapping[str, float]) -> None:
        if model.epochs_done == STEP:
            self.act(model)


def agree(out: str) -> None:
    """Train in several ways, and meet what differs from rank to rank."""
    comm = nnx.distributed.init()
    found = trainings()
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
    if comm.leads:
        np.savez(out, told=np.array(repr(told)), **found)


def compiled(out: str) -> None:
    """Train a network that Numba takes piece by piece, with its random numbers."""
    comm = nnx.distributed.init()
    more = nnx.Dense(512, 64), nnx.LeakyReLU(), nnx.Dense(64, 512), nnx.Dropout(0.2)
    model = network(*more, backend="numba", width=512)
    history = model.fit(X, Y, epochs=5, batch_size=60, verbose=0)
    narrow = network(nnx.Dropout(0.2), backend="numba")
    narrow.fit(X, Y, epochs=5, batch_size=60, verbose=0)
    assert model.replay_reason is None
    assert narrow.replay_reason is None
    if comm.leads:
        np.savez(out, state=model.flat.state, loss=history["loss"], narrow=narrow.flat.state)


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


def copies() -> None:
    """Train without a word to the other processes."""
    network().fit(X, Y, epochs=1, verbose=0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
