"""The command line: `nnx doctor`, `nnx data`, `nnx train`, `nnx predict`.

Exit codes: 0 done, 1 the work failed, 2 the command line or the data are wrong. Messages go to stderr; a traceback is
shown with --debug alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from nnx.errors import MissingExtra
from nnx.training import interrupt

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: what stands after `nnx`. `--debug` counts anywhere. None takes it from the process, which ends with this
            command: while it does, Ctrl-C ends it at once.
    """
    try:
        return _run(argv)
    finally:
        if argv is None:
            _leave_ctrl_c_to_the_system()


def _run(argv: Sequence[str] | None) -> int:
    from nnx.cli.errors import FAILED, finish, report, warnings_as_notes

    _take_closed_numbers()
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = [argument for argument in given if argument != "--debug"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
    try:
        with _sigterm_as_ctrl_c(), warnings_as_notes("--debug" in given):
            return finish(_command(arguments)(arguments))
    except BaseException as error:
        try:
            return report(error, debug="--debug" in given)
        except KeyboardInterrupt:  # a second one, while the message of the first is written
            return FAILED


def _leave_ctrl_c_to_the_system() -> None:
    """Have Ctrl-C end the process without a word: raised while Python clears up, it prints a traceback."""
    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _take_closed_numbers() -> None:
    """Have the numbers of stdin, stdout and stderr taken: a file of ours would get them, and whatever C code prints."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def _command(arguments: list[str]) -> Callable[[list[str]], int]:
    """Return what runs the command line; the doctor alone works without the extra."""
    try:
        from nnx.cli.app import run
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich", "click"):
            raise
        if arguments[:1] == ["doctor"]:
            from nnx import doctor

            return lambda rest: doctor.main(rest[1:])
        raise MissingExtra(missing, "train", "the command line (but for nnx doctor)") from None
    return run


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end a training as cleanly as Ctrl-C does, unless it is ignored, or somebody else's."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt.ask)  # by itself, since SIGINT may be ignored where this is not
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
