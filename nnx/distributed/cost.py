"""Cost model of data-parallel steps: predicts the time on n processes from the time on one and the link's speed."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A connection between processes.

    Attributes:
        latency: seconds that an empty message takes. bandwidth: bytes per second, in each direction.
    """

    latency: float
    bandwidth: float

    def allreduce(self, size: int, bytes_: float) -> float:
        """Return the seconds of an allreduce of so many bytes, by Rabenseifner's algorithm (2004)."""
        if size == 1:
            return 0.0
        return 2 * math.ceil(math.log2(size)) * self.latency + 2 * (size - 1) / size * bytes_ / self.bandwidth


# Typical links, for decisions that must not depend on a measurement: shared memory, 10 Gbit/s Ethernet, InfiniBand.
USUAL = Link(1.5e-6, 8e9), Link(30e-6, 1.1e9), Link(2e-6, 2.4e10)
WORTH = 10  # a message is worth sending by itself if its bytes take so many times the latency


def worth_sending() -> int:
    """Return from how many bytes on a part of the gradients is summed by itself, while the others are computed.

    It is the same for every link, because it decides which gradients are summed together, and so how sums are rounded.
    """
    return round(WORTH * max(link.latency * link.bandwidth for link in USUAL))


@dataclass(frozen=True)
class Work:
    """A training step in one process.

    Attributes:
        samples: seconds that are proportional to the samples, which processes divide: forward and backward.
        fixed: seconds that each process needs whatever its share: the update, and the call. bytes_: of all gradients.
    """

    samples: float
    fixed: float
    bytes_: float

    def on(self, size: int, link: Link, cores: int | None = None, grows: bool = False) -> float:
        """Return the seconds of a step on `size` processes.

        Args:
            size: the number of processes. link: their connection. cores: how many cores they share, one for each
                process; None: each has its own. grows: whether the batch grows with the number of processes, so that
                each has as many samples as one process alone (weak scaling).
        """
        turns = 1.0 if cores is None else max(1.0, size / cores)
        share = self.samples * (1 if grows else 1 / size)
        return (share + self.fixed) * turns + link.allreduce(size, self.bytes_)

    def efficiency(self, size: int, link: Link, grows: bool = False) -> float:
        """Return the parallel efficiency: the speed as a share of `size` times the speed of one process."""
        alone, together = self.on(1, link), self.on(size, link, grows=grows)
        return alone / together if grows else alone / (size * together)
