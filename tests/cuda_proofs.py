"""What is tried with each CUDA kernel: a proof runs it on the operands of a case and gives what it wrote.

`@proves` enters a proof into the table, with the kernels that it proves and the operation whose cases it takes: the
ugly operands of nnx/testing/cases, with the answers of nnx/testing/reference. A proof yields one dictionary of
results for every way it runs the kernels; all of them must be right.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cuda_on_cpu import CpuModule

from nnx.backends.formula import text
from nnx.kernels import cuda
from nnx.kernels.cuda import ACTIVATIONS, KERNELS, Launch
from nnx.kernels.elementwise import FUNCTIONS, Elementwise
from nnx.kernels.losses import LOSSES, Loss, bounds
from nnx.kernels.philox import keep_threshold
from nnx.testing.cases.formulas import ROBUST, SOFTSIGN
from nnx.testing.rounding import rounding

Array = np.ndarray
Operands = dict[str, Any]
Results = dict[str, Array]
GUARD = 77  # stands before and behind everything that is written


@functools.cache
def module(file: str, dtype: str, sanitize: str = "", own: str = "") -> CpuModule:
    return CpuModule(file, dtype, sanitize, own)


class Run:
    """Runs kernels one after the other on plain memory.

    Args:
        dtype: what REAL stands for. seed: of the order of threads and blocks.
        crowded: launch one block of whatever the plan says, so that strides of the grid are taken.
        shift: elements by which arrays begin later than at a multiple of 16 bytes.
        sanitize: run the kernels that are compiled with this sanitizer: "address" or "thread".
    """

    def __init__(self, dtype: str, seed: int = 0, crowded: bool = False, shift: int = 0, sanitize: str = "") -> None:
        self.dtype, self.seed, self.crowded, self.shift, self.sanitize = dtype, seed, crowded, shift, sanitize
        self.kernels: set[str] = set()
        self._rooms: list[tuple[Array, int, int]] = []

    def __str__(self) -> str:
        return f"{self.dtype}, seed={self.seed}, crowded={self.crowded}, shift={self.shift}"

    def __call__(self, launch: Launch, *values: Any, own: str = "") -> None:
        kernel = KERNELS[launch.kernel]
        self.kernels.add(kernel.name)
        compiled = module(kernel.file, self.dtype, self.sanitize, own)
        compiled.seed = self.seed
        arguments = kernel.arguments(self.dtype, *values)
        compiled.kernel(kernel.name)(launch.grid, launch.block, arguments, shared_mem=launch.shared)

    def walk(self, launch: Launch, *values: Any, own: str = "") -> None:
        """Launch a kernel whose result must not depend on the grid: on the planned one, or on one block."""
        self(replace(launch, grid=(1,)) if self.crowded else launch, *values, own=own)

    def read(self, a: Array) -> Array:
        """Return an operand where it is to stand, read-only."""
        placed = self._place(a.size, a.dtype, 0)[1].reshape(a.shape)
        placed[...] = a
        placed.flags.writeable = False
        return placed

    def write(self, shape: Any, dtype: Any = None, values: Any = 55) -> Array:
        """Return an array to be written, between guards."""
        size = int(np.prod(shape))
        whole, room = self._place(size, np.dtype(dtype or self.dtype), 3)
        room[...] = np.reshape(values, -1) if np.ndim(values) else values
        start = (room.ctypes.data - whole.ctypes.data) // room.itemsize
        self._rooms.append((whole, start, size))
        return room.reshape(shape)

    def _place(self, size: int, dtype: Any, behind: int) -> tuple[Array, Array]:
        """An array that begins `shift` elements behind a multiple of 16 bytes, in one that ends `behind` after it."""
        before = 32 // np.dtype(dtype).itemsize + self.shift
        whole = np.full(before + size + behind, GUARD, dtype)
        start = before - whole.ctypes.data % 16 // whole.itemsize
        return whole, whole[start : start + size]

    def check_guards(self, what: str) -> None:
        """Raise AssertionError where something was written outside."""
        for whole, start, size in self._rooms:
            outside = np.concatenate([whole[:start], whole[start + size :]])
            assert (outside == GUARD).all(), f"{what}: written outside of an array"
        self._rooms.clear()


@dataclass(frozen=True)
class Proof:
    """What proves some kernels: `run` gives what they write for the operands of a case of `operation`."""

    kernels: tuple[str, ...]
    operation: str
    run: Callable[[Run, Operands], Iterator[Results]]


PROOFS: dict[str, Proof] = {}


def proves(operation: str, *kernels: str) -> Callable[[Any], Any]:
    def enter(function: Callable[[Run, Operands], Iterator[Results]]) -> Any:
        PROOFS[operation] = Proof(kernels, operation, function)
        return function

    return enter


# ---- dense -----------------------------------------------------------------------------------------------------------


def multiply(run: Run, a: Array, b: Array, transposed: tuple[bool, bool], slices: int = 0, **epilogue: Any) -> Array:
    """c = a @ b by the kernel, in so many slices or as planned; a and b as they are stored."""
    (m, k), n = a.shape[:: -1 if transposed[0] else 1], b.shape[0 if transposed[1] else 1]
    bias, activation = epilogue.get("bias"), ACTIVATIONS[epilogue.get("activation")]
    launch = cuda.product(m, n, k)
    slices = slices or launch.grid[1]
    launch = replace(launch, grid=(1 if run.crowded else launch.grid[0], slices))
    parts = run.write((slices, m, n))
    run(launch, run.read(a), run.read(b), bias, parts, m, n, k, *transposed, activation)
    if slices == 1:
        return parts[0]
    c = run.write((m, n))  # what slices leave undone
    run(cuda.column_sums(slices, m * n)[-1], parts, c, slices, m * n)
    if bias is not None:
        run.walk(cuda.bias_activation(m, n), c, bias, m, n, activation)
    return c


@proves("dense", "product", "column_sums", "bias_activation")
def dense(run: Run, given: Operands) -> Iterator[Results]:
    x, w, bias, activation = given["x"], given["w"], run.read(given["b"]), given.get("activation")
    for slices in (0, 3):
        for ways in ((False, False), (True, False), (False, True), (True, True)):
            a, b = (np.ascontiguousarray(f.T) if way else f for f, way in zip((x, w), ways, strict=True))
            yield {"out": multiply(run, a, b, ways, slices, bias=bias, activation=activation)}


@proves("dense_backward", "product", "column_sums")
def dense_backward(run: Run, given: Operands) -> Iterator[Results]:
    x, w, dy = given["x"], given["w"], given["dy"]
    rows, columns = dy.shape
    dw, dx = multiply(run, x, dy, (True, False)), multiply(run, dy, w, (False, True))
    for bands in (cuda.bands(rows, columns), 3):
        yield {"out": dx, "dw": dw, "db": column_sums(run, "column_sums", (run.read(dy),), rows, columns, bands)}


def column_sums(run: Run, kernel: str, arrays: tuple[Array, ...], rows: int, columns: int, bands: int) -> Array:
    launch = cuda.column_sums(rows, columns, kernel)[0]
    parts, sums = run.write((bands, columns)), run.write((1, columns))
    run(replace(launch, grid=(1 if run.crowded else launch.grid[0], bands)), *arrays, parts, rows, columns)
    run(cuda.column_sums(bands, columns)[-1], parts, sums, bands, columns)
    return sums


# ---- activations -----------------------------------------------------------------------------------------------------


def parameter(row: Elementwise, given: Operands) -> tuple[float, ...]:
    """The number that a function takes, if it takes one."""
    return (given["a"],) if row.parameter else ()


def forward(row: Elementwise) -> None:
    kernel = f"{row.name}_forward"

    @proves(row.name, kernel)
    def proof(run: Run, given: Operands) -> Iterator[Results]:
        x, number = given["x"], parameter(row, given)
        y, place = run.write(x.shape), run.write(x.shape, values=x)
        run.walk(cuda.elementwise(kernel, x.size), run.read(x), y, x.size, *number)
        run.walk(cuda.elementwise(kernel, x.size), place, place, x.size, *number)
        yield {"out": y}
        yield {"out": place}


def backward(row: Elementwise) -> None:
    @proves(row.gradient, row.gradient)
    def proof(run: Run, given: Operands) -> Iterator[Results]:
        of, dy, number = run.read(given[row.of]), run.read(given["dy"]), parameter(row, given)
        dx, place = run.write(of.shape), run.write(of.shape, values=given["dy"])
        run.walk(cuda.elementwise(row.gradient, of.size), of, dy, dx, of.size, *number)
        run.walk(cuda.elementwise(row.gradient, of.size), of, place, place, of.size, *number)
        yield {"out": dx}
        yield {"out": place}


for row in FUNCTIONS:
    forward(row)
    backward(row)


@proves("relu_backward", "relu_backward", "relu_backward_column_sums")
def relu_backward(run: Run, given: Operands, plain: Any = PROOFS["relu_backward"].run) -> Iterator[Results]:
    yield from plain(run, given)
    y, dy = given["y"], given["dy"]
    for bands in (cuda.bands(*y.shape), 3):
        dx = run.write(y.shape)
        arrays = (run.read(y), run.read(dy), dx)
        sums = column_sums(run, "relu_backward_column_sums", arrays, *y.shape, bands)
        with np.errstate(all="ignore"):
            size = np.abs(dx.astype(np.float64)).sum(axis=0)
            wanted = dx.astype(np.float64).sum(axis=0)
            close = np.abs(sums[0] - wanted) <= size * rounding(len(y), run.dtype)
        assert (close | ~np.isfinite(wanted)).all(), "column sums of the masked gradient"
        yield {"out": dx}


# ---- softmax and its losses ------------------------------------------------------------------------------------------

TEAMS = ("warp", "block")


def rows_launch(kernel: str, rows: int, columns: int) -> Launch:
    """The plan's launch, or that of the team that the plan would not take here."""
    name, _, team = kernel.rpartition("_")
    return cuda.row_groups(kernel, rows, columns) if team == "warp" else Launch(f"{name}_block", (rows,), (256,))


@proves("softmax", "softmax_warp", "softmax_block")
def softmax(run: Run, given: Operands) -> Iterator[Results]:
    x = given["x"]
    for team in TEAMS:
        y, place = run.write(x.shape), run.write(x.shape, values=x)
        run.walk(rows_launch(f"softmax_{team}", *x.shape), run.read(x), y, *x.shape)
        run.walk(rows_launch(f"softmax_{team}", *x.shape), place, place, *x.shape)
        yield {"out": y}
        yield {"out": place}


@proves("softmax_backward", "softmax_backward_warp", "softmax_backward_block")
def softmax_backward(run: Run, given: Operands) -> Iterator[Results]:
    y = given["y"]
    for team in TEAMS:
        dx = run.write(y.shape)
        run.walk(rows_launch(f"softmax_backward_{team}", *y.shape), run.read(y), run.read(given["dy"]), dx, *y.shape)
        yield {"out": dx}


@proves("softmax_jacobian", "softmax_jacobian")
def softmax_jacobian(run: Run, given: Operands) -> Iterator[Results]:
    y = given["y"]
    out = run.write((*y.shape, y.shape[1]))
    run.walk(cuda.softmax_jacobian(*y.shape), run.read(y), out, *y.shape)
    yield {"out": out}


def kind_of(target: Array) -> str:
    return "labels" if target.ndim == 1 else "distributions"


@proves("cross_entropy", "cross_entropy_labels", "cross_entropy_distributions")
def cross_entropy(run: Run, given: Operands) -> Iterator[Results]:
    p, target = given["p"], given["target"]
    out = run.write(len(p))
    launch = cuda.row_groups(f"cross_entropy_{kind_of(target)}", *p.shape)
    run.walk(launch, run.read(p), run.read(target), out, *p.shape)
    yield {"out": out}


@proves("cross_entropy_backward", "cross_entropy_backward_labels", "cross_entropy_backward_distributions")
def cross_entropy_backward(run: Run, given: Operands) -> Iterator[Results]:
    p, target = given["p"], given["target"]
    out = run.write(p.shape)
    launch = cuda.row_groups(f"cross_entropy_backward_{kind_of(target)}", *p.shape)
    run.walk(launch, run.read(p), run.read(target), out, *p.shape)
    yield {"out": out}


@proves(
    "softmax_cross_entropy",
    *(f"softmax_cross_entropy_{kind}_{team}" for kind in ("labels", "distributions") for team in TEAMS),
)
def softmax_cross_entropy(run: Run, given: Operands) -> Iterator[Results]:
    x, target = given["logits"], given["target"]
    for team in TEAMS:
        launch = rows_launch(f"softmax_cross_entropy_{kind_of(target)}_{team}", *x.shape)
        yield fused(run, launch, given)


def fused(run: Run, launch: Launch, given: Operands) -> Results:
    x, target = given["logits"], given["target"]
    wanted = given.get("probabilities", ...) is not None
    results = {"losses": run.write(len(x)), "out": run.write(x.shape)}
    if wanted:
        results["probabilities"] = run.write(x.shape)
    written = (results["losses"], results.get("probabilities"), results["out"])
    low_high = bounds(given.get("clip", 0.0))
    run.walk(launch, run.read(x), run.read(target), *written, *x.shape, *low_high)
    return results


# ---- other losses ----------------------------------------------------------------------------------------------------


@proves("sigmoid_cross_entropy", "sigmoid_cross_entropy")
def sigmoid_cross_entropy(run: Run, given: Operands) -> Iterator[Results]:
    yield fused(run, cuda.row_groups("sigmoid_cross_entropy", *given["logits"].shape), given)


def mean_loss(row: Loss) -> None:
    def operands(run: Run, given: Operands) -> tuple[Any, Any, tuple[float, ...]]:
        shape = (given[row.parameter],) if row.parameter else ()
        return run.read(given[row.outputs]), run.read(given["target"]), shape

    @proves(row.name, row.name)
    def proof(run: Run, given: Operands) -> Iterator[Results]:
        x, target, b = operands(run, given)
        out = run.write(len(x))
        run.walk(cuda.row_groups(row.name, *x.shape), x, target, out, *x.shape, *b)
        yield {"out": out}

    @proves(row.gradient, row.gradient)
    def gradient(run: Run, given: Operands) -> Iterator[Results]:
        x, target, b = operands(run, given)
        out = run.write(x.shape)
        run.walk(cuda.elementwise(row.gradient, x.size), x, target, out, x.size, *b)
        yield {"out": out}


for loss in LOSSES:
    mean_loss(loss)


# ---- one training step -----------------------------------------------------------------------------------------------


@proves("gather_rows", "gather_reals", "gather_integers")
def gather_rows(run: Run, given: Operands) -> Iterator[Results]:
    source, order, counters, rows = (given[name] for name in ("source", "order", "counters", "rows"))
    columns = source.size // len(source)
    out = run.write((rows, *source.shape[1:]), source.dtype)
    launch = cuda.row_groups(f"gather_{'integers' if source.dtype == np.int64 else 'reals'}", rows, columns)
    sizes = rows, columns, len(source), len(order)
    run.walk(launch, run.read(source), run.read(order), run.read(counters), out, *sizes)
    yield {"out": out}


@proves("dropout", "dropout")
def dropout(run: Run, given: Operands) -> Iterator[Results]:
    x, rate, counters = given["x"], given["rate"], run.read(given["counters"])
    out, place = run.write(x.shape), run.write(x.shape, values=x)
    numbers = (given["seed"], given["layer"], keep_threshold(rate), 1 / (1 - rate))
    run.walk(cuda.dropout(*x.shape), run.read(x), out, *x.shape, counters, *numbers)
    run.walk(cuda.dropout(*x.shape), place, place, *x.shape, counters, *numbers)
    yield {"out": out}
    yield {"out": place}


@proves(
    "tally",
    "tally_losses",
    "tally_labels",
    "tally_distributions",
    "tally_above",
    "tally_near",
    "tally_total",
)
def tally(run: Run, given: Operands) -> Iterator[Results]:
    losses, outputs, target, metric = (given[name] for name in ("losses", "outputs", "target", "metric"))
    kernel = {"categorical": kind_of(target), "binary": "above", "logits": "above", "regression": "near"}.get(
        metric, "losses"
    )
    weights = given.get("weights")
    operands = run.read(losses), None if weights is None else run.read(weights)
    operands += () if kernel == "losses" else (run.read(outputs), run.read(target))
    shape = outputs.shape[: 1 if kernel == "losses" else 2]
    number = {"binary": (0.5,), "logits": (0,), "regression": (given["tolerance"],)}.get(metric, ())
    for blocks in (1, 3):
        stats, parts = run.write(3, np.float64, given["stats"]), run.write((blocks, 2), np.float64)
        run(Launch(f"tally_{kernel}", (blocks,), (256,)), *operands, parts, stats, *shape, *number)
        if blocks > 1:
            run(Launch("tally_total", (1,), (256,)), parts, stats, blocks, shape[0], metric is not None)
        yield {"stats": stats}


proves("weighted_tally")(tally)


@proves("weigh", "weigh")
def weigh(run: Run, given: Operands) -> Iterator[Results]:
    x, weights = given["x"], run.read(given["weights"])
    out, place = run.write(x.shape), run.write(x.shape, values=x)
    run.walk(cuda.elementwise("weigh", x.size), run.read(x), weights, out, *x.shape)
    run.walk(cuda.elementwise("weigh", x.size), place, weights, place, *x.shape)
    yield {"out": out}
    yield {"out": place}


@proves("add", "add")
def add(run: Run, given: Operands) -> Iterator[Results]:
    x, y = given["x"], run.read(given["y"])
    out, place = run.write(x.shape), run.write(x.shape, values=x)
    run.walk(cuda.elementwise("add", x.size), run.read(x), y, out, x.size)
    run.walk(cuda.elementwise("add", x.size), place, y, place, x.size)
    yield {"out": out}
    yield {"out": place}


@proves("put_columns", "copy_columns")
def put_columns(run: Run, given: Operands) -> Iterator[Results]:
    x, y, first = (given[name] for name in ("x", "y", "first"))
    out = run.write(y.shape, values=y)
    run.walk(cuda.elementwise("copy_columns", x.size), run.read(x), out, *x.shape, x.shape[1], 0, y.shape[1], first)
    yield {"y": out}


@proves("take_columns", "copy_columns")
def take_columns(run: Run, given: Operands) -> Iterator[Results]:
    x, first, count = (given[name] for name in ("x", "first", "count"))
    out = run.write((len(x), count))
    launch = cuda.elementwise("copy_columns", out.size)
    run.walk(launch, run.read(x), out, *out.shape, x.shape[1], first, count, 0)
    yield {"out": out}


@proves("embed", "embed")
def embed(run: Run, given: Operands) -> Iterator[Results]:
    x, w, y, column, first = (given[name] for name in ("x", "w", "y", "column", "first"))
    out, (codes, columns) = run.write(y.shape, values=y), w.shape
    numbers = (len(x), columns, codes, x.shape[1], column, y.shape[1], first)
    run.walk(cuda.elementwise("embed", len(x) * columns), run.read(x), run.read(w), out, *numbers)
    yield {"y": out}


@proves("embed_gradients", "embed_gradients")
def embed_gradients(run: Run, given: Operands) -> Iterator[Results]:
    x, dy, dw, column, first = (given[name] for name in ("x", "dy", "dw", "column", "first"))
    out, (codes, columns) = run.write(dw.shape), dw.shape
    numbers = (len(x), columns, codes, x.shape[1], column, dy.shape[1], first)
    run.walk(cuda.elementwise("embed_gradients", out.size), run.read(x), run.read(dy), out, *numbers)
    yield {"dw": out}


def of_own(operation: str, formula: Any, kernel: str, names: tuple[str, str], scaled: bool = False) -> None:
    """The kernels of a formula of the user's own, which is compiled into them."""

    @proves(operation, kernel)
    def proof(run: Run, given: Operands) -> Iterator[Results]:
        first, second = (given[name] for name in names)
        own, a = cuda.own(*text(formula)), 1 / first.size if scaled else 0.0
        operands = run.read(first), run.read(second)
        if kernel == "formula_mean":
            out = run.write(first.shape[:1])
            run.walk(cuda.row_groups(kernel, *first.shape), *operands, out, *first.shape, a, own=own)
            yield {"out": out}
            return
        out, place = run.write(first.shape), run.write(second.shape, values=second)
        run.walk(cuda.elementwise(kernel, first.size), *operands, out, first.size, a, own=own)
        run.walk(cuda.elementwise(kernel, first.size), operands[0], place, place, first.size, a, own=own)
        yield {"out": out}
        yield {"out": place}


of_own("apply_formula", SOFTSIGN.layer, "formula_each", ("x", "x"))
of_own("apply_formula_backward", SOFTSIGN.layer_backward, "formula_each", ("x", "dy"))
of_own("formula_loss", ROBUST.loss, "formula_mean", ("prediction", "target"))
of_own("formula_loss_backward", ROBUST.loss_backward, "formula_each", ("prediction", "target"), scaled=True)


@proves("end_step", "end_step")
def end_step(run: Run, given: Operands) -> Iterator[Results]:
    penalties = given["penalties"]
    results = {
        name: run.write(given[name].shape, given[name].dtype, given[name]) for name in ("stats", "history", "counters")
    }
    stats, history, counters = results.values()
    numbers = (stats, run.read(penalties), penalties.size, history, len(history), counters, given["rows"])
    run(Launch("end_step", (1,), (32,)), *numbers)
    yield results


@proves("regularize", "regularize", "regularize_total")
def regularize(run: Run, given: Operands) -> Iterator[Results]:
    w = given["w"]
    for blocks in (1, 3):
        dw, penalty = run.write(w.shape, values=given["dw"]), run.write(1, np.float64)
        parts = run.write(blocks, np.float64)
        launch = Launch("regularize", (blocks,), (256,))
        run(launch, run.read(w), dw, parts, penalty, w.size, given["l1"], given["l2"])
        if blocks > 1:
            run(Launch("regularize_total", (1,), (256,)), parts, penalty, blocks)
        yield {"dw": dw, "penalty": penalty}


@proves("clip", "clip_squares", "clip_scale")
def clip(run: Run, given: Operands) -> Iterator[Results]:
    n = given["g"].size
    for blocks in (1, 3):
        g, parts = run.write(n, values=given["g"]), run.write(blocks, np.float64)
        run(Launch("clip_squares", (blocks,), (256,)), g, parts, n, given["value"])
        if given["norm"] < np.inf:
            run(Launch("clip_scale", (blocks,), (256,)), g, parts, blocks, n, given["norm"])
        yield {"g": g}


@proves("collect", "collect")
def collect(run: Run, given: Operands) -> Iterator[Results]:
    g, m = (run.write(given[name].shape, values=given[name]) for name in "gm")
    run.walk(cuda.elementwise("collect", g.size), g, m, g.size)
    yield {"g": g, "m": m}


@proves("average", "average")
def average(run: Run, given: Operands) -> Iterator[Results]:
    a, p = run.write(given["a"].shape, values=given["a"]), run.read(given["p"])
    run.walk(cuda.elementwise("average", a.size), a, p, given["counters"], a.size, given["decay"], given["since"])
    yield {"a": a}


# ---- bit for bit (test_cuda_kernels.py) ------------------------------------------------------------------------------

BITS = ("round_to_bfloat16",)  # of floats, which it is launched for: from doubles, CuPy's options make small ones 0


def prove_bfloat16(run: Run) -> None:
    """All ties, all signs and exponents, zeros, numbers below the normal ones, infinities and NaN."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    with np.errstate(invalid="ignore"):  # of signalling NaN
        x = (upper[::37, None] | lower).view(np.float32).astype(run.dtype)
    for factors in ((x, x[:5, :3].copy()), (x[:1], x[:300])):
        rounded = [run.write(a.shape, np.uint16, 1) for a in factors]
        sizes = [a.size for a in factors]
        run.walk(cuda.elementwise(BITS[0], max(sizes)), *map(run.read, factors), *rounded, *sizes)
        for got, given in zip(rounded, factors, strict=True):
            values = (got.astype(np.uint32) << 16).view(np.float32)
            np.testing.assert_array_equal(values, nearest_bfloat16(given))
    run.check_guards(BITS[0])


def nearest_bfloat16(x: Array) -> Array:
    """By scaling to whole numbers: NumPy rounds those to nearest, ties to even."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.float32).astype(np.float64)
        exponent = np.maximum(np.frexp(wide)[1], -125)  # below the normal numbers steps are as wide as above
        found = np.ldexp(np.rint(np.ldexp(wide, 8 - exponent)), exponent - 8)
        return np.where(np.isfinite(wide), found, wide).astype(np.float32)


# ---- optimizers: not cases but runs of many steps (test_cuda_kernels.py) ---------------------------------------------

OPTIMIZERS = ("sgd", "adagrad", "rmsprop", "adam", "nadam", "amsgrad", "lion", "accumulate")


# ---- normalization ---------------------------------------------------------------------------------------------------


def kept(run: Run, given: Operands, name: str, shape: Any) -> Array | None:
    """Where something is written that need not be."""
    return None if given.get(name, 0) is None else run.write(shape)


@proves("layer_norm", "layer_norm_warp", "layer_norm_block")
def layer_norm(run: Run, given: Operands) -> Iterator[Results]:
    x, affine = given["x"], [run.read(given[name]) for name in ("gamma", "beta")]
    for team in TEAMS:
        y, normalized = run.write(x.shape), kept(run, given, "normalized", x.shape)
        scales = kept(run, given, "scales", len(x))
        launch = rows_launch(f"layer_norm_{team}", *x.shape)
        run.walk(launch, run.read(x), *affine, normalized, scales, y, *x.shape, given["epsilon"])
        yield {"out": y} if normalized is None else {"out": y, "normalized": normalized, "scales": scales}


@proves("layer_norm_backward", "layer_norm_backward_warp", "layer_norm_backward_block")
def layer_norm_backward(run: Run, given: Operands) -> Iterator[Results]:
    dy, known = given["dy"], [run.read(given[name]) for name in ("normalized", "scales", "gamma")]
    for team in TEAMS:
        launch = rows_launch(f"layer_norm_backward_{team}", *dy.shape)
        dx, place = run.write(dy.shape), run.write(dy.shape, values=dy)
        run.walk(launch, *known, run.read(dy), dx, *dy.shape)
        run.walk(launch, *known, place, place, *dy.shape)
        yield {"out": dx}
        yield {"out": place}


@proves("norm_gradients", "product_column_sums", "column_sums")
def norm_gradients(run: Run, given: Operands) -> Iterator[Results]:
    normalized, dy = (run.read(given[name]) for name in ("normalized", "dy"))
    for bands in (cuda.bands(*dy.shape), 3):
        of_gamma = column_sums(run, "product_column_sums", (normalized, dy), *dy.shape, bands)
        yield {"dgamma": of_gamma, "dbeta": column_sums(run, "column_sums", (dy,), *dy.shape, bands)}


def normalized_columns(run: Run, given: Operands, means: Array, scales: Array) -> Results:
    x, affine = given["x"], [run.read(given[name]) for name in ("gamma", "beta")]
    y, normalized = run.write(x.shape), kept(run, given, "normalized", x.shape)
    run.walk(
        cuda.elementwise("batch_norm", x.size), run.read(x), means, scales, *affine, normalized, y, *x.shape
    )  # fmt: skip
    return {"out": y} if normalized is None else {"out": y, "normalized": normalized, "scales": scales}


@proves("batch_norm", "batch_moments", "batch_norm")
def batch_norm(run: Run, given: Operands) -> Iterator[Results]:
    x, columns = given["x"], given["x"].shape[1]
    mean, variance = (run.write((1, columns), values=given[name]) for name in ("mean", "variance"))
    means, scales = run.write(2 * columns, np.float64), run.write((1, columns))
    sizes = *x.shape, given["epsilon"], given["momentum"]
    run.walk(cuda.batch_moments(columns), run.read(x), mean, variance, means, scales, *sizes)
    yield {"mean": mean, "variance": variance, **normalized_columns(run, given, means, scales)}


@proves("column_means", "column_means")
def column_means(run: Run, given: Operands) -> Iterator[Results]:
    x, means = given["x"], run.write((1, given["x"].shape[1]), np.float64)
    run.walk(cuda.batch_moments(x.shape[1], "column_means"), run.read(x), means, *x.shape)
    yield {"means": means}


@proves("column_spreads", "column_spreads")
def column_spreads(run: Run, given: Operands) -> Iterator[Results]:
    x, means, spreads = given["x"], run.read(given["means"]), run.write((1, given["x"].shape[1]), np.float64)
    run.walk(cuda.batch_moments(x.shape[1], "column_spreads"), run.read(x), means, spreads, *x.shape)
    yield {"spreads": spreads}


@proves("pooled_norm", "pooled_moments", "batch_norm")
def pooled_norm(run: Run, given: Operands) -> Iterator[Results]:
    columns = given["x"].shape[1]
    mean, variance = (run.write((1, columns), values=given[name]) for name in ("mean", "variance"))
    means, scales = run.write(2 * columns, np.float64), run.write((1, columns))
    sizes = given["rows"], columns, given["epsilon"], given["momentum"]
    pooled = (run.read(given[name]) for name in ("means", "spreads"))
    run.walk(cuda.elementwise("pooled_moments", 4 * columns), *pooled, mean, variance, means, scales, *sizes)
    yield {"mean": mean, "variance": variance, **normalized_columns(run, given, means, scales)}


@proves("fixed_norm", "running_moments", "batch_norm")
def fixed_norm(run: Run, given: Operands) -> Iterator[Results]:
    columns = given["x"].shape[1]
    mean, variance = (run.read(given[name]) for name in ("mean", "variance"))
    means, scales = run.write(2 * columns, np.float64), run.write((1, columns))
    launch = cuda.elementwise("running_moments", 4 * columns)
    run.walk(launch, mean, variance, means, scales, columns, given["epsilon"])
    yield normalized_columns(run, given, means, scales)


@proves("batch_norm_backward", "batch_norm_backward")
def batch_norm_backward(run: Run, given: Operands) -> Iterator[Results]:
    dy = given["dy"]
    normalized, scales, gamma, *sums = (
        run.read(given[name]) for name in ("normalized", "scales", "gamma", "dgamma", "dbeta")
    )
    for source, dx in ((run.read(dy), run.write(dy.shape)), (run.write(dy.shape, values=dy),) * 2):
        launch = cuda.elementwise("batch_norm_backward", dy.size)
        run.walk(launch, normalized, scales, gamma, source, *sums, dx, *dy.shape)
        yield {"out": dx}


@proves("fixed_norm_backward", "fixed_norm_backward")
def fixed_norm_backward(run: Run, given: Operands) -> Iterator[Results]:
    dy, known = given["dy"], [run.read(given[name]) for name in ("scales", "gamma")]
    for source, dx in ((run.read(dy), run.write(dy.shape)), (run.write(dy.shape, values=dy),) * 2):
        run.walk(cuda.elementwise("fixed_norm_backward", dy.size), *known, source, dx, *dy.shape)
        yield {"out": dx}


@proves("gaussian_noise", "gaussian_noise")
def gaussian_noise(run: Run, given: Operands) -> Iterator[Results]:
    x, counters = given["x"], run.read(given["counters"])
    numbers = given["seed"], given["layer"], given["stddev"]
    for source, out in ((run.read(x), run.write(x.shape)), (run.write(x.shape, values=x),) * 2):
        run.walk(cuda.dropout(*x.shape, kernel="gaussian_noise"), source, out, *x.shape, counters, *numbers)
        yield {"out": out}
