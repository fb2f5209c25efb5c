"""Argument checks: each returns the value in its plain type, or says what was given and what was expected."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from nnx.backends.inputs import column_names
from nnx.errors import InputError, InputTypeError

Array = Any


def integer(value: Any, what: str, low: int = 1) -> int:
    """Return `value` as an int of at least `low`; NumPy's integers count, bools and floats do not."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputTypeError(f"{what}={value!r}: expected a whole number, {low} or more") from None
    if number < low:
        raise InputError(f"{what}={number}: expected a whole number, {low} or more")
    return number


def real(value: Any, what: str, low: float = 0.0, high: float = math.inf, *, open_low: bool = False) -> float:
    """Return `value` as a finite float within [low, high), or (low, high) with `open_low`."""
    error: type[Exception] = InputError
    try:
        if isinstance(value, bool | np.bool_ | str | bytes):
            raise TypeError
        number = float(value)
        if math.isfinite(number) and low <= number < high and not (open_low and number == low):
            return number
    except (TypeError, ValueError, OverflowError):
        error = InputTypeError
    expected = f"a number above {low:g}" if open_low else f"a number of at least {low:g}"
    expected += f" and below {high:g}" if high != math.inf else ""
    raise error(f"{what}={value!r}: expected {expected}")


def call_fault(function: Callable[..., Any], *arguments: Any) -> TypeError | None:
    """Return the error of calling a function with these arguments; None where it takes them, or has no signature."""
    try:
        inspect.signature(function).bind(*arguments)
    except ValueError:  # some functions written in C have no signature
        return None
    except TypeError as fault:
        return fault
    return None


def flag(value: Any, what: str) -> bool:
    """Return `value` if it is True or False: any other word, such as "no", would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise InputTypeError(f"{what}={value!r}: expected True or False")
    return bool(value)


def verbosity(value: Any, what: str) -> None:
    """Refuse a `verbose` other than "auto", True, False or a number, as other libraries take it."""
    if not (isinstance(value, bool | np.bool_ | int | np.integer) or (isinstance(value, str) and value == "auto")):
        raise InputTypeError(f"{what}={value!r:.60}: expected 'auto', True or False")


def choice(value: Any, what: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of the words allowed."""
    words = list(allowed)
    if not isinstance(value, str) or value not in words:
        error = InputError if isinstance(value, str) else InputTypeError
        raise error(f"{what}={value!r}: expected one of {', '.join(map(repr, words))}")
    return value


def instance(value: Any, kind: type, what: str, example: str) -> None:
    """Refuse a value that is no instance of `kind`; giving the class instead of an instance is the usual mistake."""
    if isinstance(value, type) and issubclass(value, kind):
        raise InputTypeError(f"{what} is the class {value.__name__}; give an instance: {value.__name__}(...)")
    if not isinstance(value, kind):
        raise InputTypeError(f"{what} is {value!r}; expected a {kind.__name__}, such as nnx.{example}")


def dtype(value: Any) -> str:
    """Return "float32" or "float64" for a type that was given by its name, as a Python type or as a NumPy dtype."""
    try:
        name = value if isinstance(value, str) else np.dtype(value).name
    except (TypeError, ValueError):
        name = type(value).__name__
    if value is None or name not in ("float32", "float64"):
        error = InputError if isinstance(value, str | type | np.dtype) else InputTypeError
        raise error(f"dtype={value!r}: expected 'float32' or 'float64'")
    return str(name)


def matrix(shape: tuple[int, ...], who: str, what: str = "inputs") -> None:
    """Refuse any shape but [samples, features] with at least one of each."""
    if len(shape) == 2 and shape[0] > 0 and shape[1] > 0:
        return
    if len(shape) == 1:
        advice = "one sample is x.reshape(1, -1), one feature is x.reshape(-1, 1)"
    elif len(shape) > 2:
        advice = "flatten each sample by x.reshape(len(x), -1), or begin the model with nnx.Flatten()"
    else:
        advice = "give at least one sample" if len(shape) == 2 else "give a table of numbers"
    raise InputError(f"{who}: {what} have shape {shape}, expected [samples, features], neither of them 0; {advice}")


def finite(a: np.ndarray, who: str, what: str, given: np.ndarray | None = None, source: Any = None) -> None:
    """Refuse nan and infinite numbers, and say where the first one is.

    Args:
        given: the same numbers before they were cast. source: what they were read from; a frame names its columns.
    """
    if a.dtype.kind != "f":
        return
    good = np.isfinite(a)
    if good.all():
        return
    bad = len(good.ravel()) - int(np.count_nonzero(good))
    where = tuple(int(i) for i in np.argwhere(~good)[0])
    value = a[where] if given is None else given[where]
    names = column_names(source)
    place = f"{list(where)}{'' if names is None else f' (column {names[where[1]]!r})'}"
    if np.isfinite(value):
        raise InputError(
            f"{who}: {what}{place} is {value:g}, too large for {a.dtype}; scale it, or use dtype='float64'"
        )
    count = "1 number that is" if bad == 1 else f"{bad} numbers that are"
    raise InputError(f"{who}: {what} hold {count} not finite, the first is {value} at {place}; drop or fill it first")
