"""Shared steps: each process goes through its parts of the batch, and gradients are summed before the update.

A part's gradient is that of the mean over its own rows, so it is multiplied by the part's share of the batch's rows
before the sum: uneven parts come out right, and penalties, which each part adds in full, count once. Behind the
gradients ride the loss, by its share too, and the hits. With `Shares.fixed`, sums are made of all parts in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnx.backends.recorder import Call, Program, Recorder, halves
from nnx.distributed.shares import Shares
from nnx.kernels.step_state import CURSOR, DONE, HITS, LOSS, STEP
from nnx.training.eager import Eager
from nnx.training.step import Feed, Part, TrainingStep

Array = Any


class Halves(Program):
    """A recorded step in two programs, between which gradients can be summed.

    Attributes:
        gradients: the step without its update. rest: the update, and the end.
    """

    def __init__(self, trainer: TrainingStep, recorder: Recorder) -> None:
        backend = trainer.backend
        self.calls = recorder.calls
        self.gradients = backend.compile_gradients(recorder)
        *update, end = halves(self.calls)[1]
        self.rest = Program(backend, [*update, Call(end.name, {**end.operands, "rows": 0})])  # the cursor has moved
        self.native, self.reason, self.kernels = False, self.gradients.reason, self.gradients.kernels
        self._counters = trainer.counters
        self._step = trainer.backend.asarray(_one_step(0), "int64")

    def run(self, steps: int) -> None:
        """Run `steps` steps of this part alone."""
        for _ in range(steps):
            self.gradients.run(1)
            self._counters[...] -= self._step
            self.rest.run(1)


class Exchange:
    """What is done between the two halves of a step, and how often.

    Args:
        trainer: whose gradients are summed. parts: this process's, with rows or without. shares: how they came about.
    """

    def __init__(self, trainer: TrainingStep, parts: Sequence[Part], shares: Shares) -> None:
        self._shares, self.parts = shares, parts
        self._comm, self._backend = shares.comm, trainer.backend
        self._summed, self._stats, self._size = trainer.flat.summed, trainer.stats, trainer.flat.size
        if self._shares.fixed:  # parts without rows stay zero
            size, dtype = tuple(self._summed.shape), trainer.flat.dtype
            self._mine = trainer.backend.zeros((len(self._shares.mine), *size), dtype)
            self._all = trainer.backend.zeros((self._shares.parts, *size), dtype)

    def take(self, part: Part) -> None:
        """Take the gradients of a part that was just gone through."""
        summed = self._summed
        if part.rows == 0:  # of a row that counts for nothing: not times 0, for infinity would stay
            summed[...] = 0
            return
        if part.share != 1:
            summed[: self._size] *= part.share
        summed[self._size] = self._stats[LOSS] * part.share
        summed[self._size + 1] = self._stats[HITS]
        if self._shares.fixed:
            self._mine[part.place, ...] = summed

    def sum(self) -> None:
        """Put the sums over all parts of all processes where the update and the log read them."""
        summed = self._summed
        if self._shares.fixed:
            self._comm.allgather(self._mine, self._all, self._backend)
            summed[...] = self._all[0, ...]
            for part in range(1, self._shares.parts):
                summed += self._all[part, ...]
        else:
            self._comm.allreduce(summed, self._backend)
        self._stats[LOSS], self._stats[HITS] = summed[self._size], summed[self._size + 1]
        self._comm.working()


class SharedProgram(Program):
    """Recorded halves of a step's parts, with the sum in between."""

    def __init__(self, trainer: TrainingStep, parts: Sequence[Part], of_each: Sequence[Halves], shares: Shares) -> None:
        self.calls = of_each[0].calls
        self._exchange, self._backend = Exchange(trainer, parts, shares), trainer.backend
        self._comm = shares.comm
        self._counters, self._rest = trainer.counters, of_each[0].rest
        steps = [trainer.backend.asarray(_one_step(0 if part.rows else 1), "int64") for part in parts]
        self._parts = list(zip(parts, of_each, steps, strict=True))
        self.reason, self.kernels = of_each[0].reason, of_each[0].kernels
        how = f"{len(parts)} parts of a batch, each " if len(parts) > 1 else ""
        processes = f", {self._comm.size} processes" if self._comm.size > 1 else ""
        self.description = f"{how}{of_each[0].gradients.description}; sum and update apart{processes}"

    def run(self, steps: int) -> None:
        """Run `steps` steps, as all processes do."""
        exchange, counters = self._exchange, self._counters
        for _ in range(steps):
            for part, half, step in self._parts:
                half.gradients.run(1)
                counters -= step  # which the end of the step counts once more
                exchange.take(part)
            exchange.sum()
            self._rest.run(1)
        self._comm.settle(self._backend)


class SharedEager(Eager):
    """A step's parts gone through layer by layer, with the sum before the update."""

    def __init__(self, trainer: TrainingStep, feed: Feed, parts: Sequence[Part], reason: str, shares: Shares) -> None:
        super().__init__(trainer, feed, reason)
        self._exchange = Exchange(trainer, parts, shares)

    def _step(self, trainer: TrainingStep) -> None:
        for part in self._exchange.parts:
            trainer.gradients(part.feed)
            trainer.counters[CURSOR] += part.rows
            self._exchange.take(part)
        self._exchange.sum()
        trainer.finish(0)


def shared(
    trainer: TrainingStep, feed: Feed, parts: Sequence[Program | Eager], shares: Shares
) -> Program | Eager:  # fmt: skip
    """Return what runs the steps of a divided feed, given what runs each of its parts."""
    assert feed.parts is not None
    eager = [part for part in parts if isinstance(part, Eager)]
    if eager:
        return SharedEager(trainer, feed, feed.parts, eager[0].reason, shares)
    return SharedProgram(trainer, feed.parts, [part for part in parts if isinstance(part, Halves)], shares)


def _one_step(rows: int) -> np.ndarray:
    """Return what a step of so many rows adds to the counters, but for rows that count."""
    counted = np.zeros(3, np.int64)
    counted[[STEP, CURSOR, DONE]] = 1, rows, 1
    return counted
