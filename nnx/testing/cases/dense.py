"""Cases of the dense product, its gradients, and penalties of weights."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, product

from nnx.kernels.elementwise import FUNCTIONS
from nnx.testing.cases.maker import SHAPES, Case, Cases, Maker

DENSE = ((1, 1, 1), (1, 3, 2), (7, 2, 3), (33, 17, 10), (64, 300, 3), (5, 10, 300), (300, 2, 64))


def dense(make: Maker) -> Iterator[Case]:
    activations = cycle((None, *(row.name for row in FUNCTIONS if not row.parameter)))
    for n, i, o in DENSE * 3:
        x, w, b = make.normal(n, i), make.normal(i, o), make.normal(1, o)
        name = next(activations)
        yield make.case("dense", f"-> {o}, {name}", x=x, w=w, b=b, activation=name)
    yield make.case(
        "dense", "one huge row", x=make.huge_row(make.normal(7, 3)), w=make.normal(3, 2), b=make.normal(1, 2)
    )


def dense_backward(make: Maker) -> Iterator[Case]:
    for n, i, o in DENSE:
        x, w, dy = make.normal(n, i), make.normal(i, o), make.normal(n, o)
        yield make.case("dense_backward", f"-> {o}", x=x, w=w, dy=dy)
        yield make.case("dense_backward", f"-> {o}, one huge row", x=x, w=w, dy=make.huge_row(dy))


def dense_dinputs(make: Maker) -> Iterator[Case]:
    for n, i, o in DENSE:
        w, dy = make.normal(i, o), make.normal(n, o)
        yield make.case("dense_dinputs", f"-> {o}", w=w, dy=dy)
        yield make.case("dense_dinputs", f"-> {o}, one huge row", w=w, dy=make.huge_row(dy))


def dense_gradients(make: Maker) -> Iterator[Case]:
    for n, i, o in DENSE:
        yield make.case("dense_gradients", f"-> {o}", x=make.normal(n, i), dy=make.normal(n, o))


def regularize(make: Maker) -> Iterator[Case]:
    for shape, (l1, l2) in product(SHAPES, ((0.1, 0.0), (0.0, 5e-4), (0.01, 0.02))):
        w = make.normal(*shape)
        w.flat[::3] = 0
        w.flat[::6] *= -1  # -0.0 counts as 0
        yield make.case("regularize", f"l1={l1} l2={l2}", w=w, dw=make.normal(*shape), l1=l1, l2=l2)


CASES: Cases = {
    "dense": dense,
    "dense_backward": dense_backward,
    "dense_dinputs": dense_dinputs,
    "dense_gradients": dense_gradients,
    "regularize": regularize,
}
