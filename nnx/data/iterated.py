"""Batches that come one after another: from a function called for each epoch, or from an iterable object."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np

from nnx import checks
from nnx.errors import InputError, InputTypeError

from .found import found, pair
from .source import Source

ARRAYS = ("shape", "__array__", "__array_interface__", "__dlpack__", "columns", "dtype")  # what only arrays have


class Iterated:
    """Batches (x, y) or (x, y, weights) of any sizes, made by the user's code.

    Args:
        given: an iterable, or a function that returns one. who: the call, for messages.
    """

    def __init__(self, given: Any, who: str) -> None:
        self._given, self.who = given, who
        once = not callable(given) and hasattr(type(given), "__next__")
        self.once = type(given).__name__ if once else ""  # its type, if it can be iterated only once

    def check_epochs(self, epochs: int) -> None:
        """Raise InputError for several epochs of an object that can be iterated only once."""
        if self.once and epochs > 1:
            raise InputError(
                f"{self.who}: a {self.once} gives its batches once, and epochs={epochs} was asked for; give the "
                "function that makes it, as fit(lambda: batches()), so that it is called for each epoch"
            )

    def for_validation(self, who: str, epochs: int) -> Iterated:
        """Return the same batches, to be evaluated by a fit after each of so many epochs; see `Source`."""
        self.check_epochs(epochs)
        return self

    def head(self, rows: int) -> None:
        """Return None in the place of the first rows: the batches may come only once."""

    def facts(self) -> str:
        """Return the facts by which processes compare their data: nothing is known before the batches come."""
        return "batches"

    def begin(self) -> Iterator[Any]:
        """Return an iterator that begins at the first batch."""
        made = self._given() if callable(self._given) else self._given
        if not isinstance(made, Iterable):
            raise InputTypeError(f"{self.who}: the function returned {made!r:.60}; expected something to iterate")
        return iter(made)

    @property
    def expected(self) -> float:
        """The number of batches, if the object has a length; else inf."""
        try:
            return float(len(self._given)) or np.inf
        except Exception:  # an object without a length may raise anything
            return np.inf


def given(x: Any, y: Any, weights: Any, label: str | None, who: str) -> Source | Iterated | None:
    """Return the data that `fit` and others were given as a `Source` or `Iterated`; None if they are arrays."""
    if isinstance(x, Iterated):
        return x
    if isinstance(x, Source):
        _refuse_others(who, x, y, weights)
        if label is not None:
            raise InputError(f"{who}: label={label!r} was given besides {x!r:.60}; give it to nnx.data.shards")
        return x
    if isinstance(x, str | os.PathLike):
        if label is not None or (y is None and weights is None):
            _refuse_others(who, x, y, weights)
            return found(x, label, None, learning=who != "predict")
        return pair(x, y, weights)
    if label is not None:
        raise InputError(f"{who}: label={label!r} is for Parquet files; give their path, or y")
    if isinstance(x, np.memmap) and x.ndim > 1 and (y is None or isinstance(y, str | os.PathLike | np.ndarray)):
        return pair(x, y, weights)
    if y is not None or not _gives_batches(x):
        return None
    _refuse_others(who, x, y, weights)
    fault = checks.call_fault(x) if callable(x) else None
    if fault is not None:
        raise InputTypeError(
            f"{who}: the function {getattr(x, '__name__', x)!r:.60} is called without arguments, to make the batches "
            f"of an epoch, and cannot be ({fault}); give them, as {who}(lambda: function(...))"
        )
    return Iterated(x, who)


def _gives_batches(x: Any) -> bool:
    if isinstance(x, Mapping | Set | bytes | bytearray | range) or any(hasattr(type(x), name) for name in ARRAYS):
        return False
    if isinstance(x, list | tuple):  # a list of tuples of numbers is a list of rows
        return bool(x) and all(isinstance(batch, tuple) and hasattr((*batch, 0)[0], "__len__") for batch in x)
    return not isinstance(x, type) and (callable(x) or isinstance(x, Iterable))


def _refuse_others(who: str, x: Any, y: Any, weights: Any) -> None:
    for name, value in (("y", y), ("sample_weight", weights)):
        if value is not None:
            raise InputError(f"{who}: {name} was given besides {x!r:.60}, which brings its own; leave it out")
