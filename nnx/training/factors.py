"""Factors of samples that count differently: in a batch, by weights, and on average 1."""

from __future__ import annotations

import numpy as np

from nnx import weights as weighting


class Factors:
    """What each sample counts in its batch, on average 1: its weight by the mean weight there (nnx/weights.py).

    A row is in one batch an epoch, so its factor is a number that is gathered along with it. Where a batch comes in
    several parts, each of which takes the mean over its own rows, the part's share of all rows is in the factors.

    Args:
        weights: float64 [N]. sizes: rows of each part of an epoch. dtype: of the factors. every: parts of a batch.

    Attributes:
        by_row: [N, 1], in the epoch that was drawn last.
        shares: by epoch and part, the sum of its batch's weights; scales: that by the sum of its own.
        last: which parts are a batch's last ones.
    """

    def __init__(self, weights: np.ndarray, sizes: np.ndarray, dtype: str, every: int = 1) -> None:
        first = np.arange(0, len(sizes), every)
        self._parts = np.diff(first, append=len(sizes))  # of each batch
        self._weights, self._batches, self.last = weights, np.add.reduceat(sizes, first), first + self._parts - 1
        self._of_batch = np.repeat(sizes / np.repeat(self._batches, self._parts), sizes.astype(np.int64))
        self._sizes, self.by_row = sizes, np.zeros((len(weights), 1), dtype)
        self.shares, self.scales = dict[int, np.ndarray](), dict[int, np.ndarray]()

    def draw(self, epoch: int, order: np.ndarray) -> None:
        """Let batches of an epoch be taken in that order."""
        drawn = self._weights[order]
        self.shares[epoch] = shares = np.repeat(weighting.sums(drawn, self._batches), self._parts)
        own = weighting.sums(drawn, self._sizes)
        self.scales[epoch] = shares / np.where(own > 0, own, np.inf)
        self.by_row[order, 0] = weighting.normalized(drawn, self._batches) * self._of_batch
