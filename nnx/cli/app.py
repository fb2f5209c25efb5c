"""The application `nnx`, made of all commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nnx.backends.environment import flag
from nnx.backends.printable import printable
from nnx.cli.bench import bench
from nnx.cli.data import data
from nnx.cli.doctor import doctor
from nnx.cli.predict import predict
from nnx.cli.train import train
from nnx.cli.warmup import warmup
from nnx.distributed.launcher import found
from nnx.errors import InputError

INTERRUPTED = 130  # typer's exit code for Ctrl-C before a command begins
TOGETHER = ("train", "doctor")  # what several processes do as one, or each may say of itself
OF_COLUMNS = ("--label", "--drop", "--keep", "--categorical")  # options whose errors list the columns


class _Bare(Exception):
    """Carries an error past typer, which would handle Ctrl-C (code 130) and broken pipes in its own way."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


@contextmanager
def _legibly() -> Iterator[None]:
    """Escape the arguments in typer's messages, which quotes them as they are."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "message"):
            error.message = printable(error.message)
        raise


class _Commands(TyperGroup):
    def make_context(self, *arguments: Any, **more: Any) -> Any:
        """Parse the options before the command."""
        with _legibly():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            with _legibly():
                return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise _Bare(error) from error


def _unbroken(text: str | None) -> str | None:
    """Return a docstring with each paragraph on one line, since typer keeps line ends, and a terminal folds on its own.

    None where python -OO has left the docstrings out.
    """
    return text and "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (doctor, data, train, predict, bench, warmup):
    app.command(help=_unbroken(command.__doc__))(command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from nnx import __version__

        print(f"nnx {__version__}")
        raise typer.Exit


def _refuse_several(command: str | None) -> None:
    """Refuse to do under `mpiexec` what each process would do once more: answers would stand in a file twice."""
    launcher = found()
    if command not in TOGETHER and launcher is not None and launcher.size > 1 and not flag("NNX_ALONE"):
        raise InputError(
            f"nnx {command}: {launcher.name} started {launcher.size} processes, and each would do all of it; start "
            "one, or set NNX_ALONE=1 if each is given work of its own"
        )


@app.callback()
def nnx(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; counts anywhere in the line.")
    ] = False,
) -> None:
    """Neural networks from scratch, at full speed on whatever the machine has."""
    _refuse_several(ctx.invoked_subcommand)


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse empty arguments, as from an unset variable in a script: as a path it would mean the current folder."""
    for before, argument in pairwise(["", *arguments]):
        option, equals, value = argument.partition("=") if argument.startswith("-") else (before, "=", argument)
        if equals and not value and option not in OF_COLUMNS:
            where = f" after {option}" if option else ""
            raise InputError(
                f'an empty argument was given{where}; expected a name or a value; the current folder is called "."'
            )


def run(arguments: list[str]) -> int:
    """Run the command line; return its exit code, or raise the command's error."""
    _refuse_empty(arguments)
    try:
        app(arguments, prog_name="nnx", obj=arguments)
    except _Bare as bare:
        raise bare.error from None
    except SystemExit as done:
        if done.code == INTERRUPTED:
            raise KeyboardInterrupt from None
        return done.code if isinstance(done.code, int) else 0
    return 0
