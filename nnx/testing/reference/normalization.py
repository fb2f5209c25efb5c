"""Reference of normalization."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

import numpy as np

from nnx.testing.reference.results import Array, Results, Wanted


def spread(x: Array, axis: int, epsilon: float) -> tuple[Array, Array, Array]:
    """x minus its means, 1 / its standard deviations, and the size of the terms of a normalized number."""
    near = x - x.take([0], axis=axis)  # of numbers far from 0 a mean in float64 has too few digits
    centred = near - near.mean(axis=axis, keepdims=True)
    scale = 1 / np.sqrt(np.square(centred).mean(axis=axis, keepdims=True) + epsilon)
    return centred, scale, np.abs(centred).max(axis=axis, keepdims=True) * scale * np.ones_like(x)


def affine(normalized: Array, size: Array, gamma: Array, beta: Array) -> Results:
    out = Wanted(normalized * gamma + beta, size * np.abs(gamma) + np.abs(beta))
    return {"normalized": Wanted(normalized, size), "out": out}


def layer_norm(x: Array, gamma: Array, beta: Array, epsilon: float) -> Results:
    centred, scale, size = spread(x, 1, epsilon)
    return {"scales": Wanted(scale[:, 0]), **affine(centred * scale, size, gamma, beta)}


def layer_norm_backward(normalized: Array, scales: Array, gamma: Array, dy: Array) -> Results:
    n, slope, size = dy.shape[1], dy * gamma, np.abs(dy * gamma)
    jacobian = np.eye(n) - 1 / n - normalized[:, :, None] * normalized[:, None, :] / n
    dx = scales[:, None] * np.einsum("nij,nj->ni", jacobian, slope)
    along = np.abs(normalized) * (size * np.abs(normalized)).mean(axis=1, keepdims=True)
    return {"out": Wanted(dx, scales[:, None] * (size + size.mean(axis=1, keepdims=True) + along))}


def norm_gradients(normalized: Array, dy: Array) -> Results:
    products = normalized * dy
    return {
        "dgamma": Wanted(products.sum(axis=0, keepdims=True), np.abs(products).sum(axis=0, keepdims=True)),
        "dbeta": Wanted(dy.sum(axis=0, keepdims=True), np.abs(dy).sum(axis=0, keepdims=True)),
    }


def batch_norm(
    x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float, momentum: float
) -> Results:
    centred, scale, size = spread(x, 0, epsilon)
    own, rest = x.mean(axis=0, keepdims=True), 1 - momentum
    unbiased = np.square(centred).sum(axis=0, keepdims=True) / max(len(x) - 1, 1)
    return {
        "mean": Wanted(momentum * mean + rest * own, momentum * np.abs(mean) + rest * np.abs(x).max(0, keepdims=True)),
        "variance": Wanted(momentum * variance + rest * unbiased),
        "scales": Wanted(scale),
        **affine(centred * scale, size, gamma, beta),
    }


def column_means(x: Array) -> Results:
    size = np.abs(x).mean(axis=0, keepdims=True)
    return {"means": Wanted(x.mean(axis=0, keepdims=True), size)}


def column_spreads(x: Array, means: Array) -> Results:
    return {"spreads": Wanted(np.square(x - means).mean(axis=0, keepdims=True))}


def pool(a: Array) -> Results:
    return {"a": Wanted(a / 2)}  # by the pool of cases.py


def pooled_norm(
    x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, means: Array, spreads: Array, rows: int,
    epsilon: float, momentum: float,
) -> Results:  # fmt: skip
    scale, rest = 1 / np.sqrt(spreads + epsilon), 1 - momentum
    unbiased, size = spreads * rows / max(rows - 1, 1), (np.abs(x) + np.abs(means)) * scale
    return {
        "mean": Wanted(momentum * mean + rest * means, momentum * np.abs(mean) + rest * np.abs(means)),
        "variance": Wanted(momentum * variance + rest * unbiased),
        "scales": Wanted(scale),
        **affine((x - means) * scale, size, gamma, beta),
    }


def fixed_norm(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float) -> Results:
    scale = 1 / np.sqrt(variance + epsilon)
    normalized = (x - mean) * scale
    return {"scales": Wanted(scale), **affine(normalized, np.abs(normalized), gamma, beta)}


def batch_norm_backward(
    normalized: Array, scales: Array, gamma: Array, dy: Array, dgamma: Array, dbeta: Array
) -> Results:
    parts = dy, -dbeta / len(dy), -normalized * dgamma / len(dy)
    factor = scales * gamma
    return {"out": Wanted(factor * sum(parts), np.abs(factor) * sum(map(np.abs, parts)))}


def fixed_norm_backward(scales: Array, gamma: Array, dy: Array) -> Results:
    return {"out": Wanted(dy * gamma * scales)}
