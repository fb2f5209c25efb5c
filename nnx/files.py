"""Files: each is written whole or not at all; only regular files are read, and their size is checked beforehand.

While a file is written, it has a short temporary name in the same folder and is locked. So the next save of the same
file can tell what a killed process left behind (nobody holds its lock) from what another process is still writing.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from nnx.backends.memory import physical, readable
from nnx.backends.printable import printable
from nnx.errors import FileFormatError, InputError, InputTypeError

fcntl: Any = import_module("fcntl") if os.name == "posix" else None
SUFFIX = ".partial"
ABANDONED = 24 * 3600.0  # seconds after which a temporary file is a leftover where files cannot be locked
KINDS = {
    stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}  # fmt: skip
ADDRESS = re.compile(r"[a-z][a-z0-9]+:/", re.IGNORECASE)  # https://, of which a path has one slash left


# File name endings of other formats: a network saved under such a name would mislead other programs.
OTHER_FORMATS = (
    ".h5", ".hdf5", ".keras", ".pt", ".pth", ".onnx", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".csv", ".json",
)  # fmt: skip


# ---- paths -----------------------------------------------------------------------------------------------------------


def as_path(call: str, value: object) -> Path:
    """Return `value` as a path, with a leading `~` expanded.

    Raises:
        InputTypeError: it is neither a string nor a path.
        InputError: it is an empty string, which would mean the current folder, or cannot be the name of a file.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InputTypeError(
            f"{call}({value!r:.60}): the path is a {type(value).__name__}, expected a str or a pathlib.Path"
        )
    if not os.fspath(value).strip():
        raise InputError(f'{call}({value!r}): the path is empty, expected a name; "." means the current folder')
    if "\0" in os.fspath(value):
        raise InputError(f"{call}({value!r}): the path holds a NUL character, which no name can have; leave it out")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # ~ or ~name of a user without a home folder
        raise InputError(f"{call}({value!r}): {str(error).rstrip('.')}; write the folder out") from error


def refuse_other_format(call: str, path: Path) -> None:
    """Refuse to save a network under a name with another format's ending: the contents are always safetensors."""
    kind = path.suffix.lower()
    if kind in OTHER_FORMATS:
        name = path.with_suffix(".safetensors")
        onnx = "; model.to_onnx() in Python writes ONNX" if kind == ".onnx" else ""
        raise InputError(f"{call}: a network is kept as safetensors, not as {path.suffix}; say {name}{onnx}")


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
        remedy = f"check the name{where}"
        if ADDRESS.match(str(path)):
            remedy = "it is an address: download it first, and name the file"
        elif str(path) == "-":
            remedy = "what comes by a pipe is not read: write it to a file first"
        raise FileNotFoundError(f"{printable(path)}: there is no such file, expected {kind}; {remedy}") from None
    return path


def _here() -> str:
    """Return the current folder as text, also if it has been removed."""
    try:
        return printable(Path.cwd())
    except OSError:
        return "the current folder, which is gone"


def check_folder(path: Path) -> None:
    """Refuse to write a file where there is no folder for it.

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {printable(path)}: there is no folder {printable(path.parent)}; make it first"
        )


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file so that a crash at any moment leaves either the old one or the new one, whole.

    If `path` is a link, the file that it leads to is replaced. The new file gets the permissions, group and owner of
    the old one as far as the system allows, and at no moment can anybody read it who could not read the old one.
    """
    shown = printable(path)
    if path.is_symlink():  # other paths stay as given: resolved to absolute ones they may exceed the system's limit
        path = Path(os.path.realpath(path))
    try:
        old = os.stat(path)
    except FileNotFoundError:
        old = None
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(f"{shown} is a folder; expected the name of a file to write")
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise OSError(f"{shown} is {kind_of(old)}, which cannot be replaced; expected the name of a file to write")
    check_folder(path)
    prefix = f".nnx-{zlib.crc32(os.fsencode(path.name)):08x}-"
    _clean(path.parent, prefix)
    file, temporary = _begin(path.parent, prefix, 0o666 if old is None else 0o600)
    try:
        with naming(path), file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            if old is not None:
                _like(temporary, old)
            if fcntl is None:  # Windows cannot rename an open file
                file.close()
            os.replace(temporary, path)  # while it is locked
    except BaseException:
        _unlink(temporary)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add a file's name to any OSError raised within the block: that of a full disk, for one, has none by itself."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = printable(path)
        raise


def _begin(folder: Path, prefix: str, mode: int) -> tuple[BinaryIO, Path]:
    """Make a temporary file and lock it, so that nobody takes it for a leftover; return it, open, and its path."""
    while True:
        path = folder / f"{prefix}{os.urandom(8).hex()}{SUFFIX}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        try:
            file = os.fdopen(handle, "wb")
            with contextlib.suppress(OSError):  # a file system without locks
                if fcntl is not None:
                    fcntl.flock(handle, fcntl.LOCK_EX)
            if path.exists():
                return file, path
        except BaseException:
            _unlink(path)
            raise
        file.close()  # another process removed it before it was locked


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _clean(folder: Path, prefix: str) -> None:
    """Remove the temporary files of processes that were killed while they wrote the same file."""
    with contextlib.suppress(OSError):  # a leftover does no harm
        for name in os.listdir(folder):
            if name.startswith(prefix) and name.endswith(SUFFIX):
                _remove_leftover(folder / name)


def _remove_leftover(path: Path) -> None:
    """Remove a temporary file if no process is writing it any more."""
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
            return
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            if _abandoned(handle):
                os.unlink(path)
        finally:
            os.close(handle)


def _abandoned(handle: int) -> bool:
    """Tell whether no process writes an open file any more; where files cannot be locked, its age decides."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError:
        pass
    return time.time() - os.fstat(handle).st_mtime > ABANDONED


def _like(path: Path, old: os.stat_result) -> None:
    """Give a file the owner, group and permissions of an older one."""
    mode, new = old.st_mode & 0o777, os.stat(path)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.chown(path, old.st_uid, old.st_gid)
        except OSError:
            try:
                os.chown(path, -1, old.st_gid)
            except OSError:  # the new file's group is another: it must not get the old group's rights
                mode &= ~0o070 | (mode & 0o007) << 3
    os.chmod(path, mode)


def _sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk, where the system can, so that a rename in it survives a power failure."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# ---- reading ---------------------------------------------------------------------------------------------------------


def kind_of(found: os.stat_result) -> str | None:
    """Return in words what a path is, such as "a folder"; None for a regular file."""
    if stat.S_ISREG(found.st_mode):
        return None
    return next((words for test, words in KINDS.items() if test(found.st_mode)), "no ordinary file")


def open_file(path: Path, expected: str, most: int | None = None, whole: bool = True) -> BinaryIO:
    """Open a regular file for reading; anything else is refused without being opened, as opening might block.

    Args:
        path: the file. expected: what it should be, for messages.
        most: bytes that a file of this kind may have; None: as many as the machine has memory.
        whole: whether all of it will be read; else it may have any size.

    Raises:
        FileFormatError: it is a folder, a device, a pipe or a socket, or too large. OSError: it cannot be opened.
    """
    refuse_others(path, os.stat(path), expected)  # opening a device may do something, and a pipe may wait for ever
    flags = (getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"))
    file = os.fdopen(os.open(path, sum(flags, os.O_RDONLY)), "rb")
    try:
        refuse_others(path, os.fstat(file.fileno()), expected)  # it may have been replaced since it was checked
        if whole:
            check_size(path, size_of(file), most)
    except BaseException:
        file.close()
        raise
    if size_of(file) == 0:  # those under /proc have size 0 and still give bytes, or block
        file.close()
        file = os.fdopen(os.open(os.devnull, os.O_RDONLY), "rb")
    return file


def size_of(file: BinaryIO) -> int:
    """Return how many bytes an open file has."""
    return os.fstat(file.fileno()).st_size


def read_file(path: Path, expected: str, most: int | None = None) -> bytes:
    """Return a file's contents; see `open_file`. A file that changes while it is read is refused."""
    with open_file(path, expected, most) as file:
        before = os.fstat(file.fileno())
        data = file.read(before.st_size)
        after = os.fstat(file.fileno())
    if (len(data), after.st_size, after.st_mtime_ns) != (before.st_size, before.st_size, before.st_mtime_ns):
        raise FileFormatError(f"{path}: the file changed while it was read; try again when nobody writes to it")
    return data


def check_size(path: Path, size: int, most: int | None = None, what: str = "has", remedy: str = "") -> None:
    """Refuse a file that has, or expands to, too many bytes.

    Args:
        path: the file. size: bytes that it has. most: bytes that it may have; the machine's memory is a limit too.
        what: the verb of the message, as "has" or "expands to". remedy: advice at its end.

    Raises:
        FileFormatError: it is too large.
    """
    memory = physical()
    if most is not None and size > most:
        raise FileFormatError(
            f"{path}: the file {what} {readable(size)}, expected at most {readable(most)}; "
            f"{remedy or 'take a part of it, or read it with other tools and give arrays'}"
        )
    if memory is not None and size > memory:
        raise FileFormatError(
            f"{path}: the file {what} {readable(size)}, but this machine has {readable(memory)} of memory; "
            "take a part of it, or a larger machine"
        )


def refuse_others(path: Path, found: os.stat_result, expected: str) -> None:
    """Refuse anything but a regular file, judged by its `os.stat` result `found`."""
    if kind := kind_of(found):
        remedy = "name a file inside it" if stat.S_ISDIR(found.st_mode) else "write its contents to a file first"
        raise FileFormatError(f"{path}: this is {kind}, expected {expected}; {remedy}")
