"""Eager steps: run layer by layer, as written, where no recording can be replayed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from weakref import proxy

from nnx.backends.recorder import AS_WRITTEN
from nnx.settings import written
from nnx.training.step import Feed, TrainingStep


class Eager:
    """Runs a step layer by layer, as written.

    Attributes:
        reason: why it is not replayed.
    """

    native = False
    description = AS_WRITTEN
    kernels: Mapping[str, str] = MappingProxyType({})

    def __init__(self, trainer: TrainingStep, feed: Feed, reason: str) -> None:
        self._trainer, self._feed, self.reason = proxy(trainer), feed, reason

    def run(self, steps: int) -> None:
        """Run `steps` steps. An optimizer of the user's own may read and set its numbers in each of them."""
        trainer, own = self._trainer, written(self._trainer.optimizer, "update")
        for step in range(steps):
            if own and step:
                trainer.begin()
            self.step()
            if own:
                trainer.count()

    def step(self) -> None:
        """Run one step."""
        self._trainer.step(self._feed)
