"""Import of optional packages that some data sets need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nnx.errors import MissingExtra


def optional(module: str, extra: str, purpose: str) -> Any:
    """Import a package that nnx can do without.

    Raises:
        MissingExtra: it is not installed, or cannot be imported; the message says what to install.
    """
    try:
        return import_module(module)
    except Exception as error:  # a package that was built for another NumPy, for one, may raise anything
        raise MissingExtra(module.partition(".")[0], extra, purpose, error) from error
