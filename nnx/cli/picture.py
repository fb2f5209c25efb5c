"""The picture that `nnx train --plot` draws: the curves, and a panel that suits the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnx import plots
from nnx.cli.checkpointer import curves
from nnx.cli.importance import Importance
from nnx.cli.metadata import networks
from nnx.cli.result import Result
from nnx.cli.sets import Problem
from nnx.cli.stopping import best
from nnx.ensemble import Ensemble
from nnx.sequential import Sequential

NAMES = {"spiral": "Spiral", "digits": "Handwritten digits", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


def draw(
    path: Path, model: Sequential | Ensemble, problem: Problem, result: Result, worth: Importance | None, subtitle: str
) -> None:
    """Draw the training curves (of an ensemble's first network), the result, and the columns' importance if known."""
    name = NAMES.get(problem.name, problem.name)
    title, subtitle = f"{name}: {result.headline}", subtitle.replace(" -> ", " \u2192 ")
    first = networks(model)[0]
    known = best(first)
    figure = plots.compose(
        title, subtitle, curves(first.metadata), _panel(model, problem, result),
        side=_importance(worth) if worth is not None and worth.names else None,
        held_out="validation" if problem.validation else "test",
        kept=None if known is None else known["epoch"],
    )  # fmt: skip
    plots.save(figure, path)


def _importance(worth: Importance) -> plots.Panel:
    label = f"rise of the {worth.error}\nwhere the column is shuffled"
    return plots.bars(worth.names, worth.rises, worth.spreads, "What mattered", label)


def _panel(model: Sequential | Ensemble, problem: Problem, result: Result) -> plots.Panel:
    names = problem.metadata.classes
    if problem.metadata.task == "regression":
        return plots.regression(
            result.outputs, result.wanted, "" if problem.told is None else problem.told.reading.label
        )
    if problem.picture is not None:
        columns, rows = (6, 4) if max(map(len, names)) < 3 else (5, 4)
        return plots.images(
            problem.x_test, result.wanted, result.outputs, problem.picture, names, rows=rows, columns=columns
        )
    if problem.x.shape[1] == 2:
        x, x_test = (problem.unscaled(part) for part in (problem.x, problem.x_test))

        def predict(points: np.ndarray) -> np.ndarray:
            return model.predict(problem.metadata.scale(points))

        return plots.boundary(predict, x, problem.y, x_test, problem.y_test, names, problem.metadata.columns)
    return plots.confusion(result.outputs.argmax(axis=1), result.wanted, names)
