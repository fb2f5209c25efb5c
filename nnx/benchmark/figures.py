"""Statistics of the chunks that were timed: median, quarters, best, and how well the best is known."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

US = 1e6
Rounds = list[list[float]]  # best and median of each


@dataclass(frozen=True)
class Figures:
    """How long one call takes, in us.

    Whatever else a machine does adds to a time and never takes from it. So the best is what the code needs, the median
    what this machine gave while it was measured.

    A pass is a process with its memory where it happens to lie, which can make a call faster or slower as long as it
    lives.

    Attributes:
        median_us: of the rounds' medians. low_us, high_us: between which half of the rounds lie, in every pass.
        best_us: the best chunk of all.
        doubt: how well that is known: by how much the worst of the passes missed it at best, or, with a single pass, a
            quarter of its rounds.
        passes: of each, its rounds' bests and medians.
    """

    median_us: float
    low_us: float
    high_us: float
    best_us: float
    doubt: float
    passes: list[Rounds]

    @property
    def spread(self) -> float:
        """Half the distance between the quarters, as a share of the median."""
        return (self.high_us - self.low_us) / 2 / self.median_us


def of_rounds(chunks: Sequence[Sequence[float]]) -> Rounds:
    """Return each round's best and median in us, from its chunks in seconds a call."""
    return [[min(times) * US, statistics.median(times) * US] for times in chunks]


def sum_up(passes: Sequence[Rounds]) -> Figures:
    """Sum up the rounds of some passes."""
    quarters = [_quarters([median for _, median in rounds]) for rounds in passes]
    medians = [median for rounds in passes for _, median in rounds]
    bests = [min(best for best, _ in rounds) for rounds in passes]
    near = max(bests) if len(bests) > 1 else _quarters([best for best, _ in passes[0]])[0]
    low, high = min(low for low, _, _ in quarters), max(high for _, _, high in quarters)
    return Figures(statistics.median(medians), low, high, min(bests), near / min(bests) - 1, list(passes))


def _quarters(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return (values[0],) * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high
