"""Label encoding: from a table's last column to class indices, or to numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnx.errors import FileFormatError

Task = Literal["classification", "regression"]
Encoded = tuple[NDArray[np.int64] | NDArray[np.float32], tuple[str, ...], Task]

MOST_CLASSES = 32  # whole numbers with more distinct values than this are taken for measurements


def encode(labels: list[str] | NDArray[Any], task: str, where: Callable[[int], str]) -> Encoded:
    """Turn labels into class indices or numbers.

    Args:
        labels: [N] strings, without blanks around them, or [N] numbers.
        task: "auto", "classification" or "regression". "auto" is classification for text, and for whole numbers with
            at most 32 distinct values and two rows for each on average; otherwise regression.
        where: says in words where a row's label stands, for messages.

    Returns:
        y: [N] int64 class indices, or [N, 1] float32 numbers.
        classes: the names by index, in order; empty for regression.
        task: "classification" or "regression".

    Raises:
        FileFormatError: a label cannot be used for this task.
    """
    if isinstance(labels, list):
        _present(labels, where)
        numbers = _numbers(labels)
    else:
        numbers = labels
    if numbers is not None:
        _finite(numbers, where)
    if task == "regression" or (task == "auto" and numbers is not None and not _looks_like_classes(numbers)):
        return _targets(labels, numbers, where), (), "regression"
    indices, classes = _by_name(list(labels)) if numbers is None else _by_value(numbers)
    if len(classes) == 1:
        raise FileFormatError(
            f"{where(0)} and all other labels are {classes[0]!r}, expected at least two classes; "
            f'is it the right column? For numbers to predict, say task="regression"'
        )
    return indices, classes, "classification"


def parse(cells: list[str]) -> list[float]:
    """Parse numbers.

    Raises:
        ValueError: one of the cells is no number.
    """
    if "_" in "".join(cells):  # float() takes 1_000, as Python's source does; in a table it is no number
        raise ValueError
    return list(map(float, cells))


def _numbers(labels: list[str]) -> NDArray[np.float64] | None:
    try:
        return np.array(parse(labels), dtype=np.float64)
    except ValueError:
        return None


def _present(labels: list[str], where: Callable[[int], str]) -> None:
    row = next((row for row, label in enumerate(labels) if label.lower() in ("", "nan")), None)
    if row is not None:
        raise FileFormatError(
            f"{where(row)}: the label is missing, expected a name or a number; remove or fill in this row"
        )


def _finite(numbers: NDArray[Any], where: Callable[[int], str]) -> None:
    if not (finite := np.isfinite(numbers)).all():
        row = int(np.argmin(finite))
        raise FileFormatError(
            f"{where(row)}: the label is {numbers[row]}, expected a finite number or a name; remove or fill in this row"
        )


def _looks_like_classes(numbers: NDArray[Any]) -> bool:
    distinct = np.unique(numbers)
    whole = numbers.dtype.kind != "f" or bool((distinct == np.floor(distinct)).all())
    return whole and len(distinct) <= min(MOST_CLASSES, len(numbers) // 2)


def _targets(
    labels: list[str] | NDArray[Any], numbers: NDArray[Any] | None, where: Callable[[int], str]
) -> NDArray[np.float32]:
    """Return the numbers to predict, [N, 1]."""
    if numbers is None:
        row = next(row for row, label in enumerate(labels) if _numbers([label]) is None)
        raise FileFormatError(
            f"{where(row)}: the label is {labels[row]!r}, expected a number for regression; "
            f'for names, say task="classification"'
        )
    with np.errstate(over="ignore"):
        targets = numbers.astype(np.float32)
    if not (finite := np.isfinite(targets)).all():
        row = int(np.argmin(finite))
        raise FileFormatError(f"{where(row)}: the label {numbers[row]} is too large for float32 (3.4e38); rescale it")
    return targets.reshape(-1, 1)


def _by_name(labels: list[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    classes = tuple(sorted(set(labels)))
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[label] for label in labels], dtype=np.int64), classes


def _by_value(numbers: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    values, indices = np.unique(numbers, return_inverse=True)
    names = tuple(str(int(value)) if value == int(value) else repr(float(value)) for value in values.tolist())
    return indices.astype(np.int64), names
