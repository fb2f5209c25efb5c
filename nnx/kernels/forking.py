"""Fork safety: a child has none of its parent's threads, and finds locks as they left them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0  # seconds; longer than anything takes that is done under these locks


def hold_at_fork(lock: Any) -> None:
    """Have forking wait for this lock, so that no child finds it held, and what it guards half done, for ever."""
    held: list[bool] = []

    def before() -> None:
        held.append(lock.acquire(timeout=PATIENCE))

    def after() -> None:
        if held and held.pop():
            lock.release()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)


def in_forked(forget: Callable[[], object]) -> None:
    """Have each forked child call this first: what it remembers of threads, which were its parent's, is not true."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)
