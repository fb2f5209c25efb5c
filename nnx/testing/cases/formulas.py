"""Cases of user-defined formulas, which use arithmetic that every array has."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnx.backends.formula import Formula
from nnx.testing.cases.maker import SHAPES, Case, Cases, Maker

SOFTSIGN = Formula("softsign", lambda x: x / (1 + abs(x)), lambda x, y: 1 / ((1 + abs(x)) * (1 + abs(x))))
ROBUST = Formula("robust", lambda p, t: squared(p, t) / (1 + squared(p, t)), lambda p, t: robust_slope(p, t))


def squared(p: Any, t: Any) -> Any:
    return (p - t) * (p - t)


def robust_slope(p: Any, t: Any) -> Any:
    return 2 * (p - t) / ((1 + squared(p, t)) * (1 + squared(p, t)))


def apply_formula(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        for name, x in make.logits(shape):
            yield make.case("apply_formula", name, x=x, of=SOFTSIGN)


def apply_formula_backward(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        for name, x in make.logits(shape):
            yield make.case("apply_formula_backward", name, x=x, y=np.tanh(x), dy=make.normal(*shape), of=SOFTSIGN)


def formula_loss(operation: str) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        for shape in SHAPES:
            yield make.case(operation, "plain", prediction=make.normal(*shape), target=make.normal(*shape), of=ROBUST)

    return cases


CASES: Cases = {
    "apply_formula": apply_formula,
    "apply_formula_backward": apply_formula_backward,
    "formula_loss": formula_loss("formula_loss"),
    "formula_loss_backward": formula_loss("formula_loss_backward"),
}
