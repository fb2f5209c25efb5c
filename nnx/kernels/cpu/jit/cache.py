"""Kernel cache on disk: `njit` is the same as Numba's, except for the meaning of `cache=True`.

Numba's own cache only checks whether the file of a function has changed, so a kernel would keep the old code of every
helper that it imports. Two processes that fill one cache at the same time can combine one's signature with the other's
code, since the index and the numbered files are written separately. And a disk that cannot be written to is an error.
Here

* an entry is one file, named by a hash of everything that its code depends on: signature, CPU, closure, versions, and
  the text of every file of the kernels. It is written under another name and then renamed, so that readers see all of
  it or nothing;
* new entries are written to the first of these that can be written to: NUMBA_CACHE_DIR if it is set, this folder's
  `__pycache__`, the user's cache directory. Entries are read from all of them, so an image may ship a filled, read-only
  cache (`ship`);
* loading code is running it, so entries that other users could have written are not loaded: see `distrust`;
* if none can be written to, kernels are compiled in memory, and one warning says so.

A closure may contain functions, which are identified by name. (Numba would give them another key in every process.)
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import pickle
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime.nrt import rtsys

from nnx.kernels import compiling
from nnx.kernels.cpu.caches import caches
from nnx.kernels.cpu.jit import shipped
from nnx.kernels.forking import hold_at_fork
from nnx.kernels.uninterrupted import LOCK, NEEDED, pause, uninterrupted
from nnx.kernels.user_warnings import warn_once

hold_at_fork(global_compiler_lock._lock)  # Numba's
hold_at_fork(LOCK)  # this one last: the last one is acquired first, as in `typed`
NEEDED.append(global_compiler_lock._lock)
CPU = Path(__file__).parent.parent  # the folder of all kernels for the CPU
REBUILD: Any = CompileResult._rebuild
KEPT = 4  # how many folders of entries are kept, one for each version of the sources; the oldest is removed first
ABANDONED = 3600.0  # seconds after which a file with a temporary name is no longer being written
SHIPPED = "*.nbc", "tuning-*.json"  # the files of a folder that are shipped
SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "FULL_TRACEBACKS")


def njit(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Compile a function as `numba.njit` does; with `cache=True` keep the code as described above.

    It is compiled when first called, once for each combination of argument types; to name the types, use `typed`. In
    both cases signal handlers cannot interrupt the compilation: see uninterrupted.py. With `literals=False`, constants
    that compiled callers pass are treated like other operands; Numba would compile the function again for each.
    """
    if function is None:
        return lambda function: njit(function, **options)
    cached, literals = options.pop("cache", False), options.pop("literals", True)
    dispatcher = numba.njit(**options)(function)
    if not hasattr(dispatcher, "_compile_for_args"):  # with NUMBA_DISABLE_JIT=1 it is the function itself
        return dispatcher
    whole(dispatcher)
    if not literals:
        compile_one = dispatcher.compile
        dispatcher.compile = lambda kinds: compile_one(tuple(map(numba.types.unliteral, kinds)))
    if cached:
        plain = {name: sorted(value) if isinstance(value, set) else value for name, value in options.items()}
        dispatcher._cache = KernelCache(function, repr(sorted(plain.items())))
    return dispatcher


def whole(dispatcher: Any) -> None:
    """Make Numba's compilation for operands of new types uninterruptible, with pauses between functions."""
    compile_for, compile_one = dispatcher._compile_for_args, dispatcher.compile

    def compile_after_a_pause(signature: Any) -> Any:  # each function, also those that others call
        pause()
        return compile_one(signature)

    def for_operands(*operands: Any) -> Any:
        try:
            return compile_for(*operands)
        finally:
            compiling.ended()

    dispatcher.compile = compile_after_a_pause
    dispatcher._compile_for_args = lambda *operands: uninterrupted(partial(for_operands, *operands))


def typed(dispatcher: Any, *types: Any) -> Any:
    """Compile a function for these argument types, if that has not been done; return it."""
    if types in dispatcher.overloads:
        return dispatcher

    def work() -> None:
        with LOCK, uncollected():
            if types not in dispatcher.overloads:
                try:
                    dispatcher.compile(types)
                finally:
                    compiling.ended()

    uninterrupted(work)
    return dispatcher


@contextmanager
def uncollected() -> Iterator[None]:
    """Turn off garbage collection, which takes a tenth of the time of a compiler with its many objects."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


class KernelCache(_Cache):
    """The cache of one function's compiled variants. Numba's dispatcher calls the methods."""

    def __init__(self, function: Callable[..., Any], options: str) -> None:
        self.function, self.options = function, options
        self.enabled = True

    @property
    def cache_path(self) -> str:
        """The folder for new entries; "" if there is none."""
        return str(writable() or "")

    def enable(self) -> None:
        """Use the disk."""
        self.enabled = True

    def disable(self) -> None:
        """Don't use the disk."""
        self.enabled = False

    def flush(self) -> None:
        """Forget this function's entries."""
        for place in readable():
            for file in place.glob(f"{self._prefix()}-*.nbc"):
                file.unlink(missing_ok=True)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compiled function, or None if there is none or its file is damaged; then it is compiled."""
        found = self._load(signature, target_context) if self.enabled else None
        if found is None:
            compiling.begun()
        return found

    def _load(self, signature: Any, target_context: Any) -> Any:
        # This is all that loaded code needs of Numba. Numba itself calls `target_context.refresh()` here, which takes
        # 0.3 s to prepare for compiling, including SciPy. If nothing is found, the compiler does that.
        rtsys.initialize(target_context)
        name = self._name(signature, target_context.codegen())
        for place in readable():
            content = read(place, name)
            if content is None:
                continue
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                with suppress(Exception):  # undamaged, but not of this version: compile again, and replace it
                    return REBUILD(target_context, *pickle.loads(content[32:]))
        tell_of_shipped(target_context.codegen().magic_tuple())
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Write the compiled function to the disk, if possible."""
        if not self.enabled or any(not f.can_cache for f in result.lifted) or result.library.has_dynamic_globals:
            return
        place = writable()
        if place is None:
            return
        content = pickle.dumps(result._reduce(), protocol=pickle.HIGHEST_PROTOCOL)
        try:
            replace(place / self._name(signature, result.codegen), hashlib.sha256(content).digest() + content)
        except OSError as error:
            not_kept(f"{place}: {error.strerror or error}")

    def _prefix(self) -> str:
        plain = self.function.__qualname__.replace("<", "").replace(">", "")
        return f"{self.function.__module__.rpartition('.')[2]}.{plain}"

    def _name(self, signature: Any, codegen: Any) -> str:
        """The name of the file for one variant."""
        closure = [cell.cell_contents for cell in self.function.__closure__ or ()]
        key = (
            self.function.__module__,
            self.function.__qualname__,
            file_hash(self.function.__code__.co_filename),
            [value_key(value) for value in closure],
            self.options,
            str(signature),
            codegen.magic_tuple(),
            stamp(),  # also the folder's name; a renamed folder is not this version's
        )
        return f"{self._prefix()}-{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.nbc"


def value_key(value: Any) -> str:
    """Return a key for a value of a closure: a compiled function's name and own closure, otherwise the value itself."""
    function = getattr(value, "py_func", value)
    if callable(function) and hasattr(function, "__code__"):
        cells = [value_key(cell.cell_contents) for cell in function.__closure__ or ()]
        return f"{function.__module__}.{function.__qualname__}{cells}{file_hash(function.__code__.co_filename)}"
    return repr(value)


# ---- what an entry depends on ----------------------------------------------------------------------------------------


@cache
def stamp() -> str:
    """A hash of everything that all entries depend on: the kernels' sources, versions, settings, and sizes of caches.

    Kernels derive the sizes of their blocks from the latter.
    """
    digest = hashlib.sha256()
    for file in sources():
        name = file.relative_to(CPU.parent).as_posix() if file.is_relative_to(CPU.parent) else file.name
        digest.update(name.encode() + b"\0" + file.read_bytes())
    versions = (
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
        sys.version,
        sys.abiflags if os.name != "nt" else "",
    )
    package = getattr(sys.modules.get("nnx"), "__version__", "")
    settings = [getattr(config, name, None) for name in SETTINGS]
    digest.update(repr((versions, package, settings, tuple(caches()))).encode())
    return digest.hexdigest()[:16]


def sources() -> list[Path]:
    """Every file that kernels take code or numbers from: all in nnx/kernels/cpu, and those directly in nnx/kernels.

    If there are none, they were compiled and removed, or all of nnx is in one file: a zip, or the program itself.
    """
    for kind in ("*.py", "*.pyc"):
        if files := [file for file in (*CPU.rglob(kind), *CPU.parent.glob(kind)) if file.parent.name != "__pycache__"]:
            return sorted(files)
    return [home() if home().is_file() else Path(sys.executable)]


def home() -> Path:
    """The folder of all kernels or, if that is in a zip, the zip."""
    return next(path for path in (CPU, *CPU.parents) if path.exists())


@cache
def file_hash(name: str) -> str:
    """A hash of a source file outside nnx/kernels/cpu, whose files are in the stamp."""
    file = Path(name)
    try:
        return "" if file.is_relative_to(CPU) else hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:  # code that was typed into an interpreter
        return name


# ---- where entries lie -----------------------------------------------------------------------------------------------


def places() -> Iterator[Path]:
    """The directories to try, best first."""
    if chosen := getattr(config, "CACHE_DIR", ""):
        yield Path(chosen) / "nnx"
        return
    yield CPU / "__pycache__"
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base and os.path.isabs(base):  # without a home directory expanduser leaves the ~
        yield Path(base) / "nnx"


@cache
def readable() -> list[Path]:
    """The folders that may have entries of exactly these sources, best first."""
    return [place / f"kernels-{stamp()}" for place in places()]


@cache
def writable() -> Path | None:
    """The first folder that can be written to, created if necessary; None, and one warning, if there is none."""
    reasons = []
    for place in readable():
        try:
            make(place)
            if why := distrust(os.stat(place)):
                refuse(place, why)
                continue
            with tempfile.NamedTemporaryFile(dir=place):
                pass
        except OSError as error:
            reasons.append(f"{place}: {error.strerror or error}")
            continue
        prune(place)
        return place
    if reasons:
        not_kept("; ".join(reasons))
    return None


def make(folder: Path) -> None:
    """Create a folder and its parents. Others may read but not write them; the umask may allow less, but not more."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir(mode=0o755, exist_ok=True)


def prune(place: Path) -> None:
    """Remove the entries of all but the last few versions of the sources, and unfinished files of killed processes."""
    try:
        os.utime(place)
        for file in place.glob("*.tmp"):
            if time.time() - file.stat().st_mtime > ABANDONED:
                file.unlink(missing_ok=True)
        folders = sorted(place.parent.glob("kernels-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    except OSError:  # another process is doing it
        return
    for folder in folders[KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)


def ship(folder: Path, machine: Sequence[object]) -> int:
    """Copy all entries of these sources, and the files kept with them, for use as NUMBA_CACHE_DIR; return how many.

    Args:
        machine: as LLVM describes it: system, processor, features.
    """
    target = folder / "nnx" / f"kernels-{stamp()}"
    make(target)
    found = {file.name: file for place in reversed(readable()) for kind in SHIPPED for file in place.glob(kind)}
    for name, file in found.items():
        replace(target / name, file.read_bytes())
    replace(target.parent / shipped.ABOUT, json.dumps(shipped.facts(machine, stamp()), indent=2).encode() + b"\n")
    return len(found)


@cache
def tell_of_shipped(machine: Sequence[object]) -> None:
    """Warn, once, if kernels were shipped that don't fit this machine."""
    for place in places():
        content = read(place, shipped.ABOUT)
        if content and (why := shipped.misfit(content, shipped.facts(machine, stamp()))):
            warn_once(
                f"the kernels shipped in {place} are not those needed here, and are compiled anew: {why}. "
                "`nnx warmup --export` on such a machine ships them",
                "shipped kernels",
            )


def replace(file: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees a part of it. Others may read it if the umask allows it."""
    name = file.with_name(f"{os.urandom(8).hex()}.tmp")
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
    try:
        with os.fdopen(handle, "wb") as temporary:
            temporary.write(content)
        with suppress(OSError):  # an empty folder with its name is in the way; anything else is replaced
            file.rmdir()
        os.replace(name, file)
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def not_kept(why: str) -> None:
    """Warn, once, that compiled code is not kept."""
    warn_once(
        f"compiled kernels cannot be kept on disk ({why}), so each process compiles them again, which takes seconds: "
        "set NUMBA_CACHE_DIR to a directory that can be written to",
        "kernels are not kept",
    )


# ---- who wrote them --------------------------------------------------------------------------------------------------


def read(place: Path, name: str) -> bytes | None:
    """Return the contents of an entry's file; None if there is none, or if another user could have written it.

    The file is opened relative to its folder, and both are checked after they are opened, so nobody can exchange them
    in between. The folders above need no check: whoever can rename ours can't replace it with one that passes.
    """
    try:
        if os.open not in os.supports_dir_fd:
            return (place / name).read_bytes()
        folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with open(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
                for path, opened in ((place, folder), (place / name, file.fileno())):
                    if why := distrust(os.fstat(opened)):
                        refuse(path, why)
                        return None
                return file.read()
        finally:
            os.close(folder)
    except OSError:
        return None


def distrust(found: os.stat_result) -> str:
    """Return the reason why code in a file or a folder must not be run; "" if it may be.

    The rule is that of ssh for keys. The file must belong to this user, to root, or to the owner of nnx's own code.
    Nobody else may be able to write to it, except those who can write to nnx's own code: they need no cache to run code
    here. Windows separates users by other means, and its caches are in the user's own folder, so nothing is checked.
    """
    if not hasattr(os, "geteuid"):
        return ""
    package = os.stat(home())
    if found.st_uid not in (os.geteuid(), 0, package.st_uid):
        return f"belongs to another user ({found.st_uid})"
    theirs = stat.S_IWOTH | (stat.S_IWGRP if found.st_gid == package.st_gid else 0)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) & ~(package.st_mode & theirs):
        return f"can be written to by other users (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def refuse(path: Path, why: str) -> None:
    """Warn, once, that an entry or a folder of entries is not used."""
    warn_once(
        f"compiled kernels on disk are left alone, because {path} {why}, and whoever writes there decides what runs "
        "here: remove it if you do not trust it, else chown it to root or yourself and chmod go-w it; or set "
        "NUMBA_CACHE_DIR to a directory of your own",
        "kernels are not trusted",
    )
