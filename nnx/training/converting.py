"""Conversion of rows that come from disk or in batches to the form that steps take; errors name a row's place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnx import casting, checks, targets
from nnx.backends.base import real_numbers
from nnx.errors import InputError

if TYPE_CHECKING:
    from nnx.training.trainable import Trainable

Where = Callable[..., str]  # where(row, part) names the place of a row's inputs (part 0), target (1) or weight (2)


class Converter:
    """Checks rows and converts them for steps: finite inputs in the model's type, targets as the loss takes them.

    The thread that trains makes it; the thread that reads calls it.

    Args:
        model: the model that takes the rows. who: the call, for messages. class_weight: a weight for each class.
        weighted: whether each row comes with a weight.
    """

    def __init__(self, model: Trainable, who: str, class_weight: Any = None, weighted: bool = False) -> None:
        self._who, self._model = who, model
        self.loss, self.dtype = model.loss, model.dtype
        self._n_outputs = model.n_outputs
        self.unseen = False  # whether the next inputs are the first, which are checked for variation lost by casting
        ignoring = getattr(self.loss, "ignore_index", None) is not None
        self.weighted = ignoring
        self.weigh(class_weight, weighted)

    def weigh(self, class_weight: Any, weighted: bool) -> None:
        """Set the class weights, and whether each row comes with a weight."""
        self._classes: Any = class_weight
        self.weighted = self.weighted or weighted or class_weight is not None

    def inputs(self, x: Any, where: Where) -> np.ndarray:
        """Return inputs [N, I] in the model's type; raise InputError if one is not finite."""
        place = f"{self._who}: {where(0)}"
        given, a = self._model._shaped(x, place, place)
        if given.dtype.kind == "f" and not np.isfinite(a).all():  # integers are always finite
            row, column = (int(i) for i in np.argwhere(~np.isfinite(a))[0])
            value = given[row, column]
            what = "expected finite numbers; drop or fill it first"
            if np.isfinite(value):
                what = f"too large for {a.dtype}; scale it, or use dtype='float64'"
            raise InputError(f"{self._who}: {where(row)}, column {column} is {value}: {what}")
        for layer in self._model._embeddings:
            layer.check_codes(a, self._who, where)
        if self.unseen:
            self.unseen = False
            casting.check_lost(a, given, x, f"{self._who}: x")
        return np.ascontiguousarray(a)

    def targets(self, y: Any, x: np.ndarray, where: Where) -> np.ndarray:
        """Return targets: int64 [N], or numbers in the model's type; distributions stay so, even if all are one-hot."""
        given = targets.given(self._model._from_device(y), f"{self._who}: {where(0, 1)}")
        if not given.shape or len(given) != len(x):
            raise InputError(
                f"{self._who}: {where(0, 1)}: x has {len(x)} rows, y has shape {given.shape}; expected one target for "
                "each row"
            )
        if self._n_outputs is None:
            self._n_outputs = self._model._output_width(x)
        try:
            target = self._prepared(given)
        except InputError as error:
            row, reason = self._first_refused(given, error)
            raise InputError(f"{self._who}: {where(row, 1)}: {reason}") from error
        if target.ndim == 1 and target.dtype.kind == "i" and given.ndim == 2 and given.shape[1] > 1:
            target = np.eye(self._n_outputs, dtype=self.dtype)[target]
        return target

    def _prepared(self, given: np.ndarray) -> np.ndarray:
        target: np.ndarray = self.loss.host_targets(given, (len(given), self._n_outputs), self.dtype)
        return target

    def _first_refused(self, given: np.ndarray, error: InputError) -> tuple[int, str]:
        """Return the number of the first row that the loss refuses, and the reason."""
        good, bad = 0, len(given)
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                self._prepared(given[good:middle])
                good = middle
            except InputError:
                bad = middle
        try:
            self._prepared(given[good:bad])
        except InputError as alone:
            error = alone
        reason = str(error).replace(" (row 0)", "").replace("row 0 of the targets", "the target")
        return good, re.sub(r" at \[0, (\d+)\]", r" in column \1", reason)

    def weights(self, given: Any, y: Any, target: np.ndarray, where: Where) -> np.ndarray:
        """Return the weight of each sample, float64 [N]."""
        weights = np.ones(len(target))
        if given is not None:
            a = real_numbers(self._model._from_device(given), f"{self._who}: {where(0, 2)}")
            if a.shape not in ((len(target),), (len(target), 1)):
                raise InputError(
                    f"{self._who}: {where(0, 2)}: weights have shape {a.shape}, expected one for each of {len(target)} "
                    "samples"
                )
            weights = a.astype(np.float64).reshape(-1)
            good = np.isfinite(weights) & (weights >= 0)
            if not good.all():
                row = int(np.flatnonzero(~good)[0])
                raise InputError(
                    f"{self._who}: {where(row, 2)}: a weight is {weights[row]:g}; expected a finite number, 0 or more"
                )
        counted = self._counted(y)
        if self._classes is not None:
            labels, classes = self._model._classes(target, self._who, self._n_outputs)
            by_class = self._by_class(classes)[labels]
            unknown = np.isnan(by_class) & (True if counted is None else counted > 0)
            if unknown.any():
                row = int(np.flatnonzero(unknown)[0])
                raise InputError(f"{self._who}: {where(row, 1)}: class_weight has no weight for class {labels[row]}")
            weights = weights * np.nan_to_num(by_class)
        return weights if counted is None else weights * counted

    def _counted(self, y: Any) -> np.ndarray | None:
        """Return 0 for samples that the loss ignores, 1 for others; None if all count."""
        counted: np.ndarray | None = self.loss.counted(self._model._from_device(y))
        return counted

    def _by_class(self, classes: Sequence[int]) -> np.ndarray:
        nan = float("nan")
        unknown = [name for name in self._classes if name not in classes]
        if unknown:
            raise InputError(f"{self._who}: class_weight: {unknown[0]!r} is no class; expected 0 .. {len(classes) - 1}")
        what = f"{self._who}: class_weight"
        return np.array([checks.real(self._classes[c], f"{what}[{c}]") if c in self._classes else nan for c in classes])

    def apart(self, x: np.ndarray, y: Any, weights: Any, where: Where) -> tuple[np.ndarray, np.ndarray]:
        """Return targets and weights of rows whose inputs were not read: x has no columns."""
        target = self.targets(y, x, where)
        return target, self.weights(weights, y, target, where)

    def class_counts(self, x: np.ndarray, y: Any, where: Where) -> np.ndarray:
        """Return the number of rows of each class, without those that the loss ignores; arguments as for `apart`."""
        target = self.targets(y, x, where)
        labels, classes = self._model._classes(target, self._who, self._n_outputs)
        return np.bincount(labels, self._counted(y), minlength=len(classes))

    def all(self, x: Any, y: Any, weights: Any, where: Where) -> list[np.ndarray]:
        """Return inputs, targets and, if samples are weighted, weights."""
        inputs = self.inputs(x, where)
        target = self.targets(y, inputs, where)
        return [inputs, target, *([self.weights(weights, y, target, where)] if self.weighted else [])]
