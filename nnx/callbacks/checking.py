"""Checks of a fit's callbacks before the fit begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from inspect import signature
from types import BuiltinFunctionType
from typing import Any

from nnx import checks
from nnx.callbacks.callback import Callback
from nnx.callbacks.monitor import Monitor
from nnx.callbacks.weight_average import WeightAverage
from nnx.callbacks.writing import CSVLogger, ModelCheckpoint
from nnx.distributed import current
from nnx.errors import InputError, InputTypeError
from nnx.files import check_folder
from nnx.owner import Owner
from nnx.settings import written


def check_callbacks(callbacks: Any) -> None:
    """Refuse anything but a list of callbacks."""
    if not isinstance(callbacks, Sequence):
        raise InputTypeError(f"fit: callbacks={callbacks!r}; expected a list, such as [nnx.callbacks.EarlyStopping()]")
    for callback in callbacks:
        checks.instance(callback, Callback, "fit: a callback", "callbacks.EarlyStopping()")
        check_methods(callback)
    if sum(isinstance(callback, WeightAverage) for callback in callbacks) > 1:
        raise InputError("fit: two callbacks take the mean of weights: give one WeightAverage")


def check_methods(callback: Callback) -> None:
    """Refuse methods with names that no fit calls, and methods that do not take the arguments they would get."""
    who, known = type(callback).__name__, {name: method for name, method in vars(Callback).items() if name[:3] == "on_"}
    for name in [name for name in dir(callback) if name.startswith("on_") and written(callback, name)]:
        if name not in known:
            alike = get_close_matches(name.replace("train_", ""), [*known, "on_begin", "on_end"], 1, 0.75)
            near = alike[0].replace("on_begin", "on_fit_begin").replace("on_end", "on_fit_end") if alike else None
            raise InputError(
                f"fit: the callback {who} has a method {name}, which is called at no time"
                + (f"; did you mean {near}? " if near else ". ")
                + f"These are: {', '.join(known)}; give helpers of yours other names"
            )
        given = [one for one in signature(known[name]).parameters if one != "self"]
        try:
            signature(getattr(callback, name)).bind(*given)
        except (TypeError, ValueError):  # a built-in function has no signature
            if not isinstance(getattr(callback, name), BuiltinFunctionType):
                raise InputTypeError(
                    f"fit: the callback {who} is called as {name}({', '.join(given)}), which it does not take; write "
                    f"def {name}(self, {', '.join(given)})"
                ) from None


def check_monitors(callbacks: Iterable[Callback], measured: Sequence[str], owner: Owner) -> None:
    """Refuse monitors of unknown quantities or in use by another fit, and files that cannot be written."""
    for callback in callbacks:
        if isinstance(callback, Monitor):
            callback.check(measured)
            callback.expect_free(owner)
        if isinstance(callback, ModelCheckpoint | CSVLogger) and current().leads:  # only rank 0 writes
            check_folder(callback.path)
            if isinstance(callback, CSVLogger):
                callback.check_columns(measured)
