"""`nnx warmup`: compile the Numba kernels now, with a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

from nnx import checks
from nnx.backends.environment import tuned
from nnx.cli.console import best_effort, seconds
from nnx.cli.errors import Failed, note, writing
from nnx.errors import InputError
from nnx.kernels.compiling import heard_by, once
from nnx.output import say

WHOLE = "about a minute"  # the time for all kernels; see `nnx.backends.numba.warmup`
QUIET = 0.9  # measured times are meaningful only if the program gets this share of its processors


def warmup(
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or float64: for this number type only, in two thirds of the time. Default: both."),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Copy it all there, for an image: with NUMBA_CACHE_DIR=DIR nothing is compiled on such a processor.",
        ),
    ] = None,
) -> None:
    """Compile every kernel of the Numba backend now, so that no training has to wait; measure what is faster here.

    What was measured is kept beside the kernels, for this processor and this number of threads. NNX_TUNE=off measures
    nothing.
    """
    from nnx.backends.numba.warmup import DTYPES
    from nnx.backends.numba.warmup import export as copy_all
    from nnx.backends.numba.warmup import warmup as compile_all

    dtypes = DTYPES if dtype is None else (checks.dtype(dtype),)
    if export is not None and export.exists() and not export.is_dir():
        raise InputError(f"--export {export}: this is no folder; name a folder, or what is not there yet")

    whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis")
    columns = (
        MofNCompleteColumn(table_column=whole), BarColumn(bar_width=12), TimeElapsedColumn(table_column=whole),
        TextColumn("{task.description}", table_column=rest),
    )  # fmt: skip
    console, begin = best_effort(sys.stderr), time.monotonic()
    hearing = nullcontext() if console.is_terminal else heard_by(once(note, WHOLE))
    with hearing, Progress(*columns, console=console, auto_refresh=False) as bar:  # no thread, which may not start
        task = bar.add_task("importing Numba", total=None)

        def show(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name, refresh=True)

        count = compile_all(show, dtypes)
        took = seconds(time.monotonic() - begin)
        chosen = _measured(dtypes, lambda what: bar.update(task, description=f"measuring {what}", refresh=True))
    say(f"compiled, or found on disk: {count} kernels, in {took}")
    say(chosen)
    if export is not None:
        with writing(export):
            files = copy_all(export)
        if not files:
            raise Failed("nothing was exported, because compiled kernels cannot be kept on disk here")
        say(f"exported {files} files: set NUMBA_CACHE_DIR to {export.resolve()} where they are used")


def _measured(dtypes: tuple[str, ...], progress: Callable[[str], None]) -> str:
    """Measure what is faster on this machine, and save it; return in words what was done."""
    if not tuned():
        return "measured: nothing, because NNX_TUNE=off"
    from nnx.backends.numba import measuring, tuning

    share = measuring.had_to_itself()
    if share >= QUIET:  # else it would take minutes, and the results would be useless
        choices = measuring.measure(dtypes, progress)
        share = min(share, measuring.had_to_itself())
    if share < QUIET:
        return (
            f"what is faster here is not kept: other programs left this one {share:.0%} of a processor; run nnx warmup "
            "again when they are done"
        )
    try:
        return f"measured what is faster here: {tuning.keep(choices)}"
    except OSError as error:
        return f"measured what is faster here, but it is not kept: {error.strerror or error}"
