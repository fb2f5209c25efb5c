"""The book's accuracies (chapter 18; over several batches, chapter 19)."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx import targets
from nnx.arguments import explained
from nnx.backends.base import real_numbers
from nnx.errors import InputError

Array = Any


class Accuracy:
    """Base class of the accuracies. `compare` of a subclass tells which predictions are right.

    Attributes:
        accumulated_sum, accumulated_count: right predictions and all, since `new_pass`.
    """

    accumulated_sum: int = 0
    accumulated_count: int = 0

    def init(self, y: Any, reinit: bool = False) -> None:
        """Compute what the accuracy needs from all targets, before training."""

    def compare(self, predictions: Any, y: Any) -> Array:
        """Tell which predictions are right: bool, [N] or [N, O]."""
        raise NotImplementedError

    def calculate(self, predictions: Any, y: Any) -> Any:
        """Return the share of right predictions."""
        comparisons = self.compare(predictions, y)
        self.accumulated_sum += int(np.sum(comparisons))
        self.accumulated_count += comparisons.size
        return np.mean(comparisons)

    def calculate_accumulated(self) -> float:
        """Return the share of right predictions since `new_pass`."""
        if not self.accumulated_count:
            raise InputError(f"{type(self).__name__}: calculate_accumulated() was called before any calculate()")
        return self.accumulated_sum / self.accumulated_count

    def new_pass(self) -> None:
        """Forget the predictions counted so far."""
        self.accumulated_sum, self.accumulated_count = 0, 0


class Accuracy_Categorical(Accuracy):
    """The share of predictions that equal the targets.

    Args:
        binary: predictions and targets are 0 or 1 for each output [N, O], not one class for each sample.
    """

    @explained
    def __init__(self, *, binary: bool = False) -> None:
        self.binary = binary

    def compare(self, predictions: Any, y: Any) -> Array:
        """Tell which predictions [N] (binary: [N, O]) equal y: classes [N], or one-hot rows [N, C]."""
        y = targets.given(y, f"{type(self).__name__}: y")
        if not self.binary and y.ndim == 2 and y.shape[1] > 1:
            y = np.argmax(y, axis=1)
        predictions, y = _alike(predictions, y, type(self).__name__)
        return predictions == y


class Accuracy_Regression(Accuracy):
    """The share of predictions within `precision` of the target.

    Attributes:
        precision: the targets' standard deviation / 250, set by `init`.
    """

    precision: Any = None

    def init(self, y: Any, reinit: bool = False) -> None:
        """Compute the precision from targets y, the first time or with `reinit`."""
        if self.precision is None or reinit:
            self.precision = np.std(targets.given(y, f"{type(self).__name__}: y")) / 250

    def compare(self, predictions: Any, y: Any) -> Array:
        """Tell which predictions [N, O] are near enough."""
        if self.precision is None:
            raise InputError("Accuracy_Regression: no precision yet; call init(y) with all targets first")
        predictions, y = _alike(predictions, y, type(self).__name__)
        return np.absolute(predictions - y) < self.precision


def _alike(predictions: Any, y: Any, who: str) -> tuple[Array, Array]:
    """Return both in one shape: [N] and [N, 1] are the same, and nothing else is broadcast."""
    given = real_numbers(predictions, f"{who}: predictions"), targets.given(y, f"{who}: y")
    first, second = (a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a for a in given)
    if first.shape != second.shape or not first.size:
        raise InputError(
            f"{who}: predictions have shape {given[0].shape}, targets {given[1].shape}; expected one for each"
        )
    return first, second
