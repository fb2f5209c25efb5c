"""Permutation importance: how much the error on the test part grows if the cells of one column are shuffled.

It is measured for columns of the file, not for single features: all features of a column are shuffled together. If two
columns hold the same information, each may look unimportant, since the other one remains.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnx import metrics
from nnx.cli.metadata import networks
from nnx.cli.result import amount
from nnx.cli.sets import Problem
from nnx.ensemble import Ensemble
from nnx.sequential import Sequential

REPEATS = 5
ROWS, FEWEST = 2000, 50  # at most so many rows of the test part are used, and at least, if it has more
MOST = 6  # columns that are reported
LOG_LOSS = "log loss"
NONE = "0.000"  # a rise of the log loss that is not reported
WORK = 2e10  # the most multiplications in total: about a second


@dataclass(frozen=True)
class Importance:
    """The importance of columns.

    Attributes:
        names: of the columns, the most important first; empty if there are too many to measure in a short time.
        rises: for each, by how much the error grows. spreads: the standard deviations between repeats.
        error: the name of the error.
    """

    names: tuple[str, ...]
    rises: tuple[float, ...]
    spreads: tuple[float, ...]
    error: str

    def words(self) -> tuple[str, ...]:
        """Return in words which columns matter most, and what the numbers mean."""
        if not self.names:
            return ("not measured: there are too many columns for it to be soon done",)
        first = list(zip(self.names, self.rises, strict=True))[:MOST]
        written = ((name, rise, self._written(rise)) for name, rise in first)
        told = ", ".join(f"{name} {text}" for name, rise, text in written if rise > 0 and text != NONE)
        told = told or "no column by itself"
        return told, f"by so much the {self.error} rises on the test part where that column is shuffled"

    def _written(self, rise: float) -> str:
        return f"{rise:.3f}" if self.error == LOG_LOSS else amount(rise)


def importance(model: Sequential | Ensemble, problem: Problem, seed: int) -> Importance | None:
    """Measure the importance of each column of a table; None if there is no table, or nothing to compare."""
    if problem.told is None or len(columns := problem.told.preparation.used) < 2 or len(problem.x_test) < 2:
        return None
    error = LOG_LOSS if problem.metadata.task == "classification" else "root mean squared error"
    parameters = [a.size for network in networks(model) for a in network.parameters().values()]
    row = len(columns) * sum(parameters)  # multiplications
    count = min(ROWS, len(problem.x_test), int(WORK / row))
    if count < min(FEWEST, len(problem.x_test)):
        return Importance((), (), (), error)
    random = np.random.RandomState(seed)
    rows = random.permutation(len(problem.x_test))[:count]
    x, y, repeats = problem.x_test[rows], problem.y_test[rows], min(REPEATS, int(WORK / (row * count)))
    base = _error(problem, model.predict(x), y)
    measured, first = [], 0
    for column in columns:
        part = slice(first, first := first + len(column.features))
        errors = []
        for _ in range(repeats):
            moved = x.copy()
            moved[:, part] = x[random.permutation(len(x)), part]
            errors.append(_error(problem, model.predict(moved), y) - base)
        measured.append((float(np.mean(errors)), float(np.std(errors)), column.name))
    measured.sort(key=lambda found: -found[0])
    rises, spreads, names = zip(*measured, strict=True)
    return Importance(names, rises, spreads, error)


def _error(problem: Problem, outputs: np.ndarray, y: np.ndarray) -> float:
    if problem.metadata.task == "classification":
        return metrics.log_loss(y, outputs)
    unscaled = problem.metadata.unscale_target
    return metrics.rmse(unscaled(y), unscaled(outputs))
