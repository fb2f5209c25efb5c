"""Scores of predictions, by NumPy alone: a model is judged where scikit-learn is not installed, and as it judges."""

from __future__ import annotations

import numpy as np


def confusion(guess: np.ndarray, wanted: np.ndarray, count: int) -> np.ndarray:
    """Count, for each true class, what it was taken for: int64 [C, C]. guess, wanted: classes [N]."""
    table = np.zeros((count, count), dtype=np.int64)
    np.add.at(table, (wanted, guess), 1)
    return table


def balanced_accuracy(table: np.ndarray) -> float:
    """Return the mean, over the classes that there are, of the share of each that was found: of a confusion [C, C]."""
    there = table.sum(axis=1)
    return float(np.mean(np.diag(table)[there > 0] / there[there > 0]))


def log_loss(probabilities: np.ndarray, wanted: np.ndarray) -> float:
    """Return the mean of -log p(true class); none is taken for less than what float32 tells from 0 beside 1."""
    of_true = probabilities[np.arange(len(wanted)), wanted].astype(np.float64)
    return float(-np.mean(np.log(np.clip(of_true, np.finfo(np.float32).eps, 1.0))))


def auc(probabilities: np.ndarray, wanted: np.ndarray) -> float:
    """Return the area under the ROC curve: of two classes, or the mean of each class against all others.

    It is how often, of a sample of the class and one of another, the first has the larger probability. Classes that
    no sample has, or every one, do not count; nan where that leaves none.
    """
    classes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    areas = [_area(probabilities[:, c], wanted == c) for c in classes]
    known = [area for area in areas if not np.isnan(area)]
    return float(np.mean(known)) if known else float("nan")


def _area(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the area by the sum of ranks (Mann and Whitney); scores that are alike share their mean rank."""
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)]
    return float((ranks[positive].sum() - yes * (yes + 1) / 2) / (yes * no))


def rmse(outputs: np.ndarray, wanted: np.ndarray) -> float:
    """Return the root mean squared error."""
    return float(np.sqrt(np.mean((outputs - wanted) ** 2)))


def mae(outputs: np.ndarray, wanted: np.ndarray) -> float:
    """Return the mean absolute error."""
    return float(np.mean(np.abs(outputs - wanted)))


def r2(outputs: np.ndarray, wanted: np.ndarray) -> float:
    """Return the share of the variance that is explained; nan where there is none."""
    spread = np.var(wanted)
    return float(1 - np.mean((outputs - wanted) ** 2) / spread) if spread > 0 else float("nan")
