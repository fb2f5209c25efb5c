"""How many CPU threads nnx takes: one number for BLAS and for the Numba backend's kernels and training steps.

Order: `set_threads`, the environment's NNX_THREADS, as many as the process may use. Threads of several libraries never
compete: kernels that share one operation among them call no BLAS, and BLAS's own threads wait while they run.
"""

from __future__ import annotations

import os
import sys

from nnx.backends.errors import InputError, InputTypeError

_asked: int | None = None


def set_threads(threads: int | None) -> int:
    """Set how many CPU threads nnx takes from now on, in this process; return the number.

    BLAS follows where threadpoolctl is installed.

    Args:
        threads: at least 1; None goes back to NNX_THREADS, or as many as the process may use.

    Raises:
        InputError: `threads` is no such number.
    """
    global _asked
    if threads is not None:
        if isinstance(threads, bool) or not isinstance(threads, int):
            raise InputTypeError(f"set_threads({threads!r}): expected a whole number, or None")
        if threads < 1:
            raise InputError(f"set_threads({threads}): expected at least 1")
    _asked = threads
    apply(always=True)
    return get_threads()


def get_threads() -> int:
    """Return how many CPU threads nnx takes."""
    return wish() or usable()


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
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"NNX_THREADS={text!r}: expected a whole number of at least 1")
    return int(text)


def usable() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def apply(always: bool = False) -> None:
    """Tell the libraries that are loaded. Where no number was asked for, BLAS keeps its own, unless `always`."""
    threads = get_threads()
    if always or wish() is not None:
        try:
            from threadpoolctl import threadpool_limits
        except ImportError:
            pass
        else:
            threadpool_limits(limits=threads, user_api="blas")
    if "nnx.kernels.cpu.pool" in sys.modules:
        from nnx.kernels.cpu import pool

        pool.set_limit(threads)
