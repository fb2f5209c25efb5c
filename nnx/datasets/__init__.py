"""Data to learn from: the book's toy sets, handwritten digits, MNIST and Fashion-MNIST, and your own tables.

Everything comes back as numpy arrays: features `x: [N, F]`, then class labels `y: [N] int64` or numbers `y: [N, 1]`.
Nothing is downloaded, and nothing optional imported, before the function that needs it is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .digits import digits
from .idx import fashion_mnist, mnist
from .toy import draw_spiral, draw_vertical, sine, spiral, vertical

if TYPE_CHECKING:
    from .tables import Table, load_features, load_table

__all__ = [
    "Table",
    "digits",
    "draw_spiral",
    "draw_vertical",
    "fashion_mnist",
    "load_features",
    "load_table",
    "mnist",
    "sine",
    "spiral",
    "vertical",
]


def __getattr__(name: str) -> Any:
    if name in ("Table", "load_features", "load_table"):  # imported when first used, since they need many modules
        return getattr(import_module("nnx.datasets.tables"), name)
    raise AttributeError(f"module 'nnx.datasets' has no attribute {name!r}")
