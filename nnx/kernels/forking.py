"""Fork safety: a child has none of its parent's threads, and inherits locks in the state that they left."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0  # seconds; longer than any work done while these locks are held


def hold_at_fork(lock: Any) -> None:
    """Make a fork wait for this lock, so that no child inherits it held, with the guarded work half done."""
    held: list[bool] = []

    def before() -> None:
        held.append(lock.acquire(timeout=PATIENCE))

    def after() -> None:
        if held and held.pop():
            lock.release()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)


def in_forked(forget: Callable[[], object]) -> None:
    """Call a function first in each forked child, to forget the threads of the parent."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)
