"""Timing of several ways to do a product, on its GPU and operands, after wrong ways have been excluded.

If work of less than some 10 us is launched from Python, the time measured is Python's. So several launches of each way
are captured in a graph, and the graphs are timed in turns, by events on their stream; the median counts.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from nnx.backends.precision import ERRORS
from nnx.kernels.forking import hold_at_fork

Array = Any
Way = Callable[[], None]
ROUNDS = 5
SECONDS = 2e-4  # a graph takes at least so long, if LAUNCHES are enough; events are accurate to half a us
LAUNCHES = 20
PATIENCE = 0.3  # the most seconds for a product's trials, and for its rounds; slow products get fewer rounds
# Two results may differ by so many rounding errors times the square root of a sum's length, since errors go either way.
# A wrong result differs by more: a single missing term does, in sums of up to some hundred thousand.
SLACK = 8

# Held while a stream is captured and while ways are timed, so that neither happens during the other. It is reentrant,
# for signal handlers.
TURN = threading.RLock()
hold_at_fork(TURN)


class Agreement:
    """Checks whether several ways to do a product give the same result as the first one, up to rounding.

    Args:
        cupy: the module. results: the arrays that each way must write. bounds: the allowed error of each number.
    """

    def __init__(self, cupy: Any, results: Sequence[Array], bounds: Sequence[Array]) -> None:
        self._cupy, self._results, self._bounds = cupy, results, bounds
        self._first: list[Array] = []

    def __call__(self, way: Way) -> bool:
        """Run a way; return whether its result is right. The result of the first way is right by definition."""
        for result in self._results:
            result.fill(math.nan)  # so that numbers written by an earlier way do not count
        way()
        if not self._first:
            self._first = [result.copy() for result in self._results]
            return True
        pairs = zip(self._results, self._first, self._bounds, strict=True)
        return all(self._alike(*pair) for pair in pairs)

    def _alike(self, a: Array, b: Array, bound: Array) -> bool:
        isnan = self._cupy.isnan
        return bool(self._cupy.all((abs(a - b) <= bound) | (a == b) | (isnan(a) & isnan(b))))


def bounds(cupy: Any, a: Array, b: Array, precision: str, bias: Array | None, sums: bool) -> list[Array]:
    """Return the allowed differences between two results of a @ b + bias and, with `sums`, of b's column sums.

    The size of a product's number is bounded by the lengths of a's row and b's column, as vectors, multiplied.
    """
    k = a.shape[1]
    error = 2 * ERRORS[precision] + SLACK * float(np.finfo(a.dtype).eps) * math.sqrt(k)
    rows, columns = lengths(cupy, a, 1), lengths(cupy, b, 0)
    size = rows * columns
    if bias is not None:
        size = size + abs(bias)
    return [error * size, *([error * math.sqrt(k) * columns] if sums else [])]


def lengths(cupy: Any, a: Array, axis: int) -> Array:
    """Return the lengths of vectors, without overflow or underflow; nan for a vector of zeros."""
    most = cupy.max(abs(a), axis=axis, keepdims=True)
    return most * cupy.sqrt(cupy.sum(cupy.square(a / most), axis=axis, keepdims=True))


def timed(cupy: Any, ways: Sequence[Way], agrees: Agreement) -> list[float]:
    """Return the seconds that each way takes, on the current stream; infinite for those that fail or are wrong.

    They are infinite too for ways that were not tried, because the time for trials was used up.
    """
    stream = cupy.cuda.get_current_stream()
    graphs: dict[int, Any] = {}
    launches = dict.fromkeys(range(len(ways)), 1)
    spent = 0.0
    for place, way in enumerate(ways):
        if spent > PATIENCE:
            break
        with suppress(Exception):  # any error of CUDA or cuBLASLt: there are other ways
            if not agrees(way):
                continue
            once = elapsed(cupy, way)
            launches[place] = max(1, min(LAUNCHES, int(SECONDS / max(once, 1e-9))))
            graphs[place] = captured(stream, way, launches[place])
            graphs[place].launch(stream)  # the first launch takes another time
            spent += 2 * once
    rounds = max(1, min(ROUNDS, int(PATIENCE / max(spent, 1e-9))))
    turns = [turn for _ in range(rounds) for turn in graphs.items()]
    marks = [(place, mark(cupy, partial(graph.launch, stream))) for place, graph in turns]
    stream.synchronize()
    found: dict[int, list[float]] = {place: [] for place in graphs}
    for place, (first, last) in marks:
        found[place].append(cupy.cuda.get_elapsed_time(first, last) / 1e3 / launches[place])
    return [float(np.median(found[place])) if place in found else math.inf for place in launches]


def elapsed(cupy: Any, way: Way) -> float:
    """Return the seconds from when the GPU begins a piece of work to when it has done it."""
    first, last = mark(cupy, way)
    last.synchronize()
    return float(cupy.cuda.get_elapsed_time(first, last)) / 1e3


def mark(cupy: Any, way: Way) -> tuple[Any, Any]:
    """Queue work between two events; return the events."""
    first, last = cupy.cuda.Event(), cupy.cuda.Event()
    first.record()
    way()
    last.record()
    return first, last


def captured(stream: Any, way: Way, times: int) -> Any:
    """Return a graph that does a piece of work several times."""
    stream.begin_capture()
    try:
        for _ in range(times):
            way()
    except BaseException:  # Ctrl-C too: an open capture would make all later work fail
        with suppress(Exception):
            stream.end_capture()
        raise
    return stream.end_capture()
