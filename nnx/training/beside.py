"""Fits side by side: what one has to itself, and what it shares with those of other models (many.py).

Python runs one thread at a time, whoever has the interpreter's lock. Recorded steps let go of it, but fits that hand it
to and fro for calls shorter than waking a thread takes lose more by that than they gain. So fits side by side have a
turn: the one that has it runs, and lets others have it for as long as a native call takes that is worth it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any

from nnx.backends.threads import blas_alone
from nnx.training import progress
from nnx.training.interrupt import Interrupt

WORTH = 1e-3  # seconds: twenty times what it takes to wake a thread up
LARGE = 1 << 18  # multiply-adds for which OpenBLAS takes several threads


class Alone:
    """A fit by itself: nothing is shared."""

    def interrupt(self) -> Interrupt:
        """Return what tells whether it is to end."""
        return Interrupt()

    def progress(self, verbose: Any, epochs: int, first_epoch: int) -> progress.Progress:
        """Return what it tells how far it is."""
        return progress.make(verbose, epochs, first_epoch)

    def recording(self, products: int) -> AbstractContextManager[None]:
        """Return a context in which a step of so many multiply-adds or fewer is recorded."""
        return nullcontext()

    @contextmanager
    def letting_go(self, seconds: float) -> Iterator[None]:
        """Let others go on meanwhile, in a native call of about so many seconds."""
        yield


class Beside(Alone):
    """One of several fits, each in a thread of its own. Their turn is taken before a fit begins.

    Args:
        asked: the interrupt that ends them all.

    Attributes:
        told: how far it is; None before it begins.
    """

    def __init__(self, turn: Lock, asked: Interrupt) -> None:
        self._turn, self._asked = turn, asked
        self.told: Told | None = None

    def interrupt(self) -> Interrupt:
        """Return what tells whether they are to end."""
        return Heard(self._asked)

    def progress(self, verbose: Any, epochs: int, first_epoch: int) -> progress.Progress:
        """Return what keeps how far it is, for the thread that shows it."""
        self.told = Told(epochs, first_epoch)
        return self.told

    def recording(self, products: int) -> AbstractContextManager[None]:
        """Leave the other cores to the others: BLAS takes several for large products."""
        return blas_alone() if products > LARGE else nullcontext()

    @contextmanager
    def letting_go(self, seconds: float) -> Iterator[None]:
        """Let the others have the turn meanwhile, if that is worth it."""
        if seconds < WORTH:
            yield
            return
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()


class Told(progress.Progress):
    """What a fit tells of its progress.

    Attributes:
        done: epochs, with parts of one. logs: the values of the last one.
    """

    def __init__(self, epochs: int, first_epoch: int) -> None:
        super().__init__(epochs, first_epoch)
        self.done, self.logs = 0.0, dict[str, float]()

    def advance(self, epochs: float) -> None:
        """Note it."""
        self.done += epochs

    def log(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Keep them."""
        self.logs = dict(logs)


class Heard(Interrupt):
    """What another thread's interrupt is told: signals come to the main thread alone."""

    def __init__(self, by: Interrupt) -> None:
        self._by = by

    @property
    def asked(self) -> bool:  # type: ignore[override]
        """Whether the other was asked."""
        return self._by.asked

    def begin(self) -> None:
        """Leave listening to the other."""

    def end(self) -> None:
        """Likewise."""
