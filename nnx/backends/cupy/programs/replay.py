"""Replay of a recorded step on the GPU: one operation after the other, with two in one kernel where possible."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from nnx.backends.cupy.dense import CudaDense
from nnx.backends.operation_table import OPERATIONS
from nnx.backends.recorder import Call, Program
from nnx.kernels.cuda import ACTIVATIONS

Array = Any
DENSE = ("dense_backward", "dense_gradients")


class CupyProgram(Program):
    """Replays a step. No operation waits for the GPU, so Python runs ahead, and the launches are queued.

    Args:
        backend: the backend. calls: what is replayed. step: the whole step, if the calls are only a piece of it.
    """

    def __init__(self, backend: CudaDense, calls: list[Call], step: list[Call] | None = None) -> None:
        super().__init__(backend, calls)
        self._bound = [*bound(backend, calls, step or calls)]


def bound(
    backend: CudaDense, calls: list[Call], step: list[Call]
) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:  # fmt: skip
    """Return the functions to call: activations and ReLU's gradient together with a dense layer, others as recorded."""
    work: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    joined = False
    for call, following in pairwise([*calls, None]):
        assert call is not None
        operands = tuple(call.operands.values())
        if joined:  # included in the call before
            joined = False
        elif following is not None and fuses_relu_gradient(backend, call, following):
            joined = True
            work.append((backend.relu_and_dense_backward, (*operands, following)))
        elif following is not None and fuses_activation(backend, call, following, step):
            joined = True
            x, w, b = (call.operands[name] for name in ("x", "w", "b"))
            work.append((backend.dense, (x, w, b, following.name, following.operands["out"])))
        else:
            work.append((getattr(backend, call.name), operands))
    return work


def fuses_relu_gradient(backend: CudaDense, call: Call, following: Call) -> bool:
    """Return whether a call is ReLU's gradient, and the next one takes the result through a dense layer."""
    if call.name != "relu_backward" or following.name not in DENSE:
        return False
    made, taken = call.operands["out"], following.operands["dy"]
    return made.shape == taken.shape and backend.address(made) == backend.address(taken)


def fuses_activation(backend: CudaDense, call: Call, following: Call, calls: list[Call]) -> bool:
    """Return whether a call is a dense layer, and the next one its activation, the only reader of its result."""
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


def span(backend: CudaDense, array: Array) -> tuple[int, int]:
    """Return the addresses at which an array begins and ends."""
    begin = backend.address(array)
    reach = sum((count - 1) * stride for count, stride in zip(array.shape, array.strides, strict=True))
    return begin, begin + int(reach + array.itemsize) if array.size else begin
