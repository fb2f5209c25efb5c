"""Evaluation of a network, made once, for the report and the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnx.cli.sets import Problem
from nnx.sequential import Sequential


@dataclass(frozen=True, eq=False)
class Result:
    """What a network does on a data set.

    Attributes:
        test, train: scores in words. headline: the one that matters.
        outputs: for the test samples, probabilities [N, C], or numbers [N, 1] in the units of the data.
        wanted: classes [N], or numbers [N, 1] in the units of the data.
    """

    test: str
    train: str
    headline: str
    outputs: np.ndarray
    wanted: np.ndarray

    @classmethod
    def of(cls, model: Sequential, problem: Problem) -> Result:
        """Measure a network on both parts of a data set."""
        outputs = model.predict(problem.x_test)
        if problem.metadata.task == "classification":
            test, train = (_classification(model, x, y) for x, y in problem.parts)
            right = int(np.count_nonzero(outputs.argmax(axis=1) == problem.y_test))
            count = f"{right:,} of {len(outputs):,}"
            headline = f"{count} test samples right ({right / len(outputs):.1%})"
            counts = np.bincount(problem.y, minlength=problem.outputs)
            common = int(counts.argmax())  # what one would say without looking
            name, share = problem.metadata.class_names(problem.outputs)[common], np.mean(problem.y_test == common)
            words = f"{test} ({count} right; always {name}: {share:.4f})"
            return cls(words, train, headline, outputs, problem.y_test)
        outputs, wanted = (problem.metadata.unscale_target(a) for a in (outputs, problem.y_test))
        learned, goal = (problem.metadata.unscale_target(a) for a in (model.predict(problem.x), problem.y))
        test, train = _regression(outputs, wanted), _regression(learned, goal)
        mean = np.sqrt(np.mean((goal.mean() - wanted) ** 2))  # what one would say without looking
        absolute = _amount(np.mean(np.abs(outputs - wanted)))
        words = f"{test} (always the mean: {_amount(mean)}), mean absolute error {absolute}"
        return cls(words, train, test, outputs, wanted)


def _classification(model: Sequential, x: np.ndarray, y: np.ndarray) -> str:
    return "accuracy {accuracy:.4f}, loss {loss:.4f}".format(**model.evaluate(x, y))


def _regression(outputs: np.ndarray, wanted: np.ndarray) -> str:
    """Write R2, the share of the variance that is explained, and the root mean squared error."""
    error, spread = np.mean((outputs - wanted) ** 2), np.var(wanted)
    explained = f"R2 {1 - error / spread:.4f}, " if spread > 0 else ""
    return f"{explained}root mean squared error {_amount(np.sqrt(error))}"


def _amount(value: float) -> str:
    """Write an amount with four digits or more, and without an exponent where people would not use one."""
    if not 1e-4 <= value < 1e12:
        return f"{value:.4g}"
    return f"{value:,.{max(0, 3 - int(np.floor(np.log10(value))))}f}"
