"""Error handling: from an exception to one message on stderr and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnx.backends.printable import printable
from nnx.distributed import current
from nnx.distributed.launcher import found
from nnx.errors import BackendUnavailable, InputError, MissingExtra, NonFiniteError
from nnx.output import FULL, Output

DONE, FAILED, WRONG = range(3)
DEFERENCE = 0.5  # seconds that other ranks wait for rank 0 to report an error that all processes have


class Failed(Exception):
    """The work failed for a reason, given in the message, that needs no traceback."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError within the block into `Failed`: the file could not be written, the command line is not wrong."""
    try:
        yield
    except OSError as error:
        raise Failed(f"{path} could not be written: {error.strerror or error}") from error


def report(error: BaseException, debug: bool) -> int:
    """Print what went wrong, and return the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else (DONE if error.code is None else FAILED)
    if isinstance(error, BrokenPipeError):
        leave_stdout()
        return FAILED
    code, message = explain(error)
    _empty_stdout()
    lines = traceback.format_exception(error) if debug else []
    comm, launcher = current(), found()
    if not comm.leads:
        time.sleep(DEFERENCE)
    by = f" (rank {launcher.rank} of {launcher.size})" if launcher is not None and launcher.rank else ""
    text = "".join([*lines, f"error{by}: {message}"])
    if comm.size > 1:
        comm.abort(printable(text, keep="\n"), code)
    note(text)
    return code


def note(text: str) -> None:
    """Write text to stderr without control characters; if there is no stderr, nothing (`print` would use stdout)."""
    Output(sys.stderr).write(printable(text, keep="\n") + "\n")


@contextlib.contextmanager
def warnings_as_notes(debug: bool) -> Iterator[None]:
    """Within the block, a warning is a note: no line of a command is the user's own, so none is shown but to debug."""
    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = _note_of
        yield


def _note_of(message: Warning | str, *where: Any, **more: Any) -> None:
    first, _, _ = str(message).partition("\n")  # Numba's of a variable goes on with a traceback
    note(f"note: {first}")


def finish(code: int) -> int:
    """Flush stdout; return the exit code.

    If the reader of stdout has closed it, that is no failure; if text is lost because a disk is full, it is.
    """
    lost = _empty_stdout()
    if lost is not None:
        raise Failed(_system(lost))
    return code


def _empty_stdout() -> OSError | None:
    """Have everything written that stdout holds back, or dropped where that fails; return the error of a full disk."""
    out = Output(sys.stdout)
    out.flush()
    if out.gone:
        leave_stdout()
    lost, Output.lost = Output.lost, None
    return lost


def explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the message."""
    if isinstance(error, KeyboardInterrupt):
        return FAILED, "interrupted"
    if isinstance(error, InputError):
        return WRONG, str(error)
    if isinstance(error, Failed | MissingExtra | BackendUnavailable | NonFiniteError | ConnectionError):
        return FAILED, str(error)
    if isinstance(error, MemoryError):
        why = f": {error}" if str(error) else ""
        return FAILED, f"out of memory{why}; give fewer rows, smaller --layers, or a smaller --batch-size"
    if isinstance(error, OSError):
        wrong = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError)
        wrong = wrong or error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
        return (WRONG if wrong else FAILED), _system(error)
    return FAILED, (
        f"{type(error).__name__}: {error}. This is a bug in nnx; run the command again with --debug, and report what "
        "it shows"
    )


def _system(error: OSError) -> str:
    """Return the message of an OSError: nnx's own as it is, the system's without its error number.

    Files are written within `writing`, so if a disk is full and no file is named, it is stdout's.
    """
    if error.strerror is None:
        return str(error)
    if error.filename is None and error.errno in FULL:
        return f"stdout could not be written: {error.strerror}"
    return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror


def leave_stdout() -> None:
    """Discard buffered output, as nobody reads stdout any more: flushing at exit would fail again."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        number = sys.stdout.fileno()
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
