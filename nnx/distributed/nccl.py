"""NCCL by CuPy: sums between GPUs without the host. Written from its documentation, not yet run on several GPUs."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nnx.backends import Backend

if TYPE_CHECKING:
    from nnx.distributed.communicator import Communicator

Array = Any
TYPES = {"float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64", "int64": "NCCL_INT64"}


class Nccl:
    """NCCL's communicator among all processes, on their current GPUs and streams.

    Args:
        cupy: the module. backend: the one of the arrays. comm: the processes, which exchange NCCL's identifier by it.
    """

    def __init__(self, cupy: Any, backend: Backend, comm: Communicator) -> None:
        self._cupy, self._nccl, self._backend = cupy, cupy.cuda.nccl, backend
        mine = self._nccl.get_unique_id() if comm.rank == 0 else None
        self._comm = self._nccl.NcclCommunicator(comm.size, comm.gather(mine)[0], comm.rank)
        self._beside: Any = None  # the stream for sums in the background

    def allreduce(self, a: Array) -> None:
        """Put the sum over all processes into `a`, in the order of the current stream."""
        self._comm.allReduce(a.data.ptr, a.data.ptr, a.size, self._type(a), self._nccl.NCCL_SUM, self._stream())

    def begin_allreduce(self, a: Array) -> Callable[[], None]:
        """Begin the same in the background, after the current stream's work; return a function by which it waits."""
        cuda = self._cupy.cuda
        if self._beside is None:
            self._beside = cuda.Stream(non_blocking=True)
        there, done = (cuda.Event(disable_timing=True) for _ in range(2))
        there.record(cuda.get_current_stream())
        self._beside.wait_event(there)
        with self._beside:
            self.allreduce(a)
        done.record(self._beside)
        return lambda: cuda.get_current_stream().wait_event(done)

    def allgather(self, mine: Array, everything: Array) -> None:
        """Put all processes' arrays into `everything`, in the order of the current stream."""
        self._comm.allGather(mine.data.ptr, everything.data.ptr, mine.size, self._type(mine), self._stream())

    def _type(self, a: Array) -> int:
        return int(getattr(self._nccl, TYPES[self._backend.dtype_name(a.dtype)]))

    def _stream(self) -> int:
        return int(self._cupy.cuda.get_current_stream().ptr)


def nccl_for(backend: Backend, comm: Communicator) -> Nccl | None:
    """Return NCCL between the processes' GPUs; None, on all processes, if one lacks it or two share a GPU."""
    cupy: Any = getattr(backend, "cupy", None)
    there = cupy is not None and available(cupy)
    gpu = cupy.cuda.runtime.deviceGetPCIBusId(getattr(backend, "number", 0)) if there else None
    known = comm.gather((there, socket.gethostname(), gpu))
    if not all(there for there, _, _ in known) or len(set(known)) < len(known):
        return None
    return Nccl(cupy, backend, comm)


def available(cupy: Any) -> bool:
    """Return whether CuPy finds NCCL."""
    try:
        return bool(cupy.cuda.nccl.available)
    except (AttributeError, ImportError):
        return False
