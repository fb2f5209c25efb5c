"""Cases of normalization."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np

from nnx.testing.cases.maker import SHAPES, Array, Case, Cases, Maker


def far(make: Maker, shape: tuple[int, int]) -> Iterator[tuple[str, Array]]:
    """Numbers to normalize: with means far from 0, next to one another, or all the same."""
    a = make.normal(*shape)
    yield "plain", a
    yield "far from 0", a + make.kind(1000)
    yield "all the same", np.full(shape, -2.5, make.kind)
    yield "tiny", make.kind(1e-12) * a
    yield "one huge row", make.huge_row(a, 1e10)


def affine(make: Maker, columns: int) -> dict[str, Any]:
    return {"gamma": make.normal(1, columns), "beta": make.normal(1, columns)}


def running(make: Maker, columns: int) -> dict[str, Any]:
    return {"mean": make.normal(1, columns), "variance": np.square(make.normal(1, columns)) + make.kind(0.01)}


def layer_norm(make: Maker) -> Iterator[Case]:
    for shape, epsilon in zip(SHAPES, cycle((1e-5, 1e-3)), strict=False):
        for name, x in far(make, shape):
            operands = {"x": x, **affine(make, shape[1]), "epsilon": epsilon}
            yield make.case("layer_norm", name, **operands)
            yield make.case("layer_norm", f"{name}, nothing kept", **operands, normalized=None, scales=None)


def layer_norm_backward(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        scales, gamma = np.abs(make.normal(shape[0])), make.normal(1, shape[1])
        operands = {"normalized": make.normal(*shape), "scales": scales, "gamma": gamma, "dy": make.normal(*shape)}
        yield make.case("layer_norm_backward", "plain", **operands)


def norm_gradients(make: Maker) -> Iterator[Case]:
    for shape in (*SHAPES, (300, 5)):
        yield make.case("norm_gradients", "plain", normalized=make.normal(*shape), dy=make.normal(*shape))


def batch_norm(make: Maker) -> Iterator[Case]:
    for shape, momentum in zip((*SHAPES, (300, 40)), cycle((0.9, 0.0, 0.99)), strict=False):
        for name, x in far(make, shape):
            columns = shape[1]
            operands = {"x": x, **affine(make, columns), **running(make, columns), "epsilon": 1e-5}
            yield make.case("batch_norm", name, **operands, momentum=momentum)


def column_means(make: Maker) -> Iterator[Case]:
    for shape in (*SHAPES, (300, 40)):
        for name, x in far(make, shape):
            yield make.case("column_means", name, x=x)


def column_spreads(make: Maker) -> Iterator[Case]:
    for shape in (*SHAPES, (300, 40)):
        for name, x in far(make, shape):
            if "huge" not in name:  # of which a mean that is near the others is no mean
                means = x.mean(axis=0, keepdims=True, dtype=np.float64)
                yield make.case("column_spreads", name, x=x, means=means)
            beside = make.random.normal(size=(1, shape[1]))  # other processes' rows have moved the mean
            yield make.case("column_spreads", f"plain, a mean beside {name}", x=make.normal(*shape), means=beside)


class Half:
    """A pool of processes in which the others have the same number of rows, all of them 0."""

    def mean(self, a: Any, backend: Any) -> None:
        """Halve the array: its mean with the others' zeros."""
        a[...] = a * 0.5


def pool(make: Maker) -> Iterator[Case]:
    for size in (1, 40):
        yield make.case("pool", "halved", a=make.normal(1, size), pool=Half())


def pooled_norm(make: Maker) -> Iterator[Case]:
    for shape, rows in zip(SHAPES, cycle((1, 2, 600)), strict=False):
        for name, x in far(make, shape):
            moments = {
                "means": x.mean(axis=0, keepdims=True, dtype=np.float64) + 0.25 * x.std(axis=0, keepdims=True),
                "spreads": np.square(x, dtype=np.float64).mean(axis=0, keepdims=True),
            }
            operands = {"x": x, **affine(make, shape[1]), **running(make, shape[1]), **moments, "rows": rows}
            yield make.case("pooled_norm", name, **operands, epsilon=1e-5, momentum=0.9)


def fixed_norm(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        for name, x in far(make, shape):
            operands = {"x": x, **affine(make, shape[1]), **running(make, shape[1]), "epsilon": 1e-3}
            yield make.case("fixed_norm", name, **operands)
            yield make.case("fixed_norm", f"{name}, nothing kept", **operands, normalized=None, scales=None)


def batch_norm_backward(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        kept = {"normalized": make.normal(*shape), "scales": np.abs(make.normal(1, shape[1]))}
        sums = {"dgamma": make.normal(1, shape[1]), "dbeta": make.normal(1, shape[1])}
        operands: dict[str, Any] = {**kept, "gamma": make.normal(1, shape[1]), "dy": make.normal(*shape), **sums}
        yield make.case("batch_norm_backward", "plain", **operands)


def fixed_norm_backward(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        scales, gamma = np.abs(make.normal(1, shape[1])), make.normal(1, shape[1])
        yield make.case("fixed_norm_backward", "plain", scales=scales, gamma=gamma, dy=make.normal(*shape))


CASES: Cases = {
    "layer_norm": layer_norm,
    "layer_norm_backward": layer_norm_backward,
    "norm_gradients": norm_gradients,
    "batch_norm": batch_norm,
    "column_means": column_means,
    "column_spreads": column_spreads,
    "pool": pool,
    "pooled_norm": pooled_norm,
    "fixed_norm": fixed_norm,
    "batch_norm_backward": batch_norm_backward,
    "fixed_norm_backward": fixed_norm_backward,
}
