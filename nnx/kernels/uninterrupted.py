"""Signal safety: compiling, and what else would leave Numba half done, runs in a thread that no handler interrupts.

Python runs handlers in the main thread alone, between any two instructions. What one raises, such as KeyboardInterrupt
at Ctrl-C, would leave a registry of Numba's half filled, or a module of LLVM's with two owners; the next compilation
then fails, or the process ends. So the main thread has such work done by another thread, and only its waiting is cut:
the work itself goes on to its end, which the next work and a fork wait for; the end of the program, for its next pause.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from contextvars import copy_context
from types import FrameType
from typing import Any, TypeVar

from nnx.kernels import compiling
from nnx.kernels.forking import hold_at_fork, in_forked

Result = TypeVar("Result")
LOST = 0.1  # seconds after which a signal is heard that came just before the wait for the work began
LOOK = 0.001  # seconds between two looks whether work that nobody waits for has ended
STACK = 8 << 20  # bytes that a compiler may take, whatever the program has chosen for threads; what main threads have
LOCK = threading.RLock()  # held while there is work, so that no child is forked with half of it
hold_at_fork(LOCK)
NEEDED: list[Any] = [LOCK]  # what work may wait for; a handler may ask for work while the main thread holds one of them
_working: dict[int, FrameType] = {}  # our threads at work, and who asked for it
_ending = False
in_forked(_working.clear)  # there is one only if forking has lost patience


def uninterrupted(work: Callable[[], Result]) -> Result:
    """Return what `work` returns, or raise what it raises; in the main thread, also what a handler raises meanwhile.

    Where no thread can be had the work is done here, as it is in any thread but the main one.
    """
    if any(lock._is_owned() for lock in NEEDED):
        return work()
    if threading.get_ident() != threading.main_thread().ident:
        with LOCK:
            return work()
    settle()
    # Not threading's own Thread and Event: they are written in Python, so a handler's exception may leave them locked.
    context, over, main = copy_context(), allocate_lock(), threading.get_native_id()
    outcome: list[tuple[Result | None, BaseException | None]] = []
    over.acquire()

    def apart(asked: FrameType) -> None:
        try:
            if threading.get_native_id() == main:  # under gevent and its like, where threads are not the system's
                return
            with LOCK:
                _working[threading.get_ident()] = asked
                try:
                    outcome.append((context.run(work), None))
                except BaseException as error:  # handed over
                    outcome.append((None, error))
                finally:
                    _working.pop(threading.get_ident(), None)
        finally:
            over.release()

    try:
        if 0 < (usual := threading.stack_size()) < STACK:
            threading.stack_size(STACK)
        try:
            start_new_thread(apart, (sys._getframe(),))
        except (RuntimeError, MemoryError):  # the system allows no more threads, or the interpreter is ending
            over.release()
        finally:
            threading.stack_size(usual)
        while not over.acquire(timeout=LOST):
            compiling.tell()
    except BaseException:  # a handler's
        atexit.register(finish)  # now, to come before what Numba has registered
        raise
    if not outcome:
        return work()
    result, failure = outcome.pop()
    try:
        if failure is not None:
            raise failure
        return result  # type: ignore[return-value]
    finally:
        del failure  # it refers to this frame


def settle() -> None:
    """Wait for work that was begun and that nobody waits for any more."""
    while _working:
        time.sleep(LOOK)


def finish() -> None:
    """Let such work end at its next `pause`, since the program ends."""
    global _ending
    _ending = True
    settle()
    _ending = False  # whatever else is done at the end may have work done


def pause() -> None:
    """End here, between two parts of the work, where the program ends and nobody waits for it."""
    apart = threading.get_ident() in _working
    if _ending and apart:
        raise SystemExit
    if not apart:  # nobody else would
        compiling.tell()


def whose() -> int:
    """Return for which thread this one works: itself, unless it is one of ours."""
    mine = threading.get_ident()
    return (threading.main_thread().ident or mine) if mine in _working else mine


def caller(frame: FrameType) -> FrameType | None:
    """Return who called, also where that is the thread that has another do its work."""
    return frame.f_back or _working.get(threading.get_ident())
