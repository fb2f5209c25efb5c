"""Weights of samples and of classes, checked and converted to the form that training steps take.

A weighted mean is sum(w * loss) / sum(w): a sample of weight 2 counts as if it were there twice, one of weight 0 as if
it were not there. Steps take the plain mean over their rows, so each row's loss is multiplied by its factor:
w / sum(w) times the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnx import checks
from nnx.backends.base import real_numbers
from nnx.errors import InputError, InputTypeError

BALANCED = "balanced"


def checked(given: Any, samples: int, who: str) -> np.ndarray:
    """Return the weights of samples as a new array, float64 [N].

    Args:
        given: [N] or [N, 1], of any number type.

    Raises:
        InputError: another shape, a number below 0 or not finite, or nothing but zeros.
    """
    what = f"{who}: sample_weight"
    if isinstance(given, str) and given == BALANCED:
        raise InputTypeError(
            f"{what}={given!r}: expected one number for each sample; class_weight={given!r} may be meant"
        )
    a = real_numbers(given, what)
    if a.shape not in ((samples,), (samples, 1)):
        raise InputError(f"{what} has shape {a.shape}, expected one number for each sample, ({samples},)")
    weights = np.array(a, np.float64).reshape(samples)
    checks.finite(weights, who, "sample_weight")
    if weights.min() < 0:
        row = int(np.flatnonzero(weights < 0)[0])
        raise InputError(f"{what}[{row}] is {weights[row]:g}; expected 0, for a sample that does not count, or more")
    with np.errstate(over="ignore"):
        total = weights.sum()
    if total == 0:
        raise InputError(f"{what} holds nothing but zeros, so no sample would count; give one of them more")
    if not np.isfinite(total):
        raise InputError(f"{what} adds up to more than float64 holds; divide it by its largest number")
    return weights


def check_classes(given: Any, who: str) -> None:
    """Refuse a class_weight that is neither "balanced" nor a dictionary."""
    if isinstance(given, str):
        checks.choice(given, f"{who}: class_weight", [BALANCED])
    elif not isinstance(given, Mapping):
        raise InputTypeError(f"{who}: class_weight={given!r}: expected 'balanced' or a dictionary of class: weight")


def balanced(counts: np.ndarray) -> np.ndarray:
    """Return a weight for each class so that all classes count alike, given how many samples each has."""
    return np.asarray(counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)))


def of_classes(
    given: Any, labels: np.ndarray, classes: Sequence[Any] | np.ndarray, who: str, counted: np.ndarray | None = None
) -> np.ndarray:
    """Return the weight of each sample by its class, float64 [N].

    Args:
        given: "balanced": a sample's weight is N / (number of classes that occur * samples of its class), so that all
            classes count alike. Or a dict with the weight of each class that occurs, by its name.
        labels: int64 [N], indices into `classes`. classes: the names. counted: 0 for samples to ignore, 1 for others.

    Raises:
        InputError: a class that occurs has no weight, there is no such class, or a weight cannot be used.
    """
    check_classes(given, who)
    what, known = f"{who}: class_weight", list(np.asarray(classes).tolist())
    counts = np.bincount(labels, counted, minlength=len(known))
    if isinstance(given, str):
        return np.asarray(balanced(counts)[labels], np.float64)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(f"{what}: {unknown[0]!r} is no class; expected {_few(known)}")
    missing = [name for name, count in zip(known, counts, strict=True) if count and name not in given]
    if missing:
        raise InputError(f"{what} has no weight for class {missing[0]!r}; expected one for each of {_few(known)}")
    by_class = np.array([checks.real(given.get(name, 0.0), f"{what}[{name!r}]") for name in known])
    return np.asarray(by_class[labels], np.float64)


def product(who: str, *weights: np.ndarray | None) -> np.ndarray | None:
    """Return the product of several weights of each sample, leaving out those that are None; None if all are."""
    given = [each for each in weights if each is not None]
    if not given:
        return None
    with np.errstate(over="ignore"):
        both: np.ndarray = np.multiply.reduce(given)
        total = both.sum()
    if not 0 < total < np.inf:
        raise InputError(
            f"{who}: what the samples count, by sample_weight, class_weight and ignore_index, adds up to {total:g}; "
            "expected a finite number above 0"
        )
    return both


def normalized(weights: np.ndarray, batches: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the factor of each sample, float64 [N]: its weight over the mean weight in its batch; 0 if that is 0.

    Args:
        weights: [N], batch after batch. batches: how many samples each batch has.
    """
    sizes = np.asarray(batches, np.int64)
    means = sums(weights, sizes) / sizes
    factors: np.ndarray = weights / np.repeat(np.where(means > 0, means, 1), sizes)
    return factors


def sums(weights: np.ndarray, batches: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the sum of the weights of each batch, float64."""
    sizes = np.asarray(batches, np.int64)
    return np.asarray(np.add.reduceat(weights, np.cumsum(sizes) - sizes))


def _few(names: list[Any]) -> str:
    shown = ", ".join(map(repr, names[:10]))
    return shown if len(names) <= 10 else f"{shown}, ... ({len(names)} in all)"
