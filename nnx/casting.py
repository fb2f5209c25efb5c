"""Checks of casts to the model's type: in float32 a column may become constant, as a clock in milliseconds does.

Where a column's numbers are large and vary by little, rounding moves them by as much as they vary, and the model sees
noise, or a constant. Columns near 0 lose nothing that counts, so a look at a few rows is enough for nearly all data.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from nnx.backends.inputs import column_names
from nnx.backends.operation_table import QUIET
from nnx.errors import InputError
from nnx.kernels.user_warnings import warn

LEVELS = 8  # a column must vary by so many rounding errors of its numbers: then four different values or more survive
NOISE = 512  # rounding errors in the original type: variation below this may come from how a constant was computed
SAMPLE = 16  # a look at so many rows is enough for nearly all columns
BLOCK = 1 << 16  # numbers in a block that fits into the cache


def check_lost(a: np.ndarray, given: np.ndarray, source: Any, what: str) -> None:
    """Refuse to train on columns that casting made constant; in other calls, whose rows may be few, only warn.

    Args:
        a: [N, I] finite floats. given: the same numbers before they were cast. source: what they were read from.
        what: call and argument, such as "fit: x".

    Raises:
        InputError: training would see a column whose variation was lost.
    """
    found = lost(a, given)
    if found is None:
        return
    column, why = found
    names = column_names(source)
    name = column if names is None else repr(names[column])
    text = f"{what}: column {name} {why}{', or use dtype=' + repr('float64') if a.dtype == np.float32 else ''}"
    if what in ("fit: x", "fit: y", "steps: x", "steps: y"):
        raise InputError(text)
    warn(text, RuntimeWarning)


def lost(a: np.ndarray, given: np.ndarray) -> tuple[int, str] | None:
    """Return the first column whose variation was lost when its numbers were cast, and an explanation.

    Args:
        a: [N, I] finite floats. given: the same numbers before they were cast.

    Returns:
        (column, explanation), or None if no column lost its variation.
    """
    if len(a) < 2 or _digits(given.dtype) <= _digits(a.dtype):
        return None
    return _first_lost(a, given)


@QUIET  # numbers near the largest of a type overflow here; their columns pass
def _first_lost(a: np.ndarray, given: np.ndarray) -> tuple[int, str] | None:
    """Do the work of `lost`: look at every row of those columns for which a sample of rows was not enough."""
    columns = _nearly_constant(a)
    if not len(columns):
        return None
    low, high = _range(given, columns)
    span, size = high - low, np.maximum(high, -low)
    noise = NOISE * np.finfo(given.dtype).eps * size if given.dtype.kind == "f" else 0.0
    for i in np.flatnonzero((span > noise) & (2 * span < LEVELS * np.finfo(a.dtype).eps * size)):
        column = columns[i]
        moved = np.abs(given[:, column].astype(np.longdouble) - a[:, column]).max()
        if moved * LEVELS > span[i]:
            return int(column), (
                f"varies by {float(span[i]):.3g} around {float(size[i]):.3g}: {a.dtype} keeps next to none of it; "
                "centre it by subtracting its mean"
            )
    return None


@cache
def _digits(dtype: np.dtype) -> int:
    """Return the number of significant binary digits of a type."""
    return int(np.finfo(dtype).nmant + 1 if dtype.kind == "f" else 8 * dtype.itemsize)


def _nearly_constant(a: np.ndarray) -> np.ndarray:
    """Return the columns that may vary by little more than rounding errors, judged by a sample of the rows.

    Rounding moves a number by up to eps / 2 times its size. Let m be the largest in the sample, M that of the column.
    If M > 2 m, the column varies by M / 2 at least. If not, it is enough that the sample varies by 2 LEVELS eps m; and
    so does any sample with a zero, or with numbers of both signs.
    """
    least = 2 * LEVELS * float(np.finfo(a.dtype).eps)
    first = a[0]
    close: np.ndarray = np.abs(first - a[-1]) < least * np.abs(first)
    if not np.count_nonzero(close):  # for most data two rows are enough
        return close[:0]
    sample = a[:: -(-len(a) // SAMPLE)]
    low, high = np.minimum.reduce(sample), np.maximum.reduce(sample)
    return np.flatnonzero(close & (high - low < least * np.maximum(high, -low)))


def _range(given: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest number of each of the `columns`, exactly."""
    rows = max(1, BLOCK // len(columns))
    low = high = given[0, columns]
    for first in range(0, len(given), rows):
        block = given[first : first + rows, columns]
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    return low.astype(np.longdouble), high.astype(np.longdouble)
