"""The CuPy backend: CUDA GPUs, by the kernels of nnx/kernels/cuda and, for large matrix products, cuBLAS.

Every operation has the same form: operands are made fit for a kernel (cupy/operands.py), and it is launched; dense
layers have a page of their own (cupy/dense.py), and so has what is done to each number by itself (cupy/elementwise.py).
Nothing here waits for the GPU.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from nnx.backends.base import BackendInfo
from nnx.backends.cupy import driver as cuda_driver
from nnx.backends.cupy.dense import ROUNDED, CudaDense
from nnx.backends.cupy.diagnosis import explain_version, explained
from nnx.backends.cupy.elementwise import CudaElementwise
from nnx.backends.cupy.inference import InferenceGraphs
from nnx.backends.cupy.matmul.cublaslt_products import MOST_OWN_WORK
from nnx.backends.cupy.multi_gpu import each_on_its_gpu
from nnx.backends.cupy.norm import CudaNorm
from nnx.backends.cupy.operands import FLOAT64, INT64, as_they_are, writable
from nnx.backends.cupy.programs.graph import GraphProgram
from nnx.backends.cupy.programs.persistent import MOST_WORK, PersistentProgram, compile_program
from nnx.backends.cupy.programs.replay import CupyProgram
from nnx.backends.cupy.streaming import DoubleBuffer, stream
from nnx.backends.environment import cublas_overrides, flag
from nnx.backends.errors import BackendUnavailable, InputTypeError
from nnx.backends.inference import Forward, Stage
from nnx.backends.operations import Operations
from nnx.backends.precision import VARIABLE as PRECISION
from nnx.backends.recorder import Program, Recorder, without_update
from nnx.backends.streaming import Halves, Stream
from nnx.kernels import cuda as plans
from nnx.kernels.cuda import Launch
from nnx.kernels.losses import bounds
from nnx.kernels.philox import LOW, keep_threshold

Array = Any
GRAPH = "NNX_GRAPH"  # 0: recorded steps and predictions run one operation at a time
STREAM = "NNX_STREAM"  # 1: every data set is streamed to the GPU, 0: none; otherwise what does not fit there
PERSISTENT = "NNX_PERSISTENT"  # 1: a recorded step is the persistent kernel whenever it fits; 0: never


class CupyBackend(CudaElementwise, CudaDense, CudaNorm):
    """Arrays are `cupy.ndarray`s; see the module, and `CudaDevice` for the arguments."""

    name = "cupy"

    def __init__(self, cupy: Any, number: int = 0, gpu_memory_limit: Any = None, precision: str | None = None) -> None:
        super().__init__(cupy, number, gpu_memory_limit, precision)
        self.graphs, self.streaming = flag(GRAPH) is not False, flag(STREAM)
        self.persistent = flag(PERSISTENT)

    def implementation(self, op: str) -> str:
        if op.startswith("dense"):  # which of the two is chosen for each shape: SMALL
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
        """Return in words how recorded steps run, and who then does the products that cuBLAS does elsewhere."""
        if not self.graphs:
            return f"recorded steps: one operation at a time, by {GRAPH}=0"
        lt = self.lt()
        who = "cuBLASLt"
        if isinstance(lt, str):
            who = f"nnx's kernel, or no graph beyond {MOST_OWN_WORK:,} multiply-adds of them a step, because {lt}"
        return f"recorded steps: one CUDA graph each, in it for cuBLAS: {who}; {GRAPH}=0 for one operation at a time"

    def _persistent_rule(self) -> list[str]:
        """Return in words which recorded steps are the persistent kernel."""
        if not self.graphs or self.persistent is False:
            return []
        most = "" if self.persistent else f" and take up to {MOST_WORK:,} multiply-adds"
        which = f"recorded steps that fit a block's {self.shared_memory:,} bytes{most}"
        return [f"{which}: many in one launch of a persistent kernel; {PERSISTENT}=0 for none, 1 for all that fit"]

    def _tuning_rule(self) -> list[str]:
        """Return in words who says which of cuBLASLt's algorithms multiply in graphs, and those of this process."""
        if not self.graphs or isinstance(self.lt(), str):
            return []
        choices = self.choices()
        if choices is None:
            return ["cuBLASLt's algorithms in graphs: those that it names first, by NNX_TUNE=off"]
        return choices.notes()

    def probe(self) -> None:
        """Do what a training step does, by kernels, by cuBLAS and by CuPy's own functions, and compare.

        Raises:
            BackendUnavailable: some of it does not work here.
        """
        with explained(self._full_name()):
            super().probe()
            x, w = self.asarray([[1, 2]]), self.asarray([[3], [4]])
            big, share = self.to_numpy(self.cupy.matmul(x, w)), self.to_numpy(self.softmax(x * 0))
            if float(big[0, 0]) != 11 or share.tolist() != [[0.5, 0.5]]:
                raise RuntimeError(f"[1 2] @ [3 4] gave {big.tolist()}, softmax [0 0] {share.tolist()}")
            for dtype, kind in (("float32", type(self)), ("float64", Operations)):  # by kernels, and by CuPy alone
                found = _tiny_step(self, kind, self.asarray(x, dtype))
                if found != TINY_STEP:
                    raise RuntimeError(f"the gradients of a tiny step in {dtype} are {found}, not {TINY_STEP}")

    def _full_name(self) -> str:
        return f"{self.name}:{self.number}" if self.number else self.name

    def compile(self, recorder: Recorder) -> Program:
        if not self.graphs:
            return CupyProgram(self, recorder.calls)
        return compile_program(self, recorder.calls, self.persistent)

    def compile_gradients(self, recorder: Recorder) -> Program:
        kind = GraphProgram if self.graphs else CupyProgram
        return kind(self, without_update(recorder.calls))

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

    # ---- softmax -----------------------------------------------------------------------------------------------------

    def softmax(self, x: Array, out: Array | None = None) -> Array:
        kind = self._kind(x)
        if kind is None or x.ndim != 2:
            return super().softmax(x, out)
        y = self._output(out, x.shape, x)
        self._launch(plans.softmax_rows("softmax", *x.shape), kind, self._read(x), y, *x.shape)
        return self._deliver(y, out)

    def softmax_backward(self, y: Array, dy: Array, out: Array | None = None) -> Array:
        kind = self._kind(y, dy)
        if kind is None or y.ndim != 2 or y.shape != dy.shape:
            return super().softmax_backward(y, dy, out)
        dx = self._output(out, y.shape, y)
        launch = plans.softmax_rows("softmax_backward", *y.shape)
        self._launch(launch, kind, self._read(y), self._read(dy), dx, *y.shape)
        return self._deliver(dx, out)

    def softmax_jacobian(self, y: Array, out: Array | None = None) -> Array:
        kind = self._kind(y)
        if kind is None or y.ndim != 2:
            return super().softmax_jacobian(y, out)
        matrices = self._output(out, (*y.shape, y.shape[1]), y)
        self._launch(plans.softmax_jacobian(*y.shape), kind, self._read(y), matrices, *y.shape)
        return self._deliver(matrices, out)

    # ---- losses ------------------------------------------------------------------------------------------------------

    def cross_entropy(self, p: Array, target: Array, out: Array | None = None) -> Array:
        kind, labels = self._kind(p), self._target_kind(target, p)
        if kind is None or labels is None or p.ndim != 2:
            return super().cross_entropy(p, target, out)
        losses = self._output(out, p.shape[:1], p)
        launch = plans.row_groups(f"cross_entropy_{labels}", *p.shape)
        self._launch(launch, kind, self._read(p), self._read(target), losses, *p.shape)
        return self._deliver(losses, out)

    def cross_entropy_backward(self, p: Array, target: Array, out: Array | None = None) -> Array:
        kind, labels = self._kind(p), self._target_kind(target, p)
        if kind is None or labels is None or p.ndim != 2:
            return super().cross_entropy_backward(p, target, out)
        gradient = self._output(out, p.shape, p)
        launch = plans.row_groups(f"cross_entropy_backward_{labels}", *p.shape)
        self._launch(launch, kind, self._read(p), self._read(target), gradient, *p.shape)
        return self._deliver(gradient, out)

    def softmax_cross_entropy(
        self,
        logits: Array,
        target: Array,
        losses: Array,
        probabilities: Array | None = None,
        clip: float = 0.0,
        out: Array | None = None,
    ) -> Array:
        labels = self._target_kind(target, logits)
        launch = None
        if labels is not None and logits.ndim == 2:
            launch = plans.softmax_rows(f"softmax_cross_entropy_{labels}", *logits.shape)
        return self._fused("softmax_cross_entropy", launch, logits, target, losses, probabilities, clip, out)

    def sigmoid_cross_entropy(
        self,
        logits: Array,
        target: Array,
        losses: Array,
        probabilities: Array | None = None,
        clip: float = 0.0,
        out: Array | None = None,
    ) -> Array:
        fits = logits.ndim == 2 and target.shape == logits.shape and target.dtype == logits.dtype
        launch = plans.row_groups("sigmoid_cross_entropy", *logits.shape) if fits else None
        return self._fused("sigmoid_cross_entropy", launch, logits, target, losses, probabilities, clip, out)

    def _fused(
        self, name: str, launch: Launch | None, logits: Array, target: Array, losses: Array,
        probabilities: Array | None, clip: float, out: Array | None,
    ) -> Array:  # fmt: skip
        """Run the kernel of an activation and its loss in one, if `launch` says that the targets fit."""
        kind, shape, dtype = self._kind(logits), logits.shape, logits.dtype
        kept = probabilities is None or writable(probabilities, shape, dtype)
        if kind is None or launch is None or not (kept and writable(losses, shape[:1], dtype)):
            return getattr(Operations, name)(self, logits, target, losses, probabilities, clip, out)
        gradient = self._output(out, shape, logits)
        operands = self._read(logits), self._read(target), losses, probabilities, gradient
        self._launch(launch, kind, *operands, *shape, *bounds(clip))
        return self._deliver(gradient, out)

    # ---- one training step -------------------------------------------------------------------------------------------

    def gather_rows(self, source: Array, order: Array, counters: Array, out: Array) -> Array:
        kind = "float32" if source.dtype == INT64 else self._kind(source)  # integers have no REAL in their kernel
        fits = source.ndim in (1, 2) and source.shape[1:] == out.shape[1:] and as_they_are(INT64, order, counters)
        ready = (
            source.flags.c_contiguous
            and source.size
            and order.size
            and out.size
            and writable(out, out.shape, source.dtype)
        )
        if kind is None or not (fits and ready):  # also not contiguous: all rows would be copied for a few
            return super().gather_rows(source, order, counters, out)
        rows, columns = out.shape[0], out.size // out.shape[0]
        launch = plans.row_groups("gather_integers" if source.dtype == INT64 else "gather_reals", rows, columns)
        self._launch(launch, kind, source, order, counters, out, rows, columns, len(source), len(order))
        return out

    def dropout(self, x: Array, rate: float, seed: int, layer: int, counters: Array, out: Array | None = None) -> Array:
        kind = self._kind(x)
        if kind is None or x.ndim != 2 or not as_they_are(INT64, counters):
            raise InputTypeError(
                f"dropout: x is {x.dtype} {x.shape} and counters {counters.dtype}, expected float32 or float64 [N, C] "
                "and contiguous int64"
            )
        y = self._output(out, x.shape, x)
        words = (seed & (LOW << 32 | LOW), layer & LOW, keep_threshold(rate))
        self._launch(plans.dropout(*x.shape), kind, self._read(x), y, *x.shape, counters, *words, 1 / (1 - rate))
        return self._deliver(y, out)

    def gaussian_noise(
        self, x: Array, stddev: float, seed: int, layer: int, counters: Array, out: Array | None = None
    ) -> Array:
        kind = self._kind(x)
        if kind is None or x.ndim != 2 or not as_they_are(INT64, counters):
            raise InputTypeError(
                f"gaussian_noise: x is {x.dtype} {x.shape} and counters {counters.dtype}, expected float32 or float64 "
                "[N, C] and contiguous int64"
            )
        y, words = self._output(out, x.shape, x), (seed & (LOW << 32 | LOW), layer & LOW)
        launch = plans.dropout(x.shape[0], x.shape[1], "gaussian_noise")
        self._launch(launch, kind, self._read(x), y, *x.shape, counters, *words, stddev)
        return self._deliver(y, out)

    def weigh(self, x: Array, weights: Array, out: Array | None = None) -> Array:
        kind = self._kind(x, weights)
        if kind is None or x.ndim != 2 or weights.shape != (len(x), 1):
            return super().weigh(x, weights, out)
        y = self._output(out, x.shape, x)
        self._launch(plans.elementwise("weigh", x.size), kind, self._read(x), self._read(weights), y, *x.shape)
        return self._deliver(y, out)

    def add(self, x: Array, y: Array, out: Array | None = None) -> Array:
        kind = self._kind(x, y)
        if kind is None or x.shape != y.shape:
            return super().add(x, y, out)
        return self._of_two("add", kind, x, y, (), out)

    def put_columns(self, x: Array, first: int, y: Array) -> None:
        kind, columns = self._kind(x, y), x.shape[1]
        if kind is None or not writable(y, (len(x), y.shape[1]), x.dtype) or first + columns > y.shape[1]:
            super().put_columns(x, first, y)
            return
        launch, numbers = plans.elementwise("copy_columns", x.size), (*x.shape, columns, 0, y.shape[1], first)
        self._launch(launch, kind, self._read(x), y, *numbers)

    def take_columns(self, x: Array, first: int, count: int, out: Array | None = None) -> Array:
        kind = self._kind(x)
        if kind is None or first + count > x.shape[1]:
            return super().take_columns(x, first, count, out)
        y = self._output(out, (len(x), count), x)
        launch, numbers = plans.elementwise("copy_columns", y.size), (*y.shape, x.shape[1], first, count, 0)
        self._launch(launch, kind, self._read(x), y, *numbers)
        return self._deliver(y, out)

    def embed(self, x: Array, w: Array, column: int, first: int, y: Array) -> None:
        kind, (codes, columns) = self._kind(x, w, y), w.shape
        if kind is None or not writable(y, (len(x), y.shape[1]), x.dtype) or first + columns > y.shape[1]:
            super().embed(x, w, column, first, y)
            return
        launch = plans.elementwise("embed", len(x) * columns)
        numbers = (len(x), columns, codes, x.shape[1], column, y.shape[1], first)
        self._launch(launch, kind, self._read(x), self._read(w), y, *numbers)

    def embed_gradients(self, x: Array, dy: Array, dw: Array, column: int, first: int) -> None:
        kind, (codes, columns) = self._kind(x, dy, dw), dw.shape
        if kind is None or not writable(dw, dw.shape, dw.dtype) or first + columns > dy.shape[1]:
            super().embed_gradients(x, dy, dw, column, first)
            return
        launch = plans.elementwise("embed_gradients", 4 * dw.size)
        numbers = (len(x), columns, codes, x.shape[1], column, dy.shape[1], first)
        self._launch(launch, kind, self._read(x), self._read(dy), dw, *numbers)

    def tally(
        self, losses: Array, outputs: Array, target: Array, metric: str | None, tolerance: float, stats: Array
    ) -> None:
        if not self._tally(losses, outputs, target, None, metric, tolerance, stats):
            super().tally(losses, outputs, target, metric, tolerance, stats)

    def weighted_tally(
        self, losses: Array, outputs: Array, target: Array, weights: Array, metric: str | None, tolerance: float,
        stats: Array,
    ) -> None:  # fmt: skip
        if not self._tally(losses, outputs, target, weights, metric, tolerance, stats):
            super().weighted_tally(losses, outputs, target, weights, metric, tolerance, stats)

    def _tally(
        self, losses: Array, outputs: Array, target: Array, weights: Array | None, metric: str | None,
        tolerance: float, stats: Array,
    ) -> bool:  # fmt: skip
        """Launch the kernels for that; return False, with nothing done, if they do not take these operands."""
        how = self._tally_kind(outputs, target, metric)
        kind = self._kind(losses, outputs, *([] if weights is None else [weights]))
        fits = outputs.ndim == 2 and losses.shape == outputs.shape[:1]
        fits = fits and (weights is None or weights.shape == (len(losses), 1))
        if kind is None or how is None or not (fits and writable(stats, (3,), FLOAT64)):
            return False
        rows, columns = outputs.shape
        operands = [self._read(losses), None if weights is None else self._read(weights)]
        if how != "losses":
            operands += [self._read(outputs), self._read(target)]
        sizes = [rows] if how == "losses" else [rows, columns]
        if metric in ("binary", "logits", "regression"):
            sizes.append({"binary": 0.5, "logits": 0.0}.get(metric, tolerance))
        first, *second = plans.tally(how, rows, columns)
        blocks = first.grid[0]
        parts = self._scratch(2 * blocks, "float64") if second else None
        self._launch(first, kind, *operands, parts, stats, *sizes)
        for total in second:
            self._launch(total, kind, parts, stats, blocks, rows, how != "losses")
        return True

    def _tally_kind(self, outputs: Array, target: Array, metric: str | None) -> str | None:
        """Return which of the kernels counts the hits of a metric; None if the targets do not fit."""
        if metric is None:
            return "losses"
        if metric == "categorical":
            return self._target_kind(target, outputs)
        fits = target.shape == outputs.shape and target.dtype == outputs.dtype
        return ("near" if metric == "regression" else "above") if fits else None

    def end_step(self, stats: Array, penalties: Array, history: Array, counters: Array, rows: int) -> None:
        if not (as_they_are(FLOAT64, stats, penalties, history) and as_they_are(INT64, counters)):
            super().end_step(stats, penalties, history, counters, rows)
            return
        capacity = history.shape[0]
        launch = Launch("end_step", (1,), (32,))
        self._launch(launch, "float64", stats, penalties, penalties.size, history, capacity, counters, rows)

    # ---- optimizers --------------------------------------------------------------------------------------------------

    def sgd(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        self._update("sgd", (p, g, m), hyper, counters)

    def adagrad(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        self._update("adagrad", (p, g, v), hyper, counters)

    def rmsprop(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        self._update("rmsprop", (p, g, v), hyper, counters)

    def adam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        self._update("adam", (p, g, m, v), hyper, counters)

    def nadam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        self._update("nadam", (p, g, m, v), hyper, counters)

    def amsgrad(self, p: Array, g: Array, m: Array, v: Array, u: Array, hyper: Array, counters: Array) -> None:
        self._update("amsgrad", (p, g, m, v, u), hyper, counters)

    def lion(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        self._update("lion", (p, g, m), hyper, counters)

    def accumulate(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        self._update("accumulate", (p, g, m), hyper, counters)

    def collect(self, g: Array, m: Array) -> None:
        kind = self._kind(g, m)
        if kind is None or not all(writable(a, g.shape, g.dtype) for a in (g, m)):
            super().collect(g, m)
            return
        self._launch(plans.elementwise("collect", g.size), kind, g, m, g.size)

    def clip(self, g: Array, norm: float, value: float) -> None:
        kind = self._kind(g)
        if kind is None or not writable(g, g.shape, g.dtype):
            super().clip(g, norm, value)
            return
        first, second = plans.clip(g.size)
        blocks = first.grid[0]
        parts = self._scratch(blocks, "float64")
        self._launch(first, kind, g, parts, g.size, value)
        if norm < math.inf:
            self._launch(second, kind, g, parts, blocks, g.size, norm)

    def average(self, a: Array, p: Array, counters: Array, decay: float, since: int) -> None:
        kind = self._kind(a, p)
        fits = writable(a, p.shape, p.dtype) and as_they_are(INT64, counters) and p.flags.c_contiguous
        if kind is None or not fits:
            super().average(a, p, counters, decay, since)
            return
        self._launch(plans.elementwise("average", a.size), kind, a, p, counters, a.size, decay, since)

    def _update(self, name: str, arrays: tuple[Array, ...], hyper: Array, counters: Array) -> None:
        kind = self._kind(*arrays)
        alike = all(writable(a, arrays[0].shape, arrays[0].dtype) for a in arrays)
        if kind is None or not (alike and as_they_are(FLOAT64, hyper) and as_they_are(INT64, counters)):
            getattr(Operations, name)(self, *arrays, hyper, counters)
            return
        n = arrays[0].size
        self._launch(plans.elementwise(name, n), kind, *arrays, hyper, counters, n)


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
    """The same, where there are several GPUs."""


def create(device: Any = "", gpu_memory_limit: Any = None, precision: str | None = None) -> CupyBackend:
    """Return the backend on a GPU, which `probe` is yet to try.

    Args:
        device: its number as CUDA counts those it may see; "" is the first.
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
    """Import CuPy, whose warnings (of two wheels, of a missing toolkit) are told in `info()` or as reasons instead."""
    if find_spec("cupy") is None:
        raise ModuleNotFoundError("CuPy is not installed", name="cupy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cupy
    return cupy
