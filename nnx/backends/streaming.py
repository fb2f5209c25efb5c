"""Streaming of a data set that does not fit on the device: what a backend gives to train on it all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Array = Any


class Stream(Protocol):
    """Arrays on the device in two halves, one of which is filled from the host while work goes on in the other.

    Attributes:
        arrays: on the device, one for each on the host: [2 * rows, ...]. rows: of a half.
        reason: why the data set is not on the device, and how it gets there.
    """

    arrays: Sequence[Array]
    rows: int
    reason: str

    def fill(self, half: int, rows: np.ndarray) -> None:
        """Gather these rows on the host, and begin to copy them to a half, 0 or 1, that work has left."""

    def enter(self, half: int) -> None:
        """Let work that is asked for from now on find there what it was filled with."""

    def leave(self, half: int) -> None:
        """Say that all work in a half has been asked for."""

    def close(self) -> None:
        """Wait until nothing is copied any more."""
