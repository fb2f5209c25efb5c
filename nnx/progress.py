"""How a fit shows how far it is: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

SILENT_SECONDS = 2.0  # at most so often a line, where there is no terminal


class Progress:
    """Shows nothing; the base of those that do."""

    def __init__(self, epochs: int, first_epoch: int) -> None:
        self.epochs, self.first_epoch = epochs, first_epoch

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def advance(self, epochs: float) -> None:
        """Go on by a part of an epoch, or by several."""

    def log(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Show an epoch's values."""


class Lines(Progress):
    """One line for the first and the last epoch, and for those in between that come at least two seconds apart."""

    _last = 0.0

    def log(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Print the line, if it is time."""
        number, total = epoch + 1, self.first_epoch + self.epochs
        if epoch != self.first_epoch and number != total and time.monotonic() - self._last < SILENT_SECONDS:
            return
        self._last = time.monotonic()
        print(f"epoch {number}/{total}  {describe(logs)}", flush=True)


class Bar(Progress):
    """A bar with the epoch, its values and the time left, drawn by rich."""

    def __enter__(self) -> Progress:
        from rich.errors import LiveError
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = [
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        ]
        self._bar: Any = RichProgress(*columns)
        try:
            self._bar.start()
        except LiveError:  # another bar is being drawn; older versions of rich draw one at a time
            return Lines(self.epochs, self.first_epoch)
        total = self.first_epoch + self.epochs
        self._task = self._bar.add_task("", total=total, completed=self.first_epoch)
        self._done = float(self.first_epoch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, epochs: float) -> None:
        """Move the bar."""
        self._done += epochs
        self._bar.update(self._task, completed=self._done + 1e-9)

    def log(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Write the values beside the bar."""
        self._bar.update(self._task, description=describe(logs))


def describe(logs: Mapping[str, float]) -> str:
    """Return the values in one line; of a regularized network's losses only the sum."""
    parts = ("data_loss", "regularization_loss")
    return "  ".join(f"{name} {value:.4f}" for name, value in logs.items() if name not in parts)


def make(verbose: Any, epochs: int, first_epoch: int) -> Progress:
    """Return what `verbose` asks for: "auto" or true shows, a bar where it can; false is silent."""
    if not verbose:
        return Progress(epochs, first_epoch)
    if sys.stdout is not None and sys.stdout.isatty():
        try:
            import rich  # noqa: F401

            return Bar(epochs, first_epoch)
        except ImportError:
            pass
    return Lines(epochs, first_epoch)
