"""Keeping helping threads off the core of the thread they help.

A system that saves cores wakes a helper where its waker runs, and moves it only after milliseconds: until then two
threads take turns on one core. A step of 128x64-128-64-10 on two threads of a virtual machine took 118 us at best and
205 us, as long as on one thread, most of the time; with this, seldom.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

try:
    _current = ctypes.CDLL(None).sched_getcpu if hasattr(os, "sched_setaffinity") else None
except (OSError, AttributeError, TypeError):  # a C library without it
    _current = None

_kept_off: dict[int, tuple[int, frozenset[int]]] = {}  # native id of a thread: (core it must not take, those allowed)


def keep_off_mine(threads: list[int]) -> None:
    """Let these threads (native ids) run on every core the caller may use but the one that it is on now.

    Does nothing where the system has no such call, or the caller one core only.
    """
    if _current is None:
        return
    mine, allowed = _current(), frozenset(os.sched_getaffinity(0))
    others = allowed - {mine}
    for thread in threads:
        if others and _kept_off.get(thread) != (mine, allowed):
            with suppress(OSError):  # it has ended, or the system forbids it: a matter of speed alone
                os.sched_setaffinity(thread, others)
            _kept_off[thread] = mine, allowed
