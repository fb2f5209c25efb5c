"""Kernel launches: the sources of nnx/kernels/cuda compiled by NVRTC when first used, and scratch memory for them.

There is one module for each file and float type.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from nnx.kernels.cuda import KERNELS, Launch, options, source
from nnx.kernels.cuda.kernel import SCALARS

Array = Any
STREAMS = 8  # a thread keeps scratch memory for so many streams


class Launcher:
    """Holds the kernels used so far. CuPy caches compiled kernels on disk, and loads them for each device."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._modules: dict[tuple[str, str, str], Any] = {}
        self._kernels: dict[tuple[str, str, str], tuple[Any, tuple[Any, ...]]] = {}

    def __call__(self, launch: Launch, dtype: str, *values: Any, own: str = "") -> None:
        """Launch a kernel on the current stream.

        Args:
            launch: the kernel, with grid and block. dtype: the type that REAL stands for. values: the kernel's
                parameters; arrays must be contiguous. own: the header of a user-defined formula, for formula.cu.
        """
        run, types = self._kernels.get((launch.kernel, dtype, own)) or self._load(launch.kernel, dtype, own)
        arguments = [kind(value) for kind, value in zip(types, values, strict=True)]
        run(launch.grid, launch.block, tuple(arguments), shared_mem=launch.shared)

    def allow_shared_memory(self, name: str, dtype: str, size: int) -> None:
        """Allow a kernel so many bytes of dynamic shared memory; the default limit is 48 KiB."""
        run, _ = self._kernels.get((name, dtype, "")) or self._load(name, dtype)
        run.max_dynamic_shared_size_bytes = size

    def _load(self, name: str, dtype: str, own: str = "") -> tuple[Any, tuple[Any, ...]]:
        kernel = KERNELS[name]
        key = kernel.file, dtype, own
        if key not in self._modules:
            text = source(kernel.file, own) if own else source(kernel.file)
            self._modules[key] = self._cupy.RawModule(code=text, options=options(dtype))
        # Numbers are converted to their parameter's type: a Python number would always be passed as 8 bytes.
        types = {**SCALARS, "REAL": np.dtype(dtype).type}
        found = (
            self._modules[key].get_function(name),
            tuple(pointer if kind.endswith("*") else types[kind] for kind, _ in kernel.parameters),
        )
        self._kernels[name, dtype, own] = found
        return found


def pointer(array: Array | None) -> Any:
    """Return an array as a kernel takes it; for None, the null pointer."""
    return np.uintp(0) if array is None else array


class Scratch:
    """Scratch memory, for what a kernel passes to the next one: one array for each type, reused by each call.

    So a caller must not need its scratch any more when it asks again. That holds for kernels on one stream, which run
    in the order of their launches.

    Args:
        times: a new array is so many times as large as requested, so that it soon stops growing.
    """

    def __init__(self, cupy: Any, times: int = 2) -> None:
        self._cupy, self._times = cupy, times
        self._arrays: dict[str, Array] = {}

    def __call__(self, count: int, dtype: str) -> Array:
        """Return an array of `count` numbers, which the next call returns again."""
        array = self._arrays.get(dtype)
        if array is None or array.size < count:
            array = self._arrays[dtype] = self._cupy.empty(self._times * count, dtype)
        return array[:count]


class ScratchPerStream(threading.local):
    """Scratch memory for operations that are called one by one, so that repeated steps allocate nothing.

    Each thread and each stream has its own, because only work on the same stream runs in order. The scratch of the most
    recently used streams is kept, since nothing tells when a stream is gone. Dropped scratch returns to CuPy's pool of
    the same stream, so kernels already launched there may still use it. A CUDA graph has its own `Scratch`, which no
    other call enlarges or drops (programs/capture.py).
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._streams: dict[int, Scratch] = {}

    def __call__(self, count: int, dtype: str) -> Array:
        """Return an array of `count` numbers, which the next call on this stream returns again."""
        stream = self._cupy.cuda.get_current_stream().ptr
        scratch = self._streams.pop(stream, None) or Scratch(self._cupy)
        self._streams[stream] = scratch  # now the most recent one
        if len(self._streams) > STREAMS:
            del self._streams[next(iter(self._streams))]
        return scratch(count, dtype)

    def drop(self) -> None:
        """Release this thread's scratch memory."""
        self._streams.clear()
