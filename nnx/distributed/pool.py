"""Pool: means over whole batches, of which each process has a part; BatchNorm's mean and variance are such means."""

from __future__ import annotations

from typing import Any

from nnx.backends import Backend
from nnx.distributed.communicator import Communicator

Array = Any


class Pool:
    """Means over the parts of a batch that several processes have.

    Args:
        comm: the processes. share: this process's share of the batch's rows. rows: the number of the batch's rows.

    Attributes:
        open: whether means are taken over all processes, which must then do the same at the same time. If False, this
            process's part stands for the whole batch, as while a step is recorded and tested.
    """

    def __init__(self, comm: Communicator, share: float, rows: int) -> None:
        self._comm, self._share, self.rows, self.open = comm, share, rows, False

    def mean(self, a: Array, backend: Backend) -> None:
        """See `Operations.pool`."""
        if self.open:
            a[...] = a * self._share if self._share else backend.zeros(tuple(a.shape), a.dtype)  # infinity would stay
            self._comm.allreduce(a, backend)
