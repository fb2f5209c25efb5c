"""Data on disk, and data that come in batches: what `fit`, `evaluate` and `predict` take besides arrays.

`fit("x.npy", "y.npy")`, `fit("folder")` and `fit("table.parquet", label="price")` need nothing from here; `shards` is
for lists of files, and for saying how much of them may be in memory.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .found import shards
    from .source import Source

__all__ = ["Source", "shards"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported when first used: training on arrays needs none of it
        return getattr(import_module({"Source": "nnx.data.source", "shards": "nnx.data.found"}[name]), name)
    raise AttributeError(f"module 'nnx.data' has no attribute {name!r}")
