"""News of compiling: code that waits for it may hear that it goes on, and for how long already.

Who compiles says so by `begun` and `ended`. Who waits, the main thread mostly, calls `tell` from time to time; whoever
shows the progress of something listens by `heard_by`, in its own thread and for its own work alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

AFTER = 1.0  # seconds of compiling that nobody needs to hear of
USUAL = "about 5 s"  # what all takes that one training needs, in one number type; see docs/benchmarks.md
Listener = Callable[[float], None]

_spent = 0.0  # seconds, in this process, up to the last end
_since: float | None = None  # when what is being compiled was begun
_listener: ContextVar[tuple[Listener, float] | None] = ContextVar("nnx_compiling", default=None)


def begun() -> None:
    """Note that something is compiled from here on, unless that is so already."""
    global _since
    _since = time.monotonic() if _since is None else _since


def ended() -> None:
    """Note that whatever was compiled is."""
    global _spent, _since
    _spent, _since = spent(), None


def spent() -> float:
    """Return how many seconds were spent on compiling in this process."""
    since = _since  # which another thread may forget meanwhile
    return _spent if since is None else _spent + time.monotonic() - since


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Within the block, have `listener` called with the seconds of compiling so far, from the first second on.

    It is called while something is compiled, some ten times a second where the main thread waits for that, and before
    each function where another thread compiles for itself.
    """
    token = _listener.set((listener, spent()))
    try:
        yield
    finally:
        _listener.reset(token)


def is_heard() -> bool:
    """Tell whether somebody listens already."""
    return _listener.get() is not None


def tell() -> None:
    """Tell who listens in this thread, if something is being compiled; that nobody can be told is no failure."""
    if _since is None or (heard := _listener.get()) is None:
        return
    listener, before = heard
    if (seconds := spent() - before) >= AFTER:
        with suppress(Exception):
            listener(seconds)


def once(write: Callable[[str], None], usual: str = USUAL) -> Listener:
    """Return a listener that writes one line, the first time: what is done, and how long it usually takes."""
    told: list[bool] = []

    def hear(seconds: float) -> None:
        if not told:
            told.append(True)
            write(f"first use here: compiling for this processor ({usual}, more on a busy machine; once)")

    return hear
