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


# What is met, for what must not depend on a measurement: one machine's memory, Ethernet of 10 Gbit/s, InfiniBand.
USUAL = Link(1.5e-6, 8e9), Link(30e-6, 1.1e9), Link(2e-6, 2.4e10)
WORTH = 10  # times a message's latency that its bytes take, so that sending it by itself costs next to nothing


def worth_sending() -> int:
    """Return from how many bytes on part of the gradients is summed by itself, while the others are computed.

    What is summed together decides how it is rounded, so it is the same whatever the link.
    """
    return round(WORTH * max(link.latency * link.bandwidth for link in USUAL))


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
