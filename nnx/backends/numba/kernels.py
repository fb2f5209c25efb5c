"""The CPU kernels' modules, as attributes of one object."""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODULES = {
    "matmul": "blas gemm tile_units",
    "ops": "cross_entropy dropout elementwise losses optimizers softmax step sums",
    "program": "compiled inference",
    "threads": "pool",
}


class Kernels:
    """The modules of nnx/kernels/cpu, and with them Numba, imported when the backend is made."""

    def __init__(self) -> None:
        for folder, names in MODULES.items():
            for name in names.split():
                self.load(folder, name)

    def load(self, folder: str, name: str) -> None:
        """Import a module of kernels."""
        setattr(self, name, import_module(f"nnx.kernels.cpu.{folder}.{name}"))

    def __getattr__(self, name: str) -> Any:  # for type checkers; every module is an attribute
        raise AttributeError(name)
