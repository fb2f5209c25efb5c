"""Capture of CUDA graphs: operations that Python would launch one by one are then launched by the GPU itself.

A graph contains addresses, so all memory that its kernels use must live as long as the graph. Nothing may come from
CuPy's pool while it is captured: memory freed afterwards would be given to others, and each replay would overwrite it.
So the maker of the graph keeps the operands, the graph has its own scratch memory, and allocating during the capture is
an error. The work runs once before, to compile kernels, to plan and time products, and to let the scratch grow to its
size.

All this happens on a stream of the graph's own, since CuPy's default stream cannot be captured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nnx.backends.cupy.dense import CudaDense
from nnx.backends.cupy.diagnosis import first_line
from nnx.backends.cupy.launch import Scratch
from nnx.backends.cupy.matmul.cublaslt_products import GraphProducts, NotCaptured
from nnx.backends.cupy.matmul.timing import TURN
from nnx.backends.errors import NotReplayable

Array = Any
Work = list[tuple[Callable[..., Any], tuple[Any, ...]]]


class CapturedGraph:
    """A piece of work as a CUDA graph.

    Args:
        backend: the backend. work: a function that returns the calls of the work, for the graph's own backend.
        state: the arrays that the work reads and then changes; they are restored after the first run.

    Attributes:
        notes: texts on what cuBLASLt could not do.

    Raises:
        NotCaptured: something failed; the arrays are then as before, and no capture is open.
    """

    def __init__(self, backend: CudaDense, work: Callable[[CudaDense], Work], state: list[Array]) -> None:
        self._cupy = backend.cupy
        cuda = self._cupy.cuda
        with attempt("making its stream"):
            self._stream = cuda.Stream(non_blocking=True)
            self._before, self._after = cuda.Event(disable_timing=True), cuda.Event(disable_timing=True)
        # The graph's own backend: the same kernels, but with scratch memory that belongs to this graph, and products
        # that can be captured. The user's backend is not changed.
        inner = copy.copy(backend)
        inner._scratch = self._scratch = Scratch(self._cupy, times=1)
        inner.products = products = GraphProducts(backend.lt(), backend.choices())
        calls = work(inner)
        try:
            with self._on_own_stream():
                with attempt("running it once before"):
                    self._warm_up(calls, state)
                products.planning = False
                self._graph = self._capture(calls)
                # Memory that the first run took from the pool belongs to this stream, which will not allocate again.
                self._cupy.get_default_memory_pool().free_all_blocks(self._stream)
                with attempt("uploading it"):
                    self._graph.upload(self._stream)
        finally:
            products.close()
        self.notes = tuple(dict.fromkeys(products.notes))

    @contextmanager
    def _on_own_stream(self) -> Iterator[None]:
        """Use the graph's stream within the block: after the earlier work on the caller's stream, and before later."""
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
            except Exception:  # then the host waits instead
                self._stream.synchronize()
                raise

    def _warm_up(self, work: Work, state: list[Array]) -> None:
        """Do the work, and undo it."""
        saved = [(array, array.copy()) for array in state]
        try:
            call_all(work)
        finally:
            for array, before in saved:
                array[...] = before

    def _capture(self, work: Work) -> Any:
        with TURN:  # so that nothing is timed meanwhile
            with attempt("beginning the capture"):
                self._stream.begin_capture()
            try:
                with attempt("capturing it"), self._cupy.cuda.using_allocator(refuse_allocation):
                    call_all(work)
                with attempt("making a graph of it"):
                    return self._stream.end_capture()
            except BaseException:  # Ctrl-C too: an open capture would make all later work fail
                with suppress(Exception):  # raised if `end_capture` itself had failed, and no capture is open any more
                    self._stream.end_capture()
                raise


def call_all(work: Work) -> None:
    """Make the calls one after the other."""
    for method, operands in work:
        method(*operands)


def refuse_allocation(size: int) -> Any:
    """Raise an error in the place of allocating memory."""
    raise RuntimeError(f"an operation allocates {size:,} bytes: expected operands that need no copy")


@contextmanager
def attempt(what: str) -> Iterator[None]:
    """Turn any exception within the block into NotCaptured, with `what` as the part that failed."""
    try:
        yield
    except (NotCaptured, NotReplayable):
        raise
    except Exception as error:  # CUDA, cuBLASLt and compilers raise many kinds of errors
        raise NotCaptured(f"{what} failed ({in_a_line(error)})") from error


def in_a_line(error: Exception) -> str:
    """Return an error's type and the first line of its text."""
    return f"{type(error).__name__}: {first_line(error)}"
