"""The proofs of the CUDA kernels (tests/cuda_proofs.py) on a GPU: operands go there for each launch, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from cuda_proofs import Run

from nnx.kernels.cuda import KERNELS, Launch


class DeviceRun(Run):
    """Runs each kernel on the backend's GPU, with copies of the arrays that it is given."""

    def __init__(self, backend: Any, dtype: str) -> None:
        super().__init__(dtype)
        self._backend = backend

    def __call__(self, launch: Launch, *values: Any) -> None:
        kernel = KERNELS[launch.kernel]
        self.kernels.add(kernel.name)
        there = {id(a): self._backend.cupy.asarray(a, order="C") for a in values if isinstance(a, np.ndarray)}
        self._backend._launch(launch, self.dtype, *(there.get(id(value), value) for value in values))
        for (kind, _), value in zip(kernel.parameters, values, strict=True):
            if kind.endswith("*") and not kind.startswith("const") and isinstance(value, np.ndarray):
                value[...] = there[id(value)].get()
