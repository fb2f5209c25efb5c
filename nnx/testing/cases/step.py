"""Cases of a training step around its layers."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import numpy as np

from nnx.testing.cases.maker import SHAPES, Array, Case, Cases, Maker, Named, combined


def gather_rows(make: Maker) -> Iterator[Case]:
    for columns, rows, cursor in ((1, 1, 0), (3, 4, 0), (17, 5, 9), (300, 11, 22), (2, 33, 0)):
        order = np.concatenate([make.random.permutation(11) for _ in range(3)])
        counters = np.array([5, cursor, 2])
        for name, source in (
            ("floats", make.normal(11, columns)),
            ("indices", make.random.integers(0, 9, 11)),
            ("what is not finite", np.full((11, columns), np.nan, make.kind)),
        ):
            yield make.case("gather_rows", name, rows, source=source, order=order, counters=counters)
    source, far = make.normal(4, 3), np.array([2**62, -1, 4, -(2**62), 3])
    for cursor in (-2, 0, 3, 2**40):
        name, counters = f"rows that are not there, from {cursor} on", np.array([0, cursor, 0])
        yield make.case("gather_rows", name, 7, source=source, order=far, counters=counters)


def weights_of(make: Maker, rows: int) -> Array:
    """One number for each row, zeros among them."""
    weights = make.random.random((rows, 1)).astype(make.kind)
    weights[1::3] = 0
    return weights


def weigh(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        x, weights = make.normal(*shape), weights_of(make, shape[0])
        yield make.case("weigh", "plain", x=x, weights=weights)
        x[1::3] = np.resize([np.nan, np.inf], x[1::3].shape)
        yield make.case("weigh", "nothing in what does not count", x=x, weights=weights)


def weighted_tally(make: Maker) -> Iterator[Case]:
    for case in tally(make):
        losses, operands = case.operands["losses"].copy(), case.operands
        weights = weights_of(make, len(losses))
        losses[1::3] = np.nan
        yield make.case("weighted_tally", case.name, **operands | {"losses": losses, "weights": weights})


def tally(make: Maker) -> Iterator[Case]:
    stats = np.array([7.0, 8.0, 9.0])
    for turn, shape in enumerate(SHAPES):
        given = make.normal(*shape)
        close = (given + 0.1 * make.normal(*shape)).astype(make.kind)
        metrics: tuple[tuple[str | None, Iterable[Named], Iterable[Named]], ...] = (
            ("categorical", make.probabilities(shape), make.labels(shape)),
            ("binary", make.shares(shape), make.shares(shape)),
            ("logits", make.logits(shape), make.shares(shape)),
            ("regression", [("numbers", given)], [("numbers", close)]),
            (None, [("numbers", given)], make.labels(shape)),
        )
        for metric, outputs, targets in metrics:
            for (name, values), (kind, target) in combined(outputs, targets, turn):
                operands: dict[str, Any] = {"outputs": values, "target": target, "metric": metric, "tolerance": 0.05}
                losses = np.abs(make.normal(shape[0]))
                yield make.case("tally", f"{metric}, {name}, targets {kind}", losses=losses, stats=stats, **operands)


def end_step(make: Maker) -> Iterator[Case]:
    for penalties, done, capacity in product((0, 1, 5), (0, 3, 9), (1, 4)):
        operands: dict[str, Any] = {
            "stats": np.array([0.25, 3.0, np.nan]),
            "penalties": make.random.random(penalties),
            "history": make.random.random((capacity, 3)),
            "counters": np.array([12, 300, done]),
        }
        yield make.case("end_step", f"{penalties} penalties, row {done} of {capacity}", rows=17, **operands)


CASES: Cases = {
    "gather_rows": gather_rows,
    "weigh": weigh,
    "tally": tally,
    "weighted_tally": weighted_tally,
    "end_step": end_step,
}
