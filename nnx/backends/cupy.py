"""The CuPy backend: CUDA GPUs. Its kernels are not written yet."""

from __future__ import annotations

from nnx.backends.base import Backend
from nnx.backends.errors import BackendUnavailable


def create(device: str = "") -> Backend:
    """Say why there is no CuPy backend yet."""
    raise BackendUnavailable(
        f"cupy:{device}" if device else "cupy",
        "this version of nnx has no CUDA kernels yet",
        'Use backend="numpy", or upgrade nnx-backends when it has them.',
    )
