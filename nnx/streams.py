"""Random numbers drawn on the host, as functions of (seed, purpose, index): the same on every backend."""

from __future__ import annotations

import numpy as np

WEIGHTS, SHUFFLE = range(2)


def generator(seed: int, purpose: int, index: int) -> np.random.Generator:
    """Return NumPy's Philox generator keyed by the seed and by what is drawn, such as epoch 3's order of rows."""
    return np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, (purpose << 48) | index], np.uint64)))
