"""Cases of the activation functions."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

from nnx.kernels.elementwise import FUNCTIONS, Elementwise
from nnx.testing.cases.maker import SHAPES, Array, Case, Cases, Maker, wide
from nnx.testing.reference import formula


def softmax(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        for name, x in make.logits(shape):
            yield make.case("softmax", name, x=x)


def softmax_backward(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        y, dy = next(iter(make.probabilities(shape)))[1], make.normal(*shape)
        yield make.case("softmax_backward", "plain", y=y, dy=dy)
        yield make.case("softmax_backward", "one huge row", y=y, dy=make.huge_row(dy))


def function(row: Elementwise) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        settings = cycle(settings_of(row))
        for shape in SHAPES:
            for name, x in make.logits(shape):
                yield make.case(row.name, name, x=x, **next(settings))
        yield make.case(row.name, "signed zeros, infinities, nan", x=edges(make), **next(settings))

    return cases


def function_gradient(row: Elementwise) -> Callable[[Maker], Iterator[Case]]:
    def operands(x: Array, setting: dict[str, float]) -> dict[str, Any]:
        return {row.of: x if row.of == "x" else outputs(row, x, setting), **setting}

    def cases(make: Maker) -> Iterator[Case]:
        settings = cycle(settings_of(row))
        for shape in SHAPES:
            given, dy = operands(4 * make.normal(*shape), next(settings)), make.normal(*shape)
            yield make.case(row.gradient, "plain", dy=dy, **given)
            yield make.case(row.gradient, "one huge row", dy=make.huge_row(dy), **given)
        x = edges(make)
        yield make.case(row.gradient, "infinities, nan", dy=make.normal(*x.shape), **operands(x, next(settings)))
        if row.name == "relu":
            y = np.array([[0, 1, 0], [2, -0.0, 3]], make.kind)
            dy = np.array([[np.inf, np.inf, np.nan], [np.nan, -np.inf, 1]], make.kind)
            yield make.case(row.gradient, "what is not finite, masked and not", y=y, dy=dy)

    return cases


def settings_of(row: Elementwise) -> list[dict[str, Any]]:
    """Values of a function's parameter, if it has one."""
    return [{"a": row.default}, {"a": 0.3}, {"a": 2.0}] if row.parameter else [{}]


def outputs(row: Elementwise, x: Array, setting: dict[str, float]) -> Array:
    with np.errstate(all="ignore"):
        y: Array = formula(row.name)(wide(x), **setting)["out"].value.astype(x.dtype)
    return y


def edges(make: Maker) -> Array:
    return np.array([[0, -0.0, np.inf], [-np.inf, 1e-30, -1e-30], [np.nan, 1, -1]], make.kind)


def softmax_jacobian(make: Maker) -> Iterator[Case]:
    for shape in SHAPES[:-1]:
        for name, y in make.probabilities(shape):
            yield make.case("softmax_jacobian", name, y=y)


CASES: Cases = {
    **{row.name: function(row) for row in FUNCTIONS},
    **{row.gradient: function_gradient(row) for row in FUNCTIONS},
    "softmax": softmax,
    "softmax_backward": softmax_backward,
    "softmax_jacobian": softmax_jacobian,
}
