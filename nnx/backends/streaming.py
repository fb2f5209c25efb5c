"""Streaming of a data set that does not fit on the device: what a backend provides to train on it nevertheless."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Array = Any


class Halves(Protocol):
    """Arrays on the device in two halves, one of which is filled from the host while steps use the other.

    Attributes:
        arrays: on the device: [2 * rows, ...]. rows: how many rows a half has.
    """

    arrays: Sequence[Array]
    rows: int

    def room(self, half: int) -> list[np.ndarray]:
        """Return arrays on the host, [rows, ...], to be written for a half, 0 or 1, that steps do not use any more."""

    def send(self, half: int, count: int) -> None:
        """Begin to copy the first `count` rows of `room(half)` to that half."""

    def enter(self, half: int) -> None:
        """Make steps that are started from now on wait until the half is filled."""

    def leave(self, half: int) -> None:
        """Declare that all steps that use a half have been started."""

    def close(self) -> None:
        """Wait for the end of all copies."""


class Stream(Halves, Protocol):
    """Halves that are filled from a data set on the host.

    Attributes:
        reason: why the data set is not on the device, and how it gets there.
    """

    reason: str

    def fill(self, half: int, rows: np.ndarray) -> None:
        """Gather these rows on the host, and begin to copy them to a half that steps do not use any more."""


class HostHalves:
    """Halves for backends that compute on the host; see `Halves`. NumPy's arrays are filled without a copy."""

    def __init__(self, backend: Any, like: Sequence[np.ndarray], rows: int) -> None:
        self.arrays: Sequence[Array] = [backend.zeros((2 * rows, *a.shape[1:]), a.dtype) for a in like]
        self.rows, self._backend = rows, backend
        own = all(isinstance(a, np.ndarray) for a in self.arrays)
        self._room = [] if own else [np.zeros((rows, *a.shape[1:]), a.dtype) for a in like]

    def room(self, half: int) -> list[np.ndarray]:
        """See `Halves`."""
        return self._room or [a[half * self.rows : (half + 1) * self.rows] for a in self.arrays]

    def send(self, half: int, count: int) -> None:
        """See `Halves`."""
        first = half * self.rows
        for array, room in zip(self.arrays, self._room, strict=False):
            array[first : first + count, ...] = self._backend.asarray(room[:count].copy(), room.dtype.name)

    def enter(self, half: int) -> None:
        """See `Halves`."""

    def leave(self, half: int) -> None:
        """See `Halves`."""

    def close(self) -> None:
        """See `Halves`."""
