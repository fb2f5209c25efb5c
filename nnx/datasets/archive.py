"""Tables in numpy's npz files."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.errors import FileFormatError

UNREADABLE = (ValueError, EOFError, OSError, KeyError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error)


def read_archive(path: Path, *choices: Sequence[str]) -> list[NDArray[Any]]:
    """Read arrays from an npz file; no code in it is run.

    Args:
        path: the file.
        choices: for each array, the names that it may have, the preferred one first.

    Raises:
        FileFormatError: the file is foreign or damaged, or an array is missing or holds Python objects.
    """
    with path.open("rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
        except UNREADABLE as error:
            raise FileFormatError(f"{path}: {error or 'the file is empty'}; {_EXPECTED}") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise FileFormatError(f"{path}: the file holds a single array without a name; {_EXPECTED}")
        with archive:
            return [_member(path, archive, names) for names in choices]


def as_features(path: Path, x: NDArray[Any]) -> NDArray[np.float32]:
    """Return features as a network takes them: [N, F] float32, all finite.

    Raises:
        FileFormatError: it is not a matrix of real numbers, or empty, or some are nan, infinite or too large.
    """
    if x.dtype.kind not in "fiub":
        raise FileFormatError(f"{path}: x holds {x.dtype}, expected real numbers; convert it, as with x.astype('f4')")
    if x.ndim != 2 or 0 in x.shape:
        remedy = {1: "for a single feature, save x.reshape(-1, 1)"}.get(x.ndim, "save x.reshape(len(x), -1)")
        raise FileFormatError(
            f"{path}: x has the shape {x.shape}, expected [samples, features] with at least one of each; {remedy}"
        )
    with np.errstate(over="ignore"):
        converted = x.astype(np.float32)
    if not (finite := np.isfinite(converted)).all():
        row, column = divmod(int(np.argmin(finite)), x.shape[1])
        raise FileFormatError(
            f"{path}: x[{row}, {column}] is {converted[row, column]} in float32, expected a finite number; "
            f"fill it in or remove the row"
        )
    return converted


def as_labels(path: Path, y: NDArray[Any], samples: int) -> list[str] | NDArray[Any]:
    """Return labels as `nnx.datasets.labels.encode` takes them: [N] text or numbers.

    Raises:
        FileFormatError: they are of another type or shape, or not as many as the samples.
    """
    if y.dtype.kind not in "fiubU":
        raise FileFormatError(f"{path}: y holds {y.dtype}, expected numbers or strings (not bytes); convert it")
    if y.shape not in ((samples,), (samples, 1)):
        remedy = "for one-hot labels, save y.argmax(axis=1)" if y.ndim == 2 else "save one label for each row of x"
        raise FileFormatError(f"{path}: y has the shape {y.shape}, expected ({samples},) or ({samples}, 1); {remedy}")
    y = y.reshape(-1)
    if y.dtype.kind != "U":
        return y.astype(np.int64) if y.dtype.kind == "b" else y
    return [name.strip() for name in y.tolist()]


_EXPECTED = "expected an npz file; write one with numpy.savez(file, x=..., y=...)"


def _member(path: Path, archive: Any, names: Sequence[str]) -> NDArray[Any]:
    name = next((name for name in names if name in archive.files), None)
    if name is None:
        there = ", ".join(archive.files[:10]) or "nothing"
        raise FileFormatError(f"{path}: there is no array called {' or '.join(names)} (it holds {there}); {_EXPECTED}")
    try:
        array = archive[name]
    except UNREADABLE as error:
        raise FileFormatError(
            f"{path}: {name} cannot be read: {error}; it is damaged or holds Python objects"
        ) from error
    if not isinstance(array, np.ndarray):
        raise FileFormatError(f"{path}: {name} is not an array of numpy's; {_EXPECTED}")
    return array
