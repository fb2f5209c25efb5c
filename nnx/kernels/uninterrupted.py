"""Signal safety: compiling, and other work that Numba must finish, runs in a thread that no signal handler interrupts.

Python runs signal handlers only in the main thread, between any two instructions. An exception raised there, such as
KeyboardInterrupt at Ctrl-C, would leave one of Numba's registries half filled, or an LLVM module with two owners; then
the next compilation fails, or the process crashes. So the main thread lets another thread do such work, and the
exception interrupts only its waiting. The work itself continues to its end. The next such work, and a fork, wait for
that; the end of the program waits only for its next pause.
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
LOST = 0.1  # seconds after which a signal is noticed that came just before the wait for the work began
LOOK = 0.001  # seconds between two checks whether abandoned work has ended
STACK = 8 << 20  # bytes of the thread's stack, as of main threads, whatever the program has set for threads
LOCK = threading.RLock()  # held during work, so that no child is forked in the middle of it
hold_at_fork(LOCK)
NEEDED: list[Any] = [LOCK]  # locks that work may wait for; a handler may need work while the main thread holds one
_working: dict[int, FrameType] = {}  # the threads at work here, with the frames that asked for the work
_ending = False
in_forked(_working.clear)  # not empty only if the fork did not wait long enough


def uninterrupted(work: Callable[[], Result]) -> Result:
    """Return what `work` returns, or raise what it raises; in the main thread, also what a handler raises meanwhile.

    If no thread can be started, and in any thread but the main one, the work is done in this thread.
    """
    if any(lock._is_owned() for lock in NEEDED):
        return work()
    if threading.get_ident() != threading.main_thread().ident:
        with LOCK:
            return work()
    settle()
    # Not threading.Thread and Event: they are written in Python, so a handler's exception may leave them locked.
    context, over, main = copy_context(), allocate_lock(), threading.get_native_id()
    outcome: list[tuple[Result | None, BaseException | None]] = []
    over.acquire()

    def apart(asked: FrameType) -> None:
        try:
            if threading.get_native_id() == main:  # with gevent and similar, whose threads are not the system's
                return
            with LOCK:
                _working[threading.get_ident()] = asked
                try:
                    outcome.append((context.run(work), None))
                except BaseException as error:  # raised again in the waiting thread
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
        except (RuntimeError, MemoryError):  # the system allows no more threads, or the interpreter is shutting down
            over.release()
        finally:
            threading.stack_size(usual)
        while not over.acquire(timeout=LOST):
            compiling.tell()
    except BaseException:  # raised by a signal handler
        atexit.register(finish)  # only now, so that it is called before what Numba has registered
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
    """Wait for the end of abandoned work."""
    while _working:
        time.sleep(LOOK)


def finish() -> None:
    """Let abandoned work end at its next `pause`, since the program ends."""
    global _ending
    _ending = True
    settle()
    _ending = False  # other functions at the end of the program may need work


def pause() -> None:
    """Called between two parts of the work: end it here if it is abandoned and the program ends."""
    apart = threading.get_ident() in _working
    if _ending and apart:
        raise SystemExit
    if not apart:  # this thread does its own work, and reports its progress itself
        compiling.tell()


def whose() -> int:
    """Return the thread for which this one works: itself, unless it is a thread started here."""
    mine = threading.get_ident()
    return (threading.main_thread().ident or mine) if mine in _working else mine


def caller(frame: FrameType) -> FrameType | None:
    """Return the caller's frame, also across the border to the thread for which this one works."""
    return frame.f_back or _working.get(threading.get_ident())
