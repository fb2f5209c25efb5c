"""Number of CPU threads that nnx takes: one for BLAS and for the Numba backend's kernels and training steps.

Order: `set_threads`, then NNX_THREADS; else the least of what anybody allows: the CPUs that this process may run on,
the quota of its container, the variables that limit other libraries (and by which joblib limits its workers), and what
threadpoolctl has limited BLAS to. Never more than there are CPUs: threads that take turns on one cost a multiple.

What changes while a process runs, its CPUs and threadpoolctl's limits, counts a millisecond later; the environment and
the quota are read when a backend is made. Threads of several libraries never compete: kernels that share one
operation among them call no BLAS, and BLAS's own threads wait while they run.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np

from nnx.backends.errors import InputError, InputTypeError
from nnx.backends.quota import quota
from nnx.kernels.forking import hold_at_fork, in_forked
from nnx.kernels.uninterrupted import LOCK
from nnx.kernels.user_warnings import warn_once

NUMBAS = "NUMBA_NUM_THREADS"
VARIABLES = (
    "OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", NUMBAS,
)  # fmt: skip

busy: set[int] = set()  # threads at work on recorded steps, or with models to train: fewer are left to help others
_asked: int | None = None
_checked: str | None = ""  # NNX_THREADS as `check` last found it
_told: int | None = None  # how many threads BLAS was last told to take, from here
_alone, _before = 0, list[int]()  # how many have BLAS take one thread, and how many it took before
_wished = False  # whether the number in force was asked for
_lock = threading.RLock()
hold_at_fork(_lock)
in_forked(busy.clear)
hold_at_fork(LOCK)  # first, as by who imports Numba and then sets its threads


def set_threads(threads: int | None) -> int:
    """Set how many CPU threads nnx takes from now on, in this process; return the number.

    BLAS follows where threadpoolctl is installed.

    Args:
        threads: at least 1, and no more than the CPUs that this process may run on count; None goes back to
            NNX_THREADS, or as many as the process may use.

    Raises:
        InputError: `threads` is no such number.
    """
    global _asked
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int | np.integer):
            raise InputTypeError(f"set_threads({threads!r}): expected a whole number, or None")
        if threads < 1:
            raise InputError(f"set_threads({threads}): expected at least 1")
    _asked = None if threads is None else int(threads)
    apply(always=True)
    _tell_of_a_cap()
    return get_threads()


def get_threads() -> int:
    """Return how many CPU threads nnx takes."""
    asked = wish()
    return min(usable(), asked) if asked is not None else min(limits().values())


def explain() -> str:
    """Say how many threads nnx takes, and why."""
    threads, asked = get_threads(), wish()
    number = f"{threads} thread{'s' if threads > 1 else ''}"
    if asked is None:
        return f"{number}: {next(why for why, limit in limits().items() if limit == threads)}"
    by = f"NNX_THREADS={asked}" if _asked is None else f"set_threads({asked})"
    return f"{number}: {by}" + (", capped at the CPUs that this process may run on" if asked > threads else "")


def wish() -> int | None:
    """Return the number that was asked for, by `set_threads` or NNX_THREADS; None if none was.

    Raises:
        InputError: NNX_THREADS is no number above 0.
    """
    if _asked is not None:
        return _asked
    text = os.environ.get("NNX_THREADS", "").strip()
    if not text:
        return None
    number = _counted(text)
    if number is None:
        raise InputError(f"NNX_THREADS={text!r}: expected a whole number of at least 1")
    return number


# ---- what limits it --------------------------------------------------------------------------------------------------


def limits() -> dict[str, int]:
    """Return every limit that holds where no number was asked for, by what sets it."""
    found = {"as many as the CPUs that this process may run on": usable(), **_fixed()}
    if (limit := blas_limit()) is not None:
        found["BLAS is limited, as by threadpoolctl"] = limit
    return found


def usable() -> int:
    """Return on how many CPUs this process may run, now."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13: the same, or what -X cpu_count says
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fixed() -> dict[str, int]:
    """Return the limits that do not change while a process runs."""
    found = {} if (allowed := quota()) is None else {"the container's CPU quota": allowed}
    for name in VARIABLES:
        if (limit := _number(name)) is not None:
            found[f"{name}={limit}"] = limit
    return found


def _number(name: str) -> int | None:
    """Return the number of a variable of other libraries, such as OMP_NUM_THREADS=4,2 (2 are for threads in threads).

    One that is no number limits nothing, here as there; but it is said. 0 stands for as many as there are; but Numba
    does not load with it.
    """
    text = os.environ.get(name, "").partition(",")[0].strip()
    if not text or (text == "0" and name != NUMBAS):
        return None
    number = _counted(text)
    if number is None:
        warn_once(f"{name}={text!r} limits no threads: expected a whole number of at least 1", name)
    return number


def _counted(text: str) -> int | None:
    """Return the whole number above 0 that a text is; None if it is none, or of more digits than Python reads."""
    with suppress(ValueError):
        return (int(text) or None) if text.isdecimal() else None
    return None


def blas_limit() -> int | None:
    """Return how many threads somebody else lets NumPy's BLAS take at this moment; None where that cannot be told."""
    if sys.modules.get("threadpoolctl") is None:  # by which it is done; to import it takes milliseconds
        return None
    now = min(_before or [library.num_threads or 1 for library in _blas()], default=None)
    return None if now == _told else now


@cache
def _blas() -> list[Any]:
    """Return what asks NumPy's BLAS; nothing where threadpoolctl does not know it."""
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return [library for library in libraries if "numpy" in library.filepath] or libraries


@contextmanager
def blas_alone() -> Iterator[None]:
    """Let BLAS take one thread within the block, where threadpoolctl is installed; nnx's own are as many as ever.

    OpenBLAS's threads look for more work for some 25 ms after a product, on cores that others could have.
    """
    global _alone
    libraries: list[Any] = []
    with suppress(ImportError):
        libraries = _blas()
    with _lock:
        _alone += 1
        if _alone == 1:
            _before[:] = [library.num_threads or 1 for library in libraries]
            for library in libraries:
                _set(library, 1)
    try:
        yield
    finally:
        with _lock:
            _alone -= 1
            if not _alone:
                for library, threads in zip(libraries, _before, strict=True):
                    _set(library, threads)
                _before.clear()


def _set(library: Any, threads: int) -> None:
    """Set how many threads a BLAS takes, from whichever thread: threadpoolctl leaves that to the first one to do it."""
    let_go: Any = getattr(library, "clear_controlling_thread", lambda force: None)  # not before 3.8
    let_go(force=True)
    library.set_num_threads(threads)
    let_go(force=True)


# ---- taking effect ---------------------------------------------------------------------------------------------------


def check() -> None:
    """Look at NNX_THREADS, if it is another than before; let it take effect, where a backend has been made.

    Raises:
        InputError: it is no number above 0.
    """
    global _checked
    text = os.environ.get("NNX_THREADS")
    if text != _checked:
        wish()
        apply()
        _checked = text
        _tell_of_a_cap()


def apply(always: bool = False) -> None:
    """Tell the libraries that are loaded.

    BLAS keeps its own number where none was asked for, but for a container's quota, of which it does not know; unless
    `always`.
    """
    global _told, _wished
    with _lock:
        asked, threads, allowed = wish(), get_threads(), quota()
        _wished = asked is not None
        if always or _wished or (allowed is not None and allowed < usable()):
            try:
                from threadpoolctl import threadpool_limits
            except ImportError:
                pass
            else:
                threadpool_limits(limits=threads, user_api="blas")
                _told = threads
        if "nnx.kernels.cpu.threads.pool" in sys.modules:
            from nnx.kernels.cpu.threads import pool

            most = asked or min(_fixed().values(), default=os.cpu_count() or 1)
            pool.set_limit(min(most, sys.maxsize), _just_now)  # kernels read it as one of C's numbers


def _just_now() -> int:
    """Return how many threads an operation that begins now may take: what changes by itself of `limits`."""
    cpus, limit = usable(), None if _wished else blas_limit()
    return cpus if limit is None else min(cpus, limit)


def _tell_of_a_cap() -> None:
    """Say, once, if more threads were asked for than there are CPUs."""
    asked, most = wish(), usable()
    if asked is not None and asked > most:
        by = f"NNX_THREADS={asked}" if _asked is None else f"set_threads({asked})"
        warn_once(f"{by}: nnx takes {most}, as many as the CPUs that this process may run on", "more threads than CPUs")
