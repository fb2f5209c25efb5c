"""Random numbers drawn on the host, as functions of (seed, purpose, index): the same on every backend."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.random.bit_generator import ISeedSequence

WEIGHTS, SHUFFLE, WINDOW = range(3)


def generator(seed: int, purpose: int, index: int) -> np.random.Generator:
    """Return NumPy's Philox generator keyed by the seed and by what is drawn, such as epoch 3's order of rows.

    After 2**48 indices they come again.
    """
    key = np.array([seed % 2**64, (purpose << 48) | index % 2**48], np.uint64)
    return np.random.Generator(np.random.Philox(cast("Any", Key(key))))


class Key(ISeedSequence):
    """A key that is taken as it is. `Philox(key=key)` does the same, and asks the system for a seed as well: 20 us."""

    def __init__(self, key: np.ndarray) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the key, for which Philox asks."""
        return self._key
