"""Rows in arrays, and how to recognise them without importing the modules that read files."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from nnx.errors import InputTypeError

SOURCE = "nnx.data.source"  # the module of the class that `shards` returns


class Arrays(NamedTuple):
    """Inputs, with targets and sample weights, which may be None."""

    x: Any
    y: Any = None
    weights: Any = None

    def take(self, rows: Any) -> Arrays:
        """Return some of the rows."""
        return Arrays(*(None if a is None else a[rows] for a in self))


def are_arrays(x: Any, y: Any, label: Any) -> bool:
    """Return whether x and y are arrays, lists or frames, the usual case, by a quick look."""
    if type(x) is np.ndarray:
        return label is None
    read = isinstance(x, str | os.PathLike | np.memmap) or type(x).__module__ == SOURCE
    return label is None and y is not None and not read


def no_targets(who: str, x: Any) -> InputTypeError:
    """Return the error that there is only x, and that it gives no batches (x, y) either."""
    what = "" if hasattr(x, "shape") or isinstance(x, list | tuple) else (
        f"; or instead of x, which is a {type(x).__name__}, what gives batches (x, y): a function without arguments, "
        "an iterable, nnx.data.shards(...)"
    )  # fmt: skip
    return InputTypeError(f"{who}: y is missing (None was given); expected a target for each row of x{what}")
