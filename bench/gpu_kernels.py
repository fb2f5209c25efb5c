"""The proofs of the CUDA kernels (tests/cuda_proofs.py) on a GPU: operands go there for each launch, and back.

They go with the guards around them, and stand there as they do here, at a multiple of 16 bytes or beside one: a kernel
that writes beyond an array changes a guard, as on the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cuda_proofs import PROOFS, Run

from nnx.kernels.cuda import KERNELS, Launch
from nnx.testing.cases import CASES, Maker
from nnx.testing.compare import CLASS, compare

Array = Any


class DeviceRun(Run):
    """Runs each kernel on the backend's GPU, with copies of the arrays that it is given; see `Run`."""

    def __init__(self, backend: Any, dtype: str, crowded: bool = False, shift: int = 0) -> None:
        super().__init__(dtype, crowded=crowded, shift=shift)
        self._backend = backend

    def __call__(self, launch: Launch, *values: Any, own: str = "") -> None:
        kernel = KERNELS[launch.kernel]
        self.kernels.add(kernel.name)
        arrays = [value for value in values if isinstance(value, np.ndarray)]
        there = {id(whole): self._copied(whole) for whole in map(whole_of, arrays)}
        given = [self._view(value, there) if isinstance(value, np.ndarray) else value for value in values]
        self._backend._launch(launch, self.dtype, *given, own=own)
        for (kind, _), value in zip(kernel.parameters, values, strict=True):
            if kind.endswith("*") and not kind.startswith("const") and isinstance(value, np.ndarray):
                whole = whole_of(value)
                whole[...] = there[id(whole)].get().reshape(whole.shape)

    def _copied(self, whole: np.ndarray) -> Array:
        """Return an array's copy on the GPU, flat, as far from a multiple of 16 bytes as the array is."""
        beside = whole.ctypes.data % 16
        room = self._backend.cupy.zeros(beside + whole.nbytes, "uint8")[beside:].view(whole.dtype)
        room[...] = self._backend.cupy.asarray(whole.reshape(-1))
        return room

    def _view(self, value: np.ndarray, there: dict[int, Array]) -> Array:
        """Return what is there of a part of an array that stands there as a whole."""
        whole = whole_of(value)
        first = (value.ctypes.data - whole.ctypes.data) // value.itemsize
        return there[id(whole)][first : first + value.size].reshape(value.shape)


def whole_of(a: np.ndarray) -> np.ndarray:
    """Return the array that `a` is a part of, guards and all."""
    while isinstance(a.base, np.ndarray) and a.base.dtype == a.dtype and a.base.flags.c_contiguous:
        a = a.base
    return a


def prove(run: Run, operation: str) -> float:
    """Hold what the kernels of an operation write to its cases; return the largest error (1 is tolerated)."""
    worst = 0.0
    for case in CASES[operation](Maker(run.dtype)):
        operands = case.operands | ({"rows": case.out[0]} if operation == "gather_rows" and case.out else {})
        for written in PROOFS[operation].run(run, operands):
            for name, got in written.items():
                what = f"{operation}, {case.name}, {run}: {name}"
                worst = max(worst, compare(got, case.wanted[name], CLASS[operation], run.dtype, what))
        run.check_guards(f"{operation}, {case.name}, {run}")
    return worst
