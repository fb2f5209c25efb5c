"""Several GPUs on one machine: each operation of a CuPy backend first makes that backend's own GPU the current one.

With a single GPU there is nothing to make sure of, and this class is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from nnx.backends.cupy.backend import CupyBackend
from nnx.backends.operations import OPERATIONS


class CupyBackendOfSeveral(CupyBackend):
    """The same operations, each on its own GPU whichever is the current one: see the end of this file."""


def on_its_gpu(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method of the backend on its GPU; where that is the current one, for the price of asking."""

    @wraps(method)
    def guarded(self: CupyBackend, *args: Any, **kwargs: Any) -> Any:
        if self.cupy.cuda.runtime.getDevice() == self.number:
            return method(self, *args, **kwargs)
        with self.elsewhere():
            return method(self, *args, **kwargs)

    return guarded


for _name in (*OPERATIONS, "relu_and_dense_backward", "probe"):
    setattr(CupyBackendOfSeveral, _name, on_its_gpu(getattr(CupyBackend, _name)))
