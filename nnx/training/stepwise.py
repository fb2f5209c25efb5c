"""Steps that differ from one to the next: parts of a batch, and a learning rate for each update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import proxy

from nnx.kernels.step_state import STEP
from nnx.training.step import TrainingStep

# What dropout takes for the number of a step that updates nothing: no update has it, nor has any other such step.
PARTS = 1 << 32


class Plan:
    """Which steps of an epoch update the parameters, and by which rate.

    Args:
        steps: of an epoch. every: how many of them make one update; the epoch's last one may have fewer.
        rate: a function from the number of updates done to the learning rate of the next one; None: as it is.
    """

    def __init__(self, steps: int, every: int = 1, rate: Callable[[int], float] | None = None) -> None:
        self.steps, self.every, self.rate = steps, every, rate

    @property
    def plain(self) -> bool:
        """Whether all steps are alike."""
        return self.every == 1 and self.rate is None

    def parts(self, at: int) -> int:
        """Return how many steps come before the next update, from a step of the epoch on."""
        return min(self.every - 1 - at % self.every, self.steps - 1 - at)


class Stepwise:
    """Runs steps by a plan: those that are alike in one call, what differs is set between the calls.

    Args:
        update: runs steps that update. part: runs those that only add their gradients to what others will use; None
            where there are none.

    Attributes:
        at: which step of the epoch comes first, to be set before each `run`.
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
            steps, at = steps - done, (at + done) % plan.steps

    def _run_parts(self, parts: int, updates: int, at: int) -> None:
        """Run steps that update nothing, each with a number of its own; then the count is that of the updates again."""
        counters = self._trainer.counters
        counters[STEP] = PARTS + updates * (self._plan.every - 1) + at % self._plan.every
        self._part.run(parts)
        counters[STEP] = updates


class WithoutPenalties:
    """A backend, or what records for it, that leaves penalties out: those of a batch come with its last part."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def regularize(self, *operands: Any, **named: Any) -> None:
        """Do nothing."""
