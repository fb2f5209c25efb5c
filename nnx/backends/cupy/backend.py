"""The CuPy backend: CUDA GPUs, by the kernels of nnx/kernels/cuda and, for large matrix products, cuBLAS.

Every operation has the same form: its operands are prepared for a kernel (cupy/operands.py), which is then launched.
There is a file of operations for each topic, as in nnx/backends/operations. No operation waits for the GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from nnx.backends.base import BackendInfo
from nnx.backends.cupy import driver as cuda_driver
from nnx.backends.cupy.blocks import CudaBlocks
from nnx.backends.cupy.dense import ROUNDED, CudaDense
from nnx.backends.cupy.diagnosis import explain_version, explained
from nnx.backends.cupy.inference import InferenceGraphs
from nnx.backends.cupy.losses import CudaLosses
from nnx.backends.cupy.matmul.cublaslt_products import MOST_OWN_WORK
from nnx.backends.cupy.multi_gpu import each_on_its_gpu
from nnx.backends.cupy.noise import CudaNoise
from nnx.backends.cupy.norm import CudaNorm
from nnx.backends.cupy.optimizers import CudaOptimizers
from nnx.backends.cupy.programs.graph import GraphProgram
from nnx.backends.cupy.programs.persistent import MOST_WORK, PersistentProgram, compile_program
from nnx.backends.cupy.programs.replay import CupyProgram
from nnx.backends.cupy.softmax import CudaSoftmax
from nnx.backends.cupy.step import CudaStep
from nnx.backends.cupy.streaming import DoubleBuffer, stream
from nnx.backends.environment import cublas_overrides, flag
from nnx.backends.errors import BackendUnavailable
from nnx.backends.inference import Forward, Stage
from nnx.backends.operations import Operations
from nnx.backends.precision import VARIABLE as PRECISION
from nnx.backends.recorder import Piece, Program, Recorder
from nnx.backends.streaming import Halves, Stream

Array = Any
GRAPH = "NNX_GRAPH"  # 0: recorded steps and predictions run one operation at a time
STREAM = "NNX_STREAM"  # 1: every data set is streamed to the GPU, 0: none; otherwise those that do not fit there
PERSISTENT = "NNX_PERSISTENT"  # 1: a recorded step runs in the persistent kernel whenever it fits; 0: never


class CupyBackend(CudaBlocks, CudaDense, CudaLosses, CudaNoise, CudaNorm, CudaOptimizers, CudaSoftmax, CudaStep):
    """Arrays are `cupy.ndarray`s; see the module, and `CudaDevice` for the arguments."""

    name = "cupy"

    def __init__(self, cupy: Any, number: int = 0, gpu_memory_limit: Any = None, precision: str | None = None) -> None:
        super().__init__(cupy, number, gpu_memory_limit, precision)
        self.graphs, self.streaming = flag(GRAPH) is not False, flag(STREAM)
        self.persistent = flag(PERSISTENT)

    def implementation(self, op: str) -> str:
        if op.startswith("dense"):  # the shape decides which of the two is used: see SMALL in matmul/dispatch.py
            return {"auto": "cupy:product/cublas", "own": "cupy:product", "blas": "cupy:cublas"}[self.gemm_rule]
        return super().implementation(op)

    def info(self) -> BackendInfo:
        plain = super().info()
        products = f"float32 matrix products: {ROUNDED[self.precision]}; precision= or {PRECISION} says which"
        rule = f"dense layers: {self.product_rule()}; NNX_GEMM=own or blas overrides"
        rules = rule, self._graph_rule(), *self._persistent_rule(), *self._tuning_rule()
        said = [f"{one} changes how cuBLAS multiplies, whatever precision= says" for one in cublas_overrides()]
        return replace(plain, notes=(products, *said, *plain.notes, *rules, *self._met))

    def _graph_rule(self) -> str:
        """Return in words how recorded steps run, and what does their large products."""
        if not self.graphs:
            return f"recorded steps: one operation at a time, by {GRAPH}=0"
        lt = self.lt()
        who = "cuBLASLt"
        if isinstance(lt, str):
            who = f"nnx's kernel, or no graph beyond {MOST_OWN_WORK:,} multiply-adds of them a step, because {lt}"
        return f"recorded steps: one CUDA graph each, in it for cuBLAS: {who}; {GRAPH}=0 for one operation at a time"

    def _persistent_rule(self) -> list[str]:
        """Return in words which recorded steps run in the persistent kernel."""
        if not self.graphs or self.persistent is False:
            return []
        most = "" if self.persistent else f" and take up to {MOST_WORK:,} multiply-adds"
        which = f"recorded steps that fit a block's {self.shared_memory:,} bytes{most}"
        return [f"{which}: many in one launch of a persistent kernel; {PERSISTENT}=0 for none, 1 for all that fit"]

    def _tuning_rule(self) -> list[str]:
        """Return in words how cuBLASLt's algorithms in graphs are chosen, and the choices of this process."""
        if not self.graphs or isinstance(self.lt(), str):
            return []
        choices = self.choices()
        if choices is None:
            return ["cuBLASLt's algorithms in graphs: those that it names first, by NNX_TUNE=off"]
        return choices.notes()

    def probe(self) -> None:
        """Do what a training step does, by kernels, by cuBLAS and by CuPy's own functions, and compare.

        Raises:
            BackendUnavailable: something does not work here.
        """
        with explained(self._full_name()):
            super().probe()
            x, w = self.asarray([[1, 2]]), self.asarray([[3], [4]])
            big, share = self.to_numpy(self.cupy.matmul(x, w)), self.to_numpy(self.softmax(x * 0))
            if float(big[0, 0]) != 11 or share.tolist() != [[0.5, 0.5]]:
                raise RuntimeError(f"[1 2] @ [3 4] gave {big.tolist()}, softmax [0 0] {share.tolist()}")
            for dtype, kind in (("float32", type(self)), ("float64", Operations)):  # by kernels, and only by CuPy
                found = _tiny_step(self, kind, self.asarray(x, dtype))
                if found != TINY_STEP:
                    raise RuntimeError(f"the gradients of a tiny step in {dtype} are {found}, not {TINY_STEP}")

    def _full_name(self) -> str:
        return f"{self.name}:{self.number}" if self.number else self.name

    def compile(self, recorder: Recorder) -> Program:
        if not self.graphs:
            return CupyProgram(self, recorder.calls)
        return compile_program(self, recorder.calls, self.persistent)

    def compile_gradients(self, recorder: Recorder, pieces: Sequence[Piece]) -> list[Program]:
        kind = GraphProgram if self.graphs else CupyProgram
        return [kind(self, piece.calls, recorder.calls) for piece in pieces]

    def stream(self, data: Sequence[np.ndarray], batch: int) -> Stream | None:
        found = stream(self, data, batch, self.streaming)
        if found is not None:
            self.note(found.reason)
        return found

    def halves(self, like: Sequence[np.ndarray], rows: int) -> Halves:
        return DoubleBuffer(self, like, rows, "")

    def compile_forward(self, stages: Sequence[Stage], parameters: Array) -> Forward | None:
        has_weights = any(stage.weights is not None for stage in stages)
        return InferenceGraphs(self, stages, parameters) if self.graphs and has_weights else None

    def planned_step(self) -> str:
        if not self.graphs:
            return CupyProgram.description
        small = f", or {PersistentProgram.description} for a small network" if self.persistent is not False else ""
        return f"{GraphProgram.description}{small}"

    def planned_prediction(self) -> str:
        return InferenceGraphs.description if self.graphs else CupyProgram.description


TINY_STEP = [[3.0, 4.0], [1.0], [2.0], [1.0]]  # of inputs, weights (two rows), biases


def _tiny_step(backend: CupyBackend, kind: type[Operations], x: Array) -> list[list[float]]:
    """Return the gradients of a dense layer at x = [1 2], w = [3 4], dy = [1], by the operations of this kind."""
    w = backend.xp.asarray(backend.asarray([[3], [4]], x.dtype), copy=True)
    dw, db, dy = (backend.zeros(shape, x.dtype) for shape in ((2, 1), (1, 1), (1, 1)))
    dy += 1
    dx = kind.dense_backward(backend, x, w, dy, dw, db)
    kind.dense_gradients(backend, x, dy, dw, db)
    return [row for a in (dx, dw, db) for row in backend.to_numpy(a).tolist()]


# ---- making one ------------------------------------------------------------------------------------------------------


@each_on_its_gpu
class MultiGpuCupyBackend(CupyBackend):
    """The CuPy backend for a machine with several GPUs."""


def create(device: Any = "", gpu_memory_limit: Any = None, precision: str | None = None) -> CupyBackend:
    """Return the backend on a GPU, not yet tried by `probe`.

    Args:
        device: the number of the GPU among those visible to CUDA; "" is the first.
        gpu_memory_limit: see `CudaDevice`. precision: see `CudaDense`.

    Raises:
        BackendUnavailable: CuPy or the GPU does not work here, or there is no such GPU.
        InputError: a limit or an environment variable cannot be used.
    """
    name = f"cupy:{device}" if device != "" else "cupy"
    number = int(device) if str(device).isdecimal() else 0
    driver = cuda_driver.ask()
    found = cuda_driver.explain(driver)
    if found is not None:
        raise BackendUnavailable(name, *found)
    with explained(name):
        cupy = load()
        found = explain_version(cupy.__version__, driver)
        if found is not None:
            raise BackendUnavailable(name, *found)
        count = cupy.cuda.runtime.getDeviceCount()
        if number < count:
            kind = CupyBackend if count == 1 else MultiGpuCupyBackend
            return kind(cupy, number, gpu_memory_limit, precision)
    seen = "GPU 0 is" if count == 1 else f"GPUs 0 to {count - 1} are"
    raise BackendUnavailable(
        name, f"there is no GPU {number}: {seen} what CUDA sees", "CUDA_VISIBLE_DEVICES says which it may see, if set."
    )


def load() -> Any:
    """Import CuPy without its warnings (two wheels, a missing toolkit): `info()` or an error's reason has the facts."""
    if find_spec("cupy") is None:
        raise ModuleNotFoundError("CuPy is not installed", name="cupy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cupy
    return cupy
