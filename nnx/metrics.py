"""Metrics besides loss and accuracy, as scikit-learn defines them: f(y_true, y_pred) over all samples at once.

`y_true` and `y_pred` belong to one of three tasks. Classification: class indices [N], and outputs [N, C], the largest
of which is the predicted class, or predicted classes [N] as integers. Binary and multi-label classification: 0 or 1,
and probabilities, both [N], or [N, O] for O labels; above 0.5 is a yes. Regression: numbers, both [N] or [N, O]. A
single column [N, 1] is the same as [N].

Precision, recall and F1 are those of class 1 where there are two classes; with more classes they are the mean over
those that occur ("macro"), with several labels the mean over the labels. A division by zero gives 0. Where
`sample_weight` [N] is given, each sample counts that many times.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnx import checks, targets
from nnx import weights as weighting
from nnx.backends.operation_table import QUIET
from nnx.errors import InputError

# ---- classification --------------------------------------------------------------------------------------------------


def precision(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the precision: of the samples predicted to be of a class, the share that is."""
    right, predicted, _ = _counts(y_true, y_pred, "precision", sample_weight)
    return float(np.mean(_shares(right, predicted)))


def recall(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the recall: of the samples of a class, the share that was predicted to be."""
    right, _, actual = _counts(y_true, y_pred, "recall", sample_weight)
    return float(np.mean(_shares(right, actual)))


def f1(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the F1 score: the harmonic mean of precision and recall, of each class; then the mean over the classes."""
    right, predicted, actual = _counts(y_true, y_pred, "f1", sample_weight)
    return float(np.mean(_shares(2 * right, predicted + actual)))


def balanced_accuracy(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the mean of the recall over the classes that occur; with several labels, the mean over those too."""
    wanted, predicted, _ = _decided(y_true, y_pred, "balanced_accuracy")
    weights = _weights(sample_weight, len(wanted), "balanced_accuracy")
    pairs = zip(_columns(wanted).T, _columns(predicted).T, strict=True)
    return float(np.mean([np.mean(_found(*pair, weights)) for pair in pairs]))


def _found(classes: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the recall of each class that occurs."""
    of_class = classes[:, None] == np.unique(classes)
    return _shares(weights @ (of_class & (predicted == classes)[:, None]), weights @ of_class)


def confusion(y_true: Any, y_pred: Any) -> np.ndarray:
    """Return the confusion matrix int64 [C, C]: rows are true classes, columns predicted ones; for outputs [N, C]."""
    wanted, outputs = _of_classes(y_true, y_pred, "confusion")
    table = np.zeros((outputs.shape[1], outputs.shape[1]), dtype=np.int64)
    np.add.at(table, (wanted, outputs.argmax(axis=1)), 1)
    return table


def log_loss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the mean of -log p(true class), for probabilities [N, C]; each p is clipped to float32's epsilon."""
    wanted, outputs = _of_classes(y_true, y_pred, "log_loss")
    _check_shares(outputs, "log_loss", "y_pred")
    of_true = outputs[np.arange(len(wanted)), wanted].astype(np.float64)
    costs = -np.log(np.clip(of_true, np.finfo(np.float32).eps, 1.0))
    return float(np.average(costs, weights=_weights(sample_weight, len(wanted), "log_loss")))


def auc(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the area under the ROC curve: the probability that a sample of a class is ranked above one of the others.

    For more than two classes it is the mean over the classes, each against all others. Classes that no sample or every
    sample has are left out; nan if none is left.
    """
    wanted, outputs = _pair(y_true, y_pred, "auc")
    if wanted.ndim < outputs.ndim:
        wanted, outputs = _of_classes(wanted, outputs, "auc")
        scores = outputs[:, 1:] if outputs.shape[1] == 2 else outputs
        first = outputs.shape[1] - scores.shape[1]
        of_class = wanted[:, None] == np.arange(first, outputs.shape[1])
    else:
        scores, of_class = _columns(outputs), _answers(wanted, outputs, "auc", "y_true")
    weights = _weights(sample_weight, len(wanted), "auc")
    areas = [_area(of_class[:, i], scores[:, i], weights) for i in range(scores.shape[1])]
    known = [area for area in areas if not np.isnan(area)]
    return float(np.mean(known)) if known else float("nan")


def top_k(y_true: Any, y_pred: Any, k: int = 5, sample_weight: Any = None) -> float:
    """Return the share of samples whose true class is among the k largest outputs."""
    k = checks.integer(k, "top_k: k")
    wanted, outputs = _of_classes(y_true, y_pred, f"top_{k}")
    best = np.argsort(outputs, axis=1, kind="stable")[:, ::-1][:, :k]
    right = (best == wanted[:, None]).any(axis=1)
    return float(np.average(right, weights=_weights(sample_weight, len(wanted), f"top_{k}")))


def _counts(y_true: Any, y_pred: Any, who: str, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each class or label how many samples are right, how many were predicted, and how many there are."""
    wanted, predicted, classes = _decided(y_true, y_pred, who)
    if wanted.ndim == 1:
        counted = np.array([1]) if classes <= 2 else np.union1d(wanted, predicted)
        wanted, predicted = wanted[:, None] == counted, predicted[:, None] == counted
    weights = _weights(sample_weight, len(wanted), who)
    return weights @ (wanted & predicted), weights @ predicted, weights @ wanted


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole; 0 where whole is 0."""
    shares: np.ndarray = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return shares


def _area(of_class: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> float:
    """Return the area under a ROC curve: the mean share of others ranked below one of the class; ties count half."""
    _, place = np.unique(scores, return_inverse=True)
    inside, outside = (np.bincount(place, weights * side) for side in (of_class, ~of_class))
    pairs = float(inside.sum() * outside.sum())
    below = np.cumsum(outside) - outside / 2
    return float(inside @ below) / pairs if pairs else float("nan")


# ---- regression ------------------------------------------------------------------------------------------------------


@QUIET
def mae(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the mean absolute error, over samples and outputs."""
    wanted, outputs = _numbers(y_true, y_pred, "mae")
    weights = _weights(sample_weight, len(wanted), "mae")
    return float(np.mean(np.average(np.abs(wanted - outputs), axis=0, weights=weights)))


def unit_for(peak: float) -> float:
    """Return a unit in which numbers up to `peak` can be squared: 1, unless the squares overflow or become 0."""
    if not math.isfinite(peak) or peak == 0 or 2.0**-500 < peak < 2.0**500:
        return 1.0
    return math.ldexp(1.0, math.frexp(peak)[1] - 1)  # a power of 2, so that dividing by it does not round


def _squarable(wanted: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return both arrays in a unit in which their differences can be squared, and that unit."""
    unit = unit_for(max(float(np.max(np.abs(a), initial=0.0)) for a in (wanted, outputs)))
    return wanted / unit, outputs / unit, unit


@QUIET
def rmse(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the square root of the mean squared error of each output, averaged over the outputs."""
    wanted, outputs = _numbers(y_true, y_pred, "rmse")
    weights = _weights(sample_weight, len(wanted), "rmse")
    wanted, outputs, unit = _squarable(wanted, outputs)
    return float(np.mean(np.sqrt(np.average((wanted - outputs) ** 2, axis=0, weights=weights))) * unit)


@QUIET
def r2(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Return the coefficient of determination: the share of the variance that is explained, averaged over the outputs.

    It is nan for a single sample. Where a target does not vary, it is 1 if the outputs are exact, else 0.
    """
    wanted, outputs = _numbers(y_true, y_pred, "r2")
    if len(wanted) < 2:
        return float("nan")
    weights = _weights(sample_weight, len(wanted), "r2")
    wanted, outputs, _ = _squarable(wanted, outputs)
    left = weights @ (wanted - outputs) ** 2
    total = weights @ (wanted - np.average(wanted, axis=0, weights=weights)) ** 2
    share = np.where(total > 0, 1 - left / total, np.where(left > 0, 0.0, 1.0))
    return float(np.mean(share))


# ---- operands --------------------------------------------------------------------------------------------------------


def _pair(y_true: Any, y_pred: Any, who: str) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays of finite numbers with the same number of samples; [N, 1] becomes [N]."""
    wanted, outputs = targets.given(y_true, f"{who}: y_true"), targets.given(y_pred, f"{who}: y_pred")
    checks.finite(outputs, who, "y_pred")
    checks.finite(wanted, who, "y_true")
    wanted, outputs = (a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a for a in (wanted, outputs))
    fits = {wanted.ndim, outputs.ndim} <= {1, 2} and len(wanted) == len(outputs) and min(wanted.size, outputs.size) > 0
    if not fits or (wanted.ndim == outputs.ndim and wanted.shape != outputs.shape):
        raise InputError(
            f"{who}: y_true has shape {np.shape(y_true)} and y_pred {np.shape(y_pred)}; expected classes [N] and "
            "outputs [N, C] or predicted classes [N], or both [N, O], of the same N samples, at least one"
        )
    return wanted, outputs


def _decided(y_true: Any, y_pred: Any, who: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return true values, predictions and the number of classes: class indices [N], or labels as bool [N, O]."""
    wanted, outputs = _pair(y_true, y_pred, who)
    if wanted.ndim < outputs.ndim:
        wanted, outputs = _of_classes(wanted, outputs, who)
        return wanted, outputs.argmax(axis=1), outputs.shape[1]
    if outputs.ndim == 1 and outputs.dtype.kind in "iub":
        wanted = wanted.argmax(axis=1) if wanted.ndim == 2 else wanted
        classes = int(max(wanted.max(), outputs.max(), 1)) + 1
        wanted, predicted = (targets.categorical(a, len(a), classes, who) for a in (wanted, outputs))
        return wanted, predicted, classes
    return _answers(wanted, outputs, who, "y_true"), _answers(outputs, wanted, who, "y_pred"), 2


def _of_classes(y_true: Any, y_pred: Any, who: str) -> tuple[np.ndarray, np.ndarray]:
    """Return class indices int64 [N], which may be given as one-hot rows, and outputs [N, C]."""
    wanted, outputs = _pair(y_true, y_pred, who)
    indices = targets.categorical(wanted, len(outputs), outputs.shape[1], who) if outputs.ndim == 2 else wanted
    if indices.ndim != 1 or outputs.ndim != 2:
        raise InputError(f"{who}: expected class indices [N], outputs [N, C], not {wanted.shape}, {outputs.shape}")
    return indices, outputs


def _answers(a: np.ndarray, other: np.ndarray, who: str, what: str) -> np.ndarray:
    """Return labels, given as 0 and 1 or as probabilities, as bool [N, O]; O must be that of `other`."""
    if a.ndim != other.ndim:
        raise InputError(f"{who}: {what} has shape {a.shape}, expected {other.shape}; predicted classes are integers")
    _check_shares(a, who, what)
    return _columns(a) > 0.5


def _check_shares(a: np.ndarray, who: str, what: str) -> None:
    if a.min() < 0 or a.max() > 1 + targets.SUM_TOLERANCE:
        raise InputError(
            f"{who}: {what} reaches from {a.min():g} to {a.max():g}; expected 0, 1 or probabilities (of logits take "
            "the sigmoid or softmax first), or predicted classes as integers"
        )


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
