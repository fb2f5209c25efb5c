"""Warnings for the user, given once in a process; where there is no place to show them, nothing fails."""

from __future__ import annotations

import contextlib
import sys
import warnings
from types import FrameType

from nnx.kernels.uninterrupted import caller

_given: dict[str, object] = {}


def warn_once(text: str, about: str | None = None) -> None:
    """Warn, the first time that anything is said `about` this (default: the text itself), from whichever thread."""
    mine = object()
    if _given.setdefault(about or text, mine) is mine:  # one step for the interpreter, so no two threads pass
        warn(text, RuntimeWarning)


def warn(text: str, category: type[Warning]) -> None:
    """Warn, at the user's own line. Where stderr is closed, or cannot write, that is no reason for work to fail."""
    line = _outside(sys._getframe())
    name, seen = line.f_globals.get("__name__"), line.f_globals.setdefault("__warningregistry__", {})
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no warning is one of these, if warnings are errors
        warnings.warn_explicit(text, category, line.f_code.co_filename, line.f_lineno, name, seen)


def _outside(frame: FrameType) -> FrameType:
    """Return the first caller outside nnx and what it is called through."""
    while frame.f_globals.get("__name__", "").partition(".")[0] in ("nnx", "numba", "contextlib"):
        if (back := caller(frame)) is None:
            break
        frame = back
    return frame
