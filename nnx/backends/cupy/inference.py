"""Inference on the GPU: a forward pass as CUDA graphs, one for each number of rows, for `CupyBackend.compile_forward`.

Called operation by operation, a small network's prediction is all Python. Here the host copies the rows into pinned
memory, launches, waits once, and copies the outputs out; the ways to the GPU and back are in the graph too. It is
launched on the caller's own stream, so it comes after all that was asked for there, and it reads the weights where they
lie, so it sees every change of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnx.backends.cupy.dense import CudaDense
from nnx.backends.cupy.matmul.cublaslt_products import NotCaptured
from nnx.backends.cupy.pinned import Pinned
from nnx.backends.cupy.programs.capture import CapturedGraph, Work, attempt, in_a_line
from nnx.backends.inference import Stage

Array = Any
GRAPHS = 16  # numbers of rows that are remembered: those used last
STAGED = 32 << 20  # bytes of rows and outputs up to which there is a graph; beyond, launching costs next to nothing
ASKED = 3  # how often a number of rows is asked for before it gets a graph; a single prediction asks up to twice
REFUSED = -1


class InferenceGraphs:
    """Predicts by CUDA graphs. A number of rows gets its own when it comes again.

    It is called as `Forward` says: what it does not take, the operations do, or say what is wrong with it.
    """

    description = "a CUDA graph for each number of rows that comes again"

    def __init__(self, backend: CudaDense, stages: Sequence[Stage], parameters: Array) -> None:
        self._backend, self._stages = backend, stages
        self._dtype, self._widths = np.dtype(parameters.dtype), widths_of(stages)
        self._graphs: OrderedDict[tuple[int, ...], InferenceGraph | int] = OrderedDict()
        self._lock = threading.Lock()  # a graph has one place for its inputs, and one for its outputs

    def __call__(self, x: np.ndarray) -> np.ndarray | None:
        """Return new outputs for a NumPy array, or None."""
        if type(x) is not np.ndarray or x.dtype != self._dtype:
            return None
        with self._lock, self._backend.on_device():
            found = self._graphs.get(x.shape, 0)
            graph = self._graph_for(x.shape, found) if isinstance(found, int) else found
            if graph is None:
                return None
            self._graphs.move_to_end(x.shape)
            try:
                return graph.run(x)
            except Exception as error:  # CUDA's: the operations tell whether more than this graph is broken
                self._give_up(x.shape, f"launching it failed ({in_a_line(error)})")
                return None

    def _graph_for(self, shape: tuple[int, ...], asked: int) -> InferenceGraph | None:
        """Make a graph for what has been asked for before, and may have one; count how often it has been."""
        if asked == REFUSED or len(shape) != 2 or not shape[0] or shape[1] != self._widths[0]:
            return None
        if shape[0] * (self._widths[0] + self._widths[-1]) * self._dtype.itemsize > STAGED:
            return None
        if asked + 1 < ASKED:
            self._graphs[shape] = asked + 1
            if len(self._graphs) > GRAPHS:
                self._graphs.popitem(last=False)
            return None
        try:
            with attempt("preparing it"):  # whatever no attempt inside it names
                graph = self._graphs[shape] = InferenceGraph(self._backend, self._stages, shape[0], self._widths)
        except NotCaptured as reason:
            self._give_up(shape, str(reason))
            return None
        for note in graph.notes:
            self._backend.note(f"nnx's kernels do what cuBLASLt could not in a prediction: {note}")
        return graph

    def _give_up(self, shape: tuple[int, ...], reason: str) -> None:
        self._graphs[shape] = REFUSED
        self._backend.note(f"a prediction of {shape[0]} rows runs one operation at a time, because {reason}")


class InferenceGraph(CapturedGraph):
    """The forward pass of so many rows.

    Args:
        widths: of the inputs, and of what each stage puts out.

    Raises:
        NotCaptured: see `CapturedGraph`.
    """

    def __init__(self, backend: CudaDense, stages: Sequence[Stage], rows: int, widths: Sequence[int]) -> None:
        self._stages = stages  # a graph keeps nothing alive: this does
        dtype = next(stage.weights.dtype for stage in stages if stage.weights is not None)
        self._inputs = backend.empty((rows, widths[0]), dtype)
        self._activations = [backend.empty(rows * max(widths), dtype) for _ in range(2)]  # stages write by turns
        self._host_inputs = Pinned(backend.cupy, (rows, widths[0]), dtype)
        self._host_outputs = Pinned(backend.cupy, (rows, widths[-1]), dtype)
        self._flat_inputs = self._host_inputs.array.reshape(-1)
        self._current = backend.cupy.cuda.get_current_stream

        def work(inner: CudaDense) -> Work:
            calls: Work = [(self._host_inputs.upload, (self._inputs,))]
            outputs = self._inputs
            for turn, (stage, width) in enumerate(zip(stages, widths[1:], strict=True)):
                inputs, outputs = outputs, self._activations[turn % 2][: rows * width].reshape(rows, width)
                calls.append((stage.bound(inner), (inputs, outputs)))
            return [*calls, (self._host_outputs.download, (outputs,))]

        super().__init__(backend, work, [])

    def run(self, x: np.ndarray) -> np.ndarray | None:
        """Return the outputs for x [rows, I], or None where it holds what is not finite."""
        np.copyto(self._host_inputs.array, x)
        size = np.vdot(self._flat_inputs, self._flat_inputs)  # one pass; too large a sum is left to the operations too
        if size - size != 0:
            return None
        self._graph.launch()
        self._current().synchronize()
        return self._host_outputs.array.copy()


def widths_of(stages: Sequence[Stage]) -> list[int]:
    """Return how many numbers a row has before the first stage, and after each."""
    width = next(stage.weights.shape[0] for stage in stages if stage.weights is not None)
    widths = [int(width)]
    for stage in stages:
        widths.append(widths[-1] if stage.weights is None else int(stage.weights.shape[1]))
    return widths
