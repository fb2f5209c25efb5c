"""Callbacks that write files: the model itself, and a CSV file with a line for each epoch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from nnx import checks
from nnx.callbacks.callback import Callback, Model
from nnx.callbacks.monitor import Monitor
from nnx.distributed import current
from nnx.errors import InputError
from nnx.files import as_path, naming, refuse_other_format
from nnx.history import History

FILLED_IN = re.compile(r"\{[A-Za-z_]\w*(?::[^{}]*)?\}")  # a placeholder like {epoch:02d}, as in other libraries


class ModelCheckpoint(Monitor):
    """Save the model after an epoch, so that a killed process loses only the epochs since then.

    Args:
        path: the file, in the format of `Sequential.save`.
        monitor: a quantity: save only when it has improved; None: after every epoch.
        every: save only after every so many epochs, and at the end. mode: see `Monitor`.
    """

    def __init__(
        self, path: str | os.PathLike[str], monitor: str | None = None, every: int = 1, mode: str = "auto"
    ) -> None:
        super().__init__("loss" if monitor is None else monitor, mode)
        self.path, self.only_best = as_path("ModelCheckpoint", path), monitor is not None
        if blank := FILLED_IN.search(self.path.name):
            raise InputError(
                f"ModelCheckpoint({str(path)!r}): {blank[0]} is not filled in, the one file is written again and "
                "again; for a file an epoch, call model.save(...) in on_epoch_end of a callback of your own"
            )
        refuse_other_format(f"ModelCheckpoint({str(path)!r})", self.path)
        self.every = checks.integer(every, "ModelCheckpoint: every")
        self._saved_epoch = -1

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Save, if this epoch is one to save after."""
        due = self.improved(epoch, logs) if self.only_best else (epoch + 1) % self.every == 0
        if due:
            self._save(model)

    def on_fit_end(self, model: Model, history: History) -> None:
        """Save after the last epoch, unless a monitor decides or the fit ended in the middle of an epoch."""
        super().on_fit_end(model, history)
        if not self.only_best and history.complete and self._saved_epoch != model.epochs_done:
            self._save(model)

    def _save(self, model: Model) -> None:
        model.save(self.path)
        self._saved_epoch = model.epochs_done


class CSVLogger(Callback):
    """Write each epoch's values to a CSV file; every line is written at once, so a killed process loses none.

    Args:
        path: the file. append: whether to continue an existing file instead of overwriting it.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path, self.append = as_path("CSVLogger", path), checks.flag(append, "CSVLogger: append")
        self._begun = False

    def check_columns(self, measured: Sequence[str]) -> None:
        """Raise InputError if the file to continue has other columns. A fit calls it before it begins."""
        if not (self.append and self.path.is_file()):
            return
        import csv

        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            names = next(csv.reader(file), [])
        if names and names != ["epoch", *measured]:
            raise InputError(
                f"CSVLogger: {self.path} has the columns {', '.join(names)}, this fit writes "
                f"epoch, {', '.join(measured)}; name another file, or say append=False to begin it anew"
            )

    def on_fit_begin(self, model: Model) -> None:
        """Begin the file, so that one which cannot be written raises its error before training."""
        if not current().leads:  # only one of several processes writes
            return
        self._begun = self.append and self.path.exists() and self.path.stat().st_size > 0
        with naming(self.path), self.path.open("ab+" if self._begun else "wb") as file:
            if self._begun:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # an earlier process was killed, or the disk was full, within a line
                    file.write(b"\r\n")

    def on_epoch_end(self, model: Model, epoch: int, logs: Mapping[str, float]) -> None:
        """Append a line."""
        if not current().leads:
            return
        import csv

        with naming(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if not self._begun:
                writer.writerow(["epoch", *logs])
                self._begun = True
            writer.writerow([epoch, *(repr(float(value)) for value in logs.values())])
