"""Reference of a training step around its layers."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

import numpy as np

from nnx.kernels.step_state import CURSOR, DONE, HITS, LOSS, PENALTY, STEP
from nnx.testing.reference.losses import weighted
from nnx.testing.reference.results import Array, Results, Wanted


def gather_rows(source: Array, order: Array, counters: Array, batch: int) -> Results:
    first = int(counters[CURSOR])
    places = range(first, first + batch)
    rows = (order[min(max(place, 0), len(order) - 1)] for place in places)
    return {"out": Wanted(np.stack([source[min(max(row, 0), len(source) - 1)] for row in rows]))}


def weigh(x: Array, weights: Array) -> Results:
    return {"out": Wanted(weighted(weights * np.ones_like(x), x))}


def tally(losses: Array, outputs: Array, target: Array, metric: str | None, tolerance: float, stats: Array) -> Results:
    once = np.ones((len(losses), 1))
    return weighted_tally(losses, outputs, target, once, metric, tolerance, stats)


def weighted_tally(
    losses: Array, outputs: Array, target: Array, weights: Array, metric: str | None, tolerance: float, stats: Array
) -> Results:
    stats, weights = stats.copy(), weights[:, 0]
    stats[LOSS] = weighted(weights, losses).mean()
    if metric == "categorical":
        labels = target.argmax(axis=1) if target.ndim == 2 else target
        right = [row.argmax() == label for row, label in zip(outputs, labels, strict=True)]
        stats[HITS] = weights @ np.array(right, np.float64)
    elif metric is not None:
        right = {
            "binary": (outputs > 0.5) == (target > 0.5),
            "logits": (outputs > 0) == (target > 0.5),
            "regression": np.abs(outputs - target) < tolerance,
        }[metric]
        stats[HITS] = weights @ right.mean(axis=1)
    return {"stats": Wanted(stats)}


def end_step(stats: Array, penalties: Array, history: Array, counters: Array, rows: int) -> Results:
    stats, history, counters = stats.copy(), history.copy(), counters.copy()
    stats[PENALTY] = penalties.sum()
    history[counters[DONE] % len(history)] = stats
    for place, by in ((STEP, 1), (CURSOR, rows), (DONE, 1)):
        counters[place] += by
    return {
        "stats": Wanted(stats),
        "history": Wanted(history),
        "counters": Wanted(counters, exact=True),
    }
