"""Timing of ways to do one product, on the GPU and the operands that it is for; wrong ones are found before.

Launched one by one from Python, what takes the GPU less than some 10 us takes as long as Python does. So each way is
captured, some launches in a graph, and graphs are timed: by turns, by events on their stream, by the median.
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
SECONDS = 2e-4  # that a graph takes at least, where LAUNCHES are enough for that: an event is good to half a us
LAUNCHES = 20
PATIENCE = 0.3  # seconds that a product's tries may take, and its rounds: of slow ones there are fewer
# Two results may be apart by so many roundings of a sum as long as the root of its length, whose errors go either way.
# One that is wrong is not: a single term is that large for sums of up to some hundred thousand.
SLACK = 8

# Held while a stream is captured and while ways are timed: neither is done during the other. Within a thread it may be
# taken again, by the handler of a signal.
TURN = threading.RLock()
hold_at_fork(TURN)


class Agreement:
    """Tells whether ways to do a product give the numbers that the first one gave, within rounding.

    Args:
        results: what each way is to write, all of it. bounds: by how much each of their numbers may be off.
    """

    def __init__(self, cupy: Any, results: Sequence[Array], bounds: Sequence[Array]) -> None:
        self._cupy, self._results, self._bounds = cupy, results, bounds
        self._first: list[Array] = []

    def __call__(self, way: Way) -> bool:
        """Do it one way, after which it is done; the first is right by definition."""
        for result in self._results:
            result.fill(math.nan)  # what is not written does not count as right because another has written it
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
    """Return by how much two results of a @ b + bias may be apart, and two of b's column sums, where these are wanted.

    Each number of a product is at most a's row times b's column, as long as they are as vectors.
    """
    k = a.shape[1]
    error = 2 * ERRORS[precision] + SLACK * float(np.finfo(a.dtype).eps) * math.sqrt(k)
    rows, columns = lengths(cupy, a, 1), lengths(cupy, b, 0)
    size = rows * columns
    if bias is not None:
        size = size + abs(bias)
    return [error * size, *([error * math.sqrt(k) * columns] if sums else [])]


def lengths(cupy: Any, a: Array, axis: int) -> Array:
    """Return vectors' lengths, without overflow or underflow; NaN for one of zeros, of which products are alike."""
    most = cupy.max(abs(a), axis=axis, keepdims=True)
    return most * cupy.sqrt(cupy.sum(cupy.square(a / most), axis=axis, keepdims=True))


def timed(cupy: Any, ways: Sequence[Way], agrees: Agreement) -> list[float]:
    """Return the seconds that each way takes, on the current stream; infinite for those that fail or are wrong.

    So are they for those that come too late to be tried, because one before them took so long.
    """
    stream = cupy.cuda.get_current_stream()
    graphs: dict[int, Any] = {}
    launches = dict.fromkeys(range(len(ways)), 1)
    spent = 0.0
    for place, way in enumerate(ways):
        if spent > PATIENCE:
            break
        with suppress(Exception):  # CUDA's, cuBLASLt's, for want of memory: there are other ways
            if not agrees(way):
                continue
            once = elapsed(cupy, way)
            launches[place] = max(1, min(LAUNCHES, int(SECONDS / max(once, 1e-9))))
            graphs[place] = captured(stream, way, launches[place])
            graphs[place].launch(stream)  # the first time is another
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
    """Return the seconds from when the GPU begins something to when it has done it."""
    first, last = mark(cupy, way)
    last.synchronize()
    return float(cupy.cuda.get_elapsed_time(first, last)) / 1e3


def mark(cupy: Any, way: Way) -> tuple[Any, Any]:
    """Queue something between two events."""
    first, last = cupy.cuda.Event(), cupy.cuda.Event()
    first.record()
    way()
    last.record()
    return first, last


def captured(stream: Any, way: Way, times: int) -> Any:
    """Return a graph that does something some times over."""
    stream.begin_capture()
    try:
        for _ in range(times):
            way()
    except BaseException:  # Ctrl-C too: a capture left open would poison all that follows
        with suppress(Exception):
            stream.end_capture()
        raise
    return stream.end_capture()
