"""Persistent kernel: many steps of a small network in one launch, by a single block that keeps the network on chip.

Launching a graph costs some microseconds, and each of its ten kernels one or two more, which is more than a small
network's arithmetic. A single block needs neither: parameters, gradients and moments stay in its shared memory, and
only barriers separate one operation from the next (nnx/kernels/cuda/program.cu). But it uses only one multiprocessor.
"""

from __future__ import annotations

from typing import Any

from nnx.backends.cupy.dense import CudaDense
from nnx.backends.cupy.matmul.cublaslt_products import NotCaptured
from nnx.backends.cupy.programs.capture import attempt
from nnx.backends.cupy.programs.graph import GraphProgram
from nnx.backends.cupy.programs.lowering import LoweredStep, TooLarge
from nnx.backends.dataflow import Reader, Step, fuse
from nnx.backends.errors import NotReplayable
from nnx.backends.recorder import Call
from nnx.kernels.cuda import program_table as t

Array = Any
# Up to so many multiply-adds, a step is left to one multiprocessor. An estimate: these take some 10 us, while a graph
# of ten kernels takes 20 or more.
MOST_WORK = 1 << 20
NUMBER_WORK = 8  # writing a sample's number counts as so many multiply-adds: most of a thin network's work
# A launch takes at most so many seconds, estimated cautiously, so that a display keeps working and Ctrl-C is noticed.
LAUNCH_SECONDS = 0.05
WORK_RATE = 10e9  # multiply-adds per second
OPERATION_SECONDS = 2e-6


class PersistentProgram(GraphProgram):
    """Replays steps by the persistent kernel; if a launch fails, as a CUDA graph."""

    native = True
    description = "persistent kernel"

    def __init__(self, backend: CudaDense, calls: list[Call], kernel: PersistentKernel) -> None:
        super().__init__(backend, calls)
        self._kernel: PersistentKernel | None = kernel
        self.kernels = dict.fromkeys((call.name for call in calls), "cupy:program")

    def run(self, steps: int) -> None:
        """Replay `steps` steps."""
        with self._backend.on_device():
            while steps > 0 and self._kernel is not None:
                some = min(steps, self._kernel.most)
                try:
                    with attempt("launching the persistent kernel"):
                        self._kernel.launch(some)
                    steps -= some
                except NotCaptured as reason:
                    self._kernel, self.description, self.kernels = None, GraphProgram.description, GraphProgram.kernels
                    self._backend.note(f"a recorded step is no persistent kernel, because {reason}")
        super().run(steps)


class PersistentKernel:
    """The kernel's arguments for one step, and all memory that they point to.

    Attributes:
        most: the most steps of one launch.
    """

    def __init__(self, backend: CudaDense, step: Step) -> None:
        self._backend, self._dtype = backend, step.dtype
        self._global_memory: list[Array] = []
        lowered = LoweredStep(step, backend.shared_memory, t.THREADS, self._allocate)
        self._table = backend.asarray(lowered.table, "int64")
        rows = len(lowered.table)
        each = rows - lowered.before - lowered.after
        self._numbers = (lowered.before, each, lowered.after, step.rows)
        self._launch = t.launch(t.THREADS, lowered.shared)
        self.most = max(1, int(LAUNCH_SECONDS / (work_of(step) / WORK_RATE + each * OPERATION_SECONDS)))
        backend._launch.allow_shared_memory("program", step.dtype, backend.shared_memory)

    def _allocate(self, size: int) -> int:
        """Return the address of so many bytes of global memory, for buffers that do not fit in shared memory."""
        self._global_memory.append(self._backend.empty(size, "uint8"))
        return self._backend.address(self._global_memory[-1])

    def launch(self, steps: int) -> None:
        """Launch the kernel for `steps` steps, at most `most`."""
        self._backend._launch(self._launch, self._dtype, self._table, *self._numbers, steps)


def compile_program(backend: CudaDense, calls: list[Call], wanted: bool | None) -> GraphProgram:
    """Return a program for a recorded step: by the persistent kernel if possible, else as a CUDA graph.

    Args:
        backend: the backend. calls: the recorded step. wanted: True: use the kernel whenever the step fits, and let
            `info()` say why if it does not. None: only if it is expected to be faster. False: never.
    """
    if wanted is not False:
        try:
            return PersistentProgram(backend, calls, kernel_of(backend, calls, wanted))
        except TooLarge as reason:
            if wanted:
                backend.note(f"a recorded step is no persistent kernel, because {reason}")
        except (NotReplayable, NotCaptured) as reason:
            backend.note(f"a recorded step is no persistent kernel, because {reason}")
    return GraphProgram(backend, calls)


def kernel_of(backend: CudaDense, calls: list[Call], wanted: bool | None) -> PersistentKernel:
    """Return the persistent kernel with its arguments for a step.

    Raises:
        TooLarge: it would be slower, is not wanted, or does not fit. NotReplayable: it has an operation that the kernel
            lacks. NotCaptured: the kernel cannot be compiled or launched.
    """
    step = Reader(calls).step
    fuse(step)
    if not wanted and backend.gemm_rule == "blas":
        raise TooLarge("NNX_GEMM=blas gives all products to cuBLAS")
    work = work_of(step)
    if not wanted and work > MOST_WORK:
        raise TooLarge(f"{work:,} multiply-adds a step are more than one multiprocessor should do: {MOST_WORK:,}")
    with attempt("preparing it"), backend.on_device():
        return PersistentKernel(backend, step)


def work_of(step: Step) -> int:
    """Return the rough cost of a step in multiply-adds."""
    written = sum(value.width for node in step.nodes for value in (node.out, node.also) if value is not None)
    return step.work + NUMBER_WORK * step.rows * written
