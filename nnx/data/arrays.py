"""Rows as arrays, and what is nothing else: known without importing what reads files."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from nnx.errors import InputTypeError

SOURCE = "nnx.data.source"  # where the class stands that `shards` makes


class Arrays(NamedTuple):
    """Inputs, and targets and weights of samples, where there are any."""

    x: Any
    y: Any = None
    weights: Any = None

    def take(self, rows: Any) -> Arrays:
        """Return some of the rows."""
        return Arrays(*(None if a is None else a[rows] for a in self))


def are_arrays(x: Any, y: Any, label: Any) -> bool:
    """Tell at a glance whether x and y are arrays, lists or frames, as nearly always."""
    if type(x) is np.ndarray:
        return label is None
    read = isinstance(x, str | os.PathLike | np.memmap) or type(x).__module__ == SOURCE
    return label is None and y is not None and not read


def no_targets(who: str, x: Any) -> InputTypeError:
    """Return the error that there are inputs alone, which give no batches (x, y) either."""
    what = "" if hasattr(x, "shape") or isinstance(x, list | tuple) else (
        f"; or instead of x, which is a {type(x).__name__}, what gives batches (x, y): a function without arguments, "
        "an iterable, nnx.data.shards(...)"
    )  # fmt: skip
    return InputTypeError(f"{who}: y is missing (None was given); expected a target for each row of x{what}")
