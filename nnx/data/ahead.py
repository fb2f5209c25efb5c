"""Reading ahead: work in a thread of its own, whose result is needed later."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
LONG = 600.0  # seconds


class Reading(Generic[T]):
    """A piece of work in a new thread; if no thread can be started, the work is done at once in this one.

    A thread for each piece of work costs some 0.1 ms; in return no thread is left over, however the caller ends.

    Args:
        work: a function that gets `stopped` and returns the result; it ends early once `stopped()` is true.
    """

    def __init__(self, work: Callable[[Callable[[], bool]], T]) -> None:
        self._work, self._stop, self._process = work, False, os.getpid()
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nnx-reading", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system allows no more threads, or the program is ending
            self._run()

    def _run(self) -> None:
        try:
            self._result.append(self._work(lambda: self._stop))
        except BaseException as error:  # raised again by `result`
            self._error = error

    def is_ready(self, seconds: float = 0.0) -> bool:
        """Return whether the work is done, after waiting for at most `seconds`."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        if self._process != os.getpid() and not self._result and self._error is None:  # the thread is lost in a fork
            self._process = os.getpid()
            self._run()
        return bool(self._result) or self._error is not None

    def has_result(self) -> bool:
        """Return whether the work is done and raised no error."""
        return self.is_ready() and self._error is None

    def result(self) -> T:
        """Wait for the work; return its result, or raise its error."""
        while not self.is_ready(LONG):
            pass
        if self._error is not None:
            raise self._error
        return self._result[0]

    def stop(self, seconds: float) -> bool:
        """Ask the work to end early, wait for at most `seconds`, and return whether it has ended."""
        self._stop = True
        if self._process != os.getpid():
            return True
        return self.is_ready(seconds)


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items, each of which is made in a thread while the caller uses the one before."""
    end: Any = object()

    def following(stopped: Callable[[], bool]) -> Any:
        return next(items, end)

    reading: Reading[Any] = Reading(following)
    try:
        while (item := reading.result()) is not end:
            reading = Reading(following)
            yield item
    finally:
        reading.stop(LONG)
