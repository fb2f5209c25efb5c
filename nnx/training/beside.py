"""Fits that run side by side: what differs between a fit alone and one of several in threads (many.py).

Python's interpreter runs one thread at a time, the one that holds its lock. Recorded steps release the lock; but if
several fits did so for calls shorter than it takes to wake a thread, they would lose more time than they gain. So fits
side by side take turns: only the one whose turn it is runs, and it passes the turn on during native calls that are long
enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any

from nnx.backends.threads import blas_alone
from nnx.training import progress
from nnx.training.interrupt import Interrupt

WORTH = 1e-3  # seconds from which a native call is long enough: twenty times what it takes to wake a thread
LARGE = 1 << 18  # multiply-adds from which OpenBLAS uses several threads


class Alone:
    """A fit that runs alone and shares nothing."""

    def interrupt(self) -> Interrupt:
        """Return the interrupt that tells the fit to end."""
        return Interrupt()

    def progress(self, verbose: Any, epochs: int, first_epoch: int) -> progress.Progress:
        """Return the object to which the fit reports its progress."""
        return progress.make(verbose, epochs, first_epoch)

    def recording(self, products: int) -> AbstractContextManager[None]:
        """Return a context for recording a step whose largest product has so many multiply-adds."""
        return nullcontext()

    @contextmanager
    def letting_go(self, seconds: float) -> Iterator[None]:
        """Return a context for a native call of about so many seconds, during which other fits may run."""
        yield


class Beside(Alone):
    """One of several fits, each in a thread of its own. The thread takes the turn before its fit begins.

    Args:
        turn: the lock held by the fit whose turn it is. asked: the interrupt that ends all fits.

    Attributes:
        told: the progress that the fit has reported; None before it begins.
    """

    def __init__(self, turn: Lock, asked: Interrupt) -> None:
        self._turn, self._asked = turn, asked
        self.told: Told | None = None

    def interrupt(self) -> Interrupt:
        """Return an interrupt that follows the one of all fits."""
        return Heard(self._asked)

    def progress(self, verbose: Any, epochs: int, first_epoch: int) -> progress.Progress:
        """Return an object that keeps the reported progress for the thread that shows it."""
        self.told = Told(epochs, first_epoch)
        return self.told

    def recording(self, products: int) -> AbstractContextManager[None]:
        """Return a context in which BLAS uses one thread for large products, and leaves the other cores to others."""
        return blas_alone() if products > LARGE else nullcontext()

    @contextmanager
    def letting_go(self, seconds: float) -> Iterator[None]:
        """Return a context in which the turn is passed on, if the call is long enough."""
        if seconds < WORTH:
            yield
            return
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()


class Told(progress.Progress):
    """The progress that a fit has reported; another thread shows it.

    Attributes:
        done: epochs, fractions included. logs: the values of the last epoch.
    """

    def __init__(self, epochs: int, first_epoch: int) -> None:
        super().__init__(epochs, first_epoch)
        self.done, self.logs = 0.0, dict[str, float]()

    def advance(self, epochs: float) -> None:
        """Add to the epochs done."""
        self.done += epochs

    def log(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Keep an epoch's values."""
        self.logs = dict(logs)


class Heard(Interrupt):
    """An interrupt that follows the one of the main thread, the only thread to which Python delivers signals."""

    def __init__(self, by: Interrupt) -> None:
        self._by = by

    @property
    def asked(self) -> bool:  # type: ignore[override]
        """Whether the main thread's interrupt was asked to end the work."""
        return self._by.asked

    def begin(self) -> None:
        """Do nothing: the main thread listens for signals."""

    def end(self) -> None:
        """Do nothing: the main thread listens for signals."""
