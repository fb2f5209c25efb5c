"""The Numba backend: NumPy's arrays, and kernels that are compiled for this CPU when first called.

All operations work in the same way: the operands are offered to a kernel, in parts for several threads if they are
large. A kernel only takes operands that are contiguous, writable, of the same float type, and of shapes that fit. If it
refuses them, NumPy's version gets them, which takes everything or says what is wrong. The results of the two differ
only by rounding.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import numpy as np

from nnx.backends import threads
from nnx.backends.addresses import form_of
from nnx.backends.base import BackendInfo
from nnx.backends.environment import flag, gemm_rule, tuned
from nnx.backends.errors import BackendUnavailable, InputError, NotReplayable
from nnx.backends.inference import Forward, Scored, Scores, Stage
from nnx.backends.numba.activations import NumbaActivations
from nnx.backends.numba.losses import NumbaLosses
from nnx.backends.numba.optimizers import NumbaOptimizers
from nnx.backends.numba.sharing import NUMBERS, PLAIN, may_overlap, offer, together
from nnx.backends.numba.step import NumbaStep
from nnx.backends.operation_table import QUIET
from nnx.backends.operations.dense import fusible
from nnx.backends.precision import VARIABLE, precision_of_environment
from nnx.backends.recorder import UPDATES, Call, Piece, Program, Recorder
from nnx.kernels.elementwise import FUNCTIONS
from nnx.kernels.losses import LOSSES
from nnx.kernels.rounding import RUN

Array = Any
FLOAT32, FLOAT64 = np.dtype("float32"), np.dtype("float64")
MANY = 1024  # from this number of rows on, a prediction has many
AMX = "NNX_AMX"
PARTS = {"full": 3, "bf16x3": 2, "bf16": 1}  # how many bfloat16 parts split products use for a number, by precision
PRODUCTS = {
    "full": "six products in bf16, as exact as float32",
    "bf16x3": "three products in bf16, which keep 15 bits",
    "bf16": "rounded to bf16, 8 bits",
}


# What each operation runs; operations that are not listed are NumPy's.
IMPLEMENTATIONS = {
    "regularize": "step.regularize", "softmax": "softmax.forward", "softmax_backward": "softmax.backward",
    "softmax_jacobian": "softmax.jacobian", "cross_entropy": "losses.cross_entropy_indices",
    "cross_entropy_backward": "losses.cross_entropy_indices_backward", "softmax_cross_entropy": "cross_entropy.indices",
    "sigmoid_cross_entropy": "cross_entropy.binary", "gather_rows": "step.gather", "weigh": "step.weigh",
    "dropout": "dropout.dropout", "tally": "step.tally", "end_step": "step.end_step", "sgd": "optimizers.sgd",
    "adagrad": "optimizers.adagrad", "rmsprop": "optimizers.rmsprop", "adam": "optimizers.adam",
    "nadam": "optimizers.nadam", "amsgrad": "optimizers.amsgrad", "lion": "optimizers.lion",
    **{row.name: "elementwise.forward" for row in FUNCTIONS},
    **{row.gradient: "elementwise.backward" for row in FUNCTIONS},
    **{row.name: "losses.of_outputs" for row in LOSSES},
    **{row.gradient: "losses.of_outputs_backward" for row in LOSSES},
}  # fmt: skip


class NumbaBackend(NumbaActivations, NumbaLosses, NumbaStep, NumbaOptimizers):
    """Arrays are `numpy.ndarray`s; the hot loops are compiled."""

    name = "numba"

    def __init__(self) -> None:
        super().__init__()
        self.bound = bool(self.kernels.blas.available())  # whether compiled code can call NumPy's BLAS
        self.gemm_rule = gemm_rule()
        tuned()  # refuses invalid values of NNX_TUNE
        self._set_unit()

    # ---- facts -------------------------------------------------------------------------------------------------------

    def implementation(self, op: str) -> str:
        if op.startswith("dense"):
            product = {"auto": "gemm/blas", "own": "gemm", "blas": "blas"}[self.gemm_rule]
            unit = f"{self.kernels.tile_units.short(self.unit)}/" if self.parts else ""
            return f"numba:{unit}{product}"  # which of them is chosen for each shape: see the notes
        if op in IMPLEMENTATIONS:
            return f"numba:{IMPLEMENTATIONS[op]}"
        inherited = super().implementation(op)  # NumPy's, or the default body
        return inherited if inherited == "xp" else f"numpy:{op}"

    def versions(self) -> dict[str, str]:
        import llvmlite
        import numba

        return {**super().versions(), "numba": numba.__version__, "llvmlite": llvmlite.__version__}

    def threads(self) -> int | None:
        return int(self.kernels.pool.allowed())

    def info(self) -> BackendInfo:
        plain = super().info()
        notes = (
            *plain.notes,
            f"vectors of {self.kernels.gemm.WIDTH} bytes",
            "threads are Python's own, since kernels release the interpreter: none of Numba's threading layers is used",
            f"dense layers: {self._rule()}",
            f"choices: {self._tuning.current().why}",
            *self._tuning.described(self._tuning.current().choices),
            f"large float32 products: {self._large()}",
            *([self.unheeded] if self.unheeded else []),
        )
        return BackendInfo(plain.name, plain.device, plain.versions, plain.threads, plain.ops, notes)

    def _large(self) -> str:
        units, how = self.kernels.tile_units, PRODUCTS[self.precision]
        if not self.parts:
            why = self.without[units.AMX] or "NNX_GEMM=blas"
            low = f'; precision="bf16" multiplies on {self.unit}' if self.unit == units.VECTORS else ""
            return f"as all others, without AMX: {why}{low}"
        others = f"without AMX: {self.without[units.AMX]}" if self.without[units.AMX] else f"{AMX}=0 goes without"
        return f"on {self.unit}, {how}, from {self.split_from:.3g} multiply-adds; {others}"

    def _rule(self) -> str:
        if self.gemm_rule == "own":
            return "always the own product, because NNX_GEMM=own"
        if self.gemm_rule == "blas":
            return "always BLAS, because NNX_GEMM=blas"
        how = "" if self.bound else " through numpy.matmul, because NumPy's OpenBLAS was not found beside it"
        measured = self._tuning.current().choices.own_products is not None
        rule = "the own product where it was measured to be faster" if measured else self.kernels.gemm.RULE
        return f"{rule}, else BLAS{how}; NNX_GEMM=own or blas overrides"

    def probe(self) -> None:
        """Compile a small kernel and run it. `dense` would take a second to compile, and may not be needed."""
        taken = self.gather_rows(np.array([3, 5, 7]), np.array([2, 0]), np.zeros(3, np.int64), np.zeros(2, np.int64))
        if taken.tolist() != [7, 3]:
            raise RuntimeError(f"rows 2 and 0 of [3 5 7] are {taken.tolist()}, not [7 3]")

    # ---- precision ---------------------------------------------------------------------------------------------------

    def _set_unit(self) -> None:
        """Find the unit that multiplies bfloat16 here, and the precision that the environment asks for."""
        units = self.kernels.tile_units
        self.without = {unit: units.why_not(unit) for unit in units.IN_PROCESSOR}  # why each is missing, or ""
        if flag(AMX) is False:
            self.without[units.AMX] = f"{AMX}=0"
        self.use_unit(next((unit for unit, why in self.without.items() if not why), None))
        wanted = precision_of_environment() or "full"
        # The variable only allows a lower precision: backends for the CPU may multiply more exactly, and say so. But a
        # precision that is given as an argument must be used.
        self.unheeded = f"{VARIABLE}={wanted} is not heeded: {why}" if (why := self._cannot(wanted)) else ""
        self.precision = "full" if self.unheeded else wanted

    def use_unit(self, unit: str | None) -> None:
        """Split large products, and multiply them by a unit of tile_units.py; None: multiply everything in float32."""
        self.unit = unit
        if unit is not None:
            self.kernels.load("matmul", "amx")

    @property
    def parts(self) -> int:
        """The number of bfloat16 parts that a float32 is split into for large products; 0: none are split.

        In full precision they are only split with AMX, since float32 is faster without it, and not if NNX_GEMM=blas.
        """
        if self.unit is None:
            return 0
        quicker = self.gemm_rule != "blas" and self.kernels.tile_units.short(self.unit) == "amx"
        return PARTS[self.precision] if quicker or self.precision != "full" else 0

    @property
    def split_from(self) -> float:
        """The number of multiply-adds from which on products are split, if any are.

        In full precision it is where splitting becomes faster. Otherwise it is the same on all machines, so that the
        same layers are rounded.
        """
        if self.precision == "full":
            return float(self._tuning.current().choices.split_from)
        return float(self.kernels.amx.WORK[self.parts])

    def _cannot(self, precision: str) -> str:
        """The reason why large products cannot have this precision; "" if they can."""
        if precision not in PARTS:
            return "it is for GPUs"
        if precision == "full" or self.unit is not None:
            return ""
        reasons = dict.fromkeys(self.without.values())  # each once
        return f"it needs {' or '.join(self.without)}, and {'; '.join(reasons)}"

    def _with_precision(self, wanted: str) -> NumbaBackend:
        if why := self._cannot(wanted):
            raise InputError(
                f"precision={wanted!r}, backend {self.name!r}: {why}; say 'full', or use backend='cupy' on a GPU"
            )
        other = copy.copy(self)
        other.precision, other.unheeded = wanted, ""
        return other

    # ---- programs ----------------------------------------------------------------------------------------------------

    def record(self, known: Iterable[Array]) -> Recorder:
        """Return a recorder whose operations run by NumPy: for a single step, compiling one is not worthwhile."""
        return Recorder(self, known, by=PLAIN)

    def form(self, arrays: Sequence[Array]) -> Any:
        return form_of(arrays), self.threads()

    def compile(self, recorder: Recorder) -> Program:
        from nnx.backends.numba.structure import compile_known  # here, because it imports Numba

        return self._compiled(lambda: compile_known(self, recorder), [recorder.calls])[0]

    def compile_gradients(self, recorder: Recorder, pieces: Sequence[Piece]) -> list[Program]:
        from nnx.backends.numba.program import compile_program

        read: list[Call] = []
        for piece in pieces[:-1]:
            pooled = [call.operands["a"] for call in piece.pools]
            read += [*piece.calls, Call("stop", {"pooled": pooled, "gradients": bool(piece.stops)})]
        *last, end = pieces[-1].calls
        updates = [call for call in recorder.calls if call.name in UPDATES]  # from which it learns the parameters
        calls = [*read, *last, *updates, end]
        return self._compiled(lambda: compile_program(self, calls, updates=False), [piece.calls for piece in pieces])

    def _compiled(self, compiled: Callable[[], Any], by_one: list[list[Call]]) -> list[Program]:
        """Return calls as one compiled function if possible, otherwise as programs that call one operation each."""
        try:  # they have a Program's run(steps) and native
            return cast("list[Program]", compiled().pieces)
        except NotReplayable as reason:  # by that function; its operations have kernels of their own
            programs = [Program(self, some) for some in by_one]
            for program in programs:
                program.reason = str(reason)
            return programs

    def compile_forward(self, stages: Sequence[Stage], parameters: Array) -> Forward | None:
        from nnx.backends.numba.inference import compile_forward

        # A lower precision was asked for because it is faster, and only single operations have it. In full precision
        # all rows are multiplied in vectors, as few rows are, since outputs must not depend on the number of rows.
        shapes = [stage.weights.shape for stage in stages if stage.weights is not None]
        rounds = self.precision != "full" and any(self._on_tiles(MANY, n, k, parameters.itemsize) for k, n in shapes)
        return compile_forward(stages, parameters, blocks=not rounds)

    def compile_scores(self, forward: Forward, loss: Scored) -> Scores | None:
        from nnx.backends.numba.scores import compile_scores

        return compile_scores(forward, loss)

    def planned_step(self) -> str:
        from nnx.backends.numba.program import wanted_family
        from nnx.backends.numba.runtime import WAYS

        return f"one compiled function, samples {WAYS.get(wanted_family(), ' or '.join(WAYS.values()))}"

    def planned_prediction(self) -> str:
        from nnx.backends.numba.inference import PLANNED

        return PLANNED

    # ---- dense -------------------------------------------------------------------------------------------------------

    def dense(self, x: Array, w: Array, b: Array, activation: str | None = None, out: Array | None = None) -> Array:
        (n, inputs), outputs, k = x.shape, w.shape[1], self.kernels
        y = np.empty((n, outputs), x.dtype) if out is None else out
        kind = k.elementwise.NONE if activation is None else NUMBERS[fusible(activation)]
        if not self._own(n, outputs, inputs, x.itemsize, True):
            if offer(k.blas.dense, x, w, b, y, kind) if self.bound else self._by_numpy(x, w, b, y, kind):
                return y
        elif b.shape == (1, outputs) and self._product(x, w, y, b, kind == k.elementwise.RELU):
            if kind not in (k.elementwise.NONE, k.elementwise.RELU):
                offer(k.elementwise.forward, y, y, *self._share(y.size), kind, 0.0)
            return y
        return super().dense(x, w, b, activation, out)

    @QUIET
    def dense_backward(self, x: Array, w: Array, dy: Array, dw: Array, db: Array, out: Array | None = None) -> Array:
        self._gradients(x, dy, dw, db)
        return self._input_gradient(w, dy, out)

    @QUIET
    def dense_dinputs(self, w: Array, dy: Array, out: Array | None = None) -> Array:
        return self._input_gradient(w, dy, out)

    def _input_gradient(self, w: Array, dy: Array, out: Array | None) -> Array:
        inputs, outputs = w.shape
        dx = np.empty((len(dy), inputs), dy.dtype) if out is None else out
        if self._own(len(dy), inputs, outputs, dy.itemsize, False) and self._product(dy, w.T, dx):
            return dx
        return np.matmul(dy, w.T, out=dx)

    @QUIET
    def dense_gradients(self, x: Array, dy: Array, dw: Array, db: Array) -> None:
        self._gradients(x, dy, dw, db)

    def _gradients(self, x: Array, dy: Array, dw: Array, db: Array) -> None:
        if len(dy) <= RUN:
            self._weight_gradient(x, dy, dw)
        else:
            part = np.empty_like(dw)
            self._in_runs(len(dy), lambda run: self._weight_gradient(x[run], dy[run], part), dw)
        if not (len(dy) and offer(self.kernels.sums.bias_gradient, dy, db)):
            self._bias_gradient(dy, db)

    def _weight_gradient(self, x: Array, dy: Array, dw: Array) -> Array:
        if self._own(dw.shape[0], dw.shape[1], len(dy), dw.itemsize, False) and self._product(x.T, dy, dw):
            return dw
        return np.matmul(x.T, dy, out=dw)

    @QUIET
    def _by_numpy(self, x: Array, w: Array, b: Array, y: Array, kind: int) -> bool:
        """y = activation(x @ w + b), with the product by NumPy's BLAS."""
        if not (x.dtype == w.dtype == b.dtype == y.dtype and b.shape == (1, y.shape[1])):
            return False
        np.matmul(x, w, out=y)
        return offer(self.kernels.elementwise.finish, y, b, kind)

    def _own(self, m: int, n: int, k: int, itemsize: int, fused: bool) -> bool:
        if self._on_tiles(m, n, k, itemsize):
            return True
        if self.gemm_rule == "auto":
            prefers: bool = self._tuning.prefers_own(m, n, k, itemsize, fused)
            return prefers
        return self.gemm_rule == "own"

    def _on_tiles(self, m: int, n: int, k: int, itemsize: int) -> bool:
        """Tell whether a product is split and multiplied by a unit for bfloat16."""
        if self.unit is None or min(m, n, k) < self.kernels.amx.LEAST:  # true for most: the other checks take 1 us
            return False
        if itemsize != FLOAT32.itemsize or not self.parts:
            return False
        return bool(self.kernels.amx.prefer_amx(m, n, k, self.split_from))

    def _product(self, a: Array, b: Array, c: Array, bias: Array | None = None, relu: bool = False) -> bool:
        """c = a @ b and epilogue by nnx's own kernel; False, with nothing done, if it does not take these operands."""
        kind, pool = c.dtype, self.kernels.pool
        (m, n), k = c.shape, a.shape[1]
        nothing = c[:0]
        added = nothing if bias is None else bias
        if not (a.dtype == b.dtype == added.dtype == kind and kind in (FLOAT32, FLOAT64)):
            return False
        if not (a.flags.forc and b.flags.forc and added.flags.carray and c.flags.carray):
            return False
        if a.shape[0] != m or b.shape != (k, n) or not (c.size and b.flags.behaved and a.flags.behaved):
            return False
        if self._on_tiles(m, n, k, c.itemsize):
            gemm, more = self.kernels.amx.ready(self.unit), (relu, self.parts)
            work = m * n * k / 100  # ns, at 200 GFLOP/s
        else:
            gemm, more = self.kernels.gemm.ready(kind), (relu, False)
            work = m * n * k * c.itemsize / 200  # ns: some 5e6 products in float32 take 100 us
        by_rows = m >= n
        parts = self._split(m if by_rows else n, work, 96)  # a multiple of every tile's rows and columns
        if len(parts) == 1:
            return bool(gemm(a, b, c, added, nothing, *more))
        if may_overlap(c, a, b, added):
            return False
        if by_rows:
            return together(pool, [partial(gemm, a[p], b, c[p], added, nothing, *more) for p in parts])
        gone = nothing[:, :0]
        shares = [gone if bias is None else bias[:, p] for p in parts]
        calls = zip(parts, shares, strict=True)
        return together(pool, [partial(gemm, a, b[:, p], c[:, p], share, gone, *more) for p, share in calls])

    def regularize(self, w: Array, dw: Array, l1: float, l2: float, penalty: Array) -> None:
        if not offer(self.kernels.step.regularize, w, dw, penalty, float(l1), float(l2)):
            super().regularize(w, dw, l1, l2, penalty)


def setting(name: str) -> int | None:
    """Return one of Numba's variables as Numba reads it, which ignores anything but a number, with a warning."""
    with suppress(ValueError):
        return int(os.environ.get(name, ""))
    return None


def create(device: str = "") -> NumbaBackend:
    """Return the backend, which has only one device.

    Raises:
        BackendUnavailable: Numba is missing, too old, broken, or switched off.
    """
    if device:
        raise BackendUnavailable(f"numba:{device}", "the CPU is one device", 'Ask for plain "numba".')
    install = 'Run `pip install "nnx-backends[cpu]"`.'
    if find_spec("numba") is None:
        raise BackendUnavailable("numba", "Numba is not installed", install)
    if setting("NUMBA_DISABLE_JIT"):
        raise BackendUnavailable("numba", "NUMBA_DISABLE_JIT is set", 'Unset it, or use backend="numpy".')
    if (number := setting(threads.NUMBAS)) is not None and number < 1:
        raise BackendUnavailable("numba", f"{threads.NUMBAS}={number}, with which Numba does not load", "Unset it.")
    try:
        return NumbaBackend()
    except InputError:
        raise
    except Exception as error:  # ImportError if NumPy is too new for Numba; LLVM has errors of its own
        raise BackendUnavailable("numba", f"Numba does not load ({type(error).__name__}: {error})", install) from error
