"""The metrics that a model is compiled with: their names, which loss each fits, and their values.

The functions themselves are in nnx/metrics.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from nnx import checks
from nnx.errors import InputError, InputTypeError
from nnx.metrics import auc, balanced_accuracy, f1, mae, precision, r2, recall, rmse, top_k

Metric = str | Callable[[np.ndarray, np.ndarray], float]
TOP = re.compile(r"top_([1-9][0-9]{0,5})")
OF_CLASSES: dict[str, Callable[..., float]] = {
    "precision": precision, "recall": recall, "f1": f1, "auc": auc, "balanced_accuracy": balanced_accuracy,
}  # fmt: skip
OF_NUMBERS: dict[str, Callable[..., float]] = {"mae": mae, "rmse": rmse, "r2": r2}
NAMED: dict[str, Callable[..., float]] = {**OF_CLASSES, **OF_NUMBERS, "top_5": top_k}
SMALLER = ("loss", "error", "mae", "rmse")  # endings of the names of quantities that are better when smaller


def checked(metrics: Any, task: str | None) -> tuple[Metric, ...]:
    """Return the metrics that `compile` was given, nnx's own as names; refuse those that cannot be computed.

    Args:
        metrics: see `Sequential.compile`. task: `Loss.metric`, or None where the loss does not say.

    Raises:
        InputError: there is no such metric, it does not fit the loss, or a function does not take two arrays.
    """
    names = ["accuracy", *OF_CLASSES, "top_5", *OF_NUMBERS]
    if not isinstance(metrics, list | tuple):
        raise InputTypeError(f"compile: metrics={metrics!r}; expected a list, such as ['accuracy'] or []")
    found = tuple(map(_by_name, metrics))
    for metric in found:
        if not (callable(metric) or (isinstance(metric, str) and (metric in names or TOP.fullmatch(metric)))):
            raise InputError(
                f"compile: metrics={metrics!r}; expected [], or {', '.join(map(repr, names))} (top_1, top_2, ...), and "
                "functions f(y_true, y_pred) of your own"
            )
        if not isinstance(metric, str) and getattr(metric, "__name__", "") == "accuracy":
            raise InputError(f"compile: metrics={metrics!r}; expected the name 'accuracy', not a function called so")
        if not isinstance(metric, str) and not getattr(metric, "__name__", "").isidentifier():
            raise InputError(f"compile: metrics: {metric!r} has no __name__ to stand in the history; write it by def")
        if not isinstance(metric, str):
            _check_arguments(metric)
        elif task is not None and metric != "accuracy":
            _check_task(metric, task)
    called = ["loss", *map(name_of, found)]
    if twice := [name for name in called if called.count(name) > 1]:
        raise InputError(f"compile: metrics: two quantities would be called {twice[0]!r}; leave out or rename one")
    return found


def _by_name(metric: Any) -> Any:
    """Return a function of nnx/metrics.py as its name, since a metric given by name gets probabilities, not logits."""
    given = top_k if isinstance(metric, str) and metric == "top_k" else metric
    return next((name for name, function in NAMED.items() if function is given), metric)


def _check_arguments(metric: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called with two arrays, now and not after an epoch of training."""
    if fault := checks.call_fault(metric, None, None):
        raise InputTypeError(f"compile: metrics: {name_of(metric)} cannot be called as f(y_true, y_pred): {fault}")


def _check_task(metric: str, task: str) -> None:
    if (metric in OF_NUMBERS) != (task == "regression"):
        fitting = OF_NUMBERS if task == "regression" else OF_CLASSES
        raise InputError(f"compile: the loss is not for what {metric!r} measures; with it go {', '.join(fitting)}")
    if TOP.fullmatch(metric) and task != "categorical":
        raise InputError(
            f"compile: {metric!r} is for one class of many, by CategoricalCrossEntropy; the loss is another"
        )


def name_of(metric: Metric) -> str:
    """Return a metric's name in a history."""
    return metric if isinstance(metric, str) else metric.__name__


def beside(metrics: Iterable[Metric]) -> list[Metric]:
    """Return the metrics computed from all outputs at once: all but the accuracy, which training steps count."""
    return [metric for metric in metrics if metric != "accuracy"]


def check_weighable(metrics: Iterable[Metric], weights: np.ndarray | None) -> None:
    """Refuse a user-defined metric, which takes no weights, where samples of different weights are to be counted."""
    own = own_functions(metrics)
    if own and weights is not None and np.unique(weights[weights > 0]).size > 1:
        raise InputError(
            f"metric {name_of(own[0])}: a function f(y_true, y_pred) of your own takes no weights of samples; leave it "
            "out of compile(metrics=...), or leave sample_weight out"
        )


def own_functions(metrics: Iterable[Metric]) -> list[Metric]:
    """Return the metrics that are user-defined functions."""
    return [metric for metric in metrics if not isinstance(metric, str)]


def measured(
    metrics: Sequence[Metric], task: str | None, y_true: np.ndarray, y_pred: np.ndarray, shares: np.ndarray,
    weights: np.ndarray | None = None,
) -> dict[str, float]:  # fmt: skip
    """Return the values of metrics, by name.

    Args:
        task: `Loss.metric`. y_true: targets as the loss takes them: class indices int64 [N], or [N, O].
        y_pred: the model's outputs. shares: the same, but probabilities where y_pred are logits; nnx's metrics take
            these. A user-defined function gets copies of y_true and y_pred, which it may change and keep.
        weights: the weight of each sample [N]; samples of weight 0 are left out.
    """
    if weights is not None:
        y_true, y_pred, shares, weights = (a[weights > 0] for a in (y_true, y_pred, shares, weights))
    wanted = y_true.argmax(axis=1) if task == "categorical" and y_true.ndim == 2 else y_true
    finite, scores = bool(np.isfinite(shares).all()), {}
    for metric in metrics:
        if not isinstance(metric, str):
            scores[name_of(metric)] = _number(metric, metric(y_true.copy(), y_pred.copy()))
        elif not finite:  # training has diverged; the loss shows it
            scores[metric] = float("nan")
        elif match := TOP.fullmatch(metric):
            scores[metric] = top_k(wanted, shares, int(match[1]), weights)
        else:
            scores[metric] = NAMED[metric](wanted, shares, weights)
    return scores


def _number(metric: Metric, value: Any) -> float:
    try:
        if np.ndim(value) or isinstance(value, str | bytes):  # float() would read text as a number
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputTypeError(f"metric {name_of(metric)}: it returned {repr(value)[:60]}, expected a number") from None


def larger_is_better(quantity: str) -> bool | None:
    """Return whether a quantity of a history is better when larger; None if that is not known."""
    name = quantity.removeprefix("val_")
    if name.endswith("accuracy") or name in OF_CLASSES or name == "r2" or TOP.fullmatch(name):
        return True
    return False if name.endswith(SMALLER) else None
