"""What data sets need before they read: a path that makes sense, and packages that are there."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from nnx.errors import FileFormatError, InputError, InputTypeError, MissingExtra


def as_path(call: str, value: object) -> Path:
    """Return `value` as a path, with a leading `~` expanded.

    Raises:
        InputTypeError: it is neither a string nor a path.
        InputError: it is an empty string, which would mean the current folder.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InputTypeError(
            f"{call}({value!r}): the path is a {type(value).__name__}, expected a str or a pathlib.Path"
        )
    if not os.fspath(value).strip():
        raise InputError(f'{call}({value!r}): the path is empty, expected a name; "." means the current folder')
    return Path(value).expanduser()


def existing_file(call: str, value: object, kind: str) -> Path:
    """Return `value` as the path of a file that is there.

    Args:
        call: the function it was given to, for the message.
        value: the path.
        kind: what the file should be, such as "a CSV or npz file".

    Raises:
        FileNotFoundError: nothing is there.
        FileFormatError: a folder is there.
        InputError: it is no path.
    """
    path = as_path(call, value)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: there is no such file, expected {kind}; check the name (looked in {Path.cwd()})"
        )
    if path.is_dir():
        raise FileFormatError(f"{path}: this is a folder, expected {kind}; name a file inside it")
    return path


def optional(module: str, extra: str, purpose: str) -> Any:
    """Import a package that nnx can do without.

    Raises:
        MissingExtra: it is not installed; the message says what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(module.partition(".")[0], extra, purpose) from error
