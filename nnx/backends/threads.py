"""The number of CPU threads that nnx uses: one number for BLAS and for the Numba backend's kernels and training steps.

It is the number of `set_threads`, else that of NNX_THREADS, else the smallest of several limits: the CPUs that this
process may run on, the quota of its container, the variables that limit other libraries (joblib sets them for its
workers), and the limit that threadpoolctl has set for BLAS. It never exceeds the number of CPUs, because threads that
take turns on a CPU are several times slower.

Limits that change while a process runs, its CPUs and threadpoolctl's, take effect within a millisecond; the environment
and the quota are read when a backend is made. Threads of several libraries never compete: kernels that share an
operation among threads do not call BLAS, and BLAS's own threads wait while they run.
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

busy: set[int] = set()  # threads that run recorded steps or train models; the fewer helpers are left for others
_asked: int | None = None
_checked: str | None = ""  # the value of NNX_THREADS at the last `check`
_told: int | None = None  # the number of threads that was last set for BLAS here
_alone, _before = 0, list[int]()  # how many `blas_alone` blocks are active, and BLAS's numbers of threads before
_wished = False  # whether the present number was asked for
_lock = threading.RLock()
hold_at_fork(_lock)
in_forked(busy.clear)
hold_at_fork(LOCK)  # before other locks, in the order of a thread that imports Numba and then sets its threads


def set_threads(threads: int | None) -> int:
    """Set how many CPU threads nnx uses in this process from now on; return the number.

    BLAS uses the same number if threadpoolctl is installed.

    Args:
        threads: at least 1; more than the CPUs that this process may run on count as that many. None restores
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
    """Return how many CPU threads nnx uses."""
    asked = wish()
    return min(usable(), asked) if asked is not None else min(limits().values())


def explain() -> str:
    """Return in words how many threads nnx uses, and why."""
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


# ---- limits ----------------------------------------------------------------------------------------------------------


def limits() -> dict[str, int]:
    """Return every limit that holds if no number was asked for: a dict from its cause to the number."""
    found = {"as many as the CPUs that this process may run on": usable(), **_fixed()}
    if (limit := blas_limit()) is not None:
        found["BLAS is limited, as by threadpoolctl"] = limit
    return found


def usable() -> int:
    """Return on how many CPUs this process may run at present."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13: the same, or the number given by -X cpu_count
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
    """Return the number in another library's variable, such as OMP_NUM_THREADS=4,2 (2 is for nested threads).

    A value that is no number sets no limit, as in those libraries, but causes a warning. 0 means as many threads as
    there are CPUs; only Numba refuses it.
    """
    text = os.environ.get(name, "").partition(",")[0].strip()
    if not text or (text == "0" and name != NUMBAS):
        return None
    number = _counted(text)
    if number is None:
        warn_once(f"{name}={text!r} limits no threads: expected a whole number of at least 1", name)
    return number


def _counted(text: str) -> int | None:
    """Return a text as an integer above 0; None if it is no such number, or has too many digits for Python."""
    with suppress(ValueError):
        return (int(text) or None) if text.isdecimal() else None
    return None


def blas_limit() -> int | None:
    """Return to how many threads others have limited NumPy's BLAS at present; None if that is not known."""
    if sys.modules.get("threadpoolctl") is None:  # others would use it; importing it here would take milliseconds
        return None
    now = min(_before or [library.num_threads or 1 for library in _blas()], default=None)
    return None if now == _told else now


@cache
def _blas() -> list[Any]:
    """Return threadpoolctl's controllers of NumPy's BLAS; none if it does not know that BLAS."""
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return [library for library in libraries if "numpy" in library.filepath] or libraries


@contextmanager
def blas_alone() -> Iterator[None]:
    """Within the block BLAS uses one thread, if threadpoolctl is installed; nnx's own threads are not affected.

    OpenBLAS's threads wait actively for some 25 ms after a product, on cores that others could use.
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
    """Set a BLAS library's number of threads from any thread; threadpoolctl by itself allows it only to the first."""
    let_go: Any = getattr(library, "clear_controlling_thread", lambda force: None)  # threadpoolctl 3.8 and later
    let_go(force=True)
    library.set_num_threads(threads)
    let_go(force=True)


# ---- setting the number in libraries ---------------------------------------------------------------------------------


def check() -> None:
    """If NNX_THREADS has changed, check it, and, if a backend has been made, let it take effect.

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
    """Set the number of threads in the libraries that are loaded.

    If no number was asked for, BLAS keeps its own, unless a container's quota is smaller, which BLAS does not know.

    Args:
        always: whether to set BLAS's number in any case.
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
            pool.set_limit(min(most, sys.maxsize), _just_now)  # kernels read it as a C integer


def _just_now() -> int:
    """Return how many threads an operation that begins now may use: the smallest of those limits that can change."""
    cpus, limit = usable(), None if _wished else blas_limit()
    return cpus if limit is None else min(cpus, limit)


def _tell_of_a_cap() -> None:
    """Warn, once, if more threads were asked for than there are CPUs."""
    asked, most = wish(), usable()
    if asked is not None and asked > most:
        by = f"NNX_THREADS={asked}" if _asked is None else f"set_threads({asked})"
        warn_once(f"{by}: nnx takes {most}, as many as the CPUs that this process may run on", "more threads than CPUs")
