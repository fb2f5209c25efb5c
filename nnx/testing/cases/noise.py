"""Cases of dropout and Gaussian noise."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np

from nnx.testing.cases.maker import Case, Cases, Maker
from nnx.testing.reference.noise import dropout_word


def dropout(make: Maker) -> Iterator[Case]:
    shapes = ((1, 1), (7, 1), (1, 2), (33, 3), (5, 10), (16, 17), (3, 300))
    rates, seeds = cycle((0.5, 0.0, 0.1, 0.9, 0.999)), cycle((0, 1, 2**32 - 1, 2**40 + 7, 2**64 - 1, 42))
    steps = cycle(((0, 0), (1, 7 << 32 | 3), (2**31, 1), (2**32 + 1, 0), (2**47 + 2**33, 3)))
    for (step, layer), shape in zip(steps, shapes * 2, strict=False):
        rate, seed, counters = next(rates), next(seeds), np.array([step, 4, 9])
        x = make.normal(*shape)
        x.flat[::7] = (np.inf, np.nan)[step % 2]  # the dropped ones must be 0 all the same
        name = f"rate={rate} seed={seed} layer={layer} step={step}"
        yield make.case("dropout", name, x=x, rate=rate, seed=seed, layer=layer, counters=counters)
    for row, column in ((0, 0), (0, 1), (2, 2), (1, 3), (2, 6)):
        # An element is kept from its own word on: these two rates lie on both sides of it.
        word = dropout_word(row, column, 3, 1, 0)
        for rate in (word / 2**32, (word + 1) / 2**32):
            name = f"rate={rate} at the word of element {row}, {column}"
            operands: dict[str, Any] = {"rate": rate, "seed": 0, "layer": 1, "counters": np.array([3, 0, 0])}
            yield make.case("dropout", name, x=np.ones((3, 7), make.kind), **operands)


def gaussian_noise(make: Maker) -> Iterator[Case]:
    shapes = ((1, 1), (7, 1), (1, 2), (33, 3), (5, 10), (16, 17), (3, 300))
    seeds, steps = (
        cycle((0, 2**32 - 1, 2**64 - 1, 42)),
        cycle(((0, 0), (1, 7 << 32 | 3), (2**32 + 1, 0), (2**47 + 2**33, 3))),
    )
    for (step, layer), shape, stddev in zip(steps, shapes, cycle((0.1, 1.0, 30.0)), strict=False):
        seed, counters = next(seeds), np.array([step, 4, 9])
        name = f"stddev={stddev} seed={seed} layer={layer} step={step}"
        operands: dict[str, Any] = {
            "x": make.normal(*shape),
            "stddev": stddev,
            "seed": seed,
            "layer": layer,
            "counters": counters,
        }
        yield make.case("gaussian_noise", name, **operands)


CASES: Cases = {
    "dropout": dropout,
    "gaussian_noise": gaussian_noise,
}
