"""Label encoding: from a table's column of labels to class indices, or to numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nnx.errors import FileFormatError

from .columns import Column, digits_of, short
from .kinds import are_codes
from .written import SHARE, decorated, numbers_in

Task = Literal["classification", "regression"]

MOST_CLASSES = 32  # integers with more distinct values than this are measurements, not classes
ODD = 0.05  # if fewer labels than this share are written with $ or as 1,000, that is taken for a mistake
NAMED = 0.05  # "none" and "-" are classes if they make up this share of the labels
ENOUGH = 10  # rows that are needed to tell free text from classes


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be learned.

    Attributes:
        y: [N] int64 class indices, or [N, 1] float64 numbers.
        classes: the names by index, in order; empty for regression.
        task: "classification" or "regression".
    """

    y: NDArray[np.int64] | NDArray[np.float64]
    classes: tuple[str, ...]
    task: Task


def encode(column: Column, task: str, where: Callable[[int], str], decimal: str = ".") -> Target:
    """Turn labels into class indices or numbers.

    "auto" means regression if nine labels of ten are numbers, and no codes such as 007; but classification if they are
    integers with at most 32 distinct values and on average two rows for each. Anything else is classification.

    Args:
        column: the labels. task: "auto", "classification" or "regression".
        where: returns in words the place of a row's label, for messages. decimal: the expected decimal mark.

    Raises:
        FileFormatError: a label is missing, or cannot be used for this task.
    """
    _check_present(column, where)
    numbers, _, unit, _ = numbers_in(column, decimal)
    numeric = not are_codes(column, numbers)
    mostly = numeric and np.count_nonzero(~np.isnan(numbers)) >= SHARE * len(numbers)
    if mostly or task == "regression":
        _check_finite(numbers, where)
    if task == "regression":
        _check_numbers(column, numbers, where)
        return Target(numbers.reshape(-1, 1), (), "regression")
    if task == "auto" and mostly:
        _check_alike(column, numbers, where)
        if not _looks_like_classes(numbers):
            return Target(numbers.reshape(-1, 1), (), "regression")
    elif task == "auto":
        _refuse_free_text(column, where)
    plain = mostly and not unit and not np.isnan(numbers).any()
    y, classes = _by_value(numbers) if plain else _by_name(column)
    if len(classes) == 1:
        numbers_wanted = f", or, for numbers to predict, {_say('regression')}" if mostly else ""
        raise FileFormatError(
            f"{where(0)} and all other labels are {short(classes[0])}, expected at least two classes; "
            f"name another column as the label{numbers_wanted}"
        )
    return Target(y, classes, "classification")


def _say(task: Task) -> str:
    return f'say --task {task}, or task="{task}" in Python'


def _check_present(column: Column, where: Callable[[int], str]) -> None:
    missing = column.missing
    if column.numbers is None and missing.any():
        names = [v for v, n in zip(column.values, column.counts, strict=True) if v.lower() in ("none", "-", "--")
                 and n > 1 and n >= NAMED * len(column)]  # fmt: skip
        missing = missing & ~np.isin(column.codes, [column.values.index(name) for name in names])
    if not missing.any():
        return
    row, count = int(np.argmax(missing)), int(missing.sum())
    cell = (
        "nan"
        if column.numbers is not None
        else f"missing ({short(column.text[row])})"
        if column.text[row]
        else "missing"
    )
    others = f" (and {count - 1} more)" if count > 1 else ""
    raise FileFormatError(
        f"{where(row)}: the label is {cell}{others}, expected a name or a finite number; remove or fill in "
        f"{'these rows' if count > 1 else 'this row'}"
    )


def _check_finite(numbers: NDArray[np.float64], where: Callable[[int], str]) -> None:
    if (infinite := np.isinf(numbers)).any():
        row = int(np.argmax(infinite))
        raise FileFormatError(
            f"{where(row)}: the label is {numbers[row]}, expected a finite number or a name; remove or fill in this row"
        )


def _check_numbers(column: Column, numbers: NDArray[np.float64], where: Callable[[int], str]) -> None:
    if (odd := np.isnan(numbers)).any():
        row = int(np.argmax(odd))
        raise FileFormatError(
            f"{where(row)}: the label is {short(column.text[row])}, expected a number for regression; "
            f"for names, {_say('classification')}"
        )


def _check_alike(column: Column, numbers: NDArray[np.float64], where: Callable[[int], str]) -> None:
    """Refuse single labels that are not numbers, or are written differently from all others."""
    odd, dressed = np.isnan(numbers), decorated(column)
    if dressed.sum() < ODD * len(numbers):
        odd = odd | dressed
    if odd.any():
        row = int(np.argmax(odd))
        raise FileFormatError(
            f"{where(row)}: the label is {short(column.text[row])}, expected a plain number as in "
            f"{len(odd) - int(odd.sum()):,} of {len(odd):,} rows; mend this cell or remove its row, or, where the "
            f"labels are names, {_say('classification')}"
        )


def _refuse_free_text(column: Column, where: Callable[[int], str]) -> None:
    rows, distinct = len(column), len(column.values)
    if rows >= ENOUGH and distinct > rows / 2:
        raise FileFormatError(
            f"{where(0)}: the labels are {distinct:,} different texts in {rows:,} rows, such as "
            f"{short(column.text[0])}: too many for classes; name another column as the label, or "
            f"{_say('classification')}"
        )


def _looks_like_classes(numbers: NDArray[np.float64]) -> bool:
    distinct = np.unique(numbers)
    whole = bool((distinct == np.floor(distinct)).all())
    return whole and len(distinct) <= min(MOST_CLASSES, len(numbers) // 2)


def _by_name(column: Column) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    classes = tuple(sorted(column.values))
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[value] for value in column.values], dtype=np.int64)[column.codes], classes


def _by_value(numbers: NDArray[np.float64]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    values, indices = np.unique(numbers, return_inverse=True)
    return indices.astype(np.int64), tuple(map(digits_of, values.tolist()))
