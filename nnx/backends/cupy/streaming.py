"""Double buffering of data sets larger than the GPU's memory: copies overlap with training. See `CupyBackend.stream`.

The host gathers rows into pinned memory, a stream of its own copies them, and events keep the two apart: copies wait
until steps are done with what stood there, steps wait for what they read, and the host for the memory it writes to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnx.backends.cupy.pinned import Pinned
from nnx.backends.memory import readable

if TYPE_CHECKING:
    from nnx.backends.cupy.device import CudaDevice

Array = Any
SHARE = 0.75  # of the free memory that a data set may take; the rest is for activations, gradients and cuBLAS. A guess
HALF = 64 << 20  # bytes of a chunk, unless a batch has more: a few milliseconds of copying, many steps of computing


class DoubleBuffer:
    """See `nnx.backends.streaming.Stream`.

    Args:
        data: NumPy arrays of equally many rows, which `fill` takes them from. rows: of a half.
    """

    def __init__(self, backend: CudaDevice, data: Sequence[np.ndarray], rows: int, reason: str) -> None:
        cuda = backend.cupy.cuda
        self._cuda, self._data, self.rows, self.reason = cuda, data, rows, reason
        self.arrays: Sequence[Array] = [backend.zeros((2 * rows, *a.shape[1:]), a.dtype) for a in data]
        self._staging = [[Pinned(backend.cupy, (rows, *a.shape[1:]), a.dtype) for a in data] for _ in range(2)]
        self._stream = cuda.Stream(non_blocking=True)
        self._filled, self._left = ([cuda.Event(disable_timing=True) for _ in range(2)] for _ in range(2))
        for half in range(2):
            self.leave(half)

    def fill(self, half: int, rows: np.ndarray) -> None:
        """See `Stream`."""
        for source, room in zip(self._data, self.room(half), strict=True):
            np.take(source, rows, axis=0, out=room[: len(rows)], mode="clip")  # "raise" would copy twice
        self.send(half, len(rows))

    def room(self, half: int) -> list[np.ndarray]:
        """See `Stream`."""
        self._filled[half].synchronize()  # what was last written to these pages is on the GPU
        return [pinned.array for pinned in self._staging[half]]

    def send(self, half: int, count: int) -> None:
        """See `Stream`."""
        first = half * self.rows
        self._stream.wait_event(self._left[half])
        with self._stream:
            for pinned, array in zip(self._staging[half], self.arrays, strict=True):
                pinned.upload(array[first : first + count])
            self._filled[half].record(self._stream)

    def enter(self, half: int) -> None:
        """See `Stream`."""
        self._cuda.get_current_stream().wait_event(self._filled[half])

    def leave(self, half: int) -> None:
        """See `Stream`."""
        self._left[half].record(self._cuda.get_current_stream())

    def close(self) -> None:
        """See `Stream`."""
        self._stream.synchronize()


def stream(backend: CudaDevice, data: Sequence[np.ndarray], batch: int, wish: bool | None) -> DoubleBuffer | None:
    """Return what streams a data set, or None where it can be on the GPU as a whole.

    Args:
        batch: rows of a step; a half has as many or several times as many. wish: whether to; None: if it must be.
    """
    size, count, free = sum(a.nbytes for a in data), len(data[0]), free_bytes(backend)
    if wish is False or (wish is None and size <= SHARE * free):
        return None
    each = max(1, size // count)
    rows = max(1, min(HALF, free // 8) // (each * batch)) * batch
    rows = min(rows, -(-count // batch) * batch)
    why = "NNX_STREAM=1" if wish else f"more than {SHARE:.0%} of the {readable(free)} that are free on {backend.device}"
    reason = f"a data set of {readable(size)} is streamed, {rows:,} rows ({readable(rows * each)}) at a time: {why}"
    return DoubleBuffer(backend, data, rows, reason)


def free_bytes(backend: CudaDevice) -> int:
    """Return how much memory may still be taken of a GPU."""
    memory = backend.memory()
    assert memory.used is not None
    assert memory.held is not None
    assert memory.free is not None
    free = memory.free + memory.held - memory.used
    return max(0, free if memory.limit is None else min(free, memory.limit - memory.used))
