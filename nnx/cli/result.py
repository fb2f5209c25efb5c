"""Evaluation of a network on its data set, done once for report and picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnx import metrics
from nnx.backends.printable import printable
from nnx.cli.sets import Problem
from nnx.ensemble import Ensemble
from nnx.sequential import Sequential

FEW = 6  # the confusion matrix is shown for up to so many classes
WIDEST = 12  # characters of a class's name in the confusion matrix


@dataclass(frozen=True, eq=False)
class Result:
    """The results of a network on a data set.

    Attributes:
        test: texts with the scores on the test part, one for each line. train: the same for the training part.
        headline: the most important score.
        outputs: for the test samples, probabilities [N, C], or numbers [N, 1] in the units of the data.
        wanted: their classes [N], or numbers [N, 1] in the units of the data.
        mistakes: the lines of the confusion matrix, if there are few classes.
    """

    test: tuple[str, ...]
    train: str
    headline: str
    outputs: np.ndarray
    wanted: np.ndarray
    mistakes: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Sequential | Ensemble, problem: Problem) -> Result:
        """Evaluate a network on both parts of a data set."""
        make = cls._classes if problem.metadata.task == "classification" else cls._numbers
        return make(problem, model.predict(problem.x_test), model.predict(problem.x))

    @classmethod
    def _classes(cls, problem: Problem, outputs: np.ndarray, learned: np.ndarray) -> Result:
        names, wanted = problem.metadata.class_names(problem.outputs), problem.y_test
        table = metrics.confusion(wanted, outputs)
        right, total = int(np.trace(table)), len(wanted)
        # The baseline: always predicting the most frequent class.
        common = int(np.bincount(problem.targets, minlength=problem.outputs).argmax())
        always = f"always {names[common]}: {np.mean(wanted == common):.4f}"
        test = f"{_classification(outputs, wanted)} ({right:,} of {total:,} right; {always})"
        area = metrics.auc(wanted, outputs)
        kind = "" if problem.outputs == 2 else " (mean of each class against the others)"
        more = f"balanced accuracy {metrics.balanced_accuracy(wanted, outputs):.4f}" + (
            f", AUC {area:.4f}{kind}" if not np.isnan(area) else ""
        )
        headline = f"{right:,} of {total:,} test samples right ({right / total:.1%})"
        mistakes = _written(table, names) if len(names) <= FEW else ()
        return cls((test, more), _classification(learned, problem.y), headline, outputs, wanted, mistakes)

    @classmethod
    def _numbers(cls, problem: Problem, outputs: np.ndarray, learned: np.ndarray) -> Result:
        unscaled = problem.metadata.unscale_target
        outputs, wanted, learned, goal = map(unscaled, (outputs, problem.y_test, learned, problem.y))
        test, train = _regression(outputs, wanted), _regression(learned, goal)
        mean = np.full_like(wanted, unscaled(problem.targets).mean())  # the baseline: always predicting the mean
        more = f"mean absolute error {amount(metrics.mae(wanted, outputs))}"
        words = f"{test} (always the mean: {amount(metrics.rmse(wanted, mean))})"
        return cls((words, more), train, test, outputs, wanted)


def score(problem: Problem, outputs: np.ndarray) -> tuple[str, float]:
    """Return the name and the value of the score of outputs on the test part."""
    if problem.metadata.task == "classification":
        return "accuracy", float(np.mean(outputs.argmax(axis=1) == problem.y_test))
    unscaled = problem.metadata.unscale_target
    return "root mean squared error", metrics.rmse(unscaled(problem.y_test), unscaled(outputs))


def _classification(probabilities: np.ndarray, wanted: np.ndarray) -> str:
    accuracy = np.mean(probabilities.argmax(axis=1) == wanted)
    return f"accuracy {accuracy:.4f}, log loss {metrics.log_loss(wanted, probabilities):.4f}"


def _regression(outputs: np.ndarray, wanted: np.ndarray) -> str:
    share = f"R2 {metrics.r2(wanted, outputs):.4f}, " if np.ptp(wanted) else ""  # not of targets that are all equal
    return f"{share}root mean squared error {amount(metrics.rmse(wanted, outputs))}"


def _written(table: np.ndarray, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines of a confusion matrix: a row for each true class."""
    shown = [printable(name) for name in names]
    short = [name if len(name) <= WIDEST else f"{name[: WIDEST - 1]}…" for name in shown]
    rows = [
        ["", *short],
        *([f"{name} taken for", *(f"{n:,}" for n in row)] for name, row in zip(short, table, strict=True)),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return tuple(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def amount(value: float) -> str:
    """Return an amount with at least four digits, and without an exponent unless it is very large or small."""
    if not 1e-4 <= value < 1e15:
        return f"{value:.4g}"
    return f"{value:,.{max(0, 3 - int(np.floor(np.log10(value))))}f}"
