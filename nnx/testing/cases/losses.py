"""Cases of the losses."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, product
from typing import Any

import numpy as np

from nnx.testing.cases.maker import SHAPES, Case, Cases, Maker, Named, combined


def cross_entropy(operation: str) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        for turn, shape in enumerate(SHAPES):
            for (name, p), (kind, target) in combined(make.probabilities(shape), make.labels(shape), turn):
                yield make.case(operation, f"{name}, {kind}", p=p, target=target)

    return cases


def fused(
    operation: str, targets: Callable[[Maker, tuple[int, int]], Iterable[Named]]
) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        clips, nothing = cycle((0.0, 1e-7, 0.1)), dict[str, Any]()
        for turn, shape in enumerate(SHAPES):
            for without in nothing, {"probabilities": None}:
                for (name, logits), (kind, target) in combined(make.logits(shape), targets(make, shape), turn):
                    clip = next(clips)
                    what = f"{name}, {kind}, clip={clip}{', no probabilities' if without else ''}"
                    yield make.case(operation, what, logits=logits, target=target, clip=clip, **without)
        if operation == "sigmoid_cross_entropy":
            logits = np.array([[np.inf, -np.inf], [np.inf, -np.inf]], make.kind)
            target = np.array([[1, 0], [0, 1]], make.kind)  # the first row costs nothing, the second everything
            yield make.case(operation, "infinite logits", logits=logits, target=target)

    return cases


def binary(operation: str) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        for shape in SHAPES:
            for (name, p), (kind, target) in product(make.shares(shape), make.shares(shape)):
                yield make.case(operation, f"{name}, targets {kind}", p=p, target=target)

    return cases


def regression(operation: str, *settings: dict[str, Any]) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        for shape in SHAPES:
            prediction, target = make.normal(*shape), make.normal(*shape)
            target.flat[::3] = prediction.flat[::3]
            huge = make.huge_row(prediction, 1e15)
            for setting in settings:
                given = {"target": target, **setting}
                yield make.case(operation, "plain", prediction=prediction, **given)
                yield make.case(operation, "one huge row", prediction=huge, **given)

    return cases


CASES: Cases = {
    "cross_entropy": cross_entropy("cross_entropy"),
    "cross_entropy_backward": cross_entropy("cross_entropy_backward"),
    "softmax_cross_entropy": fused("softmax_cross_entropy", Maker.labels),
    "binary_cross_entropy": binary("binary_cross_entropy"),
    "binary_cross_entropy_backward": binary("binary_cross_entropy_backward"),
    "sigmoid_cross_entropy": fused("sigmoid_cross_entropy", Maker.shares),
    "mean_squared_error": regression("mean_squared_error", {}),
    "mean_squared_error_backward": regression("mean_squared_error_backward", {}),
    "mean_absolute_error": regression("mean_absolute_error", {}),
    "mean_absolute_error_backward": regression("mean_absolute_error_backward", {}),
    "huber_loss": regression("huber_loss", {"delta": 1.0}, {"delta": 0.3}),
    "huber_loss_backward": regression("huber_loss_backward", {"delta": 1.0}, {"delta": 0.3}),
}
