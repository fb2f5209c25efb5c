"""Progress display of a fit: a bar on a terminal, elsewhere a line every few seconds, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any

from nnx.backends.printable import printable
from nnx.kernels import compiling
from nnx.output import Output, say

SILENT_SECONDS = 2.0  # at least so long between two lines, where there is no terminal
DRAWN_SECONDS = 0.1  # at least so long between two drawings of the bar


class Progress:
    """Shows nothing; the base of the classes that show something."""

    def __init__(self, epochs: int, first_epoch: int) -> None:
        self.epochs, self.first_epoch = epochs, first_epoch
        self._block = ExitStack()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.close()

    def advance(self, epochs: float) -> None:
        """Add to the epochs done, a fraction or more."""

    def log(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Show an epoch's values."""


class Lines(Progress):
    """A line for the first and the last epoch, and, at least two seconds apart, for some in between."""

    def __init__(self, epochs: int, first_epoch: int) -> None:
        super().__init__(epochs, first_epoch)
        self._output, self._last = Output(sys.stdout), 0.0
        self._untold: tuple[int, Mapping[str, float]] | None = None

    def __enter__(self) -> Progress:
        if not compiling.is_heard():  # the command line reports compiling by itself
            self._block.enter_context(compiling.heard_by(compiling.once(say)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._untold is not None:  # the last epoch, of a fit that ended early, was not printed yet
            self._print(*self._untold)

    def log(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Print the line, if this epoch is one to print."""
        last = epoch + 1 == self.first_epoch + self.epochs
        if epoch != self.first_epoch and not last and time.monotonic() - self._last < SILENT_SECONDS:
            self._untold = epoch, logs
            return
        self._print(epoch, logs)

    def _print(self, epoch: int, logs: Mapping[str, float]) -> None:
        self._last, self._untold = time.monotonic(), None
        self._output.write(f"epoch {epoch + 1}/{self.first_epoch + self.epochs}  {'  '.join(described(logs))}\n")
        self._output.flush()


class Bar(Progress):
    """A bar with the epoch, the time left and the values, drawn by rich; in this thread, since others may not start."""

    def __enter__(self) -> Progress:
        from nnx.training.bar import Shown

        total = self.first_epoch + self.epochs
        self._bar = Shown(total, self.first_epoch)
        self._done, self._drawn, self._waits = float(self.first_epoch), 0.0, False
        try:
            self._bar.start()
        except Exception:  # the terminal is gone, or shows another bar already, besides which rich draws none
            return self._block.enter_context(Lines(self.epochs, self.first_epoch))
        self._block.enter_context(compiling.heard_by(self._compiling))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        with suppress(Exception):  # here and below: training must not fail because the terminal is gone
            self._bar.stop()

    def advance(self, epochs: float) -> None:
        """Move the bar."""
        if self._waits:
            self._waits = False
            self._bar.clear()
        self._done += epochs
        self._update(self._done + 1e-9)

    def log(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Write the values beside the bar."""
        self._bar.values = described(logs)
        self._update()

    def _compiling(self, seconds: float) -> None:
        """Show, in the place of the values, for how long something has been compiling."""
        self._waits = True
        self._bar.values = [f"first use here: compiling, {seconds:.0f} s (of {compiling.USUAL}, once)"]
        self._update()

    def _update(self, done: float | None = None) -> None:
        now = time.monotonic()
        due = now - self._drawn >= DRAWN_SECONDS
        if due:
            self._drawn = now
        with suppress(Exception):
            self._bar.move(done, due)


def described(logs: Mapping[str, float]) -> list[str]:
    """Return "name value" texts; of the losses of a regularized network only the sum."""
    parts = ("data_loss", "regularization_loss")
    return [f"{printable(name)} {_number(value)}" for name, value in logs.items() if name not in parts]


def _number(value: float) -> str:
    """Return a value with four decimals, or with four significant digits if it is too small or too large for that."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.4g}"


def make(verbose: Any, epochs: int, first_epoch: int) -> Progress:
    """Return the display for `verbose`: nothing if it is false, else a bar on a terminal and lines elsewhere."""
    if not verbose:
        return Progress(epochs, first_epoch)
    if Output(sys.stdout).isatty():
        with suppress(ImportError):
            from rich import get_console

            console = get_console()
            if console.is_terminal and not console.is_dumb_terminal:  # a dumb one would show the bar only at the end
                return Bar(epochs, first_epoch)
    return Lines(epochs, first_epoch)
