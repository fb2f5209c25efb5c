"""The measurements for the choices in tuning.py: which of two ways to do the same is faster on this machine.

If two ways differ by less than TIE, the derived choice stays. timing.py does the timing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from nnx.backends.numba.backend import NumbaBackend
from nnx.backends.numba.lowering import PADDING, round_up
from nnx.backends.numba.measuring_predictions import prediction
from nnx.backends.numba.program import compile_program
from nnx.backends.numba.timing import Timed, after_a_pause, quotient, repeat
from nnx.backends.numba.tuning import Choices, derived, examples
from nnx.backends.recorder import Call, Recorder
from nnx.kernels.cpu.matmul import gemm
from nnx.kernels.cpu.threads import pool
from nnx.kernels.elementwise import BY_NAME, number_of

TIE = 0.03  # a way must be faster by this share to replace the derived choice
NETWORKS = (  # hidden and output widths, by the weights of the widest layer, for 128 samples: 0.2 to 7 million
    (16, 32, 4), (32, 32, 10), (32, 64, 10), (64, 64, 10), (64, 96, 10), (64, 128, 64, 10), (96, 128, 10),
    (128, 128, 10),
)  # fmt: skip
ROWS = 128
SHARED = tuple(50 * 2**n for n in range(6))  # sizes, in us of work, for comparing one thread with two
HANDED = tuple(2.5 * 2**n for n in range(6))  # the same for threads that are awake, if compiled code divides the work
WOKEN = tuple(10 * 2**n for n in range(6))  # the same for sleeping threads
SPLIT = (64, 96, 128, 192, 256)  # widths of layers for comparing products on tiles with others
SPUN = 0.02  # seconds for which threads are run to see whether each has a processor
TWO = 2  # two threads are compared with one; for more threads the limits follow from that
Progress = Callable[[str], None]


def measure(dtypes: Sequence[str] = ("float32", "float64"), progress: Progress = lambda what: None) -> Choices:
    """Measure what is faster on this machine, with one thread, and with two if kernels may use them: some 3 seconds.

    Args:
        dtypes: the number types whose kernels are compiled; products are measured in each, the rest in the first.
        progress: called with the name of the next measurement.
    """
    backend, first = NumbaBackend().with_precision("full"), dtypes[0]
    progress("products")
    products = [kind for dtype in ("float32", "float64") for kind in own_products(dtype, dtype in dtypes)]
    progress("rows or lanes")
    lanes = lanes_weights(backend, first)
    progress("threads")
    threads, share = threads_from(backend, first, lanes), share_us(backend, first)
    handed, woken = handed_us(backend, first), woken_us(backend, first)
    progress("large products")
    split = split_from(backend, dtypes)
    progress("predictions")
    return Choices(tuple(products), lanes, threads, share, handed, max(handed, woken), split, prediction(first))


def had_to_itself() -> float:
    """Return the share of the time in which each thread had a processor to itself; less if other programs run."""
    shares, nothing, looks = list[float](), np.zeros(1, np.int64), pool.looks_in(SPUN)

    def spin() -> None:
        wall, own = time.perf_counter(), time.thread_time()
        pool.stay_awake(nothing, 0, looks)
        shares.append((time.thread_time() - own) / (time.perf_counter() - wall))

    pool.run([spin] * pool.limit)
    return min(shares)


# ---- measurements ----------------------------------------------------------------------------------------------------


def own_products(dtype: str, here: bool) -> list[str]:
    """Return the kinds of products for which nnx's own kernel is faster than BLAS; derived for kinds not measured."""
    own, blas = NumbaBackend(), NumbaBackend()
    own.gemm_rule, blas.gemm_rule = "own", "blas"
    for each in (own, blas):
        each.use_unit(None)  # no split products, which are done by neither of the two
    chosen, random = dict[str, bool](), np.random.default_rng(0)
    for kind, (m, n, k, fused) in examples(np.dtype(dtype).itemsize):
        chosen[kind] = gemm.prefer_own(m, n, k, np.dtype(dtype).itemsize, fused)
        if here:
            a, b, bias = (random.normal(size=shape).astype(dtype) for shape in ((m, k), (k, n), (1, n)))
            c, across = np.empty((m, n), dtype), np.ascontiguousarray(a.T)  # x.T @ dy is the gradient of weights
            ways = [
                partial(each.dense, a, b, bias, "relu", c) if fused else partial(each._weight_gradient, across, b, c)
                for each in (own, blas)
            ]
            chosen[kind] = faster(quotient(*map(repeat, ways)), chosen[kind])
    return [kind for kind, better in chosen.items() if better]


def lanes_weights(backend: Any, dtype: str) -> int:
    """Return up to how many weights in the widest layer a step is faster with samples in the vector lanes."""
    found = dict[float, float]()
    for widths in NETWORKS:
        calls = recorded(backend, ROWS, widths, dtype)
        lanes, rows = (compile_program(backend, calls, family) for family in ("lanes", "rows"))
        found[max(a * b for a, b in pairwise(widths))] = quotient(lanes.run, rows.run)
    return int(limit(found, derived().lanes_weights, upwards=False))


def threads_from(backend: Any, dtype: str, lanes: int) -> float:
    """Return from how many multiply-adds a step is faster on two threads than on one."""
    if pool.limit == 1:
        return derived().threads_from
    found = dict[float, float]()
    for widths in NETWORKS:
        for rows in (ROWS, 4 * ROWS):
            family = "lanes" if max(a * b for a, b in pairwise(widths)) <= lanes else "rows"
            calls = recorded(backend, rows, widths, dtype)
            two, one = (compile_program(backend, calls, family, threads) for threads in (TWO, 1))
            found[3 * rows * sum(a * b for a, b in pairwise(widths))] = quotient(two.run, one.run)
    return float(limit(found, derived().threads_from, upwards=True))


def share_us(backend: Any, dtype: str) -> float:
    """Return from how many microseconds of work on an operation is faster on two threads, one of which sleeps."""
    if pool.limit == 1:
        return derived().share_us
    found, kernel = dict[float, float](), backend.kernels.elementwise.forward
    for microseconds in SHARED:
        x, y, whole = work_of(microseconds, kernel, dtype)
        calls = [partial(kernel, x[part], y[part], *whole.args[2:]) for part in pool.split(len(x), TWO)]
        found[microseconds] = quotient(after_a_pause(partial(pool.run, calls)), after_a_pause(whole))
    return float(limit(found, derived().share_us, upwards=True))


def handed_us(backend: Any, dtype: str) -> float:
    """Return the same for an operation that compiled code divides, with a second thread that is awake."""
    return handed_out(backend, dtype, HANDED, repeat, derived().handed_us)


def woken_us(backend: Any, dtype: str) -> float:
    """Return the same for a second thread that must be woken up."""
    return handed_out(backend, dtype, WOKEN, after_a_pause, derived().woken_us)


def handed_out(
    backend: Any, dtype: str, sizes: Sequence[float], how: Callable[[Callable[[], Any]], Timed], expected: float
) -> float:
    """Return from how many microseconds of work on two threads are faster, for an operation that divides its work."""
    if pool.limit == 1:
        return expected
    found, kernel = dict[float, float](), backend.kernels.elementwise.forward
    for microseconds in sizes:
        x, y, whole = work_of(microseconds, kernel, dtype)
        shared = partial(with_help, kernel, x, y, 2 * TWO, *whole.args[4:])
        found[microseconds] = quotient(how(shared), how(whole))
    return float(limit(found, expected, upwards=True))


def with_help(kernel: Any, x: np.ndarray, y: np.ndarray, *more: Any) -> None:
    """Call an elementwise kernel with the help of another thread."""
    pool.summon(TWO)
    kernel(x, y, pool.board_at, *more)


def work_of(microseconds: float, kernel: Any, dtype: str) -> tuple[np.ndarray, np.ndarray, partial[Any]]:
    """Return operands for roughly so many microseconds of an elementwise kernel, and the call on one thread."""
    x = np.linspace(-1, 1, round(1e3 * microseconds / BY_NAME["tanh"].cost), dtype=dtype).reshape(-1, 1)
    y = np.empty_like(x)
    return x, y, partial(kernel, x, y, pool.board_at, 1, number_of("tanh"), 0.0)


def split_from(backend: Any, dtypes: Sequence[str]) -> float:
    """Return from how many multiply-adds on a layer of a step in full precision is faster on AMX than in vectors."""
    if not backend.parts or "float32" not in dtypes:
        return derived().split_from
    tiles, vectors = Always(), NumbaBackend()
    vectors.use_unit(None)
    found = dict[float, float]()
    for width in SPLIT:
        calls = recorded(backend, ROWS, (width, width, 10), "float32")
        ways = [compile_program(each.with_precision("full"), calls, "rows") for each in (tiles, vectors)]
        found[ROWS * width * width] = quotient(ways[0].run, ways[1].run)
    return float(limit(found, derived().split_from, upwards=True))


class Always(NumbaBackend):
    """A backend that splits all products that are high and wide enough."""

    @property
    def split_from(self) -> float:
        """Return 0, so that products of any size are split."""
        return 0.0


# ---- from measurements to choices ------------------------------------------------------------------------------------


def faster(quotient: float, expected: bool) -> bool:
    """Return whether one way is faster, given its time divided by the other's; `expected` if they tie."""
    return expected if abs(quotient - 1) <= TIE else quotient < 1


def limit(found: dict[float, float], expected: float, upwards: bool) -> float:
    """Return the size from which (upwards), or up to which, to use one way so that all sizes together lose least.

    Args:
        found: by size, the time of this way divided by the time of the other one. expected: the limit that is returned
            unless another one is better by more than a tie.
    """

    def cost(at: float) -> float:
        return sum(math.log(q) for size, q in found.items() if (size >= at if upwards else size <= at))

    sizes = sorted(found)
    between = [math.sqrt(a * b) for a, b in pairwise(sizes)]
    ends = [sizes[0], 2 * sizes[-1]] if upwards else [sizes[0] / 2, sizes[-1]]  # smaller sizes were not measured
    best = min([*ends, *between], key=cost)
    return best if cost(best) < cost(expected) - TIE else expected


def recorded(backend: Any, rows: int, widths: Sequence[int], dtype: str) -> list[Call]:
    """Return the operations of a training step of dense layers with ReLU, softmax and Adam, as a model records it."""
    random, zeros = np.random.default_rng(0), partial(np.zeros, dtype=dtype)
    size = sum(round_up(count, PADDING) for a, b in pairwise(widths) for count in (a * b, b))
    arena = zeros(4 * size)
    p, m, v, g = np.split(arena, 4)
    p[:] = 0.1 * random.normal(size=size)
    x, labels = random.normal(size=(rows, widths[0])).astype(dtype), random.integers(0, widths[-1], rows)
    hyper, counters = np.array([1e-2, 0.0, 0.9, 0.999, 1e-7, 0.0]), np.zeros(3, np.int64)
    stats, history, penalties = np.zeros(3), np.zeros((8, 3)), np.zeros(1)
    layers, at = [], 0
    for a, b in pairwise(widths):
        parts = []
        for shape in ((a, b), (1, b)):
            count = math.prod(shape)
            parts += [part[at : at + count].reshape(shape) for part in (p, g)]
            at += round_up(count, PADDING)
        layers.append(parts)
    views = [a for layer in layers for a in layer]
    note = Recorder(backend, [x, labels, hyper, counters, penalties, p, g, m, v, *views])
    note.watching = False
    outputs, kept = x, []
    for number, (w, _, bias, _) in enumerate(layers):
        kept.append(outputs)
        outputs = note.dense(outputs, w, bias, None, zeros((rows, w.shape[1])))
        outputs = outputs if number == len(layers) - 1 else note.relu(outputs, zeros(outputs.shape))
    losses = zeros(rows)
    d = note.softmax_cross_entropy(outputs, labels, losses, None, 0.0, zeros(outputs.shape))
    for number in range(len(layers) - 1, 0, -1):
        w, dw, _, db = layers[number]
        d = note.dense_backward(kept[number], w, d, dw, db, zeros(kept[number].shape))
        d = note.relu_backward(kept[number], d, zeros(d.shape))
    note.dense_gradients(x, d, layers[0][1], layers[0][3])
    note.tally(losses, outputs, labels, "categorical", 0.0, stats)
    note.adam(p, g, m, v, hyper, counters)
    note.end_step(stats, penalties, history, counters, rows)
    return note.calls
