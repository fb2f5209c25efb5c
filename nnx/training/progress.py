"""Progress display of a fit: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from nnx.output import Output

SILENT_SECONDS = 2.0  # at most so often a line, where there is no terminal
DRAWN_SECONDS = 0.1  # at most so often the bar


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

    def __init__(self, epochs: int, first_epoch: int) -> None:
        super().__init__(epochs, first_epoch)
        self._output, self._last = Output(sys.stdout), 0.0

    def log(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Print the line, if it is time."""
        number, total = epoch + 1, self.first_epoch + self.epochs
        if epoch != self.first_epoch and number != total and time.monotonic() - self._last < SILENT_SECONDS:
            return
        self._last = time.monotonic()
        self._output.write(f"epoch {number}/{total}  {describe(logs)}\n")
        self._output.flush()


class Bar(Progress):
    """A bar with the epoch, its values and the time left, drawn by rich in this thread: there may be no other."""

    def __enter__(self) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        columns = [
            TextColumn("epoch"),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            # Where there are too few columns for all, the values take a second line, and nothing is cut.
            TextColumn("{task.description}", markup=False, table_column=Column()),
        ]
        self._bar: Any = RichProgress(*columns, auto_refresh=False)
        self._done, self._drawn = float(self.first_epoch), 0.0
        try:
            self._bar.start()
        except Exception:  # the terminal has gone, or shows another bar beside which rich draws none
            return Lines(self.epochs, self.first_epoch)
        total = self.first_epoch + self.epochs
        self._task = self._bar.add_task("", total=total, completed=self.first_epoch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):  # here and below: a terminal that has gone is no reason for a training to fail
            self._bar.stop()

    def advance(self, epochs: float) -> None:
        """Move the bar."""
        self._done += epochs
        self._update(completed=self._done + 1e-9)

    def log(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Write the values beside the bar."""
        self._update(description=describe(logs))

    def _update(self, **what: Any) -> None:
        now = time.monotonic()
        due = now - self._drawn >= DRAWN_SECONDS
        if due:
            self._drawn = now
        with suppress(Exception):
            self._bar.update(self._task, refresh=due, **what)


def describe(logs: Mapping[str, float]) -> str:
    """Return the values in one line; of a regularized network's losses only the sum."""
    parts = ("data_loss", "regularization_loss")
    return "  ".join(f"{name} {value:.4f}" for name, value in logs.items() if name not in parts)


def make(verbose: Any, epochs: int, first_epoch: int) -> Progress:
    """Return what `verbose` asks for: "auto" or true shows, a bar where it can; false is silent."""
    if not verbose:
        return Progress(epochs, first_epoch)
    if Output(sys.stdout).isatty():
        try:
            import rich  # noqa: F401

            return Bar(epochs, first_epoch)
        except ImportError:
            pass
    return Lines(epochs, first_epoch)
