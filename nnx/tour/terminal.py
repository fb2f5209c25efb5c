"""The terminal that shows the tour: waits when the screen is full, and colours code if rich is installed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence

from nnx.output import Output

PROMPT = "-- Enter: on   q: quit -- "
WIDTH = 78  # of lines, at most: longer ones are hard to read


class Left(Exception):
    """Raised when the user leaves the tour; not an error."""


class Terminal:
    """The output for the pages.

    Attributes:
        waits: whether a user is there who reads and answers; otherwise everything is printed at once.
    """

    def __init__(self) -> None:
        self._out = Output(sys.stdout)
        self.waits = self._out.isatty() and sys.stdin is not None and sys.stdin.isatty()
        self._rows = 0  # since the last pause
        self._coloured = highlighter() if self.waits else None

    @property
    def width(self) -> int:
        """The largest number of columns of a line."""
        return min(shutil.get_terminal_size().columns, WIDTH) if self.waits else WIDTH

    def show(self, lines: Sequence[str], code: Sequence[str] = ()) -> None:
        """Print lines, then lines of code; pause before that if the screen has no room left for them."""
        rows = len(lines) + len(code)
        if self._rows and self._rows + rows > shutil.get_terminal_size().lines - 1:
            self.pause()
        block = "\n".join(code)
        self._out.write("".join(f"{line}\n" for line in lines))
        self._out.write(f"{self._coloured(block) if self._coloured else block}\n" if code else "")
        self._rows += rows
        if self._out.gone:
            raise Left

    def pause(self) -> None:
        """Wait for Enter if a user is there.

        Raises:
            Left: the user typed q, or ended the input.
        """
        if not self.waits:
            return
        self._out.flush()
        try:
            answer = input(PROMPT)
        except EOFError:
            self._out.write("\n")
            raise Left from None
        if answer.strip().lower().startswith("q"):
            raise Left
        self._rows = 0


def highlighter() -> Callable[[str], str] | None:
    """Return a function that colours Python code for this terminal, if rich is installed."""
    try:
        from rich.console import Console
        from rich.syntax import Syntax
    except ImportError:
        return None
    console, syntax = Console(), Syntax("", "python", theme="ansi_dark")

    def coloured(code: str) -> str:
        with console.capture() as shown:
            console.print(syntax.highlight(code), soft_wrap=True, end="")
        return shown.get()

    return coloured
