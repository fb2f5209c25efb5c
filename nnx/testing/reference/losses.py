"""Reference of the losses."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.testing.reference.activations import exponentials, logistic
from nnx.testing.reference.results import Array, Results, Wanted

CLIP = 1e-7  # as in chapter 5


def one_hot(target: Array, classes: int) -> Array:
    """Labels as one-hot rows; the row of a label that is not a class is all zeros."""
    return target if target.ndim == 2 else (target[:, None] == np.arange(classes)).astype(np.float64)


def known(target: Array, classes: int, losses: Array) -> Array:
    """Losses; nan where the label is not a class."""
    wrong = target.ndim == 1 and (target < 0) | (target >= classes)
    return np.where(wrong, np.nan, losses)


def clipped(p: Array, kind: type[np.floating[Any]]) -> Array:
    """Probabilities clipped to [CLIP, 1 - CLIP], where the bounds are rounded to the type."""
    kept: Array = np.clip(p, float(kind(CLIP)), float(kind(1 - CLIP)))
    return kept


def loss(value: Array) -> Wanted:
    """Losses, whose error is measured relative to 1: near 0 they are no more exact than that."""
    return Wanted(value, 1 + np.abs(value))


def weighted(target: Array, cost: Array) -> Array:
    """target * cost, where 0 times infinity is 0."""
    product: Array = np.multiply(target, cost, out=np.zeros_like(cost), where=target != 0)
    return product


def bounded(cost: Array, clip: float) -> Array:
    """-log(p) as if p had been clipped to [clip, 1 - clip]."""
    return np.clip(cost, -np.log(1 - clip), -np.log(clip)) if clip else cost


def cross_entropy(p: Array, target: Array, kind: type[np.floating[Any]]) -> Results:
    costs = (one_hot(target, p.shape[1]) * -np.log(clipped(p, kind))).sum(axis=1)
    return {"out": loss(known(target, p.shape[1], costs))}


def cross_entropy_backward(p: Array, target: Array, kind: type[np.floating[Any]]) -> Results:
    return {"out": Wanted(-one_hot(target, p.shape[1]) / clipped(p, kind) / len(p))}


def softmax_cross_entropy(logits: Array, target: Array, clip: float = 0.0) -> Results:
    p, growth = exponentials(logits)
    t = one_hot(target, p.shape[1])
    top = logits.max(axis=1, keepdims=True)
    cost = top - logits + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return {
        "losses": loss(known(target, p.shape[1], weighted(t, bounded(cost, clip)).sum(axis=1))),
        "probabilities": Wanted(p, p * growth),
        "out": Wanted((p - t) / len(p), (p * growth + t) / len(p)),
    }


def binary_cross_entropy(p: Array, target: Array, kind: type[np.floating[Any]]) -> Results:
    p = clipped(p, kind)
    return {"out": loss(-(target * np.log(p) + (1 - target) * np.log1p(-p)).mean(axis=1))}


def binary_cross_entropy_backward(p: Array, target: Array, kind: type[np.floating[Any]]) -> Results:
    p = clipped(p, kind)
    no, yes = (1 - target) / (1 - p), target / p
    return {"out": Wanted((no - yes) / p.size, (no + yes) / p.size)}


def sigmoid_cross_entropy(logits: Array, target: Array, clip: float = 0.0) -> Results:
    p = logistic(logits)
    yes, no = (bounded(np.logaddexp(0, z), clip) for z in (-logits, logits))
    return {
        "losses": loss((weighted(target, yes) + weighted(1 - target, no)).mean(axis=1)),
        "probabilities": Wanted(p),
        "out": Wanted((p - target) / p.size, (p + target) / p.size),
    }


def mean_squared_error(prediction: Array, target: Array) -> Results:
    return {"out": Wanted(np.square(prediction - target).mean(axis=1))}


def mean_squared_error_backward(prediction: Array, target: Array) -> Results:
    return {"out": Wanted(2 * (prediction - target) / prediction.size)}


def mean_absolute_error(prediction: Array, target: Array) -> Results:
    return {"out": Wanted(np.abs(prediction - target).mean(axis=1))}


def mean_absolute_error_backward(prediction: Array, target: Array) -> Results:
    return {"out": Wanted((1.0 * (prediction > target) - (prediction < target)) / prediction.size)}


def huber_loss(prediction: Array, target: Array, delta: float) -> Results:
    error = np.abs(prediction - target)
    near = np.minimum(error, delta)
    return {"out": Wanted((near * error - near**2 / 2).mean(axis=1))}


def huber_loss_backward(prediction: Array, target: Array, delta: float) -> Results:
    return {"out": Wanted(np.clip(prediction - target, -delta, delta) / prediction.size)}
