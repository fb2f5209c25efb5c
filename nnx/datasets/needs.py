"""Preconditions of reading data: a path that makes sense, and packages that are there."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from nnx.backends.printable import printable
from nnx.errors import InputError, InputTypeError, MissingExtra
from nnx.files import refuse_others


def as_path(call: str, value: object) -> Path:
    """Return `value` as a path, with a leading `~` expanded.

    Raises:
        InputTypeError: it is neither a string nor a path.
        InputError: it is an empty string, which would mean the current folder, or no system's file has such a name.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InputTypeError(
            f"{call}({value!r}): the path is a {type(value).__name__}, expected a str or a pathlib.Path"
        )
    if not os.fspath(value).strip():
        raise InputError(f'{call}({value!r}): the path is empty, expected a name; "." means the current folder')
    if "\0" in os.fspath(value):
        raise InputError(f"{call}({value!r}): the path holds a NUL character, which no name can have; leave it out")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # ~ or ~name, of somebody who has no home
        raise InputError(f"{call}({value!r}): {str(error).rstrip('.')}; write the folder out") from error


def existing_file(call: str, value: object, kind: str) -> Path:
    """Return `value` as the path of a file that is there.

    Args:
        call: the function it was given to, for the message.
        value: the path.
        kind: what the file should be, such as "a CSV or npz file".

    Raises:
        FileNotFoundError: nothing is there.
        FileFormatError: a folder is there, a device, a pipe or a socket.
        InputError: it is no path.
    """
    path = as_path(call, value)
    try:
        refuse_others(path, os.stat(path), kind)
    except (FileNotFoundError, NotADirectoryError):
        where = "" if path.is_absolute() else f" (looked in {_here()})"
        raise FileNotFoundError(
            f"{printable(path)}: there is no such file, expected {kind}; check the name{where}"
        ) from None
    return path


def _here() -> str:
    """Return the current folder, which somebody may have removed."""
    try:
        return printable(Path.cwd())
    except OSError:
        return "the current folder, which is gone"


def optional(module: str, extra: str, purpose: str) -> Any:
    """Import a package that nnx can do without.

    Raises:
        MissingExtra: it is not installed; the message says what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(module.partition(".")[0], extra, purpose) from error
