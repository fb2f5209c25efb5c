"""Arrays in numpy's npz files.

An npz file is a zip file of arrays, each with a header that says its type and shape. Nothing of an array's size is
allocated before its header agrees with what the file holds, and no code in a file is run.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nnx.errors import FileFormatError
from nnx.files import check_size, open_file, size_of

from .columns import EXACT, Column, not_finite

UNREADABLE = (
    ValueError, TypeError, EOFError, OSError, KeyError, RuntimeError, OverflowError, struct.error, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip
EXPANDED = 1 << 30  # bytes that a file's compressed arrays may expand to, possibly from a thousandth of that
CONTENTS = 1 << 20  # bytes of a zip file's table of contents: some ten thousand arrays
CHUNK = 1 << 18  # bytes read at once
X_NAMES = ("x", "X", "x_train", "X_train", "arr_0")
Y_NAMES = ("y", "Y", "y_train", "Y_train", "arr_1")
TEST_NAMES = (("x_test", "X_test", "arr_2"), ("y_test", "Y_test", "arr_3"))
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that numpy writes
LOCAL = 30  # bytes of a member's header; its last four are the lengths of the name and the extra field that follow
# The third version of the format differs only in the names of fields, which arrays of numbers do not have.
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0, (3, 0): npy.read_array_header_2_0}


class Archive:
    """An open npz file; see `open_archive`.

    Attributes:
        names: of the arrays. file: the open file.
    """

    def __init__(self, path: Path, file: BinaryIO, archive: zipfile.ZipFile) -> None:
        self._path, self._archive, self._size, self._expanded, self.file = path, archive, size_of(file), 0, file
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in self._members:
                raise FileFormatError(
                    f"{path}: it holds several arrays called {name}, expected one; write it anew by numpy.savez"
                )
            self._members[name] = info
        self.names = list(self._members)

    def array(self, name: str) -> NDArray[Any]:
        """Read an array.

        Raises:
            FileFormatError: it is damaged, holds Python objects, or is too large. KeyError: there is no such array.
        """
        info = self._members[name]
        try:
            if info.compress_type not in METHODS:
                raise ValueError("it is compressed by a method that numpy does not write")
            with self._archive.open(info) as member:
                shape, fortran, dtype = header_of(member)
                size, held = math.prod(shape) * dtype.itemsize, info.file_size - member.tell()
                if size != held or (info.compress_type == zipfile.ZIP_STORED and held > self._size):
                    raise ValueError(f"its header is that of {size} bytes, but there are {held}")
                self._check_size(info)
                return np.ndarray(shape, dtype, _exactly(member, size), order="F" if fortran else "C")
        except FileFormatError:
            raise
        except UNREADABLE as error:
            raise self._unreadable(name, error) from error

    def place(self, name: str) -> tuple[int, tuple[int, ...], bool, np.dtype[Any]]:
        """Return where in the file a stored array's numbers begin, its shape, whether columns come first, and type.

        Raises:
            FileFormatError: it is compressed, damaged, or holds Python objects. KeyError: there is no such array.
        """
        info = self._members[name]
        if info.compress_type != zipfile.ZIP_STORED:
            raise FileFormatError(
                f"{self._path}: {name} is compressed, so it cannot be read in parts; write it by numpy.savez, without "
                "compression, or as a .npy file"
            )
        try:
            self.file.seek(info.header_offset)
            local = self.file.read(LOCAL)
            self.file.seek(info.header_offset + LOCAL + sum(struct.unpack("<HH", local[-4:])))
            begin = self.file.tell()
            shape, fortran, dtype = header_of(self.file)
            size, held = math.prod(shape) * dtype.itemsize, info.file_size - (self.file.tell() - begin)
            if size != held:
                raise ValueError(f"its header is that of {size} bytes, but there are {held}")
            return self.file.tell(), shape, fortran, dtype
        except UNREADABLE as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> FileFormatError:
        return FileFormatError(
            f"{self._path}: {name} cannot be read: {error}; write it anew, as an array of numbers, by numpy.savez"
        )

    def _check_size(self, info: zipfile.ZipInfo) -> None:
        """Refuse an array if the file's arrays would expand to more than EXPANDED bytes."""
        if info.compress_type != zipfile.ZIP_STORED:
            self._expanded += info.file_size
            remedy = "write it with numpy.savez instead of savez_compressed, for which there is no such limit"
            check_size(self._path, self._expanded, EXPANDED, "expands to", remedy)


@contextmanager
def open_archive(path: Path, expected: str, whole: bool = True) -> Iterator[Archive]:
    """Open an npz file.

    Args:
        path: the file. expected: what it should be, and how to write one, for messages. whole: see `open_file`.

    Raises:
        FileFormatError: it is not an npz file.
    """
    with open_file(path, expected, whole=whole) as file:
        if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            raise FileFormatError(f"{path}: the file holds a single array without a name; expected {expected}")
        try:
            archive = zipfile.ZipFile(_Bounded(file))
        except UNREADABLE as error:
            raise FileFormatError(f"{path}: {error}; expected {expected}") from error
        with archive:
            yield Archive(path, file, archive)


def read_archive(path: Path, *choices: Sequence[str]) -> list[NDArray[Any]]:
    """Read arrays from an npz file.

    Args:
        path: the file.
        choices: for each array, the names that it may have, the preferred one first.

    Raises:
        FileFormatError: the file is of another format or damaged, or an array is missing or holds Python objects.
    """
    with open_archive(path, EXPECTED) as archive:
        return [_member(path, archive, names) for names in choices]


def read_parts(path: Path) -> tuple[NDArray[Any], NDArray[Any], tuple[NDArray[Any], NDArray[Any]] | None]:
    """Read features and labels from an npz file, and, if it has them, those of a test set, as Keras writes them.

    Raises:
        FileFormatError: see `read_archive`.
    """
    with open_archive(path, EXPECTED) as archive:
        x, y = _member(path, archive, X_NAMES), _member(path, archive, Y_NAMES)
        names = [next((name for name in choices if name in archive.names), "") for choices in TEST_NAMES]
        return x, y, (archive.array(names[0]), archive.array(names[1])) if all(names) else None


def as_features(path: Path, x: NDArray[Any]) -> NDArray[np.float64]:
    """Return features [N, F], all finite. A sample with several axes, such as a picture, becomes one row.

    Raises:
        FileFormatError: it is not an array of real numbers, is empty, or holds nan or infinite numbers.
    """
    if x.dtype.kind not in "fiub":
        raise FileFormatError(f"{path}: x holds {x.dtype}, expected real numbers; convert it, as with x.astype('f4')")
    if x.ndim < 2 or 0 in x.shape:
        remedy = "for a single feature, save x.reshape(-1, 1)" if x.ndim == 1 else "save the samples one by one in x"
        raise FileFormatError(
            f"{path}: x has the shape {x.shape}, expected [samples, features] with at least one of each; {remedy}"
        )
    converted = x.reshape(len(x), -1).astype(np.float64, copy=False)
    if place := not_finite(converted):
        raise FileFormatError(
            f"{path}: x[{place[0]}, {place[1]}] is {converted[place]}, expected a finite number; "
            f"fill it in or remove the row"
        )
    return converted


def as_labels(path: Path, y: NDArray[Any], samples: int) -> Column:
    """Return labels as a column of text or numbers.

    Raises:
        FileFormatError: their type or shape cannot be used, or their number is not that of the samples.
    """
    if y.dtype.kind not in "fiubU":
        raise FileFormatError(f"{path}: y holds {y.dtype}, expected numbers or strings (not bytes); convert it")
    if y.shape not in ((samples,), (samples, 1)):
        remedy = "for one-hot labels, save y.argmax(axis=1)" if y.ndim == 2 else "save one label for each row of x"
        raise FileFormatError(f"{path}: y has the shape {y.shape}, expected ({samples},) or ({samples}, 1); {remedy}")
    y = y.reshape(-1)
    if y.dtype.kind == "U" or (y.dtype.kind in "iu" and (y.astype(np.float64) > EXACT).any()):
        return Column("y", [str(name).strip() for name in y.tolist()])
    return Column("y", numbers=y.astype(np.float64))


EXPECTED = "an npz file; write one with numpy.savez(file, x=..., y=...)"


def _member(path: Path, archive: Archive, names: Sequence[str]) -> NDArray[Any]:
    name = next((name for name in names if name in archive.names), None)
    if name is None:
        there = ", ".join(archive.names[:10]) or "nothing"
        wanted = f"{', '.join(names[:-1])} or {names[-1]}"
        raise FileFormatError(f"{path}: there is no array called {wanted} (it holds {there}); expected {EXPECTED}")
    return archive.array(name)


class _Bounded:
    """A file that returns at most CONTENTS bytes at once: zipfile reads a table of contents of any stated size."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.seekable, self._read = file.seek, file.tell, file.seekable, file.read

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes; or all that are left, as zipfile does to find the comment at the end."""
        if size > CONTENTS:
            raise zipfile.BadZipFile(f"its table of contents has {size} bytes, expected at most {CONTENTS}")
        return self._read(size)


def header_of(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return an array's shape, whether it is stored column by column, and its type."""
    version = npy.read_magic(member)
    if version not in HEADERS:
        raise ValueError(f"its header is of the unknown version {version}")
    try:
        shape, fortran, dtype = HEADERS[version](member)
    except Exception as error:  # the header is a Python expression, which can fail to be parsed in many ways
        raise ValueError(f"its header is damaged: {error}") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if any(length < 0 for length in shape):
        raise ValueError(f"its header is damaged: its shape is {shape}")
    return shape, fortran, dtype


def _exactly(member: Any, size: int) -> NDArray[np.uint8]:
    data = np.empty(size, np.uint8)
    for start in range(0, size, CHUNK):
        part = data[start : start + CHUNK]
        if member.readinto(part) != len(part):
            raise EOFError("it ends too early")
    return data
