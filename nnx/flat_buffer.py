"""One flat buffer for all parameters of a model, or of a layer on its own.

`arena` is [values | first moments | second moments | gradients], each of `size` numbers. A layer's parameters are views
into it, each beginning at a multiple of 64 numbers. So the optimizer is one operation, a checkpoint one write, and
data-parallel training one sum. What only some trainings keep of each parameter is beside it, in `more`, once reserved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnx.backends import Backend

Array = Any
PADDING = 64
ALIGNED = 64  # bytes at whose multiples it begins: vectors that lie across two cache lines take longer


class ParameterBuffer:
    """Allocate room for parameters of the given shapes, all zero.

    Attributes:
        values, first, second, gradients: flat arrays [size]; first and second belong to the optimizer.
        more: parts [size] that were reserved, one after the other; by their names: attributes, such as `third`.
        names: theirs, in order.
        state: values, first and second together: what a training step changes for good.
        size: how many numbers each part holds, padding included.
    """

    def __init__(self, backend: Backend, dtype: str, shapes: Sequence[tuple[int, ...]]) -> None:
        self.backend, self.dtype = backend, dtype
        self._places: list[tuple[int, tuple[int, ...]]] = []
        offset = 0
        for shape in shapes:
            self._places.append((offset, shape))
            offset += -(-math.prod(shape) // PADDING) * PADDING
        self.size = offset
        room = backend.zeros(4 * offset + PADDING, dtype)
        skip = -backend.address(room) % ALIGNED // np.dtype(dtype).itemsize
        self.arena = room[skip : skip + 4 * offset]
        self.values, self.first, self.second, self.gradients = (
            self.arena[part * offset : (part + 1) * offset] for part in range(4)
        )
        self.state = self.arena[: 3 * offset]
        self.names: tuple[str, ...] = ()
        self.more = backend.zeros(0, dtype)

    def reserve(self, *names: str) -> bool:
        """Have these parts too, all zero at first; tell whether any was missing. Those that there are keep theirs."""
        missing = [name for name in names if name not in self.names]
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
        reshape = self.backend.xp.reshape
        return [reshape(part[at : at + math.prod(shape)], shape) for at, shape in self._places]
