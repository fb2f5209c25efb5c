"""Console output of the commands: labelled lines, coloured and wrapped on a terminal, plain and unwrapped elsewhere."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnx.backends import Resolution
from nnx.backends.printable import printable
from nnx.cli.daily import is_due
from nnx.errors import BackendUnavailable
from nnx.kernels.compiling import heard_by, once
from nnx.output import Output

LABEL = 9  # columns of a label


class Report:
    """Writes to stdout.

    Args:
        quiet: whether to write only the result. verbose: whether to repeat what was said today already.
        silent: whether to write nothing at all, as for all but one of several processes that train together.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False, silent: bool = False) -> None:
        self.quiet, self.verbose = quiet or silent, verbose
        self.console = best_effort(None if silent else sys.stdout)

    @property
    def width(self) -> int:
        """The number of columns of a line: those of the terminal, or 80 if there is none."""
        return self.console.width if self.console.is_terminal else 80

    def line(self, label: str, *texts: str, always: bool = False) -> None:
        """Write a label and beside it the first text; the others follow below it, dimmed."""
        if self.quiet and not always:
            return
        for number, text in enumerate(map(printable, texts)):
            shown, style = (label, "") if number == 0 else ("", "dim")
            if self.console.is_terminal:
                row = Table.grid(padding=(0, 2, 0, 0))
                row.add_column(width=LABEL, style="bold cyan", no_wrap=True)
                row.add_column(overflow="fold", style=style)
                row.add_row(shown, Text(text))
                self.console.print(row)
            else:
                self.console.print(f"{shown:<{LABEL}}  {text}".rstrip(), soft_wrap=True)

    def compiling(self) -> AbstractContextManager[None]:
        """Return a context in which the report says so if kernels are compiled."""
        return nullcontext() if self.quiet else heard_by(once(lambda text: self.line("compiling", text)))

    def text(self, line: str) -> None:
        """Write a line unchanged."""
        self.console.print(Text(line), soft_wrap=True)

    def gap(self) -> None:
        """Write an empty line."""
        if not self.quiet:
            self.console.print()


def best_effort(stream: Any) -> Console:
    """Return a console on stdout or stderr for messages whose loss must not end the work."""
    return Console(file=cast(IO[str], Output(stream)), highlight=False, emoji=False, markup=False)


def explain(resolution: Resolution, verbose: bool = True) -> tuple[str, ...]:
    """Return which backend is used and why, then why each one before it is not; if nobody chose, only once a day."""
    backend = resolution.backend
    threads = backend.threads()
    works = f"{threads} thread{'s' if threads != 1 else ''}" if threads else ""
    where = ", ".join(filter(None, [f"on {backend.device}", works]))
    why = "the best that works here" if resolution.wish == "auto" else f"you asked for {resolution.wish}"
    skipped = list(map(_skipped, resolution.skipped))
    if resolution.wish == "auto" and not verbose and skipped and not is_due("\n".join(skipped)):
        skipped = []
    return f"{backend.name} {where}: {why}", *skipped


def _skipped(missing: BackendUnavailable) -> str:
    return f"not {missing.name}: {missing.reason}. {missing.remedy}"


def seconds(value: float) -> str:
    """Return a duration as text."""
    if value < 0.1:
        return f"{value * 1000:.0f} ms" if value >= 0.001 else f"{value * 1000:.2g} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"
