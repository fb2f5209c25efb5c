"""The errors that nnx raises on purpose, collected in one place: `nnx.errors`."""

from nnx.backends.errors import (
    BackendFallbackWarning,
    BackendUnavailable,
    DeviceMemoryError,
    FileFormatError,
    InputAttributeError,
    InputError,
    InputTypeError,
    InUseError,
    MissingExtra,
    NonFiniteError,
    NotReplayable,
)

__all__ = [
    "BackendFallbackWarning",
    "BackendUnavailable",
    "DeviceMemoryError",
    "FileFormatError",
    "InUseError",
    "InputAttributeError",
    "InputError",
    "InputTypeError",
    "MissingExtra",
    "NonFiniteError",
    "NotReplayable",
]
