"""Pool: means over whole batches, of which each process has a part; BatchNorm takes its moments by them."""

from __future__ import annotations

from typing import Any

from nnx.backends import Backend
from nnx.distributed.communicator import Communicator

Array = Any


class Pool:
    """What a process that has a part of each batch asks the others for.

    Args:
        comm: the processes. share: this one's, of the batch's rows. rows: how many the batch has.

    Attributes:
        open: whether the others are asked, who do the same meanwhile. Else what a process has counts for the whole:
            so a step is recorded, and tried.
    """

    def __init__(self, comm: Communicator, share: float, rows: int) -> None:
        self._comm, self._share, self.rows, self.open = comm, share, rows, False

    def mean(self, a: Array, backend: Backend) -> None:
        """See `Operations.pool`."""
        if self.open:
            a[...] = a * self._share if self._share else backend.zeros(tuple(a.shape), a.dtype)  # infinity would stay
            self._comm.allreduce(a, backend)
