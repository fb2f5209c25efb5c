"""Steps that differ from one to the next: parts of a batch to be accumulated, and a learning rate for each update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import proxy

from nnx.kernels.step_state import STEP
from nnx.training.step import TrainingStep

# The step number for dropout in a step without an update: neither updates nor other such steps have the same number.
PARTS = 1 << 32


class Plan:
    """Which steps of an epoch update the parameters, and with which learning rate.

    Args:
        steps: of an epoch; inf: it is not known. every: how many steps make one update; an epoch's last may have fewer.
        rate: a function from the number of updates done to the learning rate of the next; None: it stays as it is.
    """

    def __init__(self, steps: float, every: int = 1, rate: Callable[[int], float] | None = None) -> None:
        self.steps, self.every, self.rate = steps, every, rate

    @property
    def plain(self) -> bool:
        """Whether all steps are alike."""
        return self.every == 1 and self.rate is None

    def parts(self, at: int) -> int:
        """Return how many steps without an update come next, from step `at` of the epoch on."""
        return int(min(self.every - 1 - at % self.every, self.steps - 1 - at))


class Stepwise:
    """Runs steps by a plan: equal steps in one call; what differs is set between the calls.

    Args:
        trainer: the one whose steps these are. plan: see `Plan`. update: runs steps that update the parameters.
        part: runs steps that only add up their gradients; None if there are none.

    Attributes:
        at: the index, in the epoch, of the next step; to be set before each `run`.
    """

    native = False

    def __init__(self, trainer: TrainingStep, plan: Plan, update: Any, part: Any) -> None:
        self._trainer, self._plan, self._update, self._part = proxy(trainer), plan, update, part
        self.at = 0

    def __getattr__(self, name: str) -> Any:
        slower = self._part is not None and self._part.reason is not None and self._update.reason is None
        return getattr(self._part if slower else self._update, name)  # reason, description, kernels

    def run(self, steps: int) -> None:
        """Run `steps` steps."""
        trainer, plan, at = self._trainer, self._plan, self.at
        updates = trainer.optimizer.iterations
        while steps:
            parts = min(plan.parts(at), steps)
            if parts:
                self._run_parts(parts, updates, at)
                done = parts
            else:
                if plan.rate is not None:
                    trainer.optimizer.learning_rate = plan.rate(updates)
                    trainer.begin()
                done = steps if plan.plain else 1
                self._update.run(done)
                updates += done
            steps, at = steps - done, int((at + done) % plan.steps)

    def _run_parts(self, parts: int, updates: int, at: int) -> None:
        """Run steps without an update, each with its own step number; afterwards the count is that of updates again."""
        counters = self._trainer.counters
        counters[STEP] = PARTS + updates * (self._plan.every - 1) + at % self._plan.every
        self._part.run(parts)
        counters[STEP] = updates


class WithoutPenalties:
    """A backend, or a recorder, that skips penalties: those of a batch are added with its last part."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def regularize(self, *operands: Any, **named: Any) -> None:
        """Do nothing in the place of the operation."""
