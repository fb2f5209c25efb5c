"""Thread affinity: helping threads, started and kept off the core of the thread that they help.

An operating system that saves energy wakes a helper on the core of the thread that woke it, and moves it only after
milliseconds; until then two threads take turns on one core. A step of 128x64-128-64-10 on two threads of a virtual
machine took 118 us at best, but mostly 205 us, as long as on one thread; with this module that is rare.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nnx.kernels.user_warnings import warn_once

try:
    # PyDLL does not release the interpreter's lock, which saves half of the call's time.
    _current = ctypes.PyDLL(None).sched_getcpu if hasattr(os, "sched_setaffinity") else None
except (OSError, AttributeError, TypeError):  # a C library without it
    _current = None

SOON = 1e-3  # seconds for which the set of allowed cores is remembered; asking for it takes 0.5 us
_kept_off: dict[int, tuple[int, frozenset[int]]] = {}  # native id of a thread: (core it must not take, those allowed)
_seen, _until = (-1, 0, 0), 0.0  # the caller's core, its id, and the number of threads; and until when that is valid
_refused = False


def start(work: Callable[..., None], *arguments: Any, name: str) -> int:
    """Start a helping thread; return its native id, or 0 if that is not possible: then the caller works alone.

    A system may allow no more threads (a container's limit, `ulimit -u`), nor does an interpreter that is shutting
    down. There is one warning, and no thread is tried again before `allow_again`. With gevent and similar libraries
    threads are not the system's: one that waits in compiled code would keep all others from running, so it ends at
    once.
    """
    global _refused
    if _refused:
        return 0
    mine = threading.get_native_id()

    def helping() -> None:
        if threading.get_native_id() != mine:
            work(*arguments)

    thread = threading.Thread(target=helping, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        _refused = True
        warn_once(
            f"no helping thread could be started ({error}), so work goes on with those there are: raise the limit of "
            "threads (ulimit -u, or the container's), then call nnx.set_threads; or ask for one by NNX_THREADS=1",
            "threads",
        )
        return 0
    native = thread.native_id or 0
    _refused = native == mine
    return 0 if _refused else native


def allow_again() -> None:
    """Allow threads to be tried again: after a limit may have been raised, and in a forked process."""
    global _refused
    _refused = False


def keep_off_mine(threads: list[int]) -> None:
    """Let threads, given by native ids, run on every core that the caller may use, except the one that it is on now.

    It does nothing if the system has no such call, or if the caller may use only one core.
    """
    global _seen, _until
    if _current is None:
        return
    mine, now = _current(), time.monotonic()
    seen = mine, threading.get_ident(), len(threads)
    if seen == _seen and now < _until:
        return
    allowed = frozenset(os.sched_getaffinity(0))
    others = allowed - {mine}
    for thread in threads:
        if others and _kept_off.get(thread) != (mine, allowed):
            with suppress(OSError):  # the thread has ended, or the system forbids it: only a matter of speed
                os.sched_setaffinity(thread, others)
            _kept_off[thread] = mine, allowed
    _seen, _until = seen, now + SOON
