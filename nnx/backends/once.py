"""One-time initialisation: an object is made once in a process, by the first thread that needs it; others wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from nnx.kernels.forking import in_forked
from nnx.kernels.uninterrupted import whose

Made = TypeVar("Made")
LOOK = 0.001  # seconds between two checks whether another thread has made the object


class Once(Generic[Made]):
    """A decorator for a function of a name, which is then called once for each name; results are kept, errors are not.

    Threads wait only for the name that they ask for, so one that takes long, or hangs, does not delay others. The
    function may ask for other names. If these requests form a cycle, within one thread or across several, the last one
    to ask gets an error instead of waiting for ever.
    """

    def __init__(self, make: Callable[[str], Made]) -> None:
        self._make = make
        self._made: dict[str, Made] = {}
        self._forget()
        in_forked(self._forget)  # the threads that make and wait exist only in the parent

    def _forget(self) -> None:
        self._makers: dict[str, Making] = {}
        self._waiting: dict[int, str | None] = {}  # thread: name
        self._lock = threading.RLock()  # reentrant, for a signal handler that asks while it is held

    def __call__(self, name: str) -> Made:
        """Return the object for a name, after making it if need be."""
        me = whose()
        while name not in self._made:
            mine = Making(me)
            try:
                other = self._begin(name, mine)
                if other is None:
                    if name not in self._made:  # unless another thread finished just before
                        self._made[name] = self._make(name)
                    return self._made[name]
                while not other.over:
                    time.sleep(LOOK)
            finally:  # without a call, during which a signal handler could raise
                mine.over = True
                self._waiting[me] = None
        return self._made[name]

    def cache_clear(self) -> None:
        """Forget all objects, so that they are made anew."""
        self._made.clear()

    def _begin(self, name: str, mine: Making) -> Making | None:
        """Return the attempt of another thread to wait for; None if this thread is to make the object."""
        with self._lock:
            other = self._makers.get(name)
            if other is None or other.over:
                self._makers[name] = mine
                return None
            awaited: str | None = name
            while awaited in self._makers and not (maker := self._makers[awaited]).over:
                if maker.thread == mine.thread:
                    raise RecursionError(f"{name!r} is being made by what asks for it")
                awaited = self._waiting.get(maker.thread)  # that thread may itself wait for another one
            self._waiting[mine.thread] = name
            return other


class Making:
    """One thread's attempt to make an object."""

    def __init__(self, thread: int) -> None:
        self.thread, self.over = thread, False
