"""Several networks trained at once by `nnx train`: with different seeds (`--seeds`) or recipes (`--search`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import nnx
from nnx.cli.checkpointer import Checkpointer
from nnx.cli.console import Report
from nnx.cli.errors import Failed
from nnx.cli.recipe import Recipe
from nnx.cli.result import amount, score
from nnx.cli.sets import Problem
from nnx.cli.stopping import Best
from nnx.history import History


def fit_all(
    models: Sequence[nnx.Sequential], recipes: Sequence[Recipe], problem: Problem, report: Report, deterministic: bool
) -> list[History]:
    """Train each model by its recipe, all alike in how they train; each model ends with its best epoch's parameters.

    Raises:
        Failed: it was interrupted. Others: as by training.
    """
    recipe = recipes[0]
    callbacks = [
        [Checkpointer(None, each.steps(problem), Best(each.patience) if each.patience else None)] for each in recipes
    ]
    x, y = problem.training
    histories = nnx.fit_many(
        models, x, y, epochs=recipe.epochs, batch_size=recipe.batch_size or None,
        validation_data=problem.validation or (problem.x_test, problem.y_test), callbacks=callbacks,
        verbose=0 if report.quiet else "auto", deterministic=deterministic,
    )  # fmt: skip
    if any(history.interrupted for history in histories):
        raise Failed(f"interrupted while {len(models)} networks were trained; nothing was kept")
    return histories


def alone(models: Sequence[nnx.Sequential], problem: Problem) -> tuple[str, str]:
    """Return in words the score of each network by itself on the test part, and how much the scores vary."""
    (name, *_), scores = zip(*(score(problem, model.predict(problem.x_test)) for model in models), strict=True)
    share = problem.metadata.task == "classification"
    found = min(scores), max(scores), np.mean(scores), np.std(scores)
    low, high, mean, spread = (f"{value:.4f}" if share else amount(float(value)) for value in found)
    return f"{name} {mean} on average, standard deviation {spread}", f"each of the {len(scores)}: {low} to {high}"
