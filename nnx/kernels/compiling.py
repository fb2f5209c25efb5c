"""Notification about compiling: code that shows progress is told that something is being compiled, and for how long.

Code that compiles calls `begun` and `ended`. A thread that waits for it, usually the main thread, calls `tell` from
time to time. Code that shows progress registers a listener with `heard_by`, which is called only in its own thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

AFTER = 1.0  # compiling for less than so many seconds is not reported
USUAL = "about 5 s"  # the time for all kernels that one training needs, in one number type; see docs/benchmarks.md
Listener = Callable[[float], None]

_spent = 0.0  # seconds of compiling in this process, up to the last `ended`
_since: float | None = None  # when the present compiling began
_listener: ContextVar[tuple[Listener, float] | None] = ContextVar("nnx_compiling", default=None)


def begun() -> None:
    """Note that compiling begins, unless it has begun already."""
    global _since
    _since = time.monotonic() if _since is None else _since


def ended() -> None:
    """Note that compiling has ended."""
    global _spent, _since
    _spent, _since = spent(), None


def spent() -> float:
    """Return how many seconds were spent on compiling in this process."""
    since = _since  # a copy, since another thread may reset it
    return _spent if since is None else _spent + time.monotonic() - since


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Within the block, call `listener` with the seconds of compiling so far, once they exceed AFTER.

    It is called while something is compiled: some ten times a second if the main thread waits for it, and before each
    function if another thread compiles by itself.
    """
    token = _listener.set((listener, spent()))
    try:
        yield
    finally:
        _listener.reset(token)


def is_heard() -> bool:
    """Return whether there is a listener."""
    return _listener.get() is not None


def tell() -> None:
    """Call this thread's listener if something is being compiled; its errors are ignored."""
    if _since is None or (heard := _listener.get()) is None:
        return
    listener, before = heard
    if (seconds := spent() - before) >= AFTER:
        with suppress(Exception):
            listener(seconds)


def once(write: Callable[[str], None], usual: str = USUAL) -> Listener:
    """Return a listener that writes one line, at its first call: what is being done, and how long it usually takes."""
    told: list[bool] = []

    def hear(seconds: float) -> None:
        if not told:
            told.append(True)
            write(f"first use here: compiling for this processor ({usual}, more on a busy machine; once)")

    return hear
