"""Reader of a recorded step: turns its calls into a `Step`, call after call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nnx.backends.addresses import same
from nnx.backends.dataflow.activations import ActivationCalls
from nnx.backends.dataflow.blocks import BlockCalls
from nnx.backends.dataflow.dense import DenseCalls
from nnx.backends.dataflow.formulas import FormulaCalls
from nnx.backends.dataflow.losses import LossCalls
from nnx.backends.dataflow.nodes import Step
from nnx.backends.dataflow.noise import NoiseCalls
from nnx.backends.dataflow.normalization import NormCalls
from nnx.backends.dataflow.optimizers import OptimizerCalls
from nnx.backends.dataflow.step import StepCalls
from nnx.backends.errors import NotReplayable
from nnx.backends.recorder import UPDATES, Call
from nnx.kernels.elementwise import BY_NAME, FUNCTIONS
from nnx.kernels.losses import LOSSES

GRADIENTS_OF_PARAMETERS = ("dense_backward", "dense_gradients", "norm_gradients", "regularize")
# Operations on each number separately have a name, their kind: one of KINDS in nnx/kernels/elementwise.py.
GRADIENTS = {row.gradient: row for row in FUNCTIONS}
LOSSES_BY_NAME = {row.name: row for row in LOSSES}
LOSS_GRADIENTS = {row.gradient: row for row in LOSSES}


class Reader(
    StepCalls,
    DenseCalls,
    ActivationCalls,
    FormulaCalls,
    NoiseCalls,
    BlockCalls,
    NormCalls,
    LossCalls,
    OptimizerCalls,
):
    """Turns calls into a `Step`; raises NotReplayable with the reason if it cannot."""

    def __init__(self, calls: Sequence[Call]) -> None:
        super().__init__(outline(calls))
        for call in calls:
            self.call = call
            self.check_turn()
            self.updated = self.updated or call is self.step.optimizer
            self.follow()
        if self.step.losses is None:
            raise NotReplayable("the step tells nobody its loss: no tally was recorded")

    def check_turn(self) -> None:
        """Refuse a call after one that must be the last."""
        call, step = self.call, self.step
        if self.updated and call.name not in ("average", "tally", "weighted_tally", "end_step", *UPDATES):
            raise NotReplayable(f"{call.name} comes after the optimizer: nothing but the step's end may")
        if step.before and call.name in GRADIENTS_OF_PARAMETERS:
            raise NotReplayable(f"{call.name} comes after {step.before[-1].name}, which takes all gradients")

    def follow(self) -> None:
        """Note what the call does, by the method `on_NAME` or by the operation's row in a table."""
        call = self.call
        method: Callable[..., None] | None = getattr(self, f"on_{call.name}", None)
        if method is not None:
            method(**call.operands)
        elif call.name in BY_NAME:
            self.function(**call.operands)
        elif call.name in GRADIENTS:
            self.function_gradient(GRADIENTS[call.name].of, **call.operands)
        elif call.name in LOSSES_BY_NAME:
            self.loss(LOSSES_BY_NAME[call.name], *call.operands.values())
        elif call.name in LOSS_GRADIENTS:
            self.loss_gradient(LOSS_GRADIENTS[call.name], *call.operands.values())
        elif call is not self.step.end and call.name not in UPDATES:
            raise NotReplayable(f"no compiled kernel replays {call.name}")


def outline(calls: Sequence[Call]) -> Step:
    """Return a step with its optimizer and its end, which determine its size."""
    ends = [call for call in calls if call.name == "end_step"]
    optimizers = [call for call in calls if call.name in UPDATES]
    if len(ends) != 1 or not optimizers:
        raise NotReplayable(f"a step has one optimizer and one end; recorded were {len(optimizers)} and {len(ends)}")
    end, optimizer = ends[0], optimizers[0]
    for call in optimizers[1:]:
        if call.name != optimizer.name or any(
            not same(call.operands[name], optimizer.operands[name]) for name in ("hyper", "counters")
        ):
            raise NotReplayable("a step has one optimizer, with one set of numbers; recorded were several")
    return Step(
        rows=int(end.operands["rows"]),
        dtype=optimizer.operands["p"].dtype.name,
        optimizer=optimizer,
        updates=optimizers,
        end=end,
        counters=end.operands["counters"],
    )
