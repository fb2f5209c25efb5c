"""Shares: which rows of a batch each process takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnx.data.parts import span
from nnx.distributed.communicator import Communicator
from nnx.errors import InputError


@dataclass(frozen=True)
class Shares:
    """How batches are divided among processes: into parts of consecutive rows, of nearly equal size.

    Attributes:
        comm: the processes. parts: the number of parts of a batch; each process has the same number of them.
        fixed: whether parts are summed in their order, so that the sum is the same bits for any number of processes.
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
        """Return (first row, row after the last) of each of this process's parts, in a batch of so many rows."""
        return [span(rows, part, self.parts) for part in self.mine]

    def rows(self, batch: int) -> np.ndarray:
        """Return the indices of this process's rows in a batch: int64."""
        bounds = self.bounds(batch)
        return np.arange(bounds[0][0], bounds[-1][1])
