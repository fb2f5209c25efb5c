"""The Numba backend: kernels compiled for the host's CPU. Its kernels are not written yet."""

from __future__ import annotations

from nnx.backends.base import Backend
from nnx.backends.errors import BackendUnavailable


def create(device: str = "") -> Backend:
    """Say why there is no Numba backend yet."""
    raise BackendUnavailable(
        "numba",
        "this version of nnx has no Numba kernels yet",
        'Use backend="numpy", or upgrade nnx-backends when it has them.',
    )
