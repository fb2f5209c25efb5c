"""Arrays from which a range of rows is read at a time: in files, or in memory.

Files are read, not memory-mapped: pages of a mapped file count as this process's memory, and the process is killed if
the file is truncated meanwhile. Only the file that is being read is open, since there may be more files than may be
open at once. Each read checks that the file is still the same.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from nnx.backends.printable import printable
from nnx.datasets import archive
from nnx.errors import FileFormatError, InputError
from nnx.files import open_file

NPY = "a .npy file, as numpy.save writes it"
LOOKS = 16  # rows that are compared to recognise a file
NPZ = "an npz file whose arrays are stored, as numpy.savez writes it"


class Room:
    """The memory that one array is read into, block by block.

    If the rows are stored in the type of `out`, they are read straight into it; else into memory that is used again and
    again, since allocating takes longer than reading. The file stays open for the next block, because opening takes a
    quarter as long as reading a block.

    Args:
        out: the array that the rows are wanted in, one after the other; None: none.

    Attributes:
        first: the row of `out` for the first row of the block.
    """

    def __init__(self, out: np.ndarray | None = None) -> None:
        self._out, self.first = out, 0
        self._bytes = np.empty(0, np.uint8)
        self._open: tuple[Path, BinaryIO] | None = None

    def aim(self, out: np.ndarray | None) -> None:
        """Set another `out`."""
        self._out, self.first = out, 0

    def array(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """Return an array for rows, a view of `out` if possible; the next call may use its memory again."""
        if self._out is not None and self._out.dtype == dtype:
            rows = self._out[self.first : self.first + shape[0]]
            if rows.size == math.prod(shape) and rows.flags.c_contiguous:
                return rows.reshape(shape)
        size = math.prod(shape) * dtype.itemsize
        if size > len(self._bytes):
            self._bytes = np.empty(size, np.uint8)
        return self._bytes[:size].view(dtype).reshape(shape)

    def file(self, path: Path) -> BinaryIO:
        """Return the open file at a path."""
        if self._open is None or self._open[0] is not path:
            self.close()
            self._open = path, open_file(path, NPY, whole=False)
        return self._open[1]

    def close(self) -> None:
        """Close the file that was read last."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


class Rows(Protocol):
    """An array from which rows are read.

    Attributes:
        name: of the file, or of the array. rows: how many there are. shape: of a row. dtype: of its numbers.
    """

    name: str
    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, first: int, count: int, room: Room | None = None) -> np.ndarray:
        """Return `count` rows from `first` on, as a new array or in the memory of `room`."""


class Held:
    """An array in memory; see `Rows`."""

    def __init__(self, array: np.ndarray, name: str) -> None:
        if not array.shape or 0 in array.shape:
            raise InputError(f"{name}: its shape is {array.shape}, expected rows, one for each sample")
        self.name, self.rows, self.shape, self.dtype = name, len(array), array.shape[1:], array.dtype
        self._array = array

    def read(self, first: int, count: int, room: Room | None = None) -> np.ndarray:
        """See `Rows`."""
        return np.array(self._array[first : first + count])


class Stored:
    """An array in a file; see `Rows`.

    Args:
        path: the file. offset: of the first number in it, in bytes. shape, dtype: of the array.
        fortran: whether it is stored column by column. member: its name, in a file of several arrays.
    """

    def __init__(
        self, path: Path, offset: int, shape: Sequence[int], dtype: np.dtype, fortran: bool = False, member: str = ""
    ) -> None:
        self.path, self.name, self.dtype = path.absolute(), _name(path, member), dtype  # the current folder may change
        self.rows, self.shape = int(shape[0]), tuple(map(int, shape[1:]))
        self._offset, self._fortran = offset, fortran and len(shape) > 1
        self._stamp = _stamp(os.stat(path))

    def read(self, first: int, count: int, room: Room | None = None) -> np.ndarray:
        """Read some rows.

        Raises:
            FileFormatError: the file is gone, was changed, or cannot be read.
        """
        own = Room()
        room = room or own
        try:
            file = room.file(self.path)
            self._check(file, first)
            rows = self._rows(file, first, count, room)
            self._check(file, first)  # again: it may have been changed while it was read
            return rows
        except FileFormatError:
            raise
        except OSError as error:
            raise FileFormatError(f"{self.name}, row {first:,}: it cannot be read any more: {error}") from error
        finally:
            own.close()

    def _check(self, file: BinaryIO, row: int) -> None:
        if _stamp(os.fstat(file.fileno())) != self._stamp:
            raise FileFormatError(
                f"{self.name}, row {row:,}: the file was changed while it was in use; begin anew when nobody writes to "
                "it"
            )

    def _rows(self, file: BinaryIO, first: int, count: int, room: Room) -> np.ndarray:
        width = math.prod(self.shape)
        if not self._fortran:
            data = room.array((count, *self.shape), self.dtype)
            self._numbers(file, first * width, data.reshape(-1), first)
            return data
        columns = np.empty((width, count), self.dtype)  # in Fortran's order the last axis varies slowest
        for column in range(width):
            self._numbers(file, column * self.rows + first, columns[column], first)
        return np.ascontiguousarray(columns.reshape(*self.shape[::-1], count).T)

    def _numbers(self, file: BinaryIO, place: int, data: np.ndarray, row: int) -> None:
        view, done = data.view(np.uint8).data, 0
        file.seek(self._offset + place * self.dtype.itemsize)
        while done < len(view):
            got = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not got:
                raise FileFormatError(f"{self.name}, row {row:,}: the file ends too early; write it anew")
            done += got


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    """Return numbers by which a file is recognised, and seen to be changed."""
    return found.st_ino, found.st_size, found.st_mtime_ns


def npy(path: Path) -> Stored:
    """Return the array in a .npy file.

    Raises:
        FileFormatError: it is something else, damaged, truncated, or does not hold numbers.
    """
    with open_file(path, NPY, whole=False) as file:
        try:
            shape, fortran, dtype = archive.header_of(file)
        except archive.UNREADABLE as error:
            raise FileFormatError(f"{_name(path)}: {error}; expected {NPY}") from error
        found, begin = _checked(path, file, file.tell(), shape, fortran, dtype, ""), file.tell()
        size = os.fstat(file.fileno()).st_size - begin - math.prod(shape) * dtype.itemsize
        if size > 0:
            raise FileFormatError(
                f"{found.name}: {size:,} bytes follow its {found.rows:,} rows, expected none; it was not written to "
                "its end, or holds several arrays: write it anew, or each into a file of its own"
            )
        return found


def npz(path: Path, *choices: Sequence[str], optional: bool = False) -> list[Stored]:
    """Return arrays in an npz file.

    Args:
        path: the file. choices: for each array, the names that it may have, the preferred one first.
        optional: whether to leave out missing arrays instead of raising an error.

    Raises:
        FileFormatError: the file is something else, damaged or truncated, or an array is missing or compressed.
    """
    with archive.open_archive(path, NPZ, whole=False) as opened:
        found = [(next((n for n in names if n in opened.names), None), names) for names in choices]
        for name, names in found:
            if name is None and not optional:
                raise FileFormatError(
                    f"{path}: there is no array called {' or '.join(names)} (it holds {', '.join(opened.names[:10])})"
                )
        return [_checked(path, opened.file, *opened.place(name), member=name) for name, _ in found if name is not None]


def _checked(
    path: Path, file: BinaryIO, offset: int, shape: tuple[int, ...], fortran: bool, dtype: np.dtype, member: str
) -> Stored:
    name = _name(path, member)
    if dtype.kind not in "fiub":
        raise FileFormatError(f"{name}: it holds {dtype}, expected real numbers; convert it, as by x.astype('f4')")
    if not shape or 0 in shape:
        raise FileFormatError(f"{name}: its shape is {shape}, expected rows, one for each sample")
    held, size = os.fstat(file.fileno()).st_size - offset, math.prod(shape) * dtype.itemsize
    if held < size:
        row = max(0, held) * shape[0] // size
        raise FileFormatError(
            f"{name}: the file ends in row {row:,} of {shape[0]:,}: {size:,} bytes should follow its header, {held:,} "
            "do; it was cut short: write it anew"
        )
    return Stored(path, offset, shape, dtype, fortran, member)


def _name(path: Path, member: str = "") -> str:
    return printable(f"{path}{f' ({member})' if member else ''}")


def mapped(array: np.memmap[Any, Any], name: str) -> Rows:
    """Return a memory-mapped array as `Stored` if the file still holds it, else as `Held` in memory."""
    held, whole = Held(array, name), getattr(array, "_mmap", None)
    path, by_rows = getattr(array, "filename", None), array.flags.c_contiguous
    if path is None or whole is None or array.mode == "c" or not (by_rows or array.flags.f_contiguous):
        return held
    begin = np.frombuffer(whole, np.uint8).ctypes.data
    page = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    try:
        stored = Stored(Path(path), page + array.ctypes.data - begin, array.shape, array.dtype, not by_rows)
        rows = np.linspace(0, len(array) - 1, LOOKS).astype(int).tolist()
        same = all(stored.read(row, 1).tobytes() == held.read(row, 1).tobytes() for row in rows)
    except (OSError, FileFormatError):
        same = False
    return stored if same else held  # the mapped file may have been replaced by another of the same name
