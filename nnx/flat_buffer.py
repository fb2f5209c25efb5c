"""One flat buffer for all parameters of a model, or of a layer on its own.

`arena` is [values | first moments | second moments | gradients], each of `size` numbers. A layer's parameters are views
into it, each beginning at a multiple of 64 numbers. So the optimizer is one operation, a checkpoint one write, and
data-parallel training one sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnx.backends import Backend

Array = Any
PADDING = 64
PARTS = "values", "first", "second", "gradients"
ALIGNED = 64  # bytes at whose multiples it begins: vectors that lie across two cache lines take longer


class ParameterBuffer:
    """Allocate room for parameters of the given shapes, all zero.

    Attributes:
        values, first, second, gradients: flat arrays [size]; first and second belong to the optimizer.
        state: values, first and second together: what a training step changes for good.
        trained: the parts that steps move, each as the four names with views: all of it at first.
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
        self.train([True] * len(shapes))

    def train(self, wanted: Sequence[bool]) -> None:
        """Say which parameters steps move, in the order of the shapes; the gradients of the others become 0."""
        runs: list[list[int]] = []
        begins = [begin for begin, _ in self._places]
        for begin, end, moved in zip(begins, [*begins[1:], self.size], wanted, strict=False):
            if not moved:
                self.gradients[begin:end] = 0
            elif runs and runs[-1][1] == begin:
                runs[-1][1] = end
            else:
                runs.append([begin, end])
        self.trained = [{name: getattr(self, name)[begin:end] for name in PARTS} for begin, end in runs]

    def views(self, part: Array) -> list[Array]:
        """Return each parameter's view into one of the four parts, in the order of the shapes."""
        reshape = self.backend.xp.reshape
        return [reshape(part[at : at + math.prod(shape)], shape) for at, shape in self._places]
