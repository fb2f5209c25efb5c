"""Communicator: how several processes that train together exchange data; the base class serves a process alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from nnx.backends import Backend
from nnx.errors import InputError
from nnx.output import Output

Array = Any


@dataclass(frozen=True)
class Failed:
    """What a process sends instead of its value after an error."""

    error: str


class Communicator:
    """The processes of a job. This base class is a process alone: a sum is its own value, and nothing waits.

    `allreduce`, `allgather` and `broadcast` take contiguous arrays of a backend, of the same shape and type on all
    processes. All processes must call these methods, `gather` and `barrier` in the same order.

    Attributes:
        rank: the number of this process, from 0 on. size: how many processes there are.
        local_rank, local_size: the same among the processes on this machine. neighbours: the ranks on this machine,
            this process included.
        description: how the processes communicate, in words.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    neighbours: Sequence[int] = (0,)
    description = "one process"

    @property
    def hosts(self) -> list[tuple[str, int]]:
        """The machine and the process number of each rank."""
        import socket  # here, as it would take 2 ms of `import nnx`

        return [(socket.gethostname(), os.getpid())]

    def name(self, rank: int) -> str:
        """Return in words a rank with its machine and process."""
        host, pid = self.hosts[rank]
        return f"rank {rank} of {self.size} (process {pid} on {host})"

    @property
    def leads(self) -> bool:
        """Whether this process prints, draws and writes files: rank 0."""
        return self.rank == 0

    def allreduce(self, a: Array, backend: Backend | None = None) -> Array:
        """Put the sum over all processes into `a`, on each of them, and return it."""
        return a

    def begin_allreduce(self, a: Array, backend: Backend | None = None) -> Callable[[], object]:
        """Begin an `allreduce` in the background; return a function that waits for its end. `a` is not used until then.

        It may be called only if `overlaps` returns True.
        """
        return lambda: a

    def overlaps(self, backend: Backend) -> bool:
        """Return whether arrays of this backend can be summed in the background, while others are computed."""
        return False

    def allgather(self, mine: Array, everything: Array, backend: Backend | None = None) -> Array:
        """Put the arrays `mine` [k, ...] of all processes, by rank, into `everything` [size * k, ...]; return it."""
        everything[...] = mine
        return everything

    def broadcast(self, a: Array, backend: Backend | None = None) -> Array:
        """Copy rank 0's contents of `a` into `a` on every process, and return it."""
        return a

    def _gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in order, on each of them. They may be any small objects."""
        return [value]

    def barrier(self) -> None:
        """Wait until all processes have called this."""

    def working(self) -> None:
        """Note, for the watchdog, that this process has finished a step."""

    def settle(self, backend: Backend) -> None:
        """Wait for sums that a GPU is working on."""

    def abort(self, message: str, code: int = 1) -> NoReturn:
        """End all processes of the job, with a message on stderr and an exit code."""
        Output(sys.stderr).write(f"{message}\n")
        sys.exit(code)

    # ---- methods made of the ones above ------------------------------------------------------------------------------

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in order, on each of them. They may be any small objects.

        Raises:
            InputError: another process had an error, see `sharing`; the message names that process.
        """
        values = self._gather(value)
        for rank, theirs in enumerate(values):
            if isinstance(theirs, Failed):
                raise InputError(f"rank {rank}: {theirs.error}")
        return values

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Return a context for work after which all processes call `gather`: an error of one is raised on all there."""
        try:
            yield
        except Exception as error:
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            self._gather(Failed(f"{kind}{error}"))
            raise

    def agree(self, facts: dict[str, Any], what: str) -> None:
        """Check that facts are the same on all processes.

        Args:
            facts: values by name. what: the call, for messages.

        Raises:
            InputError: on every process; it names the fact that differs, and the ranks where it is not rank 0's.
        """
        given = self.gather(facts)
        for name, value in given[0].items():
            others = [rank for rank, known in enumerate(given) if known.get(name) != value]
            if others:
                ranks = ", ".join(map(str, others))
                theirs = given[others[0]].get(name)
                raise InputError(
                    f"{what}: {name} of rank{'s' * (len(others) > 1)} {ranks} differs from rank 0's: {theirs!r} "
                    f"there, {value!r} on rank 0. Each process is given the same model, the same samples and the same "
                    "arguments, and takes its share of each batch by itself"
                )

    def least(self, *numbers: float) -> np.ndarray:
        """Return for each of the numbers the smallest that any process gave."""
        least: np.ndarray = np.asarray(self.gather(numbers), np.float64).min(axis=0)
        return least
