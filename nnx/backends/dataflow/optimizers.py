"""Calls before and after those of the optimizer: operations on all gradients, or on all parameters."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from nnx.backends.addresses import Array, address
from nnx.backends.dataflow.buffers import Buffers
from nnx.backends.dataflow.nodes import Step
from nnx.backends.errors import NotReplayable


class OptimizerCalls(Buffers):
    """Reads the calls around the optimizer's."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.updated = False

    def on_collect(self, g: Array, m: Array) -> None:
        self.floats(m)
        self.of_all("g", g)
        self.step.before.append(self.call)

    def on_clip(self, g: Array, norm: float, value: float) -> None:
        self.of_all("g", g)
        self.step.before.append(self.call)

    def on_average(self, a: Array, p: Array, counters: Array, decay: float, since: int) -> None:
        self.count(counters)
        self.floats(a)
        self.of_all("p", p)
        if not self.updated:
            raise NotReplayable("average: the mean of parameters is taken before the optimizer moves them")
        self.step.after.append(self.call)

    def of_all(self, operand: str, a: Array) -> None:
        """Refuse an operation on all gradients or parameters that leaves out some of the optimizer's."""
        assert self.step.optimizer is not None
        parts = [call.operands[operand] for call in self.step.updates]  # the trained ones
        if not all(address(a) <= address(p) and address(p) + p.nbytes <= address(a) + a.nbytes for p in parts):
            raise NotReplayable(f"{self.call.name} takes other {operand} than the optimizer")
