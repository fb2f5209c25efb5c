"""`nnx warmup`: compile the Numba kernels now, with a progress bar."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from nnx import checks
from nnx.cli.console import best_effort, seconds
from nnx.cli.errors import note
from nnx.kernels.compiling import heard_by, once
from nnx.output import say

WHOLE = "about a minute"  # what all kernels take; see `nnx.backends.numba.warmup`


def warmup(
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or float64: for this number type only, in two thirds of the time. Default: both."),
    ] = None,
) -> None:
    """Compile every kernel of the Numba backend now, so that no training has to wait for it."""
    from nnx.backends.numba.warmup import DTYPES
    from nnx.backends.numba.warmup import warmup as compile_all

    dtypes = DTYPES if dtype is None else (checks.dtype(dtype),)

    whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis")
    columns = (
        MofNCompleteColumn(table_column=whole), BarColumn(bar_width=12), TimeElapsedColumn(table_column=whole),
        TextColumn("{task.description}", table_column=rest),
    )  # fmt: skip
    console, begin = best_effort(sys.stderr), time.monotonic()
    hearing = nullcontext() if console.is_terminal else heard_by(once(note, WHOLE))
    with hearing, Progress(*columns, console=console, auto_refresh=False) as bar:  # there may be no other thread
        task = bar.add_task("importing Numba", total=None)

        def show(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name, refresh=True)

        count = compile_all(show, dtypes)
    say(f"compiled, or found on disk: {count} kernels, in {seconds(time.monotonic() - begin)}")
