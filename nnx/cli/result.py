"""Evaluation of a network, made once, for the report and the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnx.cli.sets import Problem
from nnx.model.sequential import Sequential


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
            return cls(f"{test} ({count} right)", train, headline, outputs, problem.y_test)
        outputs, wanted = (problem.metadata.unscale_target(a) for a in (outputs, problem.y_test))
        learned, goal = (problem.metadata.unscale_target(a) for a in (model.predict(problem.x), problem.y))
        test, train = _regression(outputs, wanted), _regression(learned, goal)
        return cls(test, train, test, outputs, wanted)


def _classification(model: Sequential, x: np.ndarray, y: np.ndarray) -> str:
    return "accuracy {accuracy:.4f}, loss {loss:.4f}".format(**model.evaluate(x, y))


def _regression(outputs: np.ndarray, wanted: np.ndarray) -> str:
    """Write R2, the share of the variance that is explained, and the root mean squared error."""
    error, spread = np.mean((outputs - wanted) ** 2), np.var(wanted)
    explained = f"R2 {1 - error / spread:.4f}, " if spread > 0 else ""
    return f"{explained}root mean squared error {np.sqrt(error):.4g}"
