"""Optional packages that some data sets need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nnx.errors import MissingExtra


def optional(module: str, extra: str, purpose: str) -> Any:
    """Import a package that nnx can do without.

    Raises:
        MissingExtra: it is not installed; the message says what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(module.partition(".")[0], extra, purpose) from error
