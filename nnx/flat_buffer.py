"""One flat buffer for all parameters of a model, or of a layer on its own.

`arena` is [values | first moments | second moments | statistics | gradients], each of `size` numbers but the
statistics, which are what layers learn by no gradient, such as running means. A layer's parameters are views into it,
each beginning at a multiple of 64 numbers. So the optimizer is one operation, a checkpoint one write, and data-parallel
training one sum, in which a step's loss and hits ride along behind the gradients. What only some trainings keep of each
parameter is beside it, in `more`, once reserved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from nnx.backends import Backend
from nnx.backends.addresses import LARGE_PAGE

Array = Any
Place = tuple[int, tuple[int, ...]]  # where it begins, and its shape
PADDING = 64
ALWAYS = ("values", "first", "second", "statistics", "gradients")  # the parts that every buffer has
ALIGNED = 64  # bytes at whose multiples it begins: vectors that lie across two cache lines take longer
LARGE = 2 * LARGE_PAGE  # bytes of a buffer that begins with a large page: small ones are many to look up


class ParameterBuffer:
    """Allocate room for parameters of the given shapes, all zero.

    Attributes:
        values, first, second, gradients: flat arrays [size]; first and second belong to the optimizer.
        statistics: a flat array; empty where no layer has any.
        more: parts [size] that were reserved, one after the other; by their names: attributes, such as `third`.
        names: theirs, in order.
        state: values, first, second and statistics together: what a training step changes for good.
        summed: gradients, and PADDING numbers behind them for what is summed over processes along with them.
        trained: the runs of numbers in each part that steps move: one of all of it at first.
        size: how many numbers each part holds, padding included.
    """

    def __init__(
        self,
        backend: Backend,
        dtype: str,
        shapes: Sequence[tuple[int, ...]],
        statistics: Sequence[tuple[int, ...]] = (),
    ) -> None:
        self.backend, self.dtype = backend, dtype
        self._places, self.size = laid_out(shapes)
        self._places_of_statistics, kept = laid_out(statistics)
        ends = np.cumsum([0, self.size, self.size, self.size, kept, self.size]).tolist()
        itemsize = np.dtype(dtype).itemsize
        aligned = LARGE_PAGE if ends[-1] * itemsize >= LARGE else ALIGNED
        room = backend.zeros(ends[-1] + PADDING + aligned // itemsize, dtype)
        skip = -backend.address(room) % aligned // itemsize
        self.arena = room[skip : skip + ends[-1]]
        self.values, self.first, self.second, self.statistics, self.gradients = (
            self.arena[begin:end] for begin, end in pairwise(ends)
        )
        self.state = self.arena[: ends[4]]
        self.summed = room[skip + ends[4] : skip + ends[5] + PADDING]
        self.names: tuple[str, ...] = ()
        self.more = backend.zeros(0, dtype)
        self.train([True] * len(shapes))

    def train(self, wanted: Sequence[bool]) -> None:
        """Say which parameters steps move, in the order of the shapes; the gradients of the others become 0.

        Those that are `held` for the rest of a batch, too, or the next norm of all gradients would count them.
        """
        runs: list[list[int]] = []
        gradients = [self.gradients, *([self.held] if "held" in self.names else [])]
        begins = [begin for begin, _ in self._places]
        for begin, end, moved in zip(begins, [*begins[1:], self.size], wanted, strict=False):
            if not moved:
                for part in gradients:
                    part[begin:end] = 0
            elif runs and runs[-1][1] == begin:
                runs[-1][1] = end
            else:
                runs.append([begin, end])
        self.trained = [slice(begin, end) for begin, end in runs]

    def reserve(self, *names: str) -> bool:
        """Have these parts too, all zero at first; tell whether any was missing. Those that there are keep theirs."""
        missing = [name for name in names if name not in (*ALWAYS, *self.names)]
        if not missing:
            return False
        before, self.names = self.more, (*self.names, *missing)
        self.more = self.backend.zeros(len(self.names) * self.size, self.dtype)
        self.more[: before.shape[0]] = before
        for number, name in enumerate(self.names):
            setattr(self, name, self.more[number * self.size : (number + 1) * self.size])
        return True

    if TYPE_CHECKING:  # the parts that were reserved

        def __getattr__(self, name: str) -> Array: ...

    def views(self, part: Array) -> list[Array]:
        """Return each parameter's view into one of the four parts, in the order of the shapes."""
        return self._views(part, self._places)

    def statistic_views(self) -> list[Array]:
        """Return each statistic's view, in the order of their shapes."""
        return self._views(self.statistics, self._places_of_statistics)

    def _views(self, part: Array, places: Sequence[Place]) -> list[Array]:
        if type(part) is np.ndarray:  # whose own method takes half as long as the function
            return [part[at : at + math.prod(shape)].reshape(shape) for at, shape in places]
        reshape = self.backend.xp.reshape
        return [reshape(part[at : at + math.prod(shape)], shape) for at, shape in places]


def laid_out(shapes: Sequence[tuple[int, ...]]) -> tuple[list[Place], int]:
    """Return where arrays of these shapes begin, one after the other, and where the next one would."""
    places, offset = list[Place](), 0
    for shape in shapes:
        places.append((offset, shape))
        offset += -(-math.prod(shape) // PADDING) * PADDING
    return places, offset
