"""Communicator: what several processes that train together say to each other; and its form for a process alone."""

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
    """What a process says in place of what it was to give: in its way came an error."""

    error: str


class Communicator:
    """The processes of a job. This one is a process alone: sums are what it has, and there is nobody to wait for.

    What `allreduce`, `allgather` and `broadcast` send are arrays of a backend, contiguous, alike on all processes. Each
    of these, `gather` and `barrier` is called by all processes, in the same order.

    Attributes:
        rank: the number of this process, from 0 on. size: how many there are.
        local_rank, local_size: the same among those on this machine. neighbours: those, this one among them.
        description: how they talk, in words.
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
        import socket  # here, since it is 2 ms of `import nnx` that a process alone need not wait for

        return [(socket.gethostname(), os.getpid())]

    def name(self, rank: int) -> str:
        """Return a rank with its machine and process, in words."""
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
        """Begin what `allreduce` does, and return what waits for its end; nobody looks at `a` until then.

        Only where it `overlaps`.
        """
        return lambda: a

    def overlaps(self, backend: Backend) -> bool:
        """Tell whether a sum of this backend's arrays can go on while others are computed."""
        return False

    def allgather(self, mine: Array, everything: Array, backend: Backend | None = None) -> Array:
        """Put all processes' arrays [k, ...] one after the other into `everything` [size * k, ...], and return it."""
        everything[...] = mine
        return everything

    def broadcast(self, a: Array, backend: Backend | None = None) -> Array:
        """Put what rank 0 has in `a` into it on each process, and return it."""
        return a

    def _gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in order, on each of them. They may be any small objects."""
        return [value]

    def barrier(self) -> None:
        """Wait until all processes are here."""

    def working(self) -> None:
        """Tell that this process goes on: a step is done."""

    def settle(self, backend: Backend) -> None:
        """Wait for sums that a GPU was asked for."""

    def abort(self, message: str, code: int = 1) -> NoReturn:
        """End all processes of the job, with a message on stderr and an exit code."""
        Output(sys.stderr).write(f"{message}\n")
        sys.exit(code)

    # ---- made of these -----------------------------------------------------------------------------------------------

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in order, on each of them. They may be any small objects.

        Raises:
            InputError: an error came in the way of another process, see `sharing`; it names that one.
        """
        values = self._gather(value)
        for rank, theirs in enumerate(values):
            if isinstance(theirs, Failed):
                raise InputError(f"rank {rank}: {theirs.error}")
        return values

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Do some work by itself, where all processes do theirs and then `gather`: an error on one ends it for all."""
        try:
            yield
        except Exception as error:
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            self._gather(Failed(f"{kind}{error}"))
            raise

    def agree(self, facts: dict[str, Any], what: str) -> None:
        """Refuse facts that are not the same on all processes.

        Raises:
            InputError: on each process alike; it names the fact, and the ranks that have another than rank 0.
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
        """Return the smallest of all processes' numbers, each by itself."""
        least: np.ndarray = np.asarray(self.gather(numbers), np.float64).min(axis=0)
        return least
