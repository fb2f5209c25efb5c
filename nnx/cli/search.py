"""Hyperparameter search, `nnx train --search`: a small grid around the usual recipe, all trained at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from nnx.cli.console import Report
from nnx.cli.recipe import Recipe, words
from nnx.cli.result import amount
from nnx.cli.sets import Problem
from nnx.cli.several import fit_all
from nnx.errors import InputError, NonFiniteError

VARIED = ("layers", "lr", "l2")
TRIED = (
    "the usual hidden layers, twice as wide, and with one layer more; the usual learning rate, a third and three times "
    "of it; the usual penalty on weights, and ten times of it."
)
LEAST = 1e-4  # the penalty that is tried as ten times a penalty of 0


def check_search(given: Mapping[str, Any]) -> None:
    """Refuse to search if everything that would be varied was given."""
    if all(name in given for name in VARIED):
        raise InputError("--search: --layers, --lr and --l2 were all given, so nothing is left to try; leave one out")


def candidates(recipe: Recipe, given: Mapping[str, Any]) -> Iterator[Recipe]:
    """Yield the recipes to try, the usual one first."""
    usual = recipe.layers or (64,)
    choices: dict[str, tuple[Any, ...]] = {
        "layers": (recipe.layers, tuple(2 * width for width in usual), (*usual, usual[-1])),
        "lr": (recipe.lr, float(f"{recipe.lr / 3:.1g}"), float(f"{recipe.lr * 3:.1g}")),
        "l2": (recipe.l2, float(f"{10 * recipe.l2:.1g}") or LEAST),
    }
    for values in product(*(choices[name][: 1 if name in given else None] for name in VARIED)):
        yield replace(recipe, **dict(zip(VARIED, values, strict=True)))


def searched(
    problem: Problem, recipe: Recipe, given: Mapping[str, Any], backend: str | None, report: Report, deterministic: bool
) -> Recipe:
    """Train all candidates, show their losses, and return the one with the best loss on the validation part.

    Raises:
        NonFiniteError: the loss of all of them became nan or infinite. Others: as by training.
    """
    recipes = list(candidates(recipe, given))
    part = problem.with_validation(recipe.seed)
    models = [each.build(part, backend) for each in recipes]
    rows = f"{part.rows:,} rows to learn from, {len(part.validation[0]) if part.validation else 0:,} to choose by"
    report.line("search", f"{len(recipes)} networks, on {rows}")
    report.gap()
    try:
        histories: list[Any] = fit_all(models, recipes, part, report, deterministic)
    except NonFiniteError as error:
        histories = getattr(error, "histories", [None])
        if all(history is None for history in histories):
            raise
    report.gap()
    losses = [_loss(each, history) for each, history in zip(recipes, histories, strict=True)]
    order = sorted(range(len(recipes)), key=lambda number: losses[number])  # stable: the first of equal ones wins
    report.line("tried", *_table([recipes[i] for i in order], [losses[i] for i in order]))
    return recipes[order[0]]


def _loss(recipe: Recipe, history: Any) -> float:
    """Return the loss on the validation part in the epoch whose parameters are kept; inf if training failed."""
    if history is None:
        return np.inf
    found = history["val_loss"]
    return float(np.nanmin([*found, np.inf]) if recipe.patience else found[-1])


def _table(recipes: list[Recipe], losses: list[float]) -> list[str]:
    """Return the lines of a table of the recipes, the best first."""
    cells = [
        ("layers", "learning rate", "l2", "validation loss"),
        *(
            (words(each.layers), f"{each.lr:g}", f"{each.l2:g}", amount(loss) if np.isfinite(loss) else "-")
            for each, loss in zip(recipes, losses, strict=True)
        ),
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
