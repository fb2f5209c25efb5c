"""Random numbers drawn on the host, as functions of (seed, purpose, index): the same on every backend."""

from __future__ import annotations

import numpy as np

WEIGHTS, SHUFFLE, WINDOW = range(3)


def generator(seed: int, purpose: int, index: int) -> np.random.Generator:
    """Return NumPy's Philox generator keyed by the seed and by what is drawn, such as epoch 3's order of rows.

    After 2**48 indices they come again.
    """
    key = np.array([seed % 2**64, (purpose << 48) | index % 2**48], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
