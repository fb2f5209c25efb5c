"""Making a thing once in a process, whichever of many threads asks first; the others wait for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from nnx.kernels.uninterrupted import whose

Made = TypeVar("Made")


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
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)  # who makes and who waits was in the parent alone

    def _forget(self) -> None:
        self._makers: dict[str, tuple[int, threading.Event]] = {}  # name: (thread, set when it is done)
        self._waiting: dict[int, str] = {}  # thread: name
        self._lock = threading.RLock()  # a signal's handler may ask while it is held

    def __call__(self, name: str) -> Made:
        """Return what belongs to a name."""
        while name not in self._made:
            done = self._begin(name)
            if done is None:
                return self._finish(name)
            try:
                done.wait()
            finally:
                self._waiting.pop(whose(), None)
        return self._made[name]

    def cache_clear(self) -> None:
        """Make everything anew when it is next asked for."""
        self._made.clear()

    def _begin(self, name: str) -> threading.Event | None:
        """Return what to wait for; None: it is this thread that is to make it."""
        me = whose()
        with self._lock:
            if name not in self._makers:
                self._makers[name] = me, threading.Event()
                return None
            awaited: str | None = name
            while awaited in self._makers:  # who makes it may wait, too, for what another makes, and so on
                maker, _ = self._makers[awaited]
                if maker == me:
                    raise RecursionError(f"{name!r} is being made by what asks for it")
                awaited = self._waiting.get(maker)
            self._waiting[me] = name
            return self._makers[name][1]

    def _finish(self, name: str) -> Made:
        try:
            if name not in self._made:  # another thread was ready just before
                self._made[name] = self._make(name)
            return self._made[name]
        finally:
            with self._lock:
                self._makers.pop(name)[1].set()
