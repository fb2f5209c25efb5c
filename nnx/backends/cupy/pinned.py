"""Pinned (page-locked) host memory, for asynchronous copies: the GPU makes them by itself while the host goes on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = Any


class Pinned:
    """A NumPy array in pinned memory.

    Whoever copies to or from it must see to it that the host leaves it alone until the stream has done so.

    Attributes:
        array: [shape], whose contents are anything at first.
    """

    def __init__(self, cupy: Any, shape: tuple[int, ...], dtype: Any) -> None:
        memory = cupy.cuda.alloc_pinned_memory(math.prod(shape) * np.dtype(dtype).itemsize)
        self.array: np.ndarray = np.ndarray(shape, dtype, buffer=memory)  # keeps the memory
        self._address, self._cuda = memory.ptr, cupy.cuda

    def upload(self, to: Array) -> None:
        """Queue a copy of as much as `to`, an array on the GPU, takes, on the current stream."""
        self._copy(to.data.ptr, self._address, to.nbytes, self._cuda.runtime.memcpyHostToDevice)

    def download(self, source: Array) -> None:
        """Queue a copy of an array on the GPU into the beginning of this one, on the current stream."""
        self._copy(self._address, source.data.ptr, source.nbytes, self._cuda.runtime.memcpyDeviceToHost)

    def _copy(self, to: int, source: int, size: int, kind: int) -> None:
        self._cuda.runtime.memcpyAsync(to, source, size, kind, self._cuda.get_current_stream().ptr)
