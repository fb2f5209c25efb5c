"""Backends: where arrays live, and which implementation each operation takes."""

from nnx.backends.base import Backend, BackendInfo
from nnx.backends.errors import BackendFallbackWarning, BackendUnavailable
from nnx.backends.resolve import Resolution, available, get_backend, names, resolve, set_backend, use_backend

__all__ = [
    "Backend",
    "BackendFallbackWarning",
    "BackendInfo",
    "BackendUnavailable",
    "Resolution",
    "available",
    "get_backend",
    "names",
    "resolve",
    "set_backend",
    "use_backend",
]
