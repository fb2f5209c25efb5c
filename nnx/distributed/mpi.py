"""Communicator over MPI, by mpi4py: arrays on the host go by MPI, those on GPUs by NCCL or, without it, by the host."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import numpy as np

from nnx.backends import Backend
from nnx.distributed.communicator import Array, Communicator
from nnx.distributed.nccl import nccl_for
from nnx.distributed.watchdog import FAILED, Watchdog
from nnx.output import Output

Result = TypeVar("Result")


def numbering() -> int:
    """Return a number that differs between containers on one machine, since each has its own process numbers."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


class MpiCommunicator(Communicator):
    """The processes of an MPI job.

    Args:
        mpi: the module mpi4py.MPI. stall: seconds for which a process waits for the others before the job is ended.
    """

    def __init__(self, mpi: Any, stall: float) -> None:
        self._mpi, self._world = mpi, mpi.COMM_WORLD.Dup()
        self.rank, self.size = self._world.rank, self._world.size
        self.description = " ".join(mpi.Get_library_version().split()[:3]).strip("\0,")
        self._pid, self._nccl = os.getpid(), dict[int, Any]()
        known = self._world.allgather((socket.gethostname(), os.getpid(), numbering()))
        self._hosts = [(host, pid) for host, pid, _ in known]
        self.neighbours = [rank for rank, each in enumerate(known) if each[::2] == known[self.rank][::2]]
        self.local_rank, self.local_size = self.neighbours.index(self.rank), len(self.neighbours)
        self._watchdog = Watchdog(self, mpi, stall)

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """See `Communicator.hosts`."""
        return list(self._hosts)

    def allreduce(self, a: Array, backend: Backend | None = None) -> Array:
        """See `Communicator.allreduce`."""
        if isinstance(a, np.ndarray):
            self._wait("a sum", self._world.Allreduce, self._mpi.IN_PLACE, a)
        elif (nccl := self._on_gpus(backend)) is not None:
            nccl.allreduce(a)
        else:
            a[...] = backend.asarray(self.allreduce(backend.to_numpy(a)))  # type: ignore[union-attr]
        return a

    def begin_allreduce(self, a: Array, backend: Backend | None = None) -> Callable[[], object]:
        """See `Communicator.begin_allreduce`."""
        if isinstance(a, np.ndarray):
            request = self._world.Iallreduce(self._mpi.IN_PLACE, a)
            return lambda: self._wait("a sum", request.Wait)
        waits: Callable[[], object] = self._on_gpus(backend).begin_allreduce(a)
        return waits

    def overlaps(self, backend: Backend) -> bool:
        """See `Communicator.overlaps`."""
        return isinstance(backend.zeros(1), np.ndarray) or self._on_gpus(backend) is not None

    def allgather(self, mine: Array, everything: Array, backend: Backend | None = None) -> Array:
        """See `Communicator.allgather`."""
        if isinstance(mine, np.ndarray):
            self._wait("all parts", self._world.Allgather, mine, everything)
        elif (nccl := self._on_gpus(backend)) is not None:
            nccl.allgather(mine, everything)
        else:
            host = np.empty(everything.shape, backend.dtype_name(everything.dtype))  # type: ignore[union-attr]
            everything[...] = backend.asarray(self.allgather(backend.to_numpy(mine), host))  # type: ignore[union-attr]
        return everything

    def broadcast(self, a: Array, backend: Backend | None = None) -> Array:
        """See `Communicator.broadcast`."""
        if isinstance(a, np.ndarray):
            self._wait("rank 0's numbers", self._world.Bcast, a)
        else:
            a[...] = backend.asarray(self.broadcast(np.array(backend.to_numpy(a))))  # type: ignore[union-attr]
        return a

    def _gather(self, value: Any) -> list[Any]:
        """See `Communicator._gather`."""
        return list(self._wait("what the others have", self._world.allgather, value))

    def least(self, *numbers: float) -> np.ndarray:
        """See `Communicator.least`."""
        least = np.array(numbers, np.float64)
        self._wait("the smallest number", self._world.Allreduce, self._mpi.IN_PLACE, least, self._mpi.MIN)
        return least

    def barrier(self) -> None:
        """See `Communicator.barrier`."""
        self._wait("the others", self._world.Barrier)

    def working(self) -> None:
        """See `Communicator.working`."""
        self._watchdog.steps += 1

    def settle(self, backend: Backend) -> None:
        """See `Communicator.settle`; the watchdog is told about the waiting."""
        if self._nccl:
            self._wait("the GPUs", backend.synchronize)

    def abort(self, message: str, code: int = 1) -> NoReturn:
        """See `Communicator.abort`."""
        Output(sys.stderr).write(f"{message}\n")
        self._watchdog.end(code)

    def _wait(self, what: str, call: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that returns once all processes have called it; tell the watchdog since when and for what."""
        watchdog = self._watchdog
        watchdog.waiting = what
        try:
            return call(*arguments)
        finally:
            watchdog.waiting = None

    def _on_gpus(self, backend: Backend | None) -> Any:
        assert backend is not None  # callers give it with arrays that are not NumPy's
        if id(backend) not in self._nccl:
            self._nccl[id(backend)] = nccl_for(backend, self)
        return self._nccl[id(backend)]

    # ---- the end of the process --------------------------------------------------------------------------------------

    def end_on_exceptions(self) -> None:
        """From now on end the whole job if this process ends with an exception; the others would wait for ever."""
        before = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            if os.getpid() == self._pid:
                text = "".join(traceback.format_exception(kind, error, trace))
                self.abort(f"{text}nnx.distributed: {self.name(self.rank)} failed, which ends the job")
            before(kind, error, trace)

        exit_at_once = os._exit

        def leave(status: int) -> NoReturn:
            if os.getpid() == self._pid:  # not in a forked process
                self.abort(f"nnx.distributed: {self.name(self.rank)} ended by os._exit({status})", status or FAILED)
            exit_at_once(status)

        sys.excepthook, os._exit = hook, leave  # after os._exit, MPICH would take the whole job for done
        self._watchdog.begin()
