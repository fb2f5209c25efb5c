"""Capture of CUDA graphs: what Python would launch operation by operation, the GPU then launches by itself.

A graph holds addresses, so all that its kernels touch must live as long as it does, and nothing may come from CuPy's
pool while it is captured: what is freed then is handed to somebody else, and each replay would write over it. Operands
are kept by whoever makes the graph, scratch is the graph's own, and allocating while capturing is an error. The work
runs once before, to compile kernels, to plan products and time them, and to make that scratch as large as it must be.

All this is on a stream of the graph's own, since CuPy's default one cannot be captured.
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
    """Some work as a CUDA graph.

    Args:
        work: gives what to call, for the backend that the graph is to use.
        state: the arrays that the work changes after it has read them; they are as before when this is made.

    Attributes:
        notes: what cuBLASLt could not do.

    Raises:
        NotCaptured: some stage of it failed; the arrays are then as they were, and no capture is open.
    """

    def __init__(self, backend: CudaDense, work: Callable[[CudaDense], Work], state: list[Array]) -> None:
        self._cupy = backend.cupy
        cuda = self._cupy.cuda
        with attempt("making its stream"):
            self._stream = cuda.Stream(non_blocking=True)
            self._before, self._after = cuda.Event(disable_timing=True), cuda.Event(disable_timing=True)
        # The graph's own backend: the same kernels, with scratch that belongs to this graph and products that may be
        # captured. The user's goes on as it is.
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
                # What the run before the capture took from the pool stands under this stream, where nobody looks again.
                self._cupy.get_default_memory_pool().free_all_blocks(self._stream)
                with attempt("uploading it"):
                    self._graph.upload(self._stream)
        finally:
            products.close()
        self.notes = tuple(dict.fromkeys(products.notes))

    @contextmanager
    def _on_own_stream(self) -> Iterator[None]:
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
        """Do the work, and undo it."""
        saved = [(array, array.copy()) for array in state]
        try:
            call_all(work)
        finally:
            for array, before in saved:
                array[...] = before

    def _capture(self, work: Work) -> Any:
        with TURN:  # nothing is timed meanwhile
            with attempt("beginning the capture"):
                self._stream.begin_capture()
            try:
                with attempt("capturing it"), self._cupy.cuda.using_allocator(refuse_allocation):
                    call_all(work)
                with attempt("making a graph of it"):
                    return self._stream.end_capture()
            except BaseException:  # Ctrl-C too: a capture left open would poison all that follows
                with suppress(Exception):  # where `end_capture` itself has failed there is none any more: it says so
                    self._stream.end_capture()
                raise


def call_all(work: Work) -> None:
    """Call one after the other."""
    for method, operands in work:
        method(*operands)


def refuse_allocation(size: int) -> Any:
    """Allocate nothing."""
    raise RuntimeError(f"an operation allocates {size:,} bytes: expected operands that need no copy")


@contextmanager
def attempt(what: str) -> Iterator[None]:
    """Turn whatever fails inside into a reason."""
    try:
        yield
    except (NotCaptured, NotReplayable):
        raise
    except Exception as error:  # CUDA's, cuBLASLt's, a compiler's: each has its own ways to fail
        raise NotCaptured(f"{what} failed ({in_a_line(error)})") from error


def in_a_line(error: Exception) -> str:
    """Return an error's type and the first line of its text."""
    return f"{type(error).__name__}: {first_line(error)}"
