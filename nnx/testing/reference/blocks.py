"""Reference of sums, columns and embeddings."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

import numpy as np

from nnx.testing.reference.results import Array, Results, Wanted


def add(x: Array, y: Array) -> Results:
    return {"out": Wanted(np.array(x + y), np.abs(x) + np.abs(y))}


def put_columns(x: Array, first: int, y: Array) -> Results:
    return {"y": Wanted(np.concatenate([y[:, :first], x, y[:, first + x.shape[1] :]], axis=1), exact=True)}


def take_columns(x: Array, first: int, count: int) -> Results:
    return {"out": Wanted(np.stack([x[:, first + j] for j in range(count)], axis=1), exact=True)}


def code(value: float, count: int) -> int | None:
    """A code as an index; None if it is invalid."""
    return next((i for i in range(count) if value == i), None)


def embed(x: Array, w: Array, column: int, first: int, y: Array) -> Results:
    y = y.copy()
    for row, value in enumerate(x[:, column]):
        found = code(value, len(w))
        y[row, first : first + w.shape[1]] = np.nan if found is None else w[found]
    return {"y": Wanted(y, exact=True)}


def embed_gradients(x: Array, dy: Array, dw: Array, column: int, first: int) -> Results:
    total, size = np.zeros_like(dw), np.zeros_like(dw)
    for row, value in enumerate(x[:, column]):
        found = code(value, len(dw))
        if found is not None:
            total[found] += dy[row, first : first + dw.shape[1]]
            size[found] += np.abs(dy[row, first : first + dw.shape[1]])
    return {"dw": Wanted(total, size)}
