"""Your own data: tables of features and labels from CSV and npz files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.casting import lost
from nnx.checks import choice, integer
from nnx.errors import FileFormatError, InputError, InputTypeError
from nnx.files import existing_file

from .archive import as_features, as_labels, read_archive
from .labels import Encoded, Task, encode
from .sheet import Sheet

KIND = "a CSV or npz file"


@dataclass(frozen=True, eq=False)
class Table:
    """Samples to learn from.

    Attributes:
        x: [N, F] float32, the features.
        y: [N] int64 class indices, or [N, 1] float32 numbers to predict.
        columns: the features' names; "column 1", "column 2" ... where the file has none.
        classes: the classes' names by index; empty for regression.
        task: "classification" or "regression".
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64] | NDArray[np.float32]
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    task: Task


def load_table(
    path: str | os.PathLike[str], *, task: str = "auto", label: str | None = None, header: bool | None = None
) -> Table:
    """Read features and labels from a CSV file, or from the arrays `x` (or `X`) and `y` of an npz file.

    In a CSV file the labels are the column called label, class, target or y (the first of these that there is), or
    the last column. All other columns are features, and must be numbers. Text labels, and whole numbers with few
    distinct values, are classes; the index of a class is its place among the names in order.

    Args:
        path: the file; .npz is numpy's, everything else is read as CSV (with commas, semicolons or tabs; UTF-8).
        task: "classification" or "regression" where "auto" decides wrongly.
        label: the name of the column of labels (CSV with a header only).
        header: whether a CSV file's first line holds names, where looking at it decides wrongly.

    Returns:
        A `Table`: x [N, F] float32, y [N] int64 or [N, 1] float32, and the names of columns and classes.

    Raises:
        FileNotFoundError: the file is not there.
        FileFormatError: the file is damaged, foreign, or holds something that cannot be learned from.
        InputError: an argument cannot be used.
    """
    choice(task, "load_table: task", ("auto", "classification", "regression"))
    file = existing_file("load_table", path, KIND)
    _check_options("load_table", file, label, header)
    return _from_archive(file, task) if _is_npz(file) else _from_sheet(Sheet(file, header), task, label)


def load_features(
    path: str | os.PathLike[str], columns: Sequence[str] | int, *, header: bool | None = None
) -> NDArray[np.float32]:
    """Read the features that a trained network expects; labels may be there or not, and are not read.

    Where both the file and `columns` have names, columns are found by name, in whatever order they are, and others
    are left alone. Otherwise they are taken by position, and one column more than expected is taken for the labels:
    the one called label, class, target or y, or else the last.

    Args:
        path: a CSV file, or an npz file with an array `x` (or `X`).
        columns: `Table.columns` of the training file, or just the number of features.
        header: whether a CSV file's first line holds names, where looking at it decides wrongly.

    Returns:
        x: [N, F] float32, in the order of `columns`.

    Raises:
        FileNotFoundError: the file is not there.
        FileFormatError: the file is damaged, foreign, or lacks features.
        InputError: an argument cannot be used.
    """
    expected = _expected_columns(columns)
    file = existing_file("load_features", path, KIND)
    _check_options("load_features", file, None, header)
    if _is_npz(file):
        x = as_features(file, read_archive(file, ("x", "X"))[0])
        if x.shape[1] != len(expected):
            raise FileFormatError(f"{file}: x has {x.shape[1]} features, expected {len(expected)} as in training")
        return x
    named = expected != _numbered(len(expected))
    sheet = Sheet(file, header, known=expected if named else ())
    by_name = named and sheet.names is not None
    return sheet.read(_by_name(sheet, expected) if by_name else _by_position(sheet, len(expected)))[0]


def _from_archive(path: Path, task: str) -> Table:
    x, y = read_archive(path, ("x", "X"), ("y",))
    features = as_features(path, x)
    _check_cast(path, features, x, _numbered(features.shape[1]))
    encoded = encode(as_labels(path, y, len(features)), task, lambda row: f"{path}: y[{row}]")
    return _table(features, encoded, _numbered(features.shape[1]))


def _from_sheet(sheet: Sheet, task: str, label: str | None) -> Table:
    if sheet.width < 2:
        raise FileFormatError(
            f"{sheet.path}: there is a single column, expected features and a label; "
            f"separate the columns by commas, semicolons or tabs"
        )
    column = _label_column(sheet, label)
    features = [i for i in range(sheet.width) if i != column]
    x, exact, labels, lines = sheet.read(features, column)
    names = tuple(sheet.names[i] for i in features) if sheet.names else _numbered(len(features))
    _check_cast(sheet.path, x, exact, names)
    encoded = encode(labels, task, lambda row: sheet.place(lines[row], column))
    return _table(x, encoded, names)


def _check_cast(path: Path, x: NDArray[np.float32], exact: NDArray[Any], names: tuple[str, ...]) -> None:
    """Refuse features that rounding makes constant: nothing could be learned from them."""
    if (found := lost(x, exact)) is not None:
        column, why = found
        raise FileFormatError(f"{path}: the feature {names[column]!r} {why}")


def _table(x: NDArray[np.float32], encoded: Encoded, columns: tuple[str, ...]) -> Table:
    y, classes, task = encoded
    return Table(x, y, columns, classes, task)


def _label_column(sheet: Sheet, label: str | None) -> int:
    """Return the index of the column of labels."""
    if label is None:
        column = sheet.label_column()
        return sheet.width - 1 if column is None else column
    if sheet.names is None or label not in sheet.names:
        there = "the file has no header" if sheet.names is None else f"the columns are {_few(sheet.names)}"
        raise InputError(f"load_table({sheet.path}, label={label!r}): there is no such column; {there}")
    return sheet.names.index(label)


def _by_name(sheet: Sheet, expected: tuple[str, ...]) -> list[int]:
    names = sheet.names or ()
    places = {name: column for column, name in enumerate(names)}
    missing = [name for name in expected if name not in places]
    if missing:
        raise FileFormatError(
            f"{sheet.path}: {_few(missing)} {'is' if len(missing) == 1 else 'are'} not among the columns "
            f"({_few(names)}), expected all {len(expected)} features of the training file; add the missing ones"
        )
    return [places[name] for name in expected]


def _by_position(sheet: Sheet, features: int) -> list[int]:
    columns = list(range(sheet.width))
    if sheet.width == features + 1:
        label = sheet.label_column()
        columns.pop(-1 if label is None else label)
    if len(columns) != features:
        raise FileFormatError(
            f"{sheet.path}: there are {sheet.width} columns, expected {features} features as in training, "
            f"and at most a label besides"
        )
    return columns


def _expected_columns(columns: Sequence[str] | int) -> tuple[str, ...]:
    """Return the names of the features expected; made up ones when only their number is known."""
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        return _numbered(integer(columns, "load_features: columns"))
    if not columns or not all(isinstance(name, str) for name in columns):
        raise InputTypeError(
            f"load_features(columns={columns!r}): expected the features' names, as in Table.columns, or their number"
        )
    return tuple(columns)


def _check_options(call: str, path: Path, label: object, header: object) -> None:
    """Check what only CSV files can be told."""
    if not (label is None or isinstance(label, str)):
        raise InputTypeError(f"{call}(label={label!r}): label is a {type(label).__name__}, expected a column's name")
    if not (header is None or isinstance(header, bool)):
        raise InputTypeError(f"{call}(header={header!r}): header is a {type(header).__name__}, expected True or False")
    if _is_npz(path) and not (label is None and header is None):
        raise InputError(f"{call}({path}): label and header are for CSV files; leave them out for npz")


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == ".npz"


def _numbered(features: int) -> tuple[str, ...]:
    return tuple(f"column {i + 1}" for i in range(features))


def _few(names: Sequence[str]) -> str:
    """Write out at most ten names."""
    return ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
