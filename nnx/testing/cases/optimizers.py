"""Cases of what comes before and after an optimizer."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from nnx.testing.cases.maker import Case, Cases, Maker


def clip(make: Maker) -> Iterator[Case]:
    for size, (norm, value) in product((1, 7, 5000), ((1.5, np.inf), (np.inf, 0.5), (3.0, 1.0), (1e9, 1e9))):
        yield make.case("clip", f"norm={norm} value={value}", g=make.normal(size), norm=norm, value=value)
    small = make.normal(200) * make.kind(1e-30)  # whose squares are nothing in float32
    yield make.case("clip", "tiny", g=small, norm=1e-31, value=np.inf)
    yield make.case("clip", "large", g=make.normal(200) * make.kind(1e30), norm=1.0, value=np.inf)
    yield make.case("clip", "nothing but 0", g=np.zeros(5, make.kind), norm=1.0, value=1.0)
    for name, what in (("infinite", np.inf), ("nan", np.nan)):
        g = make.normal(300)
        g[123] = what
        yield make.case("clip", f"{name}, by norm", g=g, norm=1.0, value=np.inf)
        yield make.case("clip", f"{name}, by value", g=g, norm=np.inf, value=1.0)


def collect(make: Maker) -> Iterator[Case]:
    for size in (1, 7, 5000):
        yield make.case("collect", "plain", g=make.normal(size), m=make.normal(size))


def average(make: Maker) -> Iterator[Case]:
    for size, decay, (step, since) in product((1, 7, 5000), (0.0, 0.9, 0.999, 1.0), ((0, 0), (7, 7), (25, 5))):
        operands: dict[str, Any] = {"counters": np.array([step, 4, 9]), "decay": decay, "since": since}
        yield make.case("average", f"decay={decay}", a=make.normal(size), p=make.normal(size), **operands)


CASES: Cases = {
    "clip": clip,
    "collect": collect,
    "average": average,
}
