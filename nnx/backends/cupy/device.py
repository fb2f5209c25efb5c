"""One CUDA device, by CuPy: arrays to and from the host, memory pool and limit, timing, versions. No arithmetic."""

from __future__ import annotations

import os
from contextlib import nullcontext
from types import TracebackType
from typing import Any

import numpy as np

from nnx.backends.base import Backend, BackendInfo
from nnx.backends.cupy.diagnosis import wheels
from nnx.backends.cupy.launch import Launcher, Scratch, ScratchPerStream
from nnx.backends.errors import DeviceMemoryError, InputTypeError
from nnx.backends.memory import Memory, parse_limit, readable
from nnx.backends.timer import EventTimer, Timer

Array = Any
LIMIT = "NNX_GPU_MEMORY_LIMIT"
# Parts of the names or texts of errors about missing memory: CuPy's, cuBLAS's, the runtime's, the driver's.
OUT_OF_MEMORY = ("OutOfMemoryError", "ALLOC_FAILED", "MemoryAllocation", "OUT_OF_MEMORY")


class CudaDevice(Backend):
    """Arrays are `cupy.ndarray`s on one GPU.

    Args:
        cupy: the module. number: that of the GPU among those visible to CUDA.
        gpu_memory_limit: how much of this GPU's memory CuPy's pool may take: bytes, or text such as "8 GB" or "50%".
            None: the value of NNX_GPU_MEMORY_LIMIT, or no limit.
    """

    def __init__(self, cupy: Any, number: int = 0, gpu_memory_limit: Any = None) -> None:
        self.cupy = self.xp = cupy
        self.number = number
        self._multi_gpu = cupy.cuda.runtime.getDeviceCount() > 1
        self._gpu = cupy.cuda.Device(number)
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        self.capability = (int(properties["major"]), int(properties["minor"]))
        self.shared_memory = int(properties["sharedMemPerBlockOptin"])  # bytes of a block that asks for the most
        name = properties["name"]
        name = name.decode() if isinstance(name, bytes) else name
        self.device = f"cuda:{number} ({name})"
        self.model = f"{name}, {properties['multiProcessorCount']} multiprocessors"
        self._launch = Launcher(cupy)
        self._scratch: ScratchPerStream | Scratch = ScratchPerStream(cupy)
        self._met: list[str] = []
        given = os.environ.get(LIMIT) if gpu_memory_limit is None else gpu_memory_limit
        if given:
            self._set_limit(given, LIMIT if gpu_memory_limit is None else "gpu_memory_limit")

    # ---- arrays ------------------------------------------------------------------------------------------------------

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        if isinstance(x, self.cupy.ndarray) and not self.owns(x):
            raise InputTypeError(
                f"a CuPy array {x.shape} on GPU {x.device.id} was given to the backend on GPU {self.number}: convert "
                f"it by cupy.asnumpy(x), or ask for backend='cupy:{x.device.id}'"
            )
        return super().asarray(x, dtype)

    def from_numpy(self, a: np.ndarray) -> Array:
        with self.active():
            return self.cupy.asarray(a, order="C")

    def to_numpy(self, a: Array) -> np.ndarray:
        with self.active():
            host: np.ndarray = a.get(order="C")
        return host

    def owns(self, a: Any) -> bool:
        return isinstance(a, self.cupy.ndarray) and (not self._multi_gpu or a.device.id == self.number)

    def address(self, a: Array) -> int:
        return int(a.data.ptr)

    def empty(self, shape: Any, dtype: Any = "float32") -> Array:
        with self.active():
            return self.cupy.empty(shape, dtype)

    def zeros(self, shape: Any, dtype: Any = "float32") -> Array:
        with self.active():
            return self.cupy.zeros(shape, dtype)

    def synchronize(self) -> None:
        self._gpu.synchronize()

    def timer(self) -> Timer:
        return EventTimer(self)

    def active(self) -> ActiveDevice:
        return ActiveDevice(self)

    def on_device(self) -> Any:
        """Return a context in which this GPU is the current one; with a single GPU it does nothing."""
        return self.cupy.cuda.Device(self.number) if self._multi_gpu else nullcontext()

    def _range(self, count: int, like: Array) -> Array:
        return self.cupy.arange(count, dtype=np.int64)  # CuPy's arange has no argument `device`

    # ---- memory ------------------------------------------------------------------------------------------------------

    @property
    def gpu_memory_limit(self) -> int | None:
        """The most bytes that CuPy's pool may take of this GPU; None: no limit. It applies to all users of CuPy."""
        with self.on_device():
            return int(self.cupy.get_default_memory_pool().get_limit()) or None

    @gpu_memory_limit.setter
    def gpu_memory_limit(self, limit: Any) -> None:
        self._set_limit(limit, "gpu_memory_limit")

    def _set_limit(self, limit: Any, what: str) -> None:
        with self.on_device():
            total = self.cupy.cuda.runtime.memGetInfo()[1]
            self.cupy.get_default_memory_pool().set_limit(size=parse_limit(limit, total, what) or 0)

    def memory(self) -> Memory:
        with self.on_device():
            pool = self.cupy.get_default_memory_pool()
            free, total = self.cupy.cuda.runtime.memGetInfo()
            return Memory(self.device, pool.used_bytes(), pool.total_bytes(), free, total, self.gpu_memory_limit)

    def release(self) -> int:
        """Return memory that is held but not used to the GPU, for other programs; return how many bytes."""
        with self.on_device():
            if isinstance(self._scratch, ScratchPerStream):
                self._scratch.drop()
            pool = self.cupy.get_default_memory_pool()
            before = int(pool.total_bytes())
            pool.free_all_blocks()
            self.cupy.get_default_pinned_memory_pool().free_all_blocks()
            return before - int(pool.total_bytes())

    # ---- facts -------------------------------------------------------------------------------------------------------

    def versions(self) -> dict[str, str]:
        runtime = self.cupy.cuda.runtime
        return {
            **super().versions(),
            "cupy": self.cupy.__version__,
            "cuda": _version(runtime.runtimeGetVersion()),
            "driver's cuda": _version(runtime.driverGetVersion()),
            "compute capability": "{}.{}".format(*self.capability),
        }

    def note(self, text: str) -> None:
        """Add a note to `info()` about a problem with a step, a prediction or a data set."""
        if text not in self._met:
            self._met.append(text)

    def info(self) -> BackendInfo:
        plain = super().info()
        limit = readable(self.gpu_memory_limit) if self.gpu_memory_limit else "none but the GPU's own"
        notes = [f"memory limit: {limit}; {LIMIT} sets one"]
        if len(wheels()) > 1:
            notes.append(f"{' and '.join(wheels())} are installed and overwrite one another's files: keep one")
        return BackendInfo(plain.name, plain.device, plain.versions, plain.threads, plain.ops, tuple(notes))


class ActiveDevice:
    """A context in which the backend's GPU is the current one, and an error about missing memory says what to do."""

    def __init__(self, backend: CudaDevice) -> None:
        self._backend = backend

    def __enter__(self) -> None:
        self._device = self._backend.on_device()
        self._device.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._device.__exit__(kind, error, traceback)
        if error is not None and any(mark in f"{type(error).__name__} {error}" for mark in OUT_OF_MEMORY):
            raise DeviceMemoryError(out_of_memory(self._backend, error)) from error


def out_of_memory(backend: CudaDevice, error: BaseException) -> str:
    """Return the message for a GPU without memory: what was asked for, the pool's figures, what to do."""
    asked = next((int(word.replace(",", "")) for word in str(error).split() if word[:1].isdigit()), None)
    wanted = f"; asked for {readable(asked)} more" if asked else ""
    return (
        f"no room on {backend.memory()}{wanted}. Take a smaller batch_size, drop arrays and "
        f"models that are done with, call nnx.release() if other programs need what is held, raise {LIMIT} where a "
        "limit is set, or look in `nvidia-smi` for who has the rest"
    )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
