"""Column matching: the columns that a network was trained on are found in another table by name, or by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nnx.errors import FileFormatError

from .columns import Column, Rows, few, is_missing, not_finite, numbered, short
from .header import label_places
from .preparation import Preparation, encoded
from .written import numbers_in


def match(preparation: Preparation, rows: Rows) -> tuple[list[int], list[str]]:
    """Return the indices, in another table, of the columns that are used, and notes for the user.

    Raises:
        FileFormatError: columns are missing, or would have to be guessed.
    """
    wanted = [column.name for column in preparation.used]
    if preparation.named:
        if not rows.named:
            every = [column.name for column in preparation.columns]
            if len(rows.columns) > len(every):
                every.insert(preparation.place, preparation.label)
            raise FileFormatError(
                f"{rows.source}: the first line holds no names, but the network was trained on columns with names; "
                f"begin the file with the line: {','.join(every)}; or, if its first line holds names, say so (--header)"
            )
        places = {name: i for i, name in enumerate(rows.names)}
        known = {preparation.label, *(column.name for column in preparation.columns)}
        extra = [name for name in rows.names if name not in known]
        if missing := [name for name in wanted if name not in places]:
            raise FileFormatError(missing_columns(rows, missing, len(wanted), extra))
        return [places[name] for name in wanted], [f"not seen in training, and left alone: {', '.join(extra)}"] * bool(
            extra
        )
    return _by_position(preparation, rows), []


def missing_columns(rows: Rows, missing: Sequence[str], expected: int, extra: Sequence[str]) -> str:
    """Return in words which columns are missing, and which the table has instead."""
    return (
        f"{rows.source}: {few(missing)} {'is' if len(missing) == 1 else 'are'} not among the columns "
        f"({few(rows.names)}), expected all {expected} features of the training file; add the missing ones"
        + (f" (there but not expected: {few(extra)})" if extra else "")
    )


def _by_position(preparation: Preparation, rows: Rows) -> list[int]:
    """Return the indices of columns without names: a table must have all columns of training, or all but the label."""
    count, there = len(preparation.columns), len(rows.columns)
    every = list(range(there))
    if there == count + 1 and preparation.label:
        del every[preparation.place]
        _check_labels(preparation, rows)
    if len(every) != count:
        raise FileFormatError(
            f"{rows.source}: there are {there} columns, expected {count} without names as in training, "
            f"{'and at most a label besides' if preparation.label else 'and no other'}"
        )
    return [place for place, column in zip(every, preparation.columns, strict=True) if column.features]


def _check_labels(preparation: Preparation, rows: Rows) -> None:
    """Refuse a column in the label's place that holds other values than in training: the columns may have shifted."""
    known, column = set(preparation.labels), rows.columns[preparation.place]
    strange = next((value for value in column.values if known and value not in known and not is_missing(value)), None)
    if strange is not None:
        raise FileFormatError(
            f"{rows.source}: column {preparation.place + 1} should be the label, as in training, but {short(strange)} "
            "is none; leave the label out, or give the same columns"
        )


def prepare(preparation: Preparation, rows: Rows) -> tuple[NDArray[np.float64], list[str]]:
    """Return the features [N, F] of another table, and notes for the user.

    Raises:
        FileFormatError: its columns do not fit.
    """
    places, notes = match(preparation, rows)
    if not len(rows):
        raise FileFormatError(f"{rows.source}: there are no rows")
    for encoder, place in zip(preparation.used, places, strict=True):
        notes += encoder.check(rows.columns[place], rows, place)
    return encoded(preparation, rows, places), notes


# ---- columns of numbers, if only their names or their number are known -----------------------------------------------


def plain_numbers(rows: Rows, expected: tuple[str, ...]) -> NDArray[np.float64]:
    """Return columns of numbers without blanks: those with the expected names, or all but a label's."""
    places = _by_name(rows, expected) if rows.named and not made_up(expected) else _by_number(rows, len(expected))
    x = np.column_stack([numbers_in(rows.columns[place], rows.decimal).values for place in places])
    if place := not_finite(x):
        row, column = place
        cell = rows.columns[places[column]].text[row]
        what = "the cell is blank, expected a number"
        if cell:
            odd = not np.isinf(x[row, column]) and cell.lower() != "nan"
            what = f"{short(cell)} is not a number" if odd else f"the cell is {x[row, column]}"
        raise FileFormatError(
            f"{rows.place(row, places[column])}: {what}; fill it in, or give the Table of the training file, which "
            "knows what to do"
        )
    return x


def _by_name(rows: Rows, expected: tuple[str, ...]) -> list[int]:
    places = {name: column for column, name in enumerate(rows.names)}
    if missing := [name for name in expected if name not in places]:
        made = [name for name in missing if name.partition("=")[0] in places or name.endswith(" is missing")]
        message = missing_columns(rows, missing, len(expected), [])
        hint = "; these are made of a column: give the Table of the training file, or its preparation" if made else ""
        raise FileFormatError(message + hint)
    return [places[name] for name in expected]


def _by_number(rows: Rows, count: int) -> list[int]:
    """Return the indices of all `count` columns; one more may be there if its name, words or place show the labels."""
    every = list(range(len(rows.columns)))
    if len(every) == count + 1:
        by_name = next(iter(label_places(rows.names if rows.named else ())), None)
        columns = rows.columns
        words = [i for i in every if columns[i].missing.all() or np.isnan(numbers_in(columns[i]).values).all()]
        if by_name is not None or len(words) == 1:
            every.remove(words[0] if by_name is None else by_name)
        elif not rows.named and not _counts_rows(rows.columns[0]):
            every.pop()
    if len(every) == count + 1:
        raise FileFormatError(
            f"{rows.source}: there are {count + 1} columns, one more than the {count} features of the training, and "
            "none shows by its name or its words that it is the label; leave one out"
        )
    if len(every) != count:
        raise FileFormatError(
            f"{rows.source}: there are {len(rows.columns)} columns, expected {count} features as in training, "
            f"and at most a label besides"
        )
    return every


def _counts_rows(column: Column) -> bool:
    """Return whether a column just counts the rows, and so is no feature."""
    numbers = numbers_in(column).values
    return len(numbers) > 1 and bool((np.diff(numbers) == 1).all())


def made_up(names: Sequence[str]) -> bool:
    """Return whether names only count the columns: "column 1", "column 2" ..."""
    return tuple(names) == numbered(len(names))
