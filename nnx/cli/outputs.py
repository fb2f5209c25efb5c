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
    """Refuse a path that cannot be written, or that would overwrite what is read.

    Args:
        option: that names the path. path: None: was not given.
        inputs: files that are read. needs: a package that writing needs, and the extra that brings it.

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
        # Asking for permission is not enough: a file system may be read-only. A file of its own is what writing needs.
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(f"{option} {path}: cannot write to {path.parent}: {error.strerror or error}") from error
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{option} {path}: the file is write-protected; name another, or make it writable")


def check_picture(option: str, path: Path | None) -> None:
    """Refuse a picture's name from which the kind of picture cannot be told."""
    if path is not None and path.suffix.lower() not in PICTURES:
        raise InputError(f"{option} {path}: expected a name ending in {', '.join(PICTURES)}")


def check_model(option: str, path: Path | None) -> None:
    """Refuse the name of another format for a model, before anything is trained."""
    if path is not None:
        refuse_other_format(f"{option} {path}", path)
