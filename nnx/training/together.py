"""Training together: what several processes must have in common before a fit, and what they agree on within it."""

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

MOST = 1 << 20  # parts of a batch: more than there are processes anywhere


def shares_for(network: Network, who: str, deterministic: Any = False) -> Shares | None:
    """Return how batches are divided among the processes that train together; None for one alone.

    Args:
        deterministic: whether a sum must not depend on how many processes there are; or into how many parts a batch
            is divided for that.

    Raises:
        InputError: the network, or the number of parts, is not one that they can share.
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
    """Let BLAS take one thread where sums must not depend on how many there are; the kernels of Numba never do."""
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
    """Have all processes begin alike: refuse what differs, and take rank 0's parameters.

    Args:
        arguments: what else must be the same: arrays by their contents, all else by its words.

    Raises:
        InputError: on all of them; it names what differs, and on which rank.
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
    comm.overlaps(trainer.backend)  # for which all may have to be asked, as here they are
    comm.broadcast(trainer.flat.state, trainer.backend)
    comm.broadcast(trainer.flat.more, trainer.backend)


def end(trainer: Trainer, comm: Communicator, who: str) -> None:
    """Refuse, on all processes, parameters that have become different."""
    if comm.size > 1:
        comm.agree({"the parameters after training": fact(trainer.backend.to_numpy(trainer.flat.values))}, who)


def fact(value: Any) -> Any:
    """Return what tells whether a value is the same on all processes."""
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype}, checksum {zlib.crc32(np.ascontiguousarray(value).data):08x}"
    if isinstance(value, list | tuple):
        return [fact(each) for each in value]
    if isinstance(value, dict):
        return {name: fact(each) for name, each in value.items()}
    return value if isinstance(value, int | float | str | None) else type(value).__name__


class Agreement:
    """What the processes of a fit decide together: each of them must do as many steps.

    Args:
        comm: the processes. interrupt: whether this one was asked to end.

    Attributes:
        interrupted: whether any was asked to end, as far as all know.
    """

    def __init__(self, comm: Communicator, interrupt: Interrupt) -> None:
        self._comm, self._interrupt, self.interrupted = comm, interrupt, False

    def steps(self, wanted: int, rows: int) -> int:
        """Return how many steps, of so many rows, to do now: 0 where the fit ends."""
        least = self._least(wanted, rows)
        return 0 if self.interrupted else int(least)

    def goes_on(self, stop: bool) -> bool:
        """Tell whether another epoch begins, where this process was told to `stop`, or not."""
        return bool(self._least(not stop)) and not self.interrupted

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Wait for data: an error that comes in the way of one process is raised where the others agree next."""
        try:
            yield
        except Exception:
            if self._comm.size > 1:
                self._comm.least(0, 0, 0, 0, 0)
            with self._comm.sharing():
                raise

    def _least(self, mine: float, rows: int = 0) -> float:
        """Return the least of what all processes say; `rows` of the step that comes next must be the same on all."""
        if self._comm.size == 1:
            self.interrupted = self._interrupt.asked
            return mine
        least, unasked, fine, low, high = self._comm.least(mine, not self._interrupt.asked, 1, rows, -rows).tolist()
        if not fine:
            self._comm.gather(None)  # which raises what has come in the way of another
        if low != -high:
            self._comm.agree({"the next step's rows": rows}, "fit")
        self.interrupted = not unasked
        return float(least)
