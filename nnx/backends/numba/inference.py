"""Inference on the CPU: a forward pass in one compiled function, for `NumbaBackend.compile_forward`.

There are two, which add up in the same order, so that a row's outputs are the same bits whatever is predicted with it:
one takes row by row and is made for single rows, the other goes through all layers block by block of rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from struct import pack, unpack
from typing import Any

import numpy as np

from nnx.backends.addresses import Array, address, on_large_pages
from nnx.backends.inference import Forward, Stage
from nnx.backends.numba.tuning import current
from nnx.backends.recorder import Program
from nnx.kernels.cpu.caches import caches
from nnx.kernels.cpu.jit.simd import WIDTH
from nnx.kernels.cpu.matmul.register_tile import ROWS, VECTORS
from nnx.kernels.cpu.ops.elementwise import NONE
from nnx.kernels.cpu.program import inference as f
from nnx.kernels.cpu.program import inference_many as m
from nnx.kernels.cpu.program.inference_called import function_at
from nnx.kernels.cpu.threads import pool
from nnx.kernels.cpu.threads.team import WANTED
from nnx.kernels.elementwise import number_of
from nnx.kernels.rounding import RUN

CROSSING, MEETING = 0.4, 2000.0  # ns: of a number that another thread has just written; of waiting for it, a layer
AT_ONCE = 1e8  # ns of work in one call, so that Ctrl-C is heard
BLOCK = max(min(1 << 19, caches().l2), caches().l2 // 2)  # bytes of a block's two buffers: half of L2, or a small one
NEAR = caches().l2 * 3 // 4  # bytes of weights that stay in the second-level cache from row to row
PANELS = 16  # of a block at most: more use of packed weights is nothing gained, and less costs 64-128-64-10 7%
PLANNED = "one compiled function, row by row for a few rows, beyond that in blocks of rows"
BY_STAGES = f"{Program.description} for a few rows, beyond that one compiled function, in blocks of rows"
ROUNDED = f"one compiled function, row by row for a few rows, beyond that {Program.description}"
WEIGHTS = 1 << 22  # of a network that comes from memory for each row, where two threads read faster than one


def compile_forward(stages: Sequence[Stage], parameters: Array, blocks: bool = True) -> Forward | None:
    """Return a function that predicts, or None for a network that is better run stage by stage.

    Args:
        stages: what the network does. parameters: the flat buffer that all their arrays are views of.
        blocks: whether many rows are predicted by it too, which multiplies in full precision.
    """
    table = table_of(stages, parameters)
    if table is None:
        return None
    place, few = address(table), int(table[f.ROWS]) or few_rows(int(table[f.SIZE]), parameters.itemsize)
    by_row, width = bool(table[f.ROWS]), int(table[-f.COLUMNS + f.N])
    if not (by_row or blocks):
        return None
    kernel: Callable[..., bool] = f.ready(parameters.dtype) if by_row else refuse
    if by_row and helpers_pay(int(table[f.SIZE]), parameters.itemsize):
        kernel = helped(kernel, alone(int(table[f.SIZE]), parameters.itemsize))
    whole = Many(table, parameters) if blocks else None
    many: Callable[..., bool] = whole or refuse
    dtype, ndarray, empty = parameters.dtype, np.ndarray, np.empty  # to look a name up takes 20 ns

    def forward(x: np.ndarray) -> np.ndarray | None:
        if type(x) is ndarray:  # a masked array would lose its mask
            try:
                rows = len(x)
                out = empty((rows, width), dtype)
                if kernel(x, out, place, 0) if rows <= few else many(x, out):
                    return out
            except TypeError:  # it has no rows, or is not as the kernel takes it: of another type, not contiguous
                pass
        return None

    how = BY_STAGES if not by_row else PLANNED if blocks else ROUNDED
    forward.description = how  # type: ignore[attr-defined]
    forward.many, forward.few = whole, few if by_row else 0  # type: ignore[attr-defined]
    forward.alive = table, parameters  # type: ignore[attr-defined]  # of which compiled code has the addresses alone
    return forward


def helped(kernel: Callable[..., bool], work: float) -> Callable[..., bool]:
    """Return the kernel that takes row by row, for so many ns of work each, with other threads' help."""
    threads = pool.useful(work, handed())

    def together(x: np.ndarray, out: np.ndarray, place: int, _: int) -> bool:
        if pool.limit == 1:
            return kernel(x, out, place, 0)
        pool.summon(threads)
        pool.board[WANTED] = min(threads, pool.lately()) - 1
        return kernel(x, out, place, pool.board_at)

    return together


def refuse(*operands: Any) -> bool:
    """Stand in for the kernel that takes row by row, or the one for many rows, where that is not to be used."""
    return False


def few_rows(weights: int, itemsize: int, softmaxes: int = 0) -> int:
    """Up to how many rows each is as quick by itself: for as long as many take that fill a panel, or half of one.

    A softmax of a row by itself takes as long as what else is not for weights; side by side next to nothing.
    """
    cost, numbers, rows = current().choices.prediction, weights * itemsize / 4, panel_rows(itemsize)
    once, row = cost.call + packing(weights, itemsize), cost.among + numbers * cost.weight_among
    each = alone(weights, itemsize) + softmaxes * cost.row
    half, whole = (int((once + some * row) / each) for some in (rows // 2, rows))
    return max(1, half if half < rows // 2 else whole)


def packing(weights: int, itemsize: int) -> float:
    """How many ns it takes to pack so many weights."""
    cost, size = current().choices.prediction, weights * itemsize
    return size / 4 * (cost.packed if size <= NEAR else cost.far_packed)


def helpers_pay(weights: int, itemsize: int) -> bool:
    """Whether a row by itself is worth other threads' help, who have caches of their own, and read faster together.

    Of 2048-2048-10, 16 MB that come from afar, it takes 577 us on one thread of an Emerald Rapids, 294 on two, and 380
    by BLAS on two.
    """
    return pool.limit > 1 and alone(weights, itemsize) >= handed()


def handed() -> float:
    """How many ns of work are worth a second thread, if it is awake."""
    return current().choices.handed


def alone(weights: int, itemsize: int) -> float:
    """How many ns a row by itself takes, on one thread."""
    cost, size = current().choices.prediction, weights * itemsize
    return cost.row + size / 4 * (cost.weight if size <= NEAR else cost.far_weight)


def panel_rows(itemsize: int) -> int:
    """How many rows stand side by side in a panel."""
    return m.PANEL_BYTES // itemsize


class Many:
    """Predicts many rows, on several threads where that pays. Any number of Python's threads may call it at once.

    Args:
        table: see nnx/kernels/cpu/program/inference.py. parameters: the flat buffer; both are kept alive by the caller.
    """

    def __init__(self, table: Array, parameters: Array) -> None:
        rows = table[f.HEADER :].reshape(-1, f.COLUMNS)
        self.place, self.dtype = address(table), parameters.dtype
        self.columns, self.widest = panel_rows(parameters.itemsize), int(rows[:, [f.K, f.N]].max())
        packed = rows[(rows[:, f.WEIGHTS] != f.NOWHERE) & (rows[:, f.N] > WIDTH)]
        numbers = int((-(-packed[:, f.N] // ROWS) * ROWS * m.tall_of.py_func(packed[:, f.K])).sum())
        self.packed = -(-numbers // WIDTH) * WIDTH  # what follows begins at a cache line
        self.marks = m.MARKS + int(m.pieces_of.py_func(packed[:, f.K], packed[:, f.N]).sum())
        cost, scale = current().choices.prediction, parameters.itemsize / 4
        self.worth, self.waking = handed(), current().choices.woken
        self.packing, self.layers = packing(self.packed, parameters.itemsize), len(packed)
        self.cost: float = cost.among + int(table[f.SIZE]) * cost.weight_among * scale
        self.crossing = self.columns * int(packed[:, f.K].sum()) * CROSSING * scale
        buffers = 2 * self.columns * self.widest * parameters.itemsize
        self.panels = max(1, min(PANELS, BLOCK // buffers))
        self.at_once = -(-int(AT_ONCE / self.cost) // self.columns) * self.columns
        self._own = threading.local()  # memory of one thread is another's only when that has ended

    @cached_property
    def kernel(self) -> Any:
        """The compiled function, which is looked for when it is first needed."""
        return m.ready(self.dtype)

    def __call__(self, x: np.ndarray, out: np.ndarray) -> bool:
        """Write the outputs for x; return False, with `out` left half done, if they are not taken as they are."""
        if len(x) <= self.at_once:
            return self._predict(x, out)
        starts = range(0, len(x), self.at_once)
        return all(self._predict(x[i : i + self.at_once], out[i : i + self.at_once]) for i in starts)

    def _predict(self, x: np.ndarray, out: np.ndarray, record: int = 0) -> bool:
        if (work := self.work(len(x))) >= self.worth:
            threads = pool.useful(work, self.worth)
            if pool.summon(threads, work, self.waking):
                return self.run(x, out, min(threads, pool.lately()), record)
        return self.run(x, out, 1, record)

    def work(self, rows: int) -> float:
        """Return how many ns so many rows take on one thread: the last of their panels is computed whole, or half."""
        half = self.columns // VECTORS
        counted = half if rows <= half else -(-rows // self.columns) * self.columns
        took: float = self.packing + self.cost * counted
        return took

    def handed_over(self, x: np.ndarray, record: int) -> bool:
        """Have a record's code take the outputs for x, of `at_once` rows at most; return the same as a call."""
        return self._predict(x, x, record)

    def run(self, x: np.ndarray, out: np.ndarray, threads: int, record: int = 0) -> bool:
        """Write the outputs for x with so many threads at most; return the same as a call."""
        panels = -(-len(x) // self.columns)
        if threads > 1 and self.by_columns(panels, threads):
            blocks = 1  # of whose layers each thread takes columns
        else:
            threads = min(threads, panels)
            blocks = -(-panels // (self.panels * threads)) * threads  # as many for each thread
            blocks = min(blocks, panels)
        room = -(-panels // blocks) * self.columns * self.widest
        strips = self.packed if blocks > threads else 0
        memory, marks = self._memory(m.memory_of(room, strips, threads))
        shape = blocks, room, strips, threads
        return bool(self.kernel(x, out, memory, marks, pool.board_at, self.place, *shape, record))

    def by_columns(self, panels: int, threads: int) -> bool:
        """Tell whether threads had better share the columns of each layer than the panels.

        Then none has a panel more than another, and each packs but its own share of the weights; but what one has
        written all read, layer by layer.
        """
        panel = self.columns * self.cost
        apart = -(-panels // threads) * panel + self.packing
        shared = panels * (panel / threads + self.crossing) + self.packing / threads + self.layers * MEETING
        return panels <= self.panels * threads and bool(shared < apart)

    def _memory(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return at least so many numbers for this thread alone, and marks: memory that is new takes twice the time.

        Zeros at first, since lanes of no row are computed too, and subnormal numbers would take ten times as long.
        """
        kept: tuple[np.ndarray, np.ndarray] | None = getattr(self._own, "memory", None)
        if kept is None or kept[0].size < size:
            kept = self._own.memory = on_large_pages(size, self.dtype), np.zeros(self.marks, np.int64)
        return kept


def table_of(stages: Sequence[Stage], parameters: Array) -> Array | None:
    """Write the stages as the kernels' table; None if they do not lie as those expect, or are too wide for them."""
    first = next((stage.weights for stage in stages if stage.weights is not None), None)
    if first is None or parameters.dtype.name not in ("float32", "float64"):
        return None
    rows, width, weights = [], first.shape[0], 0
    for stage in stages:
        places = [f.NOWHERE, f.NOWHERE]
        inputs = width
        if stage.weights is not None:
            width, weights = stage.weights.shape[1], weights + stage.weights.size
            found = [place(a, parameters) for a in (stage.weights, stage.biases)]
            if None in found:
                return None
            places = [at for at in found if at is not None]
        kind, number, of_norm = kind_of(stage.activation), stage.parameter, [f.NOWHERE] * 4
        if stage.norm is not None:
            kind, number = f.LAYER_NORM if stage.norm.mean is None else f.FIXED_NORM, stage.norm.epsilon
            arrays = stage.norm.gamma, stage.norm.beta, stage.norm.mean, stage.norm.variance
            found = [f.NOWHERE if a is None else place(a, parameters) for a in arrays]
            if None in found:
                return None
            of_norm = [at for at in found if at is not None]
        rows.append([inputs, width, *places, kind, as_integer(number), *of_norm, function_at(kind, parameters.dtype)])
    widest = max(max(row[:2]) for row in rows)
    if widest > RUN:  # longer sums are better not made in one piece
        return None
    by_row = weights <= WEIGHTS and widest <= f.STACK
    softmaxes = [row[f.KIND] for row in rows].count(f.SOFTMAX)
    most = few_rows(weights, parameters.itemsize, softmaxes) if by_row else 0
    header = [len(rows), most, weights, address(parameters)]
    return np.array([*header, *(number for row in rows for number in row)], np.int64)


def as_integer(number: float) -> int:
    """The bits of a float64 as int64, as the table holds them."""
    bits: int = unpack("=q", pack("=d", number))[0]
    return bits


def kind_of(activation: str | None) -> int:
    """What the kernel knows an activation by."""
    if activation is None:
        return NONE
    return f.SOFTMAX if activation == "softmax" else number_of(activation)


def place(a: Any, parameters: Array) -> int | None:
    """Where a matrix begins in the flat buffer, if it lies there, and with it what follows its last row in vectors."""
    start = (address(a) - address(parameters)) // parameters.itemsize
    fits = start >= 0 and start + a.size + -a.shape[1] % WIDTH <= parameters.size
    return start if fits and a.dtype == parameters.dtype and a.flags.c_contiguous else None
