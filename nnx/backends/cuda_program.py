"""A recorded step on the GPU: its operations one after the other, two of them in one kernel where that saves a pass."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from nnx.backends.program import Call, Program

if TYPE_CHECKING:
    from nnx.backends.cupy import CupyBackend

DENSE = ("dense_backward", "dense_gradients")


class CupyProgram(Program):
    """Replays the step. Nothing in it waits for the GPU, so Python runs ahead and the launches queue up."""

    def __init__(self, backend: CupyBackend, calls: list[Call]) -> None:
        super().__init__(backend, calls)
        self._bound = [*bound(backend, calls)]


def bound(backend: CupyBackend, calls: list[Call]) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Return what to call: ReLU's gradient together with that of the dense layer before it, all else as recorded."""
    work: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    joined = False
    for call, following in pairwise([*calls, None]):
        assert call is not None
        operands = tuple(call.operands.values())
        if joined:  # done along with the one before
            joined = False
        elif following is not None and feeds(backend, call, following):
            joined = True
            work.append((backend.relu_and_dense_backward, (*operands, following)))
        else:
            work.append((getattr(backend, call.name), operands))
    return work


def feeds(backend: CupyBackend, call: Call, following: Call) -> bool:
    """Tell whether a call is ReLU's gradient, and the next one takes it through a dense layer."""
    if call.name != "relu_backward" or following.name not in DENSE:
        return False
    made, taken = call.operands["out"], following.operands["dy"]
    return made.shape == taken.shape and backend.address(made) == backend.address(taken)
