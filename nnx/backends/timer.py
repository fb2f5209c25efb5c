"""Stopwatches that wait for the device: `with backend.timer() as timer: ...`, then `timer.seconds`."""

from __future__ import annotations

import time
from typing import Any


class Timer:
    """Times a `with` block by the host's clock, including the device's work that the block started.

    Attributes:
        seconds: how long it took; set when the block is left.
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
    """Times a `with` block by events in the GPU's stream, so that the host's work does not count."""

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
