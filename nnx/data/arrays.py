"""Rows as arrays, and what is nothing else: known without importing what reads files."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

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
