"""Shares: which rows of a batch are whose.

Part p of P has the rows from p / P on up to (p + 1) / P of the batch, rounded down. So a part of 2 is, row for row, 6
parts of 12, and what is dealt out to 12 is dealt out to each number of processes that divides them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnx.distributed.communicator import Communicator
from nnx.errors import InputError

PARTS = 12  # of a batch where they must not depend on the processes: 1, 2, 3, 4, 6 and 12 processes divide it


def span(rows: int, part: int, parts: int) -> tuple[int, int]:
    """Return the first row of a part of so many rows, and the one behind its last."""
    return rows * part // parts, rows * (part + 1) // parts


@dataclass(frozen=True)
class Shares:
    """How batches are divided among processes: into parts of rows that come together, as even as can be.

    Attributes:
        comm: the processes. parts: how many there are in all; each process has as many of them.
        fixed: whether parts are summed in their order: the sum is then the same, bit for bit, whoever has which.
    """

    comm: Communicator
    parts: int
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.parts % self.comm.size:
            raise InputError(
                f"fit: deterministic={self.parts}: {self.comm.size} processes cannot have equally many "
                f"of {self.parts} parts of a batch; start a number of processes that divides it, or give another number"
            )

    @property
    def mine(self) -> range:
        """The numbers of this process's parts."""
        each = self.parts // self.comm.size
        return range(self.comm.rank * each, (self.comm.rank + 1) * each)

    def bounds(self, rows: int) -> list[tuple[int, int]]:
        """Return the first row, and the one behind the last, of each of this process's parts of a batch."""
        return [span(rows, part, self.parts) for part in self.mine]

    def rows(self, batch: int) -> np.ndarray:
        """Return which rows of a batch are this process's: int64."""
        bounds = self.bounds(batch)
        return np.arange(bounds[0][0], bounds[-1][1])
