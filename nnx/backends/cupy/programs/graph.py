"""CUDA graph of a recorded step (capture.py): one launch for each step, one graph for each batch size.

The graph's stream waits for earlier work on the caller's stream, and the caller's stream waits for the graph. So to the
caller of `run` everything happens in order.
"""

from __future__ import annotations

from typing import Any

from nnx.backends.cupy.dense import CudaDense
from nnx.backends.cupy.matmul.cublaslt_products import NotCaptured
from nnx.backends.cupy.programs.capture import CapturedGraph, attempt
from nnx.backends.cupy.programs.replay import CupyProgram, bound, span
from nnx.backends.operation_table import OPERATIONS
from nnx.backends.recorder import Call

Array = Any


class GraphProgram(CupyProgram):
    """Replays the step as a CUDA graph, captured by the first `run`; if that fails, one operation at a time.

    Attributes:
        reason: why it is not a graph, or None. native: whether it is one.
    """

    description = "CUDA graph"

    def __init__(self, backend: CudaDense, calls: list[Call], step: list[Call] | None = None) -> None:
        super().__init__(backend, calls, step)
        self._backend, self._whole = backend, step or calls
        self._graph: StepGraph | None = None
        self._tried = False

    def run(self, steps: int) -> None:
        """Replay `steps` steps."""
        if steps < 1:
            return
        with self._backend.on_device():
            if not self._tried:
                self._capture()
            left = steps if self._graph is None else self._launch(self._graph, steps)
            if left:
                super().run(left)

    def _capture(self) -> None:
        self._tried = True
        try:
            with attempt("preparing it"):  # for failures that no inner attempt names
                self._graph = StepGraph(self._backend, self.calls, self._whole)
            self.native = True
            for note in self._graph.notes:
                self._backend.note(f"nnx's kernels do what cuBLASLt could not in a recorded step: {note}")
        except NotCaptured as reason:
            self._give_up(reason)

    def _launch(self, graph: StepGraph, steps: int) -> int:
        """Launch the graph; return how many steps remain to be done."""
        try:
            graph.run(steps)
        except NotCaptured as reason:
            self._give_up(reason)
            return steps - graph.done
        return 0

    def _give_up(self, reason: NotCaptured) -> None:
        self._graph, self.native, self.reason, self.description = None, False, str(reason), CupyProgram.description
        self._backend.note(f"a recorded step runs one operation at a time, because {self.reason}")


class StepGraph(CapturedGraph):
    """A captured step.

    Attributes:
        done: how many steps the last `run` launched.

    Raises:
        NotCaptured: see `CapturedGraph`.
    """

    def __init__(self, backend: CudaDense, calls: list[Call], step: list[Call]) -> None:
        super().__init__(backend, lambda inner: bound(inner, calls, step), carried_state(backend, calls))
        self.done = 0

    def run(self, steps: int) -> None:
        """Launch the step `steps` times.

        Raises:
            NotCaptured: a launch failed; `done` says how many succeeded.
        """
        launch, stream = self._graph.launch, self._stream
        self.done = 0
        with attempt("launching it"), self._on_own_stream():
            for self.done in range(steps):  # counts successful launches, also if one fails
                launch(stream)
            self.done = steps


# ---- the state that one step leaves to the next ----------------------------------------------------------------------


def carried_state(backend: CudaDense, calls: list[Call]) -> list[Array]:
    """Return the arrays that a step reads and then changes: parameters, moments, counters."""
    asked: list[tuple[int, int]] = []
    written: dict[tuple[int, int], Array] = {}
    for call in calls:
        spec = OPERATIONS[call.name]
        for name in spec.reads:
            place = span(backend, call.operands[name])
            if not any(first <= place[0] and place[1] <= last for first, last in written):
                asked.append(place)
        for name in spec.writes:
            if call.operands[name] is not None:
                written.setdefault(span(backend, call.operands[name]), call.operands[name])
    return [
        array
        for (begin, end), array in written.items()
        if any(first < end and begin < last for first, last in asked)
    ]  # fmt: skip
