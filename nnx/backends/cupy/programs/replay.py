"""A recorded step on the GPU: its operations one after the other, two of them in one kernel where that saves a pass."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from nnx.backends.operations import OPERATIONS
from nnx.backends.recorder import Call, Program
from nnx.kernels.cuda import ACTIVATIONS

if TYPE_CHECKING:
    from nnx.backends.cupy.backend import CupyBackend

Array = Any
DENSE = ("dense_backward", "dense_gradients")


class CupyProgram(Program):
    """Replays the step. Nothing in it waits for the GPU, so Python runs ahead and the launches queue up."""

    way = "single operations"

    def __init__(self, backend: CupyBackend, calls: list[Call]) -> None:
        super().__init__(backend, calls)
        self._bound = [*bound(backend, calls)]


def bound(backend: CupyBackend, calls: list[Call]) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Return what to call: activations and ReLU's gradient along with their dense layer, all else as recorded."""
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
        elif following is not None and activates(backend, call, following, calls):
            joined = True
            x, w, b = (call.operands[name] for name in ("x", "w", "b"))
            work.append((backend.dense, (x, w, b, following.name, following.operands["out"])))
        else:
            work.append((getattr(backend, call.name), operands))
    return work


def feeds(backend: CupyBackend, call: Call, following: Call) -> bool:
    """Tell whether a call is ReLU's gradient, and the next one takes it through a dense layer."""
    if call.name != "relu_backward" or following.name not in DENSE:
        return False
    made, taken = call.operands["out"], following.operands["dy"]
    return made.shape == taken.shape and backend.address(made) == backend.address(taken)


def activates(backend: CupyBackend, call: Call, following: Call, calls: list[Call]) -> bool:
    """Tell whether a call is a dense layer, and the next one its activation, the only one that reads what it made."""
    if call.name != "dense" or call.operands["activation"] is not None or following.name not in ACTIVATIONS:
        return False
    made = span(backend, call.operands["out"])
    readers = [
        other
        for other in calls
        for name in OPERATIONS[other.name].reads
        if (place := span(backend, other.operands[name]))[0] < made[1] and made[0] < place[1]
    ]
    alone = len(readers) == 1 and readers[0] is following
    return alone and bool(following.operands["x"].shape == call.operands["out"].shape)


def span(backend: CupyBackend, array: Array) -> tuple[int, int]:
    """Return where in memory an array begins and ends."""
    begin = backend.address(array)
    reach = sum((count - 1) * stride for count, stride in zip(array.shape, array.strides, strict=True))
    return begin, begin + int(reach + array.itemsize) if array.size else begin
