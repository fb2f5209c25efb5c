"""A recorded step as ONE CUDA graph: what Python would launch operation by operation, the GPU then launches by itself.

A graph holds addresses, so all that its kernels touch must live as long as it does, and nothing may come from CuPy's
pool while it is captured: what is freed then is handed to somebody else, and each replay would write over it. Operands
are kept by the program, scratch is the graph's own, and allocating while capturing is an error. The step runs once
before, to compile kernels, to plan products, and to make that scratch as large as it must be.

All this is on a stream of the graph's own, since CuPy's default one cannot be captured. It waits for what the caller's
stream was given before, and the caller's stream waits for it: to whoever calls `run` there is one order.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from nnx.backends.cuda_launch import Rooms
from nnx.backends.cuda_products import GraphProducts, NotCaptured
from nnx.backends.cuda_program import CupyProgram, bound
from nnx.backends.operations import OPERATIONS
from nnx.backends.program import Call

if TYPE_CHECKING:
    from nnx.backends.cupy import CupyBackend

Array = Any
Work = list[tuple[Callable[..., Any], tuple[Any, ...]]]


class GraphProgram(CupyProgram):
    """Replays the step as a CUDA graph, captured by the first `run`; where that fails, one operation at a time.

    Attributes:
        reason: why it is not a graph, or None. native: whether it is one.
    """

    def __init__(self, backend: CupyBackend, calls: list[Call]) -> None:
        super().__init__(backend, calls)
        self._backend = backend
        self._graph: StepGraph | None = None
        self._tried = False

    def run(self, steps: int) -> None:
        """Replay `steps` steps."""
        if steps < 1:
            return
        with self._backend.elsewhere():
            if not self._tried:
                self._capture()
            left = steps if self._graph is None else self._launch(self._graph, steps)
            if left:
                super().run(left)

    def _capture(self) -> None:
        self._tried = True
        try:
            with stage("preparing it"):  # whatever no stage of its own names
                self._graph = StepGraph(self._backend, self.calls)
            self.native = True
            for note in self._graph.notes:
                self._backend.note(f"nnx's kernels do what cuBLASLt could not in a recorded step: {note}")
        except NotCaptured as reason:
            self._give_up(reason)

    def _launch(self, graph: StepGraph, steps: int) -> int:
        """Launch the graph; return how many steps are left to do."""
        try:
            graph.run(steps)
        except NotCaptured as reason:
            self._give_up(reason)
            return steps - graph.done
        return 0

    def _give_up(self, reason: NotCaptured) -> None:
        self._graph, self.native, self.reason = None, False, str(reason)
        self._backend.note(f"a recorded step runs one operation at a time, because {self.reason}")


class StepGraph:
    """A captured step.

    Attributes:
        done: how many steps the last `run` launched. notes: what cuBLASLt could not do.

    Raises:
        NotCaptured: some stage of it failed; the arrays are then as they were, and no capture is open.
    """

    def __init__(self, backend: CupyBackend, calls: list[Call]) -> None:
        self._cupy, self.done = backend.cupy, 0
        cuda = self._cupy.cuda
        with stage("making its stream"):
            self._stream = cuda.Stream(non_blocking=True)
            self._before, self._after = cuda.Event(disable_timing=True), cuda.Event(disable_timing=True)
        # The step's own backend: the same kernels, with scratch that belongs to this graph and products that may be
        # captured. The user's goes on as it is.
        inner = copy.copy(backend)
        inner._scratch = self._scratch = Rooms(self._cupy, times=1)
        inner.products = products = GraphProducts(backend.lt())
        work = bound(inner, calls)
        try:
            with self._aside():
                with stage("running it once before"):
                    self._warm_up(work, kept(backend, calls))
                products.planning = False
                self._graph = self._captured(work)
                # What the run before the capture took from the pool stands under this stream, where nobody looks again.
                self._cupy.get_default_memory_pool().free_all_blocks(self._stream)
                with stage("uploading it"):
                    self._graph.upload(self._stream)
        finally:
            products.close()
        self.notes = tuple(dict.fromkeys(products.notes))

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Work on the graph's stream: after all that the caller's was given before, and before all that follows."""
        current = self._cupy.cuda.get_current_stream()
        self._before.record(current)
        self._stream.wait_event(self._before)
        try:
            with self._stream:
                yield
        finally:
            try:
                self._after.record(self._stream)
                current.wait_event(self._after)
            except Exception:  # then the host is what orders them
                self._stream.synchronize()
                raise

    def _warm_up(self, work: Work, state: list[Array]) -> None:
        """Run the step, and undo it."""
        saved = [(array, array.copy()) for array in state]
        try:
            replay(work)
        finally:
            for array, before in saved:
                array[...] = before

    def _captured(self, work: Work) -> Any:
        with stage("beginning the capture"):
            self._stream.begin_capture()
        try:
            with stage("capturing it"), self._cupy.cuda.using_allocator(refuse):
                replay(work)
            with stage("making a graph of it"):
                return self._stream.end_capture()
        except BaseException:  # Ctrl-C too: a capture left open would poison all that follows
            with suppress(Exception):  # where `end_capture` itself has failed there is none any more, and it says so
                self._stream.end_capture()
            raise

    def run(self, steps: int) -> None:
        """Launch the step `steps` times.

        Raises:
            NotCaptured: a launch failed; `done` says how many did not.
        """
        launch, stream = self._graph.launch, self._stream
        self.done = 0
        with stage("launching it"), self._aside():
            for self.done in range(steps):  # counts the launches, also if one fails
                launch(stream)
            self.done = steps


def replay(work: Work) -> None:
    """Run a step's operations, one after the other."""
    for method, operands in work:
        method(*operands)


def refuse(size: int) -> Any:
    """Allocate nothing."""
    raise RuntimeError(f"an operation allocates {size:,} bytes: expected operands that need no copy")


@contextmanager
def stage(what: str) -> Iterator[None]:
    """Turn whatever fails inside into a reason."""
    try:
        yield
    except NotCaptured:
        raise
    except Exception as error:  # CUDA's, cuBLASLt's, a compiler's: each has its own ways to fail
        text = (str(error).strip() or "no words").splitlines()[0]
        raise NotCaptured(f"{what} failed ({type(error).__name__}: {text})") from error


# ---- what one step leaves to the next --------------------------------------------------------------------------------


def kept(backend: CupyBackend, calls: list[Call]) -> list[Array]:
    """Return the arrays that a step changes after it has read them as they were: parameters, moments, counters."""
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


def span(backend: CupyBackend, array: Array) -> tuple[int, int]:
    """Return where in memory an array begins and ends."""
    begin = backend.address(array)
    reach = sum((count - 1) * stride for count, stride in zip(array.shape, array.strides, strict=True))
    return begin, begin + int(reach + array.itemsize) if array.size else begin
