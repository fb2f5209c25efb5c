"""Compiled kernels on disk: `njit`, which is Numba's own but for what `cache=True` means.

Numba's cache asks only whether the file of a function has changed, so a kernel would keep the old code of every helper
it imports; two processes that fill one cache at once can pair a signature with the other's code (its index and its
numbered files are written apart); and a disk that cannot be written to is an error. Here

* an entry is one file, named by a hash of all that shapes its code: signature, CPU, closure, versions, and the text of
  every file in this folder. It is written beside its place and then moved there, so readers see all of it or nothing;
* entries lie in NUMBA_CACHE_DIR if that is set, else in this folder's `__pycache__`, else in the user's cache
  directory: the first that can be written to. All are read, so an image may ship a filled, read-only cache;
* with nowhere to write, kernels are compiled in memory, and one warning says so.

Functions in a closure are fine here (Numba would give them another key in every process): they count by name.
"""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.runtime.nrt import rtsys

LOCK = threading.RLock()
HERE = Path(__file__).parent
REBUILD: Any = CompileResult._rebuild
KEPT = 4  # folders of entries, one for each version of the sources, that are kept; the oldest goes first
ABANDONED = 3600.0  # seconds after which nobody writes a file any more that is not where it belongs
SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "FULL_TRACEBACKS")


def njit(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Compile a function as `numba.njit` does; with `cache=True` keep the code as described above.

    It is compiled when first called, once for each combination of argument types; to name the types, see `typed`.
    """
    if function is None:
        return lambda function: njit(function, **options)
    cached = options.pop("cache", False)
    dispatcher = numba.njit(**options)(function)
    if cached and hasattr(dispatcher, "_cache"):  # with NUMBA_DISABLE_JIT=1 it is the function itself
        plain = {name: sorted(value) if isinstance(value, set) else value for name, value in options.items()}
        dispatcher._cache = KernelCache(function, repr(sorted(plain.items())))
    return dispatcher


def typed(dispatcher: Any, *types: Any) -> Any:
    """Compile a function for these argument types, unless it is; return it."""
    with LOCK:
        if types not in dispatcher.overloads:
            with uncollected():
                dispatcher.compile(types)
    return dispatcher


@contextmanager
def uncollected() -> Iterator[None]:
    """Search for no garbage meanwhile: among the many objects of a compiler that is a tenth of its time."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


class KernelCache(_Cache):
    """The compiled variants of one function. Numba's dispatcher calls the methods."""

    def __init__(self, function: Callable[..., Any], options: str) -> None:
        self.function, self.options = function, options
        self.enabled = True

    @property
    def cache_path(self) -> str:
        """Where new entries go; "" if nowhere."""
        return str(writable() or "")

    def enable(self) -> None:
        """Use the disk."""
        self.enabled = True

    def disable(self) -> None:
        """Leave the disk alone."""
        self.enabled = False

    def flush(self) -> None:
        """Forget this function's entries."""
        for place in readable():
            for file in place.glob(f"{self._prefix()}-*.nbc"):
                file.unlink(missing_ok=True)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compiled function, or None where there is none, or its file is damaged."""
        if not self.enabled:
            return None
        # All that loaded code needs of Numba. What Numba does here itself, `target_context.refresh()`, gets ready for
        # compiling, SciPy included, which takes 0.3 s; where nothing is found, the compiler does that.
        rtsys.initialize(target_context)
        name = self._name(signature, target_context.codegen())
        for place in readable():
            try:
                content = (place / name).read_bytes()
            except OSError:
                continue
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                return REBUILD(target_context, *pickle.loads(content[32:]))
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Write the compiled function to the disk, if that can be done."""
        if not self.enabled or any(not f.can_cache for f in result.lifted) or result.library.has_dynamic_globals:
            return
        place = writable()
        if place is None:
            return
        content = pickle.dumps(result._reduce(), protocol=pickle.HIGHEST_PROTOCOL)
        try:
            replace(place / self._name(signature, result.codegen), hashlib.sha256(content).digest() + content)
        except OSError as error:
            tell(f"{place}: {error.strerror or error}")

    def _prefix(self) -> str:
        plain = self.function.__qualname__.replace("<", "").replace(">", "")
        return f"{self.function.__module__.rpartition('.')[2]}.{plain}"

    def _name(self, signature: Any, codegen: Any) -> str:
        """The file of one variant."""
        closure = [cell.cell_contents for cell in self.function.__closure__ or ()]
        key = (
            self.function.__module__,
            self.function.__qualname__,
            file_hash(self.function.__code__.co_filename),
            [value_key(value) for value in closure],
            self.options,
            str(signature),
            codegen.magic_tuple(),
        )
        return f"{self._prefix()}-{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.nbc"


def value_key(value: Any) -> str:
    """Tell the values of a closure apart: a compiled function by its name and its own closure, others by value."""
    function = getattr(value, "py_func", value)
    if callable(function) and hasattr(function, "__code__"):
        cells = [value_key(cell.cell_contents) for cell in function.__closure__ or ()]
        return f"{function.__module__}.{function.__qualname__}{cells}{file_hash(function.__code__.co_filename)}"
    return repr(value)


# ---- what an entry depends on ----------------------------------------------------------------------------------------


@cache
def stamp() -> str:
    """A hash of everything that all entries depend on: the kernels' sources, versions, and Numba's settings."""
    digest = hashlib.sha256()
    for file in sorted([*HERE.glob("*.py"), *HERE.parent.glob("*.py")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    versions = (
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
        sys.version,
        sys.abiflags if os.name != "nt" else "",
    )
    package = getattr(sys.modules.get("nnx"), "__version__", "")
    settings = [getattr(config, name, None) for name in SETTINGS]
    digest.update(repr((versions, package, settings)).encode())
    return digest.hexdigest()[:16]


@cache
def file_hash(name: str) -> str:
    """A hash of a source file that is not one of this folder's; those are in the stamp."""
    file = Path(name)
    try:
        return "" if file.parent == HERE else hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:  # code typed into an interpreter
        return name


# ---- where entries lie -----------------------------------------------------------------------------------------------


def places() -> Iterator[Path]:
    """The directories to try, best first."""
    if chosen := getattr(config, "CACHE_DIR", ""):
        yield Path(chosen) / "nnx"
        return
    yield HERE / "__pycache__"
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base and not base.startswith("~"):  # with no home directory expanduser leaves the ~
        yield Path(base) / "nnx"


@cache
def readable() -> list[Path]:
    """The folders where entries of these very sources may lie, best first."""
    return [place / f"kernels-{stamp()}" for place in places()]


@cache
def writable() -> Path | None:
    """The first folder that can be written to, made if need be; None, and one warning, if there is none."""
    reasons = []
    for place in readable():
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=place):
                pass
        except OSError as error:
            reasons.append(f"{place}: {error.strerror or error}")
            continue
        prune(place)
        return place
    tell("; ".join(reasons))
    return None


def prune(place: Path) -> None:
    """Remove the entries of all but the last few versions of the sources, and what killed processes left."""
    try:
        os.utime(place)
        for file in place.glob("*.tmp"):
            if time.time() - file.stat().st_mtime > ABANDONED:
                file.unlink(missing_ok=True)
        folders = sorted(place.parent.glob("kernels-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    except OSError:  # another process is at it
        return
    for folder in folders[KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)


def replace(file: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees a part of it."""
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as temporary:
            temporary.write(content)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@cache
def tell(why: str) -> None:
    """Warn, once, that compiled code is not kept."""
    if told:
        return
    told.append(why)
    warnings.warn(
        f"compiled kernels cannot be kept on disk ({why}), so each process compiles them again, which takes seconds: "
        "set NUMBA_CACHE_DIR to a directory that can be written to",
        RuntimeWarning,
        stacklevel=2,
    )


def _after_fork() -> None:
    """In a forked process nobody compiles: another thread of its parent may have done so."""
    global LOCK
    LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


told: list[str] = []
