"""Metrics beside loss and accuracy, as scikit-learn defines them: f(y_true, y_pred) over all samples at once.

`y_true` and `y_pred` are one of three pairs. Classes: class indices [N], and outputs [N, C], of which the largest is
predicted, or predicted classes [N] as integers. Yes or no: 0 or 1, and probabilities, both [N], or [N, O] for several
questions; above 0.5 is yes. Numbers: both [N] or [N, O].

Precision, recall and F1 are those of class 1 where there are two classes, else the mean over the classes that occur
("macro"), over the questions where there are several. What would be divided by zero counts as 0. Where `sample_weight`
[N] is given, each sample counts so many times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from nnx import checks, targets
from nnx import weights as weighting
from nnx.errors import InputError, InputTypeError

Array = Any
Metric = str | Callable[[np.ndarray, np.ndarray], float]
TOP = re.compile(r"top_([1-9][0-9]{0,5})")


# ---- classification --------------------------------------------------------------------------------------------------


def precision(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the share of what was predicted as a class that is of it."""
    right, predicted, _ = _counts(y_true, y_pred, "precision", sample_weight)
    return float(np.mean(_shares(right, predicted)))


def recall(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the share of a class that was predicted as such."""
    right, _, actual = _counts(y_true, y_pred, "recall", sample_weight)
    return float(np.mean(_shares(right, actual)))


def f1(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the harmonic mean of precision and recall, of each class before the mean over classes is taken."""
    right, predicted, actual = _counts(y_true, y_pred, "f1", sample_weight)
    return float(np.mean(_shares(2 * right, predicted + actual)))


def balanced_accuracy(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the mean, over the classes that occur, of the share of each that was found; over the questions too."""
    wanted, outputs = _pair(y_true, y_pred, "balanced_accuracy")
    if outputs.ndim == 2 and wanted.ndim == 1:
        pairs = [(wanted, outputs.argmax(axis=1))]
    elif outputs.ndim == 1 and outputs.dtype.kind in "iub":
        pairs = [(wanted, outputs)]
    else:
        pairs = list(zip((_columns(wanted) > 0.5).T, (_columns(outputs) > 0.5).T, strict=True))
    weights = _weights(sample_weight, len(wanted), "balanced_accuracy")
    return float(np.mean([np.mean(_found(classes, predicted, weights)) for classes, predicted in pairs]))


def _found(classes: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the share of each class that occurs which was predicted as such."""
    of_class = classes[:, None] == np.unique(classes)
    return _shares(weights @ (of_class & (predicted == classes)[:, None]), weights @ of_class)


def confusion(y_true: Any, y_pred: Any) -> np.ndarray:
    """Count, for each true class, what it was taken for: int64 [C, C], for outputs [N, C]."""
    wanted, outputs = _pair(y_true, y_pred, "confusion")
    if wanted.ndim != 1 or outputs.ndim != 2:
        raise InputError(f"confusion: expected class indices [N], outputs [N, C], not {wanted.shape}, {outputs.shape}")
    table = np.zeros((outputs.shape[1], outputs.shape[1]), dtype=np.int64)
    np.add.at(table, (wanted.astype(np.int64), outputs.argmax(axis=1)), 1)
    return table


def log_loss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the mean of -log p(true class), for probabilities [N, C].

    No p is taken for less than what float32 tells from 0 beside 1.
    """
    wanted, outputs = _pair(y_true, y_pred, "log_loss")
    if wanted.ndim != 1 or outputs.ndim != 2:
        raise InputError(f"log_loss: expected class indices [N], outputs [N, C], not {wanted.shape}, {outputs.shape}")
    of_true = outputs[np.arange(len(wanted)), wanted.astype(np.int64)].astype(np.float64)
    costs = -np.log(np.clip(of_true, np.finfo(np.float32).eps, 1.0))
    return float(np.average(costs, weights=_weights(sample_weight, len(wanted), "log_loss")))


def auc(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the area under the ROC curve: how likely a sample of a class is ranked above one that is not of it.

    For more than two classes it is the mean over the classes, each against all others. Classes that no sample has, or
    every one, do not count; nan where that leaves none.
    """
    wanted, outputs = _pair(y_true, y_pred, "auc")
    if wanted.ndim == 1 and outputs.ndim == 2:
        scores = outputs[:, 1:] if outputs.shape[1] == 2 else outputs
        first = outputs.shape[1] - scores.shape[1]
        of_class = wanted[:, None] == np.arange(first, outputs.shape[1])
    else:
        scores, of_class = _columns(outputs), _columns(wanted) > 0.5
    weights = _weights(sample_weight, len(wanted), "auc")
    areas = [_area(of_class[:, i], scores[:, i], weights) for i in range(scores.shape[1])]
    known = [area for area in areas if not np.isnan(area)]
    return float(np.mean(known)) if known else float("nan")


def top_k(y_true: Any, y_pred: Any, k: int = 5, sample_weight: Any = None) -> float:
    """Return the share of samples whose class is among the k largest outputs."""
    wanted, outputs = _pair(y_true, y_pred, f"top_{k}")
    if wanted.ndim != 1 or outputs.ndim != 2:
        raise InputError(f"top_{k}: expected class indices [N] and outputs [N, C], not {wanted.shape}, {outputs.shape}")
    best = np.argsort(outputs, axis=1, kind="stable")[:, ::-1][:, :k]
    right = (best == wanted[:, None]).any(axis=1)
    return float(np.average(right, weights=_weights(sample_weight, len(wanted), f"top_{k}")))


def _counts(y_true: Any, y_pred: Any, who: str, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how many samples of each class, or question, are right, how many predicted, and how many there are."""
    wanted, outputs = _pair(y_true, y_pred, who)
    of_classes = outputs.ndim == 2 and wanted.ndim == 1
    if of_classes or (outputs.ndim == 1 and outputs.dtype.kind in "iub"):
        predicted = outputs.argmax(axis=1) if of_classes else outputs.astype(np.int64)
        classes = np.union1d(wanted, predicted)
        if (outputs.shape[1] == 2) if of_classes else classes.max() <= 1:
            classes = np.array([1])
        is_wanted, is_predicted = wanted[:, None] == classes, predicted[:, None] == classes
    else:
        is_wanted, is_predicted = _columns(wanted) > 0.5, _columns(outputs) > 0.5
    weights = _weights(sample_weight, len(wanted), who)
    return weights @ (is_wanted & is_predicted), weights @ is_predicted, weights @ is_wanted


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, 0 where there is nothing."""
    shares: np.ndarray = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return shares


def _area(of_class: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """Return the area under a ROC curve: what of the others is ranked below each of the class, half of its equals."""
    _, place = np.unique(scores, return_inverse=True)
    inside, outside = (np.bincount(place, weights * side) for side in (of_class, ~of_class))
    pairs = float(inside.sum() * outside.sum())
    below = np.cumsum(outside) - outside / 2
    return float(inside @ below) / pairs if pairs else float("nan")


# ---- regression ------------------------------------------------------------------------------------------------------


def mae(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the mean absolute error, over outputs too."""
    wanted, outputs = _numbers(y_true, y_pred, "mae")
    weights = _weights(sample_weight, len(wanted), "mae")
    return float(np.mean(np.average(np.abs(wanted - outputs), axis=0, weights=weights)))


def rmse(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the square root of the mean squared error; the mean over the outputs."""
    wanted, outputs = _numbers(y_true, y_pred, "rmse")
    weights = _weights(sample_weight, len(wanted), "rmse")
    return float(np.mean(np.sqrt(np.average((wanted - outputs) ** 2, axis=0, weights=weights))))


def r2(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the share of the variance that is explained, the mean over the outputs; nan for a single sample.

    Where a target does not vary it is 1 if the outputs are exact, else 0.
    """
    wanted, outputs = _numbers(y_true, y_pred, "r2")
    if len(wanted) < 2:
        return float("nan")
    weights = _weights(sample_weight, len(wanted), "r2")
    left = weights @ (wanted - outputs) ** 2
    total = weights @ (wanted - np.average(wanted, axis=0, weights=weights)) ** 2
    with np.errstate(all="ignore"):
        share = np.where(total > 0, 1 - left / total, np.where(left > 0, 0.0, 1.0))
    return float(np.mean(share))


# ---- operands --------------------------------------------------------------------------------------------------------


def _pair(y_true: Any, y_pred: Any, who: str) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays of as many samples; of one-hot rows, or distributions, the classes."""
    wanted, outputs = targets.given(y_true, f"{who}: y_true"), targets.given(y_pred, f"{who}: y_pred")
    checks.finite(outputs, who, "y_pred")
    checks.finite(wanted, who, "y_true")
    fits = wanted.ndim in (1, 2) and outputs.ndim in (1, 2) and len(wanted) == len(outputs) > 0
    if not fits or (wanted.ndim == outputs.ndim == 2 and wanted.shape != outputs.shape):
        raise InputError(
            f"{who}: y_true {wanted.shape} and y_pred {outputs.shape} are not of the same samples; see nnx.metrics"
        )
    if outputs.ndim == 2 and outputs.shape[1] == 1 and wanted.ndim == 1:
        outputs = outputs[:, 0]
    if outputs.ndim == 1 and wanted.ndim == 2:
        wanted = wanted[:, 0] if wanted.shape[1] == 1 else wanted.argmax(axis=1)
    return wanted, outputs


def _weights(sample_weight: Any, samples: int, who: str) -> np.ndarray:
    return np.ones(samples) if sample_weight is None else weighting.checked(sample_weight, samples, who)


def _numbers(y_true: Any, y_pred: Any, who: str) -> tuple[np.ndarray, np.ndarray]:
    wanted, outputs = _pair(y_true, y_pred, who)
    wanted, outputs = _columns(wanted).astype(np.float64), _columns(outputs).astype(np.float64)
    if wanted.shape != outputs.shape:
        raise InputError(f"{who}: y_true {wanted.shape} and y_pred {outputs.shape} differ; nothing is broadcast")
    return wanted, outputs


def _columns(a: np.ndarray) -> np.ndarray:
    return a[:, None] if a.ndim == 1 else a


# ---- those of a model ------------------------------------------------------------------------------------------------

OF_CLASSES: dict[str, Callable[..., float]] = {
    "precision": precision, "recall": recall, "f1": f1, "auc": auc, "balanced_accuracy": balanced_accuracy,
}  # fmt: skip
OF_NUMBERS: dict[str, Callable[..., float]] = {"mae": mae, "rmse": rmse, "r2": r2}
SMALLER = ("loss", "error", "mae", "rmse")  # what names of quantities end with that are better when smaller


def checked(metrics: Any, task: str | None) -> tuple[Metric, ...]:
    """Return what `compile` was given as metrics, "top_k" with its number; refuse what cannot be measured.

    Args:
        task: `Loss.metric`, or None where the loss does not say.
    """
    names = ["accuracy", *OF_CLASSES, "top_5", *OF_NUMBERS]
    if not isinstance(metrics, list | tuple):
        raise InputTypeError(f"compile: metrics={metrics!r}; expected a list, such as ['accuracy'] or []")
    found = tuple("top_5" if metric == "top_k" else metric for metric in metrics)
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
        if isinstance(metric, str) and task is not None and metric != "accuracy":
            _check_task(metric, task)
    called = ["loss", *map(name_of, found)]
    if twice := [name for name in called if called.count(name) > 1]:
        raise InputError(f"compile: metrics: two quantities would be called {twice[0]!r}; leave out or rename one")
    return found


def _check_task(metric: str, task: str) -> None:
    if (metric in OF_NUMBERS) != (task == "regression"):
        fitting = OF_NUMBERS if task == "regression" else OF_CLASSES
        raise InputError(f"compile: the loss is not for what {metric!r} measures; with it go {', '.join(fitting)}")
    if TOP.fullmatch(metric) and task != "categorical":
        raise InputError(
            f"compile: {metric!r} is for one class of many, by CategoricalCrossEntropy; the loss is another"
        )


def name_of(metric: Metric) -> str:
    """Return what a metric is called in a history."""
    return metric if isinstance(metric, str) else metric.__name__


def beside(metrics: Iterable[Metric]) -> list[Metric]:
    """Return the metrics that are computed of all outputs together: all but the accuracy, which steps count."""
    return [metric for metric in metrics if metric != "accuracy"]


def check_weighable(metrics: Iterable[Metric], weights: np.ndarray | None) -> None:
    """Refuse weights of samples, other than of those to be left out, where a function of one's own is a metric."""
    own = [metric for metric in metrics if not isinstance(metric, str)]
    if own and weights is not None and np.unique(weights[weights > 0]).size > 1:
        raise InputError(
            f"metric {name_of(own[0])}: a function f(y_true, y_pred) of your own takes no weights of samples; leave it "
            "out of compile(metrics=...), or leave sample_weight out"
        )


def measured(
    metrics: Sequence[Metric], task: str | None, y_true: np.ndarray, y_pred: np.ndarray, shares: np.ndarray,
    weights: np.ndarray | None = None,
) -> dict[str, float]:  # fmt: skip
    """Return metrics by their names.

    Args:
        task: `Loss.metric`. y_true: targets as the loss takes them: class indices int64 [N], or [N, O].
        y_pred: what the model puts out. shares: the same, or probabilities where these are logits. A function of one's
            own takes y_pred.
        weights: what each sample counts [N]; those that count 0 are left out.
    """
    if weights is not None:
        y_true, y_pred, shares, weights = (a[weights > 0] for a in (y_true, y_pred, shares, weights))
    wanted = y_true.argmax(axis=1) if task == "categorical" and y_true.ndim == 2 else y_true
    finite, scores = bool(np.isfinite(shares).all()), {}
    for metric in metrics:
        if not isinstance(metric, str):
            scores[name_of(metric)] = _number(metric, metric(y_true, y_pred))
        elif not finite:  # a training that went wrong: the loss says so
            scores[metric] = float("nan")
        elif match := TOP.fullmatch(metric):
            scores[metric] = top_k(wanted, shares, int(match[1]), weights)
        else:
            scores[metric] = {**OF_CLASSES, **OF_NUMBERS}[metric](wanted, shares, weights)
    return scores


def _number(metric: Metric, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputTypeError(f"metric {name_of(metric)}: it returned {value!r}, expected a number") from None


def larger_is_better(quantity: str) -> bool | None:
    """Tell whether a quantity of a history is better when larger; None where that is not known."""
    name = quantity.removeprefix("val_")
    if name.endswith("accuracy") or name in OF_CLASSES or name == "r2" or TOP.fullmatch(name):
        return True
    return False if name.endswith(SMALLER) else None
