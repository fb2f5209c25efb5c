"""Training in several processes: what must be the same on all before a fit, and what they agree on during it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from nnx import checks
from nnx.backends import Backend
from nnx.data.parts import PARTS
from nnx.distributed import current, warn_of_copies
from nnx.distributed.communicator import Communicator
from nnx.distributed.shares import Shares
from nnx.errors import InputError
from nnx.layers import BatchNorm
from nnx.layers.chain import every
from nnx.model.network import Network
from nnx.training.interrupt import Interrupt
from nnx.training.trainer import Trainer

MOST = 1 << 20  # the most parts of a batch: more than any job has processes


def shares_for(network: Network, who: str, deterministic: Any = False) -> Shares | None:
    """Return how batches are divided among the processes that train together; None for a process alone.

    Args:
        network: what is trained. who: the call, for messages.
        deterministic: whether sums must not depend on the number of processes; a number says into how many parts each
            batch is divided for that.

    Raises:
        InputError: processes cannot share the steps of this network, or the number of parts does not fit.
    """
    comm, parts = current(), 0
    if deterministic is not False:
        parts = PARTS if deterministic is True else checks.integer(deterministic, f"{who}: deterministic")
        if parts > MOST:
            raise InputError(
                f"{who}: deterministic={parts}: expected at most {MOST:,} parts, each of which takes its time; True "
                f"means {PARTS}"
            )
    if comm.size == 1:
        warn_of_copies()
        if not parts:
            return None
    for number, layer in enumerate(every(network._layers)):
        if parts and isinstance(layer, BatchNorm):
            raise InputError(
                f"{who}: layer {number}, {layer}, takes means over whole batches, and deterministic=True goes through "
                "their parts one after the other, each to its end; use LayerNorm, or train without deterministic=True"
            )
    return Shares(comm, parts or comm.size, fixed=bool(parts))


@contextmanager
def repeatable(shares: Shares | None, backend: Backend) -> Iterator[None]:
    """Within the block, if `shares` are fixed, BLAS uses one thread, as its sums depend on the number of threads.

    The results of Numba's kernels never do.
    """
    limits: Any = None
    if shares is not None and shares.fixed and backend.name == "numpy":
        with suppress(ImportError):
            from threadpoolctl import threadpool_limits

            limits = threadpool_limits(limits=1, user_api="blas")
    try:
        yield
    finally:
        if limits is not None:
            limits.restore_original_limits()


def begin(trainer: Trainer, who: str, **arguments: Any) -> None:
    """Check that all processes begin with the same model and arguments, and take rank 0's parameters.

    Args:
        trainer: what trains the model. who: the call, for messages. arguments: further values that must be the same:
            arrays are compared by their contents, all else by its text.

    Raises:
        InputError: on all processes; it names what differs, and on which rank.
    """
    shares, network = trainer.shares, trainer.network
    if shares is None or shares.comm.size == 1:
        return
    comm = shares.comm
    facts = {
        "the network": f"{network.layers}, {network.dtype}, on {network.backend.name}",
        "the seed": network.seed,
        "the loss": f"{trainer.given_loss}",
        "the optimizer": f"{trainer.optimizer}",
        "the number of steps done": trainer.optimizer.iterations,
        "deterministic": f"{shares.fixed}, {shares.parts} parts",
        **{name.replace("_", " "): fact(value) for name, value in arguments.items()},
    }
    comm.agree(facts, who)
    comm.overlaps(trainer.backend)  # here, because it may need all processes
    comm.broadcast(trainer.flat.state, trainer.backend)
    comm.broadcast(trainer.flat.more, trainer.backend)


def end(trainer: Trainer, comm: Communicator, who: str) -> None:
    """Raise InputError, on all processes, if their parameters have become different."""
    if comm.size > 1:
        comm.agree({"the parameters after training": fact(trainer.backend.to_numpy(trainer.flat.values))}, who)


def fact(value: Any) -> Any:
    """Return a short form of a value, by which processes compare it."""
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype}, checksum {zlib.crc32(np.ascontiguousarray(value).data):08x}"
    if isinstance(value, list | tuple):
        return [fact(each) for each in value]
    if isinstance(value, dict):
        return {name: fact(each) for name, each in value.items()}
    return value if isinstance(value, int | float | str | None) else type(value).__name__


class Agreement:
    """What the processes of a fit decide together, since each must do the same number of steps.

    Args:
        comm: the processes. interrupt: tells whether this process was asked to end.

    Attributes:
        interrupted: whether any process was asked to end, as of the last agreement.
    """

    def __init__(self, comm: Communicator, interrupt: Interrupt) -> None:
        self._comm, self._interrupt, self.interrupted = comm, interrupt, False

    def steps(self, wanted: int, rows: int) -> int:
        """Return how many steps, of `rows` rows each, to do now, at most `wanted`; 0 if the fit ends."""
        least = self._least(wanted, rows)
        return 0 if self.interrupted else int(least)

    def goes_on(self, stop: bool) -> bool:
        """Return whether another epoch begins; `stop`: whether this process was told to stop."""
        return bool(self._least(not stop)) and not self.interrupted

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Return a context for getting data: an error in one process is raised in the others when they next agree."""
        try:
            yield
        except Exception:
            if self._comm.size > 1:
                self._comm.least(0, 0, 0, 0, 0)
            with self._comm.sharing():
                raise

    def _least(self, mine: float, rows: int = 0) -> float:
        """Return the least number that a process gives; `rows`, those of the next step, must be the same on all."""
        if self._comm.size == 1:
            self.interrupted = self._interrupt.asked
            return mine
        least, unasked, fine, low, high = self._comm.least(mine, not self._interrupt.asked, 1, rows, -rows).tolist()
        if not fine:
            self._comm.gather(None)  # raises the error of another process, if there was one
        if low != -high:
            self._comm.agree({"the next step's rows": rows}, "fit")
        self.interrupted = not unasked
        return float(least)
