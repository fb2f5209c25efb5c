"""Several GPUs on one machine: each operation of a CuPy backend first makes that backend's own GPU the current one.

CUDA launches kernels on the thread's current device, wherever their operands are. With a single GPU none of this is
needed or used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from nnx.backends.cupy.dense import CudaDense
from nnx.backends.operation_table import OPERATIONS

Kind = TypeVar("Kind", bound=type[CudaDense])


def on_its_gpu(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method of a backend so that the backend's GPU is the current one while it runs."""

    @wraps(method)
    def guarded(self: CudaDense, *args: Any, **kwargs: Any) -> Any:
        if self.cupy.cuda.runtime.getDevice() == self.number:
            return method(self, *args, **kwargs)
        with self.on_device():
            return method(self, *args, **kwargs)

    return guarded


def each_on_its_gpu(kind: Kind) -> Kind:
    """Decorate a class of backends so that all operations run on the backend's GPU, whichever is the current one."""
    for name in (*OPERATIONS, "relu_and_dense_backward", "probe"):
        setattr(kind, name, on_its_gpu(getattr(kind, name)))
    return kind
