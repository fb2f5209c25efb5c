"""Costs of predictions on this machine: the part of measuring.py about rows and weights.

From two networks, with one row or several and with one panel of rows or two, follow the cost of a row and of each of
its weights. A network that does not fit in the second-level cache shows the cost of weights from farther away, and of
packing them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import astuple
from functools import partial
from itertools import pairwise

import numpy as np

from nnx.backends.addresses import address, on_large_pages
from nnx.backends.inference import Stage
from nnx.backends.numba.inference import Many, panel_rows, table_of
from nnx.backends.numba.lowering import PADDING, round_up
from nnx.backends.numba.timing import nanoseconds, repeat
from nnx.backends.numba.tuning import Prediction, derived
from nnx.kernels.cpu.caches import caches
from nnx.kernels.cpu.program import inference

SMALL, NEAR = (2, 64, 3), (64, 128, 64, 10)
ROWS = 9  # rows that are predicted one by one
NONSENSE = 8.0  # a measurement was disturbed if its ratio to the derived value differs so much from the other ratios


def prediction(dtype: str) -> Prediction:
    """Return the measured costs for one number type; the derived ones if a measurement was disturbed."""
    small, near, far = (Network(widths, dtype) for widths in (SMALL, NEAR, beyond_the_cache(dtype)))
    took = nanoseconds([repeat(call) for network in (small, near, far) for call in network.calls()])
    for network, four in zip((small, near, far), (took[:4], took[4:8], took[8:]), strict=True):
        network.learn(*four)
    row, weight = line(small, near, "row")
    among, weight_among = line(small, near, "among")
    call = small.panel - small.columns * small.among
    packed, far_packed = ((one.panel - call - one.columns * one.among) / one.numbers for one in (near, far))
    found = Prediction(row, weight, (far.row - row) / far.numbers, call, packed, far_packed, among, weight_among)
    return found if sensible(found) else derived().prediction


def sensible(found: Prediction) -> bool:
    """Return whether all costs have similar ratios to the derived ones; a processor may be slower or faster overall."""
    quotients = [one / other for one, other in zip(astuple(found), astuple(derived().prediction), strict=True)]
    usual = statistics.median(quotients)
    return all(0 < usual < NONSENSE * quotient and quotient < NONSENSE * usual for quotient in quotients)


def beyond_the_cache(dtype: str) -> tuple[int, ...]:
    """Return the widths of a network whose weights take one and a half times the second-level cache."""
    numbers = caches().l2 * 3 // 2 // np.dtype(dtype).itemsize
    side = min(inference.STACK, math.isqrt(numbers) // PADDING * PADDING)
    return side, side, 10


class Network:
    """A network, with the times of its predictions on one thread, in ns.

    Attributes:
        numbers: its weights, counted in float32. columns: rows in a panel.
        row: for a row by itself. among: for one more row among many. panel: for the rows of one panel.
    """

    row = among = panel = 0.0

    def __init__(self, widths: Sequence[int], dtype: str) -> None:
        shapes = [shape for a, b in pairwise(widths) for shape in ((a, b), (1, b))]
        starts = np.cumsum([0, *(round_up(math.prod(shape), PADDING) for shape in shapes)])
        random = np.random.default_rng(0)
        parameters = on_large_pages(int(starts[-1]) + PADDING, dtype)  # as in a model of this size
        parameters[:] = random.normal(0, 0.05, parameters.size)
        views = [parameters[i : i + math.prod(s)].reshape(s) for i, s in zip(starts, shapes, strict=False)]
        pairs = zip(views[::2], views[1::2], strict=True)
        table = table_of([Stage(w, b, "relu") for w, b in pairs], parameters)
        assert table is not None
        table[inference.ROWS] = ROWS
        self.alive, self.place = (table, parameters), address(table)
        self.many, self.columns = Many(table, parameters), panel_rows(parameters.itemsize)
        self.numbers = int(table[inference.SIZE]) * parameters.itemsize / 4
        self.x = random.normal(size=(max(ROWS, 2 * self.columns), widths[0])).astype(dtype)
        self.out = np.empty((len(self.x), widths[-1]), dtype)

    def calls(self) -> list[partial[bool]]:
        """Return calls that predict one row, several rows, a panel, and two panels."""
        by_row, columns = inference.ready(self.x.dtype), self.columns
        few = [partial(by_row, self.x[:rows], self.out[:rows], self.place, 0) for rows in (1, ROWS)]
        some = (self.x[:columns], self.out[:columns]), (self.x[: 2 * columns], self.out[: 2 * columns])
        return [*few, *(partial(self.many.run, *both, 1) for both in some)]

    def learn(self, one: float, some: float, panel: float, two: float) -> None:
        """Set the attributes from the times of these calls."""
        self.row, self.among, self.panel = (some - one) / (ROWS - 1), (two - panel) / self.columns, panel


def line(small: Network, near: Network, cost: str) -> tuple[float, float]:
    """Return the cost of a row without weights, and of each weight: a line through two networks' costs."""
    low, high = getattr(small, cost), getattr(near, cost)
    weight = (high - low) / (near.numbers - small.numbers)
    return low - small.numbers * weight, weight
