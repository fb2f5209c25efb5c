"""Interrupts: Ctrl-C that ends work at the next safe place instead of in the middle of a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Interrupt:
    """From `begin` to `end`, the first Ctrl-C only sets `asked`; a second one raises KeyboardInterrupt as usual.

    Only Python's own handler of SIGINT is replaced. Where the signal is ignored, as in the background jobs of a shell,
    it stays so, and a handler of the program's own is called, whatever it does. Python delivers signals to the main
    thread alone: in others nothing changes.

    Where several are active, as in a fit within a callback of another, Ctrl-C asks them all.
    """

    def __init__(self) -> None:
        self.asked = False

    def begin(self) -> None:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            _active.add(self)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, ask)

    def end(self) -> None:
        """Listen no more, and give the signal back, unless somebody else has it by now. May be repeated."""
        _active.discard(self)
        if not _active and signal.getsignal(signal.SIGINT) is ask:
            signal.signal(signal.SIGINT, signal.default_int_handler)


_active: set[Interrupt] = set()


def ask(number: int, frame: FrameType | None) -> None:
    """Handle a signal that is to end the work: ask all that are active, or raise KeyboardInterrupt if they know it."""
    if all(interrupt.asked for interrupt in _active):
        raise KeyboardInterrupt
    for interrupt in _active:
        interrupt.asked = True
