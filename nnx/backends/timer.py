"""Stopwatches that know when a device is done: `with backend.timer() as timer: ...`, then `timer.seconds`."""

from __future__ import annotations

import time
from typing import Any


class Timer:
    """Times what happens in the `with` block by the host's clock, the work it asked of the backend included.

    Attributes:
        seconds: how long it took, once the block is left.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.seconds = 0.0

    def __enter__(self) -> Timer:
        self._backend.synchronize()
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self._backend.synchronize()
        self.seconds = time.perf_counter() - self._begin


class EventTimer(Timer):
    """Times by events in the GPU's own stream of work: what the host does meanwhile does not count."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        events = backend.cupy.cuda
        with backend.active():
            self._first, self._last = events.Event(), events.Event()
        self._elapsed = events.get_elapsed_time

    def __enter__(self) -> EventTimer:
        with self._backend.active():
            self._first.record()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._backend.active():
            self._last.record()
            self._last.synchronize()
            self.seconds = self._elapsed(self._first, self._last) / 1e3
