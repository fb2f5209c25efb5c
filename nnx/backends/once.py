"""One-time initialisation: a thing is made once in a process, whichever of many threads asks first; the others wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from nnx.kernels.forking import in_forked
from nnx.kernels.uninterrupted import whose

Made = TypeVar("Made")
LOOK = 0.001  # seconds between two looks whether another thread has made a thing


class Once(Generic[Made]):
    """A function of a name that is called once for each, as a decorator; what it returns is kept, what it raises not.

    Each name has a wait of its own, so that what takes long, or hangs, delays nobody who asks for something else. To
    make a thing, others may be asked for. Where that comes back to itself, in one thread or in several that would wait
    for each other, the last to ask gets an error instead of waiting for ever.
    """

    def __init__(self, make: Callable[[str], Made]) -> None:
        self._make = make
        self._made: dict[str, Made] = {}
        self._forget()
        in_forked(self._forget)  # who makes and who waits was in the parent alone

    def _forget(self) -> None:
        self._makers: dict[str, Making] = {}
        self._waiting: dict[int, str | None] = {}  # thread: name
        self._lock = threading.RLock()  # a signal's handler may ask while it is held

    def __call__(self, name: str) -> Made:
        """Return what belongs to a name."""
        me = whose()
        while name not in self._made:
            mine = Making(me)
            try:
                other = self._begin(name, mine)
                if other is None:
                    if name not in self._made:  # another thread was ready just before
                        self._made[name] = self._make(name)
                    return self._made[name]
                while not other.over:
                    time.sleep(LOOK)
            finally:  # without a call, in which a signal's handler could raise
                mine.over = True
                self._waiting[me] = None
        return self._made[name]

    def cache_clear(self) -> None:
        """Make everything anew when it is next asked for."""
        self._made.clear()

    def _begin(self, name: str, mine: Making) -> Making | None:
        """Return what to wait for; None: it is this thread that is to make it."""
        with self._lock:
            other = self._makers.get(name)
            if other is None or other.over:
                self._makers[name] = mine
                return None
            awaited: str | None = name
            while awaited in self._makers and not (maker := self._makers[awaited]).over:
                if maker.thread == mine.thread:
                    raise RecursionError(f"{name!r} is being made by what asks for it")
                awaited = self._waiting.get(maker.thread)  # who makes it may wait for what another makes, too
            self._waiting[mine.thread] = name
            return other


class Making:
    """One thread's attempt to make a thing."""

    def __init__(self, thread: int) -> None:
        self.thread, self.over = thread, False
