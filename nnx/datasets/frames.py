"""Frames of pandas, polars, pyarrow and others, read through narwhals, which imports none of them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import numpy as np

from nnx.errors import FileFormatError, InputError, InputTypeError

from .columns import BLANKS, EXACT, Column, Rows, digits_of
from .needs import optional


def is_frame(given: object) -> bool:
    """Return whether an object may be a frame: it has columns.

    Raises:
        InputTypeError: it is an array, or a single column.
    """
    kind = type(given)
    if hasattr(kind, "columns") or hasattr(kind, "column_names"):
        return True
    if hasattr(kind, "__array__"):
        raise InputTypeError(
            f"a {kind.__name__} was given, expected a file's name or a frame; arrays need no reading: fit() takes them"
        )
    return False


def from_frame(given: Any, source: str = "the frame") -> Rows:
    """Return the table in a frame.

    Raises:
        InputTypeError: it is no frame. InputError: two columns have the same name. MissingExtra: narwhals is not
            installed.
    """
    narwhals = optional("narwhals", "tables", "reading frames")
    given = _with_text_names(given)
    try:
        frame = narwhals.from_native(given, eager_only=True)
    except TypeError as error:
        advice = "compute it by .collect()" if hasattr(given, "collect") else "give a file's name, or a frame"
        raise InputTypeError(f"{source}: a {type(given).__name__} was given, expected a frame: {advice}") from error
    except narwhals.exceptions.DuplicateError as error:
        raise InputError(f"{source}: two columns have the same name, expected different names; rename one") from error
    if not len(frame):
        raise FileFormatError(f"{source}: there are no rows, expected one for each sample")
    columns = tuple(_column(narwhals, name, frame[name]) for name in frame.columns)
    return Rows(source, columns, True, lambda row: f"row {row + 1}")


def _with_text_names(given: Any) -> Any:
    """Return a pandas frame with the names of its columns as text, all different; other frames as they are."""
    if not (hasattr(given, "iloc") and hasattr(given, "columns")):
        return given
    names = [str(name).strip(BLANKS) for name in given.columns]
    if twice := [name for i, name in enumerate(names) if name in set(names[:i])][:1]:
        raise InputError(f"the frame: two columns are both called {twice[0]!r}, expected different names; rename one")
    copy = given.copy(deep=False)
    copy.columns = names
    return copy


def _column(narwhals: Any, name: str, series: Any) -> Column:
    kind = series.dtype
    codes = kind.is_integer() and max(abs(int(series.min() or 0)), abs(int(series.max() or 0))) > EXACT
    if kind.is_numeric() and not codes and not isinstance(kind, narwhals.Decimal):
        return Column(name, numbers=np.asarray(series.cast(narwhals.Float64).to_numpy(), dtype=np.float64))
    cells = series.to_list()
    if any(isinstance(cell, complex | np.complexfloating) for cell in cells):
        raise InputTypeError(
            f"column {name!r} holds complex numbers, expected real ones; make columns of its .real and .imag, or of "
            "abs(x)"
        )
    return Column(name, [as_text(cell) for cell in cells])


def as_text(cell: Any) -> str:
    """Return a cell's contents as text; "" for a missing value."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(cell, str):
        return cell.strip(BLANKS)
    if isinstance(cell, float | np.floating):
        return digits_of(float(cell))
    if isinstance(cell, timedelta):
        return f"{digits_of(cell.total_seconds())} s"
    if hasattr(cell, "isoformat"):
        return str(cell.isoformat())
    return json.dumps(cell, default=str) if isinstance(cell, dict | list) else str(cell)
