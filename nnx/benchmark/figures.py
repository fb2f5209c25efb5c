"""From the chunks that were timed to the figures that are told."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

US = 1e6


@dataclass(frozen=True)
class Figures:
    """How long one call takes, in us.

    Whatever else a machine does adds to a time and never takes from it. So the best is what the code needs, the median
    what this machine gave while it was measured.

    Attributes:
        median_us: of the rounds' medians. low_us, high_us: the quarter of the rounds below and above it.
        best_us: the best chunk of all. doubt: how well that is known: by how much a quarter of the rounds missed it.
        rounds: best and median of each.
    """

    median_us: float
    low_us: float
    high_us: float
    best_us: float
    doubt: float
    rounds: list[list[float]]

    @property
    def spread(self) -> float:
        """Half the distance between the quarters, as a share of the median."""
        return (self.high_us - self.low_us) / 2 / self.median_us


def sum_up(rounds: Sequence[Sequence[float]]) -> Figures:
    """Sum up rounds of chunks, each in seconds a call."""
    bests = sorted(min(chunks) * US for chunks in rounds)
    medians = [statistics.median(chunks) * US for chunks in rounds]
    low, median, high = _quarters(medians)
    near = _quarters(bests)[0]
    return Figures(
        median, low, high, bests[0], near / bests[0] - 1, [[min(c) * US, statistics.median(c) * US] for c in rounds]
    )


def _quarters(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return (values[0],) * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high
