"""Shared steps: each process computes gradients for its parts of the batch; they are summed before the update.

A part's gradient is that of the mean over its own rows, so before the sum it is multiplied by the part's share of the
batch's rows. So parts of different sizes are weighted right, and penalties, which each part adds in full, count once.
The loss, multiplied by the share too, and the number of hits are summed along with the gradients, behind them. With
`Shares.fixed`, parts are summed in their order.

If a sum over processes can run in the background, a recorded step pauses whenever enough gradients are complete, those
of the last layer first, and their sum is begun. At other pauses a mean over the whole batch is taken
(nnx/distributed/pool.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nnx.backends.operation_table import OPERATIONS
from nnx.backends.recorder import Call, Program, Recorder, halves, in_pieces
from nnx.distributed.communicator import Communicator
from nnx.distributed.cost import worth_sending
from nnx.distributed.shares import Shares
from nnx.kernels.step_state import CURSOR, DONE, HITS, LOSS, STEP
from nnx.training.eager import Eager
from nnx.training.step import Feed, Part, TrainingStep

Array = Any


class Halves(Program):
    """A recorded step in two halves, between which gradients are summed: the gradients in pieces, then the update.

    Attributes:
        pieces: of the first half: for each its program, the calls of `pool` that follow it, and the slice of the
            gradients that are complete then, to be summed while the next pieces run, or None.
        collect: adds the gradients of the batch's earlier parts, if it came in several. rest: the update, and the end.
        description: how the pieces run.
    """

    def __init__(self, trainer: TrainingStep, shares: Shares, recorder: Recorder) -> None:
        backend = trainer.backend
        self.calls = recorder.calls
        ahead = not shares.fixed and not trainer.accumulating and shares.comm.overlaps(backend)
        stops = summed_ahead(trainer, recorder.calls, worth_sending()) if ahead else {}
        pieces = in_pieces(recorder.calls, stops)
        programs = backend.compile_gradients(recorder, pieces)
        self.pieces = [
            (program, piece.pools, spanned([stops[number] for number in piece.stops]))
            for program, piece in zip(programs, pieces, strict=True)
        ]
        *update, end = halves(self.calls)[1]
        collect = [call for call in update if call.name == "collect"]
        self.collect = Program(backend, collect) if collect else None
        update = [call for call in update if call not in collect]
        self.rest = Program(backend, [*update, Call(end.name, {**end.operands, "rows": 0})])  # the cursor has moved
        self.native, self.reason, self.kernels = False, programs[0].reason, programs[0].kernels
        self.description = programs[0].description
        self._counters = trainer.counters
        self._step = trainer.backend.asarray(_one_step(0), "int64")

    def run(self, steps: int) -> None:
        """Run `steps` steps of this part by itself."""
        for _ in range(steps):
            for program, _, _ in self.pieces:
                program.run(1)
            self._counters[...] -= self._step
            if self.collect is not None:
                self.collect.run(1)
            self.rest.run(1)


def summed_ahead(trainer: TrainingStep, calls: Sequence[Call], least: int) -> dict[int, slice]:
    """Return a dict from the index of a call to the slice of gradients that can be summed as soon as it has run.

    These gradients are complete then, and no later call needs them.

    Args:
        trainer: the one that recorded the step. calls: the step's. least: the smallest slice, in bytes, that is summed
            by itself. The gradients that come last, those of the first layers, are in no slice.
    """
    backend, flat = trainer.backend, trainer.flat
    begin, each = backend.address(flat.gradients), np.dtype(flat.dtype).itemsize
    touched: dict[int, int] = {}  # where in the gradients something is written or read, and by which call at last
    for number, call in enumerate(halves(list(calls))[0]):
        for name in (*OPERATIONS[call.name].writes, *OPERATIONS[call.name].reads):
            array = call.operands[name]
            at = 0 if array is None else backend.address(array) - begin
            if array is not None and 0 <= at < flat.size * each:
                touched[at // each] = number
    found: dict[int, slice] = {}
    last, complete, end = max(touched.values(), default=0), -1, flat.size
    for at, number in sorted(touched.items(), reverse=True):
        complete = max(complete, number)
        if complete in found:  # one call has written the gradients of several parameters
            found[complete], end = slice(at, found[complete].stop), at
        elif complete < last and (end - at) * each >= least:
            found[complete], end = slice(at, end), at
    return found


def spanned(parts: list[slice]) -> slice | None:
    """Return the union of adjacent slices, given from the last to the first; None if there are none."""
    return slice(parts[-1].start, parts[0].stop) if parts else None


class Exchange:
    """The sums over processes between the two halves of a step.

    Args:
        trainer: the one whose gradients are summed. parts: this process's, with or without rows. shares: how batches
            are divided. part: whether the gradients are kept for a later step, and only loss and hits are summed.
    """

    def __init__(self, trainer: TrainingStep, parts: Sequence[Part], shares: Shares, part: bool) -> None:
        self.shares, self.parts = shares, parts
        self._comm, self._backend = shares.comm, trainer.backend
        self._summed, self._stats, self._size = trainer.flat.summed, trainer.stats, trainer.flat.size
        self._told = self._summed[self._size :] if part and not shares.fixed else self._summed
        self._left, self._begun = self._size, list[Callable[[], object]]()
        if shares.fixed:  # parts without rows stay zero
            size, dtype = tuple(self._summed.shape), trainer.flat.dtype
            self._mine = trainer.backend.zeros((len(shares.mine), *size), dtype)
            self._all = trainer.backend.zeros((shares.parts, *size), dtype)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Return a context in which processes share steps."""
        self._left, self._begun = self._size, []  # the last step may have been interrupted
        pools = [part.feed.pool for part in self.parts if part.feed.pool is not None]
        try:
            for pool in pools:
                pool.open = True
            yield
        finally:
            for pool in pools:
                pool.open = False

    def begin(self, part: Part, ready: slice) -> None:
        """Take those gradients of a part that are complete, the slice `ready`, and begin their sum."""
        self._weigh(part, self._summed[ready])
        self._begun.append(self._comm.begin_allreduce(self._summed[ready], self._backend))
        self._left = ready.start

    def take(self, part: Part) -> None:
        """Take the gradients, the loss and the hits of a part that was just computed."""
        summed, size = self._summed, self._size
        if part.share != 1:
            self._weigh(part, summed[: self._left])
        summed[size] = self._stats[LOSS] * part.share if part.rows else 0
        summed[size + 1] = self._stats[HITS] if part.rows else 0
        if self.shares.fixed and part.rows:
            self._mine[part.place, ...] = summed

    def _weigh(self, part: Part, gradients: Array) -> None:
        if part.rows == 0:  # a row of weight 0; a product with 0 would make nan of infinity
            gradients[...] = 0
        else:
            gradients *= part.share

    def sum(self) -> None:
        """Finish the sums over all parts of all processes, and put them where the update and the log read them."""
        summed, size = self._summed, self._size
        if self.shares.fixed:
            self._comm.allgather(self._mine, self._all, self._backend)
            summed[...] = self._all[0, ...]
            for part in range(1, self.shares.parts):
                summed += self._all[part, ...]
        elif self._begun:
            others = summed[: self._left], summed[size:]
            self._begun += [self._comm.begin_allreduce(a, self._backend) for a in others]
            for wait in self._begun:
                wait()
            self._left, self._begun = size, []
        else:
            self._comm.allreduce(self._told, self._backend)
        self._stats[LOSS], self._stats[HITS] = summed[size], summed[size + 1]
        self._comm.working()


class SharedProgram(Program):
    """A shared step from its recorded halves, with the sum in between."""

    def __init__(self, trainer: TrainingStep, exchange: Exchange, of_each: Sequence[Halves]) -> None:
        self.calls = of_each[0].calls
        self._exchange, self._backend, parts = exchange, trainer.backend, exchange.parts
        self._comm = exchange.shares.comm
        self._counters, self._collect, self._rest = trainer.counters, of_each[0].collect, of_each[0].rest
        steps = [trainer.backend.asarray(_one_step(0 if part.rows else 1), "int64") for part in parts]
        self._parts = list(zip(parts, of_each, steps, strict=True))
        self.reason, self.kernels = of_each[0].reason, of_each[0].kernels
        how = f"{len(parts)} parts of a batch, each " if len(parts) > 1 else ""
        processes = f", {self._comm.size} processes" if self._comm.size > 1 else ""
        ahead = sum(ready is not None for _, _, ready in of_each[0].pieces)
        sums = f"sum in {ahead + 1} parts, begun as they are ready, and update" if ahead else "sum and update apart"
        self.description = f"{how}{of_each[0].description}; {sums}{processes}"

    def run(self, steps: int) -> None:
        """Run `steps` steps, as all processes do."""
        exchange, counters = self._exchange, self._counters
        with exchange.open():
            for _ in range(steps):
                for part, half, step in self._parts:
                    for program, pools, ready in half.pieces:
                        program.run(1)
                        for call in pools:
                            self._backend.pool(**call.operands)
                        if ready is not None:
                            exchange.begin(part, ready)
                    counters -= step  # the end of the step adds it again
                    exchange.take(part)
                late = exchange.shares.fixed
                if late:
                    exchange.sum()
                if self._collect is not None:  # gradients that this process kept of earlier parts are summed too
                    self._collect.run(1)
                if not late:
                    exchange.sum()
                self._rest.run(1)
        self._comm.settle(self._backend)


class SharedEager(Eager):
    """A shared step run layer by layer, with the sum before the update."""

    def __init__(self, trainer: TrainingStep, feed: Feed, exchange: Exchange, reason: str, part: bool) -> None:
        super().__init__(trainer, feed, reason, part)
        self._exchange = exchange

    def _whole_step(self, trainer: TrainingStep) -> None:
        exchange = self._exchange
        with exchange.open():
            for part in exchange.parts:
                trainer.gradients(part.feed)
                trainer.counters[CURSOR] += part.rows
                exchange.take(part)
            if exchange.shares.fixed:
                exchange.sum()
                trainer.collect(part=self._part)
            else:
                trainer.collect(part=self._part)
                exchange.sum()
            trainer.finish(0, part=self._part)


class Shared:
    """Runs the steps of a divided feed, by a program or layer by layer.

    All processes must take part in the same sums, so if one cannot replay a step, none does. They agree on that at the
    first run, which all begin together; not while they record, when one of them may have had an error.
    """

    native = False

    def __init__(self, program: SharedProgram | None, eager: SharedEager, comm: Communicator) -> None:
        self._eager, self._comm, self._agreed = eager, comm, False
        self._runner: SharedProgram | SharedEager = program or eager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)  # reason, description, kernels

    def run(self, steps: int) -> None:
        """Run `steps` steps, as all processes do."""
        if not self._agreed:
            mine = self._eager.reason if self._runner is self._eager else None
            reasons = [reason for reason in self._comm.gather(mine) if reason is not None]
            if reasons:
                self._runner, self._eager.reason = self._eager, reasons[0]
            self._agreed = True
        self._runner.run(steps)


def shared(
    trainer: TrainingStep, feed: Feed, each: Sequence[Program | Eager], shares: Shares, part: bool
) -> Shared:  # fmt: skip
    """Return the object that runs the steps of a divided feed, given those that run each of its parts."""
    assert feed.parts is not None
    exchange, halves = Exchange(trainer, feed.parts, shares, part), [one for one in each if isinstance(one, Halves)]
    reason = next((one.reason for one in each if isinstance(one, Eager)), None)
    program = SharedProgram(trainer, exchange, halves) if reason is None else None
    return Shared(program, SharedEager(trainer, feed, exchange, reason or "", part), shares.comm)


def _one_step(rows: int) -> np.ndarray:
    """Return what a part adds to the counters that must be subtracted again: a step, and `rows` rows."""
    counted = np.zeros(3, np.int64)
    counted[[STEP, CURSOR, DONE]] = 1, rows, 1
    return counted
