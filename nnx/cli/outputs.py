"""Validation of output paths (`--save`, `--plot`, `--html`), before any work is done for them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from nnx.datasets.needs import optional
from nnx.errors import InputError
from nnx.files import refuse_other_format

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")


def check(option: str, path: Path | None, inputs: tuple[Path, ...] = (), needs: tuple[str, str] | None = None) -> None:
    """Refuse a path that cannot be written, or that would overwrite an input.

    Args:
        option: the option with the path. path: None if it was not given.
        inputs: files that are read. needs: a package that writing needs, and the extra that installs it.

    Raises:
        InputError: the folder is missing, something other than a file is there, or writing is not allowed.
        MissingExtra: the package is not installed.
    """
    if path is None:
        return
    if needs is not None:
        optional(*needs, option)
    if path.is_dir():
        raise InputError(f"{option} {path}: this is a folder; name a file inside it")
    if path.exists() and not path.is_file():
        raise InputError(f"{option} {path}: this is a device or a pipe, not a file; name a file")
    if any(path.exists() and other.exists() and path.samefile(other) for other in inputs):
        raise InputError(f"{option} {path}: this file is read by the same command; name another")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.parent}; make it first")
    try:
        # Checking permissions is not enough: a file system may be read-only. So a temporary file is made.
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(f"{option} {path}: cannot write to {path.parent}: {error.strerror or error}") from error
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{option} {path}: the file is write-protected; name another, or make it writable")


def check_picture(option: str, path: Path | None) -> None:
    """Refuse a name for a picture whose ending is not that of a picture format."""
    if path is not None and path.suffix.lower() not in PICTURES:
        raise InputError(f"{option} {path}: expected a name ending in {', '.join(PICTURES)}")


def check_model(option: str, path: Path | None) -> None:
    """Refuse a name for a model with another format's ending, before training."""
    if path is not None:
        refuse_other_format(f"{option} {path}", path)
