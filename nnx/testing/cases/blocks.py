"""Cases of sums, columns and embeddings."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import numpy as np

from nnx.testing.cases.maker import SHAPES, Array, Case, Cases, Maker


def add(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        yield make.case("add", "plain", x=make.normal(*shape), y=make.normal(*shape))
        huge = make.huge_row(make.normal(*shape))
        yield make.case("add", "one huge row", x=huge, y=make.normal(*shape))


def columns_of(make: Maker) -> Iterator[tuple[Array, int, int]]:
    """A matrix, and some columns of it: the first ones, those between and the last."""
    for rows, columns in SHAPES:
        x = make.normal(rows, columns)
        x.flat[::7] = np.nan
        for first, last in {
            (0, columns),
            (0, 1),
            (columns // 3, columns // 3 + (columns + 1) // 2),
            (columns - 1, columns),
        }:
            yield x, first, min(last, columns)


def put_columns(make: Maker) -> Iterator[Case]:
    for y, first, last in columns_of(make):
        x = make.normal(len(y), last - first)
        yield make.case("put_columns", f"to {first} .. {last}", x=x, first=first, y=y)


def take_columns(make: Maker) -> Iterator[Case]:
    for x, first, last in columns_of(make):
        yield make.case("take_columns", f"from {first} .. {last}", x=x, first=first, count=last - first)


def codes(make: Maker) -> Iterator[tuple[str, Array, int, int]]:
    """Codes in a column of a matrix, how many there are, and which column it is."""
    for (rows, columns), count in zip(SHAPES, cycle((1, 2, 5, 3, 300, 7, 4)), strict=False):
        for column in {0, columns - 1}:
            x = make.normal(rows, columns)
            x[:, column] = make.random.integers(0, count, rows)
            yield f"{count} codes", x, count, column
            wrong = x.copy()
            wrong[::2, column] = np.resize([np.nan, -1, count, 0.5, np.inf, -np.inf, 1e30, -0.0], len(wrong[::2]))
            yield f"{count} codes, and what is none", wrong, count, column


def embed(make: Maker) -> Iterator[Case]:
    for width, (name, x, count, column) in zip(cycle((3, 1, 17)), codes(make), strict=False):
        w, y = make.normal(count, width), make.normal(len(x), width + 4)
        yield make.case("embed", name, x=x, w=w, column=column, first=column % 5, y=y)


def embed_gradients(make: Maker) -> Iterator[Case]:
    for width, (name, x, count, column) in zip(cycle((3, 1, 17)), codes(make), strict=False):
        dy, dw = make.normal(len(x), width + 4), np.full((count, width), 9, make.kind)
        yield make.case("embed_gradients", name, x=x, dy=dy, dw=dw, column=column, first=column % 5)


CASES: Cases = {
    "add": add,
    "put_columns": put_columns,
    "take_columns": take_columns,
    "embed": embed,
    "embed_gradients": embed_gradients,
}
