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
STREAMS = 8  # of a thread, whose scratch is kept


class Launcher:
    """Holds the kernels that have been used so far. CuPy keeps the compiled ones on disk, and loads them by device."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._modules: dict[tuple[str, str, str], Any] = {}
        self._kernels: dict[tuple[str, str, str], tuple[Any, tuple[Any, ...]]] = {}

    def __call__(self, launch: Launch, dtype: str, *values: Any, own: str = "") -> None:
        """Launch a kernel on the current stream.

        Args:
            dtype: what REAL stands for. values: as its signature says; arrays must be contiguous.
            own: the header of a formula of the user's own, for formula.cu.
        """
        run, types = self._kernels.get((launch.kernel, dtype, own)) or self._load(launch.kernel, dtype, own)
        arguments = [kind(value) for kind, value in zip(types, values, strict=True)]
        run(launch.grid, launch.block, tuple(arguments), shared_mem=launch.shared)

    def allow_shared_memory(self, name: str, dtype: str, size: int) -> None:
        """Let a kernel have so many bytes of dynamic shared memory: without being asked, a GPU gives 48 KiB at most."""
        run, _ = self._kernels.get((name, dtype, "")) or self._load(name, dtype)
        run.max_dynamic_shared_size_bytes = size

    def _load(self, name: str, dtype: str, own: str = "") -> tuple[Any, tuple[Any, ...]]:
        kernel = KERNELS[name]
        key = kernel.file, dtype, own
        if key not in self._modules:
            text = source(kernel.file, own) if own else source(kernel.file)
            self._modules[key] = self._cupy.RawModule(code=text, options=options(dtype))
        # A bare Python number would be passed as 8 bytes whatever the kernel expects: each has its parameter's type.
        types = {**SCALARS, "REAL": np.dtype(dtype).type}
        found = (
            self._modules[key].get_function(name),
            tuple(pointer if kind.endswith("*") else types[kind] for kind, _ in kernel.parameters),
        )
        self._kernels[name, dtype, own] = found
        return found


def pointer(array: Array | None) -> Any:
    """Return an array as a kernel takes it, the null pointer for none."""
    return np.uintp(0) if array is None else array


class Scratch:
    """Scratch memory, for what a kernel leaves to the next one: one array for each type, reused by each call.

    So whatever asks for scratch must be done with it before it asks again: what runs in the order of its launches is.

    Args:
        times: how much larger a new array is than what is asked for, so that it soon stops growing.
    """

    def __init__(self, cupy: Any, times: int = 2) -> None:
        self._cupy, self._times = cupy, times
        self._arrays: dict[str, Array] = {}

    def __call__(self, count: int, dtype: str) -> Array:
        """Return an array of `count` numbers, which the next call hands out again."""
        array = self._arrays.get(dtype)
        if array is None or array.size < count:
            array = self._arrays[dtype] = self._cupy.empty(self._times * count, dtype)
        return array[:count]


class ScratchPerStream(threading.local):
    """Scratch for the operations that are called one by one: a step in its steady state allocates nothing.

    Each thread and each stream has its own, because what is launched on one stream runs in order and nothing else does.
    Those of the streams used last are kept: nobody says when a stream is gone. What is dropped goes back to CuPy's pool
    of that same stream, so work on it that is still to come is safe.
    A CUDA graph has a `Scratch` of its own, which no other call makes larger or drops (programs/capture.py).
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._streams: dict[int, Scratch] = {}

    def __call__(self, count: int, dtype: str) -> Array:
        """Return an array of `count` numbers, which the next call on this stream hands out again."""
        stream = self._cupy.cuda.get_current_stream().ptr
        scratch = self._streams.pop(stream, None) or Scratch(self._cupy)
        self._streams[stream] = scratch  # the last one now
        if len(self._streams) > STREAMS:
            del self._streams[next(iter(self._streams))]
        return scratch(count, dtype)

    def drop(self) -> None:
        """Give this thread's scratch up."""
        self._streams.clear()
