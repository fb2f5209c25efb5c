"""Reference of the dense product, its gradients, and penalties of weights."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

import numpy as np

from nnx.testing.reference import activations
from nnx.testing.reference.results import Array, Results, Wanted


def dense(x: Array, w: Array, b: Array, activation: str | None = None) -> Results:
    y = np.einsum("ni,io->no", x, w) + b
    size = np.abs(x) @ np.abs(w) + np.abs(b)
    if activation is None:
        return {"out": Wanted(y, size)}
    return {"out": Wanted(getattr(activations, activation)(y)["out"].value, 1.2 * size)}  # no slope is steeper


def dense_backward(x: Array, w: Array, dy: Array) -> Results:
    return {**dense_gradients(x, dy), **dense_dinputs(w, dy)}


def dense_dinputs(w: Array, dy: Array) -> Results:
    return {"out": Wanted(np.einsum("no,io->ni", dy, w), np.abs(dy) @ np.abs(w).T)}


def dense_gradients(x: Array, dy: Array) -> Results:
    return {
        "dw": Wanted(np.einsum("ni,no->io", x, dy), np.abs(x).T @ np.abs(dy)),
        "db": Wanted(dy.sum(axis=0, keepdims=True), np.abs(dy).sum(axis=0, keepdims=True)),
    }


def regularize(w: Array, dw: Array, l1: float, l2: float) -> Results:
    slope = l1 * np.where(w < 0, -1.0, 1.0) + 2 * l2 * w
    return {
        "dw": Wanted(dw + slope, np.abs(dw) + l1 + 2 * l2 * np.abs(w)),
        "penalty": Wanted(np.array([l1 * np.abs(w).sum() + l2 * np.square(w).sum()])),
    }
