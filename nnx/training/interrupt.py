"""Interrupts: Ctrl-C ends the work at the next safe place, not in the middle of a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupt:
    """From `begin` to `end`, the first Ctrl-C only sets `asked`; a second one raises KeyboardInterrupt as usual.

    Only Python's own handler of SIGINT is replaced. If the signal is ignored, as in a shell's background jobs, or the
    program has its own handler, that stays so. Python delivers signals to the main thread only, so in other threads
    nothing is replaced.

    If several are active, as with a fit in a callback of another model's fit, Ctrl-C sets `asked` of all.
    """

    def __init__(self) -> None:
        self.asked = False

    def begin(self) -> None:
        """Install the handler."""
        if threading.current_thread() is threading.main_thread():
            _active.add(self)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, ask)

    def end(self) -> None:
        """Restore the former handler, unless another one has been installed since. Calling it twice does no harm."""
        _active.discard(self)
        if not _active and signal.getsignal(signal.SIGINT) is ask:
            signal.signal(signal.SIGINT, signal.default_int_handler)


_active: set[Interrupt] = set()


def ask(number: int, frame: FrameType | None) -> None:
    """Handle a signal: set `asked` of all active interrupts, or raise KeyboardInterrupt if it is set already."""
    if all(interrupt.asked for interrupt in _active):
        raise KeyboardInterrupt
    for interrupt in _active:
        interrupt.asked = True
