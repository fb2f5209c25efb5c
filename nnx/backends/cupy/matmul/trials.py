"""Trials of cuBLASLt's proposals for a product, on its real operands: which ones work, and which is the fastest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from nnx.backends.cupy.matmul.choices import Choice
from nnx.backends.cupy.matmul.cublaslt import BIAS, BIAS_GRADIENT, RELU_BIAS, LtError, Plan
from nnx.backends.cupy.matmul.timing import TURN, Agreement, Way, bounds, timed
from nnx.backends.cupy.operands import CudaOperands

Array = Any


class Operands(NamedTuple):
    """The operands of a plan: the matrices as they are in memory, and what is read or written besides.

    Attributes:
        factors: a and b as matrices, before rounding.
    """

    a: Array
    b: Array
    c: Array
    bias: Array | None
    factors: tuple[Array, Array]


def run(backend: CudaOperands, plan: Plan, operands: Operands, room: Array | None = None) -> None:
    """Run a plan on the current stream, with the backend's workspace, or with the memory `room`."""
    a, b, c, bias, _ = operands
    if room is None and plan.workspace:
        room = backend._scratch(plan.workspace, "uint8")
    begin = room.data.ptr if room is not None and plan.workspace else 0
    stream = backend.cupy.cuda.get_current_stream().ptr
    plan.run(a.data.ptr, b.data.ptr, c.data.ptr, 0 if bias is None else bias.data.ptr, begin, stream)


class Trial:
    """A plan's proposals. They run in separate memory, since a graph would keep its enlarged scratch for good."""

    def __init__(self, backend: CudaOperands, plan: Plan, operands: Operands) -> None:
        self._backend, self._plan, self._operands = backend, plan, operands
        self._room = backend.cupy.empty(max(1, *(one.workspace for one in plan.proposals)), "uint8")
        ending, bias = plan.product.epilogue, operands.bias
        added = bias if ending in (BIAS, RELU_BIAS) else None
        sums = bias if ending == BIAS_GRADIENT else None
        apart = bounds(backend.cupy, *operands.factors, plan.product.precision, added, sums is not None)
        self._agrees = Agreement(backend.cupy, [operands.c, *([] if sums is None else [sums])], apart)

    def _run(self, place: int) -> None:
        self._plan.take(place)
        run(self._backend, self._plan, self._operands, self._room)

    def fastest(self, others: Sequence[Way]) -> Choice:
        """Return the fastest of the proposals and of other ways to get the same result.

        Raises:
            LtError: none works.
        """
        of = len(self._plan.proposals)
        ways: list[Way] = [*(partial(self._run, place) for place in range(of)), *others]
        with TURN:
            seconds = timed(self._backend.cupy, ways, self._agrees)
        taken = min(range(len(ways)), key=seconds.__getitem__)
        if seconds[taken] == math.inf:
            raise LtError(f"none of cuBLASLt's {of} algorithms works for {self._plan.product}")
        algorithm = [*self._plan.fingerprints(), *(0 for _ in others)][taken]
        return Choice(taken, algorithm, seconds[taken], None if seconds[0] == math.inf else seconds[0])

    def still_works(self, taken: int, choice: Choice) -> bool:
        """Return whether a chosen proposal gives the first one's result, if that works; a file may hold anything."""
        places = [taken] if choice.first is None else [0, taken]
        try:
            return all(self._agrees(partial(self._run, place)) for place in places)
        except Exception:  # any error of CUDA or cuBLASLt
            return False
