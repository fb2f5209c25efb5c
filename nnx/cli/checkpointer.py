"""Checkpoints of `nnx train`: a callback that keeps the history, and writes the file from which training can resume."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from nnx import checks
from nnx.callbacks import Callback, Model
from nnx.cli.errors import writing
from nnx.cli.stopping import Best
from nnx.errors import InputError
from nnx.history import History

KEY = "history"
LONGEST = 1000  # epochs of history that are kept; of more, only every second is, then every fourth, ...
LARGEST = float(np.finfo(np.float32).max)
SECONDS = 1.0  # at least so long between two saves, and at least ten times as long as a save takes


class Checkpointer(Callback):
    """Keeps the history in the model's metadata, and the model in a file, both in the state at the end of an epoch.

    Args:
        path: the file, or None. steps_per_epoch: shows, after Ctrl-C, whether an epoch is complete.
        best: stops early, and knows which parameters to save; None: all epochs are done, and the last ones are saved.

    Attributes:
        saved_epoch: the epoch after which the file was written, or None.
    """

    def __init__(self, path: Path | None, steps_per_epoch: int, best: Best | None = None) -> None:
        self.path, self.steps_per_epoch, self.best = path, steps_per_epoch, best
        self.saved_epoch: int | None = None
        self._due = time.monotonic() + SECONDS

    def on_fit_begin(self, model: Model) -> None:
        """Continue from the last parameters, not from the best ones."""
        if self.best is not None:
            self.best.on_fit_begin(model)

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Keep the epoch's values, and save if it is time."""
        record(model.metadata, epoch + 1, logs)
        if self.best is not None:
            self.best.on_epoch_end(model, epoch, logs)
        if self.path is not None and time.monotonic() >= self._due:
            self._save(model, self.path)

    def on_fit_end(self, model: Model, history: History) -> None:
        """Save the last complete epoch; end with the best parameters."""
        whole = model.optimizer.iterations == model.epochs_done * self.steps_per_epoch
        if self.path is not None and whole and history.epochs and self.saved_epoch != model.epochs_done:
            self._save(model, self.path)
        if self.best is not None:
            self.best.on_fit_end(model, history)

    def _save(self, model: Model, path: Path) -> None:
        begin = time.monotonic()
        with writing(path), nullcontext() if self.best is None else self.best.in_place(model):
            model.save(path)
        self.saved_epoch = model.epochs_done
        self._due = time.monotonic() + max(SECONDS, 10 * (time.monotonic() - begin))


def record(metadata: dict[str, Any], epoch: int, logs: Mapping[str, float]) -> None:
    """Append an epoch, counted from 1, to a history, and thin the history out if it becomes long.

    Which epochs are kept depends only on their numbers, so that a resumed history equals an uninterrupted one.
    """
    history = metadata.setdefault(KEY, {"every": 1, "epoch": []})
    if epoch % history["every"]:
        return
    history["epoch"].append(epoch)
    for name, value in logs.items():
        # JSON has no infinity; the loss on the test part may become infinite while the training loss does not.
        history.setdefault(name, []).append(float(np.clip(np.nan_to_num(value, nan=LARGEST), -LARGEST, LARGEST)))
    if len(history["epoch"]) > LONGEST:
        history["every"] *= 2
        keep = [i for i, number in enumerate(history["epoch"]) if number % history["every"] == 0]
        for name in curves(metadata):
            history[name] = [history[name][i] for i in keep]


def curves(metadata: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the history that `record` keeps, by name; "epoch" holds the epochs, counted from 1.

    Raises:
        InputError: the metadata are not what `record` writes.
    """
    history = metadata.get(KEY, {"epoch": []})
    try:
        found = {name: values for name, values in history.items() if name != "every"}
        checks.integer(history.get("every", 1), "every")
        if any(len(values) != len(found["epoch"]) or not all(map(_is_number, values)) for values in found.values()):
            raise ValueError("its lists are not all numbers, and as many")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"its history cannot be read: {error}") from error
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
