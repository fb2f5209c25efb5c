"""The Numba backend: NumPy's arrays, and kernels compiled for the host's CPU when first called."""

from nnx.backends.numba.backend import NumbaBackend, create

__all__ = ["NumbaBackend", "create"]
