"""Warnings for the user, given once in a process; if they cannot be shown, nothing fails."""

from __future__ import annotations

import contextlib
import sys
import warnings
from types import FrameType

from nnx.kernels.uninterrupted import caller

_given: dict[str, object] = {}


def warn_once(text: str, about: str | None = None) -> None:
    """Warn, if there was no warning `about` this yet (default: the text itself), in any thread."""
    mine = object()
    if _given.setdefault(about or text, mine) is mine:  # `setdefault` is atomic, so no two threads pass
        warn(text, RuntimeWarning)


def warn(text: str, category: type[Warning]) -> None:
    """Warn at the user's own line of code; errors because stderr is closed or cannot be written are ignored."""
    line = _outside(sys._getframe())
    name, seen = line.f_globals.get("__name__"), line.f_globals.setdefault("__warningregistry__", {})
    with contextlib.suppress(AttributeError, OSError, ValueError):  # none of these is a warning raised as an error
        warnings.warn_explicit(text, category, line.f_code.co_filename, line.f_lineno, name, seen)


def _outside(frame: FrameType) -> FrameType:
    """Return the first caller outside nnx and the modules through which nnx is called."""
    while frame.f_globals.get("__name__", "").partition(".")[0] in ("nnx", "numba", "contextlib"):
        if (back := caller(frame)) is None:
            break
        frame = back
    return frame
