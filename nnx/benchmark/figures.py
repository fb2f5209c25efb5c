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

    Other work of the machine can only make a time longer. So the best time is what the code needs, and the median is
    what this machine achieved during the measurement.

    Each pass has a new process. The addresses of its memory are a matter of chance, and can make calls faster or slower
    during the whole life of the process.

    Attributes:
        median_us: the median of the rounds' medians. low_us, high_us: limits between which half of the rounds are, in
            every pass.
        best_us: the best chunk of all.
        doubt: how uncertain the best is: by how much the best of the worst pass exceeds it or, with a single pass, the
            lower quartile of the rounds' bests.
        passes: for each pass, its rounds' bests and medians.
    """

    median_us: float
    low_us: float
    high_us: float
    best_us: float
    doubt: float
    passes: list[Rounds]

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, divided by the median."""
        return (self.high_us - self.low_us) / 2 / self.median_us


def of_rounds(chunks: Sequence[Sequence[float]]) -> Rounds:
    """Return each round's best and median in us, given its chunks in seconds per call."""
    return [[min(times) * US, statistics.median(times) * US] for times in chunks]


def sum_up(passes: Sequence[Rounds]) -> Figures:
    """Summarise the rounds of some passes."""
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
