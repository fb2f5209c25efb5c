"""Pinned (page-locked) host memory, for copies that the GPU makes asynchronously, while the host does other work."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = Any


class Pinned:
    """A NumPy array in pinned memory.

    After a copy was queued, the caller must not touch the array until the stream has made the copy.

    Attributes:
        array: [shape], with arbitrary contents at first.
    """

    def __init__(self, cupy: Any, shape: tuple[int, ...], dtype: Any) -> None:
        memory = cupy.cuda.alloc_pinned_memory(math.prod(shape) * np.dtype(dtype).itemsize)
        self.array: np.ndarray = np.ndarray(shape, dtype, buffer=memory)  # holds a reference to the memory
        self._address, self._cuda = memory.ptr, cupy.cuda

    def upload(self, to: Array) -> None:
        """Queue on the current stream a copy into `to`, an array on the GPU, of as many numbers as it has."""
        self._copy(to.data.ptr, self._address, to.nbytes, self._cuda.runtime.memcpyHostToDevice)

    def download(self, source: Array) -> None:
        """Queue on the current stream a copy of an array on the GPU to the beginning of this one."""
        self._copy(self._address, source.data.ptr, source.nbytes, self._cuda.runtime.memcpyDeviceToHost)

    def _copy(self, to: int, source: int, size: int, kind: int) -> None:
        self._cuda.runtime.memcpyAsync(to, source, size, kind, self._cuda.get_current_stream().ptr)
