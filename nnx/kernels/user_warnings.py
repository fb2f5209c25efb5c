"""Warnings for the user, given once in a process; where there is no place to show them, nothing fails."""

from __future__ import annotations

import contextlib
import sys
import warnings

_given: dict[str, object] = {}


def warn_once(text: str, about: str | None = None) -> None:
    """Warn, the first time that anything is said `about` this (default: the text itself), from whichever thread."""
    mine = object()
    if _given.setdefault(about or text, mine) is mine:  # one step for the interpreter, so no two threads pass
        warn(text, RuntimeWarning)


def warn(text: str, category: type[Warning]) -> None:
    """Warn, at the user's own line. Where stderr is closed, or cannot write, that is no reason for work to fail."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no warning is one of these, if warnings are errors
        warnings.warn(text, category, stacklevel=_outside())


def _outside() -> int:
    """Return the stack level, for `warn`, of the first caller outside nnx and what it is called through."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] in ("nnx", "numba", "contextlib"):
        level, frame = level + 1, frame.f_back
    return level
