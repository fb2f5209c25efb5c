"""The command line: `nnx doctor`, `nnx data`, `nnx train`, `nnx predict`.

Exit codes: 0 done, 1 the work failed, 2 the command line or the data are wrong. Messages go to stderr; a traceback is
shown only with --debug.
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
        argv: the arguments after `nnx`; `--debug` may be anywhere. None: those of the process, which ends with this
            command, so that Ctrl-C at its end kills it at once.
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
        sys.stdout.reconfigure(errors="backslashreplace")  # so that no name with unusual characters raises an error
    try:
        with _sigterm_as_ctrl_c(), warnings_as_notes("--debug" in given):
            return finish(_command(arguments)(arguments))
    except BaseException as error:
        try:
            return report(error, debug="--debug" in given)
        except KeyboardInterrupt:  # a second one, while the message about the first is written
            return FAILED


def _leave_ctrl_c_to_the_system() -> None:
    """Make Ctrl-C kill the process silently: as an exception, while Python shuts down, it would print a traceback."""
    here = threading.current_thread() is threading.main_thread()
    if here and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _take_closed_numbers() -> None:
    """Open file descriptors 0 to 2 if they are closed: else a file of ours gets one, and with it what C code prints."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def _command(arguments: list[str]) -> Callable[[list[str]], int]:
    """Return the function that runs the command; only `doctor` works without the extra `train`."""
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
    """Within the block SIGTERM ends training as cleanly as Ctrl-C, unless it is ignored or has a handler already."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, interrupt.ask)  # independent of SIGINT, which may be ignored when this is not
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
