"""Reading ahead: work in a thread of its own, for one result that is wanted later."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
LONG = 600.0  # seconds


class Reading(Generic[T]):
    """Some work, begun at once in a thread that ends with it; where no thread can be started, done here and now.

    A thread for each piece of work costs some 0.1 ms, and none is left over, however whoever asked for it ends.
    """

    def __init__(self, work: Callable[[Callable[[], bool]], T]) -> None:
        self._work, self._stop, self._process = work, False, os.getpid()
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nnx-reading", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # there may be no more of them, or the program ends
            self._run()

    def _run(self) -> None:
        try:
            self._result.append(self._work(lambda: self._stop))
        except BaseException as error:  # whoever waits for the result gets it
            self._error = error

    def is_ready(self, seconds: float = 0.0) -> bool:
        """Whether it is done, waiting for so long at most."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        if self._process != os.getpid() and not self._result and self._error is None:  # a fork has left the thread
            self._process = os.getpid()
            self._run()
        return bool(self._result) or self._error is not None

    def has_result(self) -> bool:
        """Whether it is done, and no error came in its way."""
        return self.is_ready() and self._error is None

    def result(self) -> T:
        """Return the result, or raise what came in its way, once it is ready."""
        while not self.is_ready(LONG):
            pass
        if self._error is not None:
            raise self._error
        return self._result[0]

    def stop(self, seconds: float) -> bool:
        """Tell the work to end where it can, wait for that so long at most, and tell whether it has."""
        self._stop = True
        if self._process != os.getpid():
            return True
        return self.is_ready(seconds)


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items, each made while what was made of the one before is in use."""
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
