"""One flat buffer for all parameters of a model, or of a layer on its own.

`arena` is [values | first moments | second moments | statistics | gradients]. Each part has `size` numbers, except the
statistics: what layers learn without a gradient, such as running means. A layer's parameters are views into the buffer,
each beginning at a multiple of 64 numbers. So the optimizer is one operation, a checkpoint one write, and data-parallel
training one sum over the processes, in which a step's loss and hits travel behind the gradients. What only some ways of
training keep for each parameter has a place beside the arena, in `more`, once it is reserved.
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
Place = tuple[int, tuple[int, ...]]  # where a parameter begins in a part, and its shape
PADDING = 64
ALWAYS = ("values", "first", "second", "statistics", "gradients")  # the parts that every buffer has
ALIGNED = 64  # the buffer begins at a multiple of so many bytes: vectors across two cache lines are slower to read
LARGE = 2 * LARGE_PAGE  # from so many bytes on it begins at a large page: many small pages take longer to look up


class ParameterBuffer:
    """Allocate room for parameters of the given shapes, all zero.

    Attributes:
        values, first, second, gradients: flat arrays [size]; first and second belong to the optimizer.
        statistics: a flat array; empty where no layer has any.
        more: the reserved parts, one after the other, [size] each; each is also an attribute, such as `third`.
        names: the names of the reserved parts, in order.
        state: values, first, second and statistics together: what a training step changes for good.
        summed: the gradients, and behind them PADDING numbers for what is summed over processes along with them.
        trained: slices of a part: the runs of numbers that training moves; at first one slice of all of it.
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
        """Set which parameters training moves, in the order of the shapes; the gradients of the others become 0.

        So do their gradients `held` from earlier parts of a batch: the norm of all gradients must not count them.
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
        """Add the parts with these names, zero at first; return whether any was missing. Existing parts stay."""
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
        """Return each parameter's view into a part of `size` numbers, in the order of the shapes."""
        return self._views(part, self._places)

    def statistic_views(self) -> list[Array]:
        """Return each statistic's view, in the order of their shapes."""
        return self._views(self.statistics, self._places_of_statistics)

    def _views(self, part: Array, places: Sequence[Place]) -> list[Array]:
        if type(part) is np.ndarray:  # NumPy's method takes half as long as the function
            return [part[at : at + math.prod(shape)].reshape(shape) for at, shape in places]
        reshape = self.backend.xp.reshape
        return [reshape(part[at : at + math.prod(shape)], shape) for at, shape in places]


def laid_out(shapes: Sequence[tuple[int, ...]]) -> tuple[list[Place], int]:
    """Return the places of arrays of these shapes, one after the other, and where the next one would begin."""
    places, offset = list[Place](), 0
    for shape in shapes:
        places.append((offset, shape))
        offset += -(-math.prod(shape) // PADDING) * PADDING
    return places, offset
