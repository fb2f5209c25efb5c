"""Cost model of data-parallel steps: from a step's time alone and a link's figures to the time on n processes."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """What processes talk by.

    Attributes:
        latency: seconds of a message of nothing. bandwidth: bytes a second, in each direction.
    """

    latency: float
    bandwidth: float

    def allreduce(self, size: int, bytes_: float) -> float:
        """Return the seconds of a sum of so many bytes: halving, then doubling (Rabenseifner, 2004)."""
        if size == 1:
            return 0.0
        return 2 * math.ceil(math.log2(size)) * self.latency + 2 * (size - 1) / size * bytes_ / self.bandwidth


@dataclass(frozen=True)
class Work:
    """A training step in one process.

    Attributes:
        samples: seconds that go by its samples, which processes divide: forward and backward. fixed: seconds that each
            process takes whatever its share: the update, and calling it. bytes_: of all gradients.
    """

    samples: float
    fixed: float
    bytes_: float

    def on(self, size: int, link: Link, cores: int | None = None, grows: bool = False) -> float:
        """Return the seconds of a step on `size` processes.

        Args:
            cores: that they share, each taking one; None: each has its own. grows: whether the batch grows with the
                processes, which then have as many samples each as one had.
        """
        turns = 1.0 if cores is None else max(1.0, size / cores)
        share = self.samples * (1 if grows else 1 / size)
        return (share + self.fixed) * turns + link.allreduce(size, self.bytes_)

    def efficiency(self, size: int, link: Link, grows: bool = False) -> float:
        """Return what part of `size` times one process's speed there is."""
        alone, together = self.on(1, link), self.on(size, link, grows=grows)
        return alone / together if grows else alone / (size * together)
