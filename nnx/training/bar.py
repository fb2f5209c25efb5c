"""The progress bar of a fit for any width of terminal: epoch, bar and time left, then the values, if need be below."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

LONGEST = 20  # columns of the bar itself
GAP = 2  # columns between two values


class Shown(Progress):
    """Epoch, bar and time left, with the values beside them if one line has room for all, else in lines below.

    Attributes:
        values: "name value" texts; one that fits into a line is never broken.
    """

    def __init__(self, total: int, done: int) -> None:
        self.values: list[str] = []
        self._below = False  # once True it stays: values that jump up and down cannot be read
        self._length = BarColumn(bar_width=LONGEST)
        whole = Column(no_wrap=True)
        super().__init__(
            TextColumn("epoch", table_column=whole), MofNCompleteColumn(table_column=whole), self._length,
            TimeRemainingColumn(table_column=whole), auto_refresh=False,
        )  # fmt: skip
        self.add_task("", total=total, completed=done)

    def clear(self) -> None:
        """Remove the values."""
        self.values, self._below = [], False

    def move(self, done: float | None, draw: bool) -> None:
        """Set how many epochs are done, and, if `draw`, show it now."""
        self.update(self.task_ids[0], completed=done, refresh=draw)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield what rich draws, line by line."""
        if not self.tasks:  # rich asks before it has a console
            return
        width = self.console.width
        self._length.bar_width = LONGEST
        head = self.make_tasks_table(self.tasks)
        excess = Measurement.get(self.console, self.console.options.update(width=10 * width), head).maximum - width
        if excess > 0:
            self._length.bar_width = max(1, LONGEST - excess)
            head = self.make_tasks_table(self.tasks)
        beside = "".join(" " * GAP + value for value in self.values)
        self._below = self._below or excess + cell_len(beside) > 0
        if self._below:
            yield head
            yield from map(Text, packed(self.values, width))
        else:
            line = Table.grid()
            line.add_row(head, Text(beside))
            yield line


def packed(words: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines of at most `width` columns; a word is broken only if it is longer than a line."""
    line = ""
    for word in words:
        if line and cell_len(line) + GAP + cell_len(word) > width:
            yield line
            line = word
        else:
            line = f"{line}{' ' * GAP}{word}" if line else word
    if line:
        yield line
