"""Eager steps: run layer by layer, as written, for networks whose steps cannot be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from weakref import proxy

from nnx.backends.recorder import AS_WRITTEN
from nnx.settings import written
from nnx.training.step import Feed, TrainingStep
from nnx.training.stepwise import WithoutPenalties


class Eager:
    """Runs steps layer by layer, as written.

    Attributes:
        reason: why steps are not replayed.
    """

    native = False
    description = AS_WRITTEN
    kernels: Mapping[str, str] = MappingProxyType({})

    def __init__(self, trainer: TrainingStep, feed: Feed, reason: str, part: bool = False) -> None:
        self._trainer, self._feed, self.reason, self._part = proxy(trainer), feed, reason, part

    def run(self, steps: int) -> None:
        """Run `steps` steps. A user-defined optimizer may read and set its numbers in each of them."""
        trainer, own = self._trainer, written(self._trainer.optimizer, "update") and not self._part
        for step in range(steps):
            if own and step:
                trainer.begin()
            self._step(trainer)
            if own:
                trainer.count()

    def _step(self, trainer: TrainingStep) -> None:
        if not self._part:
            self._whole_step(trainer)
            return
        owner = trainer._owner
        try:
            owner.recorder = WithoutPenalties(trainer.backend)
            self._whole_step(trainer)
        finally:
            owner.recorder = None

    def _whole_step(self, trainer: TrainingStep) -> None:
        trainer.step(self._feed, part=self._part)
