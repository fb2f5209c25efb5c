"""Targets: labels, distributions or numbers to learn, checked and converted to the form that the losses take."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx import checks
from nnx.backends.base import host_array, real_numbers
from nnx.backends.inputs import LABELS
from nnx.backends.operation_table import QUIET
from nnx.errors import InputError

Array = Any
SUM_TOLERANCE = 1e-3  # how far a row of a distribution may be from adding up to 1


def categorical(y: Any, samples: int, classes: int, who: str, ignored: int | None = None) -> np.ndarray:
    """Return class indices int64 [N], or, for soft labels, distributions [N, C].

    Args:
        y: class indices [N] or [N, 1] of any integer type (or whole floats), one-hot rows, or rows of
            probabilities [N, C].
        samples, classes: N and C. who: the caller, for messages.
        ignored: an index that stands for no class; it becomes 0.

    Raises:
        InputError: another shape, an index outside 0 .. C - 1, or a row that is no distribution.
    """
    a = given(y, f"{who}: targets")
    a = a if a.dtype.kind in "iub" else host_array(a)
    if a.ndim == 2 and a.shape[1] == 1 and classes > 1:
        a = a[:, 0]
    if a.ndim == 1:
        _count(a, samples, who)
        return _indices(a if ignored is None else np.where(a == ignored, 0, a), classes, who)
    if a.ndim != 2 or a.shape[1] != classes:
        raise InputError(
            f"{who}: targets have shape {a.shape}, expected class indices ({samples},) or one row of {classes} for "
            f"each sample ({samples}, {classes})"
        )
    _count(a, samples, who)
    return _distributions(a, who)


def counted(y: Any, ignored: int, who: str) -> np.ndarray | None:
    """Return 0 for each sample whose label is `ignored`, 1 for all others: float64 [N]; None if there are none."""
    a = given(y, f"{who}: targets")
    if a.ndim == 2 and a.shape[1] != 1:
        return None  # distributions, or one-hot rows
    others = a.reshape(-1) != ignored
    return None if others.all() else others.astype(np.float64)


def numeric(y: Any, shape: tuple[int, ...], dtype: str, who: str, *, shares: bool = False) -> np.ndarray:
    """Return targets of exactly the outputs' shape [N, O]; they may be given as [N] if there is one output.

    Args:
        shares: whether they must be within 0 .. 1 (for binary cross-entropy).

    Raises:
        InputError: another shape (nothing is broadcast), a number that is not finite, or not within 0 .. 1.
    """
    exact = given(y, f"{who}: targets")
    a = host_array(exact, dtype)
    if a.ndim == 1 and shape[1] == 1:
        a = a[:, None]
    if a.shape != shape:
        raise InputError(
            f"{who}: targets have shape {a.shape}, expected that of the outputs, {shape}; nothing is broadcast"
        )
    checks.finite(a, who, "targets", exact.reshape(a.shape), y)
    if shares and (a.min() < 0 or a.max() > 1):
        raise InputError(f"{who}: targets reach from {a.min():g} to {a.max():g}, expected numbers within 0 .. 1")
    return a


def plain(y: Any, shape: tuple[int, ...], dtype: str, who: str) -> np.ndarray:
    """Return targets for a user-defined loss, which may mean anything.

    Integers [N] for a model of several outputs are taken to be class indices and stay int64 [N]. All others become
    numbers of type `dtype`, in the shape given; [N] for a single output becomes [N, 1], since NumPy's difference of
    [N, 1] and [N] is [N, N].
    """
    exact = given(y, f"{who}: targets")
    _count(exact, shape[0], who)
    if exact.ndim == 1 and exact.dtype.kind in "iub" and shape[1] > 1:
        return exact.astype(np.int64)
    a = host_array(exact, dtype)
    checks.finite(a, who, "targets", exact, y)
    return a[:, None] if a.ndim == 1 and shape[1] == 1 else a


def given(y: Any, what: str) -> np.ndarray:
    """Return targets as a NumPy array of real numbers of any type; errors begin with `what`, such as "fit: y"."""
    return real_numbers(y, what, words=LABELS)


def _count(a: np.ndarray, samples: int, who: str) -> None:
    if len(a) != samples:
        raise InputError(f"{who}: {len(a)} targets for {samples} samples; expected one for each")


def _indices(a: np.ndarray, classes: int, who: str) -> np.ndarray:
    """Return labels as a checked int64 copy: kernels index with them, so nobody may change them afterwards."""
    a = np.array(a, a.dtype.newbyteorder("="))
    if a.dtype.kind == "f" and not np.array_equal(a, np.floor(a)):
        row = int(np.flatnonzero(a != np.floor(a))[0])
        raise InputError(
            f"{who}: label {a[row]:.15g} is no whole number (row {row}); expected class indices 0 .. {classes - 1}"
        )
    if a.min() < 0 or a.max() >= classes:
        row = int(np.flatnonzero((a < 0) | (a >= classes))[0])
        counted = a.min() == 1 and a.max() == classes
        raise InputError(
            f"{who}: label {a[row]:.15g} is out of range (row {row}); expected 0 .. {classes - 1}, for {classes} "
            f"classes; {'count labels from 0, as y - 1' if counted else 'leave rows without a label out'}"
        )
    return a.astype(np.int64, copy=False)


@QUIET
def _distributions(a: np.ndarray, who: str) -> np.ndarray:
    a = a.astype(a.dtype if a.dtype.kind == "f" else np.float32, copy=False)  # uint8 would wrap when negated
    checks.finite(a, who, "targets")
    sums = a.sum(axis=1)
    bad = np.flatnonzero((np.abs(sums - 1) > SUM_TOLERANCE) | (a.min(axis=1) < 0))
    if bad.size:
        raise InputError(
            f"{who}: row {bad[0]} of the targets, {np.array2string(a[bad[0]], threshold=8)}, is no distribution; "
            "expected one-hot rows or probabilities that add up to 1"
        )
    if np.all(a.max(axis=1) == 1):
        a = a.argmax(axis=1).astype(np.int64)
    return a
