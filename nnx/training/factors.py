"""Factors of weighted samples, by which their losses are multiplied; in each batch they are 1 on average."""

from __future__ import annotations

import numpy as np

from nnx import weights as weighting


class Factors:
    """The factor of each sample: its weight divided by the mean weight of its batch (nnx/weights.py).

    A row is in one batch of an epoch, so it has one factor, which is gathered along with it. Where a batch comes in
    several parts, each of which takes the mean over its own rows, the factors include the part's share of all rows.

    Args:
        weights: float64 [N]. sizes: the rows of each part in an epoch. dtype: that of the factors. every: the number of
            parts of a batch.

    Attributes:
        by_row: the factors [N, 1] in the epoch that was drawn last.
        shares: by epoch and part, the sum of the batch's weights. scales: that divided by the sum of the part's own.
        last: for each batch, the index of its last part in the epoch.
    """

    def __init__(self, weights: np.ndarray, sizes: np.ndarray, dtype: str, every: int = 1) -> None:
        first = np.arange(0, len(sizes), every)
        self._parts = np.diff(first, append=len(sizes))  # of each batch
        self._weights, self._batches, self.last = weights, np.add.reduceat(sizes, first), first + self._parts - 1
        self._of_batch = np.repeat(sizes / np.repeat(self._batches, self._parts), sizes.astype(np.int64))
        self._sizes, self.by_row = sizes, np.zeros((len(weights), 1), dtype)
        self.shares, self.scales = dict[int, np.ndarray](), dict[int, np.ndarray]()

    def draw(self, epoch: int, order: np.ndarray) -> None:
        """Work out the factors for an epoch whose batches take the rows in this order."""
        drawn = self._weights[order]
        self.shares[epoch] = shares = np.repeat(weighting.sums(drawn, self._batches), self._parts)
        own = weighting.sums(drawn, self._sizes)
        self.scales[epoch] = shares / np.where(own > 0, own, np.inf)
        self.by_row[order, 0] = weighting.normalized(drawn, self._batches) * self._of_batch
