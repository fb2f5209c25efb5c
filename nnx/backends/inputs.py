"""Input conversion: lists, NumPy arrays, frames and tensors become numbers; what only looks like numbers is refused.

Everything that means a number is accepted: True and False, columns of several types, bfloat16, decimal numbers. All
else is refused by an error that names it and says how to convert it. No library is imported: objects are recognised by
their methods.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, TypeGuard

import numpy as np

from nnx.backends.errors import InputError, InputTypeError

FEATURES = "read numbers by .astype(float), and turn words into columns of 0 and 1, as by pandas.get_dummies(x)"
LABELS = (
    "number the labels by np.unique(y, return_inverse=True)[1], or use nnx.sklearn.NNClassifier, which takes them as "
    "they are; read numbers by .astype(float)"
)
FILE = "read the file first, as by numpy.load or numpy.loadtxt"
MISSING = ("NoneType", "NAType", "NaTType")  # the types of None, and of pandas' missing values
NUMBERS = (numbers.Real, Decimal, np.bool_)


def is_ready(x: Any) -> TypeGuard[np.ndarray]:
    """Return whether `x` is a plain NumPy array of real numbers."""
    return type(x) is np.ndarray and x.dtype.kind in "fiub" and x.dtype.isbuiltin != 2


def unwritable(a: Any) -> Any:
    """Return a view of a NumPy array through which nothing can be written; anything else as it is.

    What code of the user's own is given may be the user's own data, or what later steps read again.
    """
    if not isinstance(a, np.ndarray):
        return a
    view = a.view()
    view.flags.writeable = False
    return view


def written_into(error: Exception) -> bool:
    """Tell whether an error of NumPy's is that of writing into an `unwritable` array."""
    return "read-only" in str(error)


def to_numbers(x: Any, what: str, words: str) -> np.ndarray:
    """Return `x` as a NumPy array of real numbers.

    Args:
        what: errors begin with it: the call and argument, with a colon, or "". words: advice on how to convert words.

    Raises:
        InputTypeError: it holds something else. InputError: it is ragged, or a number is missing.
    """
    columns = frame_columns(x)
    if columns is not None:
        read = [_column(column, f"{what}column {name!r}: ", words) for name, column in columns]
        return np.column_stack(read) if read else np.empty(x.shape)
    return _numbers(x, what, words)


def _column(column: Any, what: str, words: str) -> np.ndarray:
    """Return a frame's column as a NumPy array of real numbers [N]."""
    a = _numbers(column, what, words)
    if a.ndim != 1:
        raise InputTypeError(
            f"{what}each row holds several numbers, {a.shape[1:]}; expected one: give what it holds as an array, "
            "np.stack(list(column))"
        )
    return a


def column_names(x: Any) -> Sequence[Any] | None:
    """Return the names of a frame's columns; None if `x` has none."""
    names = getattr(x, "column_names", None)  # pyarrow: its `columns` are the columns themselves
    names = getattr(x, "columns", None) if names is None else names
    shape: tuple[int, ...] = getattr(x, "shape", ())
    return list(names) if isinstance(names, Iterable) and len(shape) == 2 and len(list(names)) == shape[1] else None


def frame_columns(x: Any) -> list[tuple[Any, Any]] | None:
    """Return a frame's columns with their names if they must be read one by one; None of anything else.

    As a whole, a frame of pandas with columns of several types would become an array of Python objects; one of polars
    or pyarrow would turn dates and times beside numbers into these, without a word.
    """
    if hasattr(x, "iter_columns") and hasattr(x, "columns"):  # polars, narwhals
        return list(zip(x.columns, x.iter_columns(), strict=True))
    if hasattr(x, "column_names") and isinstance(getattr(x, "columns", None), list):  # pyarrow
        return list(zip(x.column_names, x.columns, strict=True))
    if not (hasattr(x, "iloc") and hasattr(x, "columns") and hasattr(x, "dtypes")) or _is_sparse(x):
        return None
    if all(isinstance(dtype, np.dtype) and dtype.kind in "fiu" for dtype in x.dtypes):
        return None
    return [(name, x.iloc[:, i]) for i, name in enumerate(x.columns)]


def _is_sparse(x: Any) -> bool:
    """Return whether `x` is sparse: of SciPy, pydata, pandas or PyTorch. Made dense it might not fit in memory."""
    theirs = str(getattr(x, "layout", "")).startswith("torch.sparse")
    if theirs or hasattr(type(x), "todense"):
        return True
    return 0 not in getattr(x, "shape", ()) and hasattr(getattr(x, "sparse", None), "to_dense")  # pandas: all of none


def _numbers(x: Any, what: str, words: str) -> np.ndarray:
    a = _read(x, what)
    if a.ndim == 0 and a.dtype.kind in "OUST":
        raise InputTypeError(_refusal(f"{what}{_named(x)} was given", x, FILE))
    if a.dtype.kind == "O":
        return _of_objects(a, what, words)
    if _is_small(a.dtype):
        return a.astype(np.float32)
    if a.dtype.kind not in "fiub":
        kind, advice = _kind(a.dtype, words)
        raise InputTypeError(f"{what}an array of {kind}, shape {a.shape}, was given; expected real numbers: {advice}")
    return a


def _is_small(dtype: np.dtype) -> bool:
    """Return whether a type is bfloat16 or another one from ml_dtypes; float32 holds their numbers exactly."""
    return dtype.isbuiltin == 2 and np.can_cast(dtype, np.float32)


def _read(x: Any, what: str) -> np.ndarray:
    """Return NumPy's conversion of `x` to an array."""
    if _is_sparse(x):
        raise InputTypeError(_refusal(f"{what}{_named(x)} was given", x, ""))
    if isinstance(x, list | tuple) and x and hasattr(x[0], "filled"):  # of masked arrays: NumPy would ignore the masks
        raise InputTypeError(f"{what}masked arrays were given: fill or drop the masked numbers first, e.g. x.filled(0)")
    try:
        a = np.asarray(_widened(x))
        if a.dtype.kind != "O" or a.ndim > 0:
            return a
        if hasattr(x, "to_numpy"):
            return np.asarray(x.to_numpy())
        return np.from_dlpack(x) if hasattr(type(x), "__dlpack__") else a
    except Exception as error:  # a type that refuses to be converted, such as a tensor on a GPU
        if isinstance(error, ValueError) and "inhomogeneous" in str(error):
            raise InputError(
                f"{what}the rows given have different lengths ({error}): every row must be as long as the first"
            ) from error
        raise InputTypeError(f"{what}{_named(x)} cannot be read as an array ({error}): convert it{_by(x)}") from error


def _widened(x: Any) -> Any:
    """Return a PyTorch tensor of bfloat16, a type that NumPy lacks, as float32, which holds its numbers exactly."""
    return x.float() if str(getattr(x, "dtype", "")) == "torch.bfloat16" and hasattr(x, "float") else x


def _of_objects(a: np.ndarray, what: str, words: str) -> np.ndarray:
    """Return an array of Python objects as float64, if every one of them is a number."""
    if any(not issubclass(kind, NUMBERS) for kind in set(map(type, a.flat))):
        for where, value in np.ndenumerate(a):
            if type(value).__name__ in MISSING:
                raise InputError(f"{what}a number is missing, {value!r} stands at {list(where)}; drop or fill it first")
            if not (isinstance(value, NUMBERS) or (isinstance(value, np.generic) and _is_small(value.dtype))):
                place = f"{what}{_named(value)} stands at {list(where)} of an array of Python objects"
                raise InputTypeError(_refusal(place, value, words))
    try:
        return a.astype(np.float64)
    except (ArithmeticError, ValueError) as error:
        raise InputError(f"{what}an array of Python objects holds what float64 cannot ({error}); scale it") from error


# ---- errors ----------------------------------------------------------------------------------------------------------


def _named(x: Any) -> str:
    """Return an object's type, with its value if that is short."""
    if x is None or isinstance(x, str | bytes):
        return f"{'' if x is None else type(x).__name__ + ' '}{repr(x)[:40]}"
    return (
        f"a sparse {type(x).__name__} of shape {tuple(x.shape)}"
        if _is_sparse(x)
        else f"an object of type {type(x).__name__}"
    )


def _refusal(fact: str, x: Any, words: str) -> str:
    """Return the error text: what was given, what was expected, and how to convert the object."""
    if _is_sparse(x):
        dense = next((way for way in ("toarray", "todense", "to_dense") if hasattr(x, way)), "sparse.to_dense")
        return f"{fact}; expected a dense array: convert it by .{dense}(), which takes {8 * math.prod(x.shape):,} bytes"
    if hasattr(x, "requires_grad"):
        advice = f"convert it{_by(x)}"
    elif isinstance(x, str | bytes | os.PathLike):
        advice = FILE if isinstance(x, os.PathLike) else words
    elif hasattr(x, "toordinal"):
        advice = "count days, as by date.toordinal()"
    elif hasattr(x, "collect"):
        advice = "compute it by .collect()"
    elif isinstance(x, Mapping):
        advice = "make columns of its values by np.column_stack(list(x.values()))"
    elif isinstance(x, Set):
        advice = "sort it by np.array(sorted(x)): it has no order"
    elif isinstance(x, Iterable) and not isinstance(x, type):
        advice = "read it first by np.array(list(x))"
    else:
        advice = "give an array or (nested) lists of numbers"
    return f"{fact}; expected real numbers: {advice}"


def _by(x: Any) -> str:
    """Return in words how a tensor, or an array of another library, becomes a NumPy array."""
    if not hasattr(x, "requires_grad"):
        return " to NumPy first"
    widened = ".float()" if "bfloat16" in str(getattr(x, "dtype", "")) else ""
    return f" to NumPy by .detach(){widened}.cpu().numpy()"


def _kind(dtype: np.dtype, words: str) -> tuple[str, str]:
    """Return what an array holds that are not numbers, and how to make numbers of it."""
    if dtype.kind in "UTS":
        return ("bytes" if dtype.kind == "S" else "text"), words
    if "complex" in dtype.name:
        return "complex numbers", "take x.real, x.imag or abs(x)"
    if dtype.names is not None:
        fields = ", ".join(dtype.names)
        return f"records ({fields})", "make columns by numpy.lib.recfunctions.structured_to_unstructured(x)"
    if dtype.kind == "M":
        return str(dtype), "count days from a date on by (x - np.datetime64('2000-01-01')) / np.timedelta64(1, 'D')"
    if dtype.kind == "m":
        return str(dtype), "count seconds by x / np.timedelta64(1, 's')"
    return str(dtype), "convert it by .astype(float)"
