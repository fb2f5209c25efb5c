"""Double buffering of data sets larger than the GPU's memory: copies overlap with training. See `CupyBackend.stream`.

The host gathers rows into pinned memory, and a separate stream copies them. Events synchronise the two: copies wait
until steps do not need the old contents any more, steps wait for the rows that they read, and the host waits for the
memory that it writes to.
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
SHARE = 0.75  # a data set may take this share of the free memory; the rest is for activations, gradients, cuBLAS
HALF = 64 << 20  # bytes of a chunk, unless a batch has more: a few milliseconds of copying, but many steps


class DoubleBuffer:
    """See `nnx.backends.streaming.Stream`.

    Args:
        backend: the backend. data: NumPy arrays with the same number of rows, from which `fill` takes rows. rows: how
            many rows a half has. reason: why the data set is streamed.
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
            np.take(source, rows, axis=0, out=room[: len(rows)], mode="clip")  # mode="raise" would copy twice
        self.send(half, len(rows))

    def room(self, half: int) -> list[np.ndarray]:
        """See `Stream`."""
        self._filled[half].synchronize()  # wait until the last contents of this memory are on the GPU
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
    """Return a buffer that streams a data set, or None if all of it can be on the GPU.

    Args:
        backend: the backend. data: NumPy arrays with the same number of rows. batch: rows of a step; a half has a
            multiple of it. wish: whether to stream; None: only if the data set does not fit.
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
    """Return how many bytes of a GPU's memory can still be used."""
    memory = backend.memory()
    assert memory.used is not None
    assert memory.held is not None
    assert memory.free is not None
    free = memory.free + memory.held - memory.used
    return max(0, free if memory.limit is None else min(free, memory.limit - memory.used))
