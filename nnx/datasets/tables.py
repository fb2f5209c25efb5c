"""Your own data: tables of features and labels from files and frames."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnx.arguments import explained
from nnx.backends.memory import physical
from nnx.checks import choice, integer
from nnx.errors import FileFormatError, InputError, InputTypeError
from nnx.files import existing_file

from .archive import X_NAMES, as_features, as_labels, read_archive, read_parts
from .columns import Column, numbered
from .frames import from_frame, is_frame
from .matching import made_up, plain_numbers, prepare
from .preparation import Preparation
from .reading import KIND, read_rows
from .target import Task, encode
from .understanding import Wishes, understood

Source = str | os.PathLike[str] | Any
Names = str | int | Sequence[str | int]
NAME = 64  # bytes of a column's name, roughly
ENOUGH = 1e-3  # float32 may change a column's numbers by so much of their standard deviation


@dataclass(frozen=True, eq=False)
class Table:
    """Samples to learn from.

    Attributes:
        x: [N, F] float32, the features, all finite; float64 where float32 would lose what varies in them.
        y: [N] int64 class indices, or [N, 1] float32 (or float64, as above) numbers to predict.
        columns: the features' names, such as "age", "color=red" and "age is missing"; "column 1", "column 2" ... where
            the file has none.
        classes: the classes' names by index; empty for regression.
        task: "classification" or "regression".
        label: the name of the column of labels.
        preparation: how the file's columns become features; `load_features` applies it to other files. None for arrays,
            which are used as they are.
        notes: what was decided while reading, for the user.
    """

    x: NDArray[np.float32] | NDArray[np.float64]
    y: NDArray[np.int64] | NDArray[np.float32] | NDArray[np.float64]
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    task: Task
    label: str = ""
    preparation: Preparation | None = None
    notes: tuple[str, ...] = ()


@explained
def load_table(
    source: Source,
    *,
    task: str = "auto",
    label: str | int | None = None,
    header: bool | None = None,
    drop: Names = (),
    keep: Names = (),
    categorical: Names = (),
) -> Table:
    """Read features and labels, ready to learn from.

    The labels are the column called label, class, target or y (the first of these that exists), or else the last
    column. Labels that are text, or integers with few distinct values, are classes; the index of a class is its place
    in the sorted list of names. The kind of every other column is decided by all of its cells. Numbers stay numbers;
    blanks are filled with the median, and another feature says where. True and False become 1 and 0, dates the days
    since 1970, and categories one feature for each name. Columns that are constant, number the rows, or hold free text
    are left out: `preparation.columns` says which and why.

    Args:
        source: a file: CSV (any separator, decimal commas, compressed), Excel, JSON, Parquet, or numpy's npz with `x`
            and `y`; or a frame of pandas, polars or pyarrow.
        task: "classification" or "regression", if "auto" decides wrongly.
        label: the column of labels, by name or by position: 1 is the first, -1 the last.
        header: whether a CSV file's first line holds names, if that is detected wrongly.
        drop: columns not to use. keep: columns to use although they look like ids or free text.
        categorical: columns whose numbers are names of categories.

    Returns:
        A `Table`: x [N, F], y [N] or [N, 1], and the names of columns and classes.

    Raises:
        FileNotFoundError: the file is not there.
        FileFormatError: the file is damaged, of another format, or holds something that cannot be learned from.
        InputError: an argument cannot be used. MissingExtra: a package that reads such files is not installed.
    """
    _check_types("load_table", label, header)
    label = None if label is None else _plain(label)
    wishes = Wishes(label, choice(task, "load_table: task", ("auto", "classification", "regression")),
                    _listed("drop", drop), _listed("keep", keep), _listed("categorical", categorical))  # fmt: skip
    if is_frame(source):
        _refuse_header("load_table", header)
        reading = understood(from_frame(source), wishes)
    else:
        file = existing_file("load_table", source, KIND)
        if is_npz(file):
            _refuse_options("load_table", file, label, header, wishes)
            return arrays(file, task)[0]
        reading = understood(read_rows(file, header), wishes)
    preparation, x = reading.learn()
    target = reading.target
    y = target.y if target.task == "classification" else narrowed(target.y)
    return Table(
        narrowed(x), y, preparation.features, target.classes, target.task, reading.label, preparation, reading.notes
    )  # fmt: skip


@explained
def load_features(
    source: Source, columns: Table | Preparation | Sequence[str] | int, *, header: bool | None = None
) -> NDArray[np.float32] | NDArray[np.float64]:
    """Read the features that a trained network expects; labels need not be there, and are not read.

    Columns are found by name, in any order; other columns are ignored. A file without names must have the columns of
    the training file in the same order, with or without the label. Blanks are filled, and categories and dates become
    numbers, as in training.

    Args:
        source: a file or a frame, as for `load_table`.
        columns: the `Table` of the training file, or its `preparation`; or, if all features are numbers, their names,
            or just how many there are.
        header: whether a CSV file's first line holds names, if that is detected wrongly.

    Returns:
        x: [N, F] float32 in the order of training, or float64 where float32 would lose what varies.

    Raises:
        FileNotFoundError: the file is not there.
        FileFormatError: the file is damaged or of another format, lacks features, or has some of another kind.
        InputError: an argument cannot be used.
    """
    return narrowed(read_features(source, columns, header)[0])


def read_features(
    source: Source, columns: Table | Preparation | Sequence[str] | int, header: bool | None = None
) -> tuple[NDArray[np.float64], list[str]]:
    """Do what `load_features` does, but return float64, and notes for the user."""
    if isinstance(columns, Table):
        columns = columns.preparation or columns.columns
    expected = columns if isinstance(columns, Preparation) else _expected_columns(columns)
    _check_types("load_features", None, header)
    if is_frame(source):
        _refuse_header("load_features", header)
        rows = from_frame(source)
    else:
        file = existing_file("load_features", source, KIND)
        if is_npz(file):
            _refuse_options("load_features", file, None, header, Wishes())
            return _of_archive(file, expected), []
        known = [c.name for c in expected.used] if isinstance(expected, Preparation) and expected.named else expected
        rows = read_rows(file, header, known if isinstance(known, Sequence) and not made_up(known) else ())
    if isinstance(expected, Preparation):
        x, notes = prepare(expected, rows)
        return x, [*rows.notes, *notes]
    return plain_numbers(rows, expected), list(rows.notes)


def narrowed(a: NDArray[Any]) -> NDArray[np.float32] | NDArray[np.float64]:
    """Return float32, unless rounding changes a column by much in relation to its variation, or makes it infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = a.astype(np.float32)
        moved = np.abs(narrow - a).max(axis=0, initial=0.0)
        enough = moved <= ENOUGH * a.std(axis=0)
    constant = a.min(axis=0) == a.max(axis=0)
    return narrow if bool((np.isfinite(narrow).all(axis=0) & (enough | constant)).all()) else a


# ---- arrays ----------------------------------------------------------------------------------------------------------


def arrays(path: Path, task: str) -> tuple[Table, tuple[NDArray[Any], NDArray[Any]] | None]:
    """Return the table in an npz file, and, if the file has a test set, its features and labels.

    The labels of the test set are class indices of the table, or numbers.
    """
    x, y, test = read_parts(path)
    features = as_features(path, x)
    both, count = as_labels(path, y, len(features)), len(features)
    if test is not None:
        x_test = as_features(path, test[0])
        if x_test.shape[1] != features.shape[1]:
            raise FileFormatError(f"{path}: the test has {x_test.shape[1]} features, expected {features.shape[1]}")
        more = as_labels(path, test[1], len(x_test))
        both = Column("y", [*both.text, *more.text]) if both.numbers is None or more.numbers is None else Column(
            "y", numbers=np.concatenate([both.numbers, more.numbers])
        )  # fmt: skip
    target = encode(both, task, lambda row: f"{path}: y[{row}]" if row < count else f"{path}: y_test[{row - count}]")
    labels = target.y if target.task == "classification" else narrowed(target.y)
    table = Table(
        narrowed(features), labels[:count], numbered(features.shape[1]), target.classes, target.task, "y"
    )  # fmt: skip
    return table, None if test is None else (narrowed(x_test), labels[count:])


def _of_archive(path: Path, expected: Preparation | tuple[str, ...]) -> NDArray[np.float64]:
    x = as_features(path, read_archive(path, X_NAMES)[0])
    plain = expected.features == tuple(c.name for c in expected.used) if isinstance(expected, Preparation) else True
    count = len(expected.features) if isinstance(expected, Preparation) else len(expected)
    if x.shape[1] != count:
        raise FileFormatError(f"{path}: x has {x.shape[1]} features, expected {count} as in training")
    if not plain:
        raise FileFormatError(f"{path}: an array has no names, but the network was trained on columns of several kinds")
    return x


# ---- arguments -------------------------------------------------------------------------------------------------------


def _expected_columns(columns: Sequence[str] | int) -> tuple[str, ...]:
    """Return the names of the expected features; made-up names if only their number is known."""
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        count = integer(columns, "load_features: columns")
        if NAME * count > (physical() or np.inf):
            raise InputError(f"load_features: columns={count}: no table has so many; give the number of its features")
        return numbered(count)
    if not columns or not all(isinstance(name, str) for name in columns):
        raise InputTypeError(
            f"load_features(columns={columns!r}): expected the features' names, as in Table.columns, or their number"
        )
    return tuple(columns)


def _listed(what: str, names: Names) -> tuple[str | int, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable) or getattr(names, "ndim", 1) == 0:
        listed: tuple[Any, ...] = (names,)
    else:
        listed = tuple(names)
    if not all(map(_is_column, listed)):
        raise InputTypeError(f"load_table({what}={names!r}): expected names of columns, or their positions")
    return tuple(map(_plain, listed))


def _is_column(value: object) -> bool:
    """Return whether a value is a name or a position: a str, or an integer of Python or NumPy."""
    return isinstance(value, str | int | np.integer) and not isinstance(value, bool)


def _plain(value: Any) -> str | int:
    return str(value) if isinstance(value, str) else int(value)


def _check_types(call: str, label: object, header: object) -> None:
    if not (label is None or _is_column(label)):
        raise InputTypeError(
            f"{call}(label={label!r}): label is a {type(label).__name__}, expected a column's name or position"
        )
    if not (header is None or isinstance(header, bool)):
        raise InputTypeError(f"{call}(header={header!r}): header is a {type(header).__name__}, expected True or False")


def _refuse_header(call: str, header: object) -> None:
    if header is not None:
        raise InputError(f"{call}(header={header!r}): a frame has names; leave header out")


def _refuse_options(call: str, path: Path, label: object, header: object, wishes: Wishes) -> None:
    """Refuse arguments that only apply to files with columns."""
    if label is not None or header is not None or wishes.drop or wishes.keep or wishes.categorical:
        raise InputError(f"{call}({path}): label and header are for CSV files; leave them out for npz")


def is_npz(path: Path) -> bool:
    """Return whether a file holds arrays, judged by its name."""
    return path.suffix.lower() == ".npz"
