"""Reference results: every operation's formula once more, in float64 NumPy, for clarity and not from the code.

Each function takes an operation's operands by name, floats as float64, and returns what the operation must write, by
the name of the operand ("out" for the result). Beside a value stands `size`: the sum of the magnitudes that were added
up to it. Errors are measured against that, because no arithmetic can do better than the rounding of what it adds.
"""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnx.kernels.step_state import (
    BETA_1,
    BETA_2,
    CURSOR,
    DECAY,
    DONE,
    EPSILON,
    HITS,
    LEARNING_RATE,
    LOSS,
    MOMENTUM_DECAY,
    PENALTY,
    STEP,
    WEIGHT_DECAY,
)

Array = np.ndarray
CLIP = 1e-7  # as in chapter 5
FLUSHED = 1e-30  # a slope below it may be 0


@dataclass
class Wanted:
    """A result, the size of what was added up to it (None: its own), and whether it must be met to the last bit."""

    value: Array
    size: Array | None = None
    exact: bool = False


Results = dict[str, Wanted]


def formula(operation: str) -> Callable[..., Results]:
    """Return the function of this module that works out an operation; one that it has not is an error that says so."""
    found: Callable[..., Results] | None = globals().get(operation)
    if found is None:
        raise NotImplementedError(
            f"nnx/testing/reference.py has no function {operation!r}: write the formula there once more, in float64, "
            "by which all backends are judged"
        )
    return found


# ---- dense -----------------------------------------------------------------------------------------------------------


def dense(x: Array, w: Array, b: Array, activation: str | None = None) -> Results:
    y = np.einsum("ni,io->no", x, w) + b
    size = np.abs(x) @ np.abs(w) + np.abs(b)
    if activation is None:
        return {"out": Wanted(y, size)}
    return {"out": Wanted(formula(activation)(y)["out"].value, 1.2 * size)}  # no slope is steeper


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


# ---- activations -----------------------------------------------------------------------------------------------------


def logistic(x: Array) -> Array:
    p: Array = np.exp(-np.logaddexp(0, -x))
    return p


def exponentials(x: Array) -> tuple[Array, Array]:
    """Softmax, and by how much rounding x - max grows in it: the condition number of exp(x) is |x|."""
    gap = x.max(axis=1, keepdims=True) - x
    e = np.exp(-gap)
    return e / e.sum(axis=1, keepdims=True), 1 + np.minimum(gap, 1e3)


def relu(x: Array) -> Results:
    return {"out": Wanted(np.where(np.isnan(x), x, np.maximum(x, 0)))}


def relu_backward(y: Array, dy: Array) -> Results:
    dx = np.zeros_like(dy)
    dx[y > 0] = dy[y > 0]
    return {"out": Wanted(dx)}


def sigmoid(x: Array) -> Results:
    return {"out": Wanted(logistic(x))}


def sigmoid_backward(y: Array, dy: Array) -> Results:
    return {"out": Wanted(dy * y * (1 - y))}


def tanh(x: Array) -> Results:
    return {"out": Wanted(np.tanh(x), np.ones_like(x))}  # to the rounding of 1, also near 0


def tanh_backward(y: Array, dy: Array) -> Results:
    return {"out": Wanted(dy * (1 - y) * (1 + y), np.abs(dy) * (1 + y * y))}


def leaky_relu(x: Array, a: float) -> Results:
    return {"out": Wanted(np.maximum(x, 0) + a * np.minimum(x, 0))}


def leaky_relu_backward(y: Array, dy: Array, a: float) -> Results:
    return {"out": Wanted(np.array([1, a])[np.where(y > 0, 0, 1)] * dy)}


def elu(x: Array, a: float) -> Results:
    return {"out": Wanted(np.maximum(x, 0) + a * np.expm1(np.minimum(x, 0)))}


def elu_backward(y: Array, dy: Array, a: float) -> Results:
    return {"out": Wanted(dy * np.where(y > 0, 1, y + a), np.abs(dy) * (np.abs(y) + a + 1))}


def gated(x: Array, share: Array, slope: Array, power: Array) -> tuple[Wanted, Wanted]:
    """x * share(x) and its slope, given the slope of the share, and the exponent in it, by which rounding grows."""
    growth = 1 + np.minimum(np.abs(power), 1e3)
    y = np.where(x == -np.inf, 0, x * share)
    turn = np.where(np.isinf(x), 0, x * slope)
    return Wanted(y, np.abs(y) * growth), Wanted(share + turn, (share + np.abs(turn)) * growth)


def gaussian(x: Array) -> tuple[Wanted, Wanted]:
    share = np.vectorize(math.erfc, otypes=[float])(-x / math.sqrt(2)) / 2
    return gated(x, share, np.exp(-x * x / 2) / math.sqrt(2 * math.pi), x * x / 2)


def gaussian_by_tanh(x: Array) -> tuple[Wanted, Wanted]:
    v = math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)
    steepness = math.sqrt(8 / math.pi) * (1 + 0.134145 * x**2)
    return gated(x, logistic(v), logistic(v) * logistic(-v) * np.where(np.abs(x) > 1e6, 0, steepness), v)


def swish(x: Array) -> tuple[Wanted, Wanted]:
    return gated(x, logistic(x), logistic(x) * logistic(-x), x)


def softplus_gate(x: Array) -> tuple[Wanted, Wanted]:
    plus = np.logaddexp(0, x)
    return gated(x, np.tanh(plus), logistic(x) / np.cosh(np.minimum(plus, 300)) ** 2, x)


def times(dy: Array, slope: Wanted) -> Results:
    assert slope.size is not None
    return {"out": Wanted(dy * slope.value, np.abs(dy) * (slope.size + FLUSHED))}


def gelu(x: Array) -> Results:
    return {"out": gaussian(x)[0]}


def gelu_backward(x: Array, dy: Array) -> Results:
    return times(dy, gaussian(x)[1])


def gelu_tanh(x: Array) -> Results:
    return {"out": gaussian_by_tanh(x)[0]}


def gelu_tanh_backward(x: Array, dy: Array) -> Results:
    return times(dy, gaussian_by_tanh(x)[1])


def silu(x: Array) -> Results:
    return {"out": swish(x)[0]}


def silu_backward(x: Array, dy: Array) -> Results:
    return times(dy, swish(x)[1])


def mish(x: Array) -> Results:
    return {"out": softplus_gate(x)[0]}


def mish_backward(x: Array, dy: Array) -> Results:
    return times(dy, softplus_gate(x)[1])


def softplus(x: Array) -> Results:
    y = np.logaddexp(0, x)
    return {"out": Wanted(y, y * (1 + np.minimum(np.abs(x), 1e3)))}


def softplus_backward(y: Array, dy: Array) -> Results:
    return {"out": Wanted(-dy * np.expm1(-y))}


def softmax(x: Array) -> Results:
    p, growth = exponentials(x)
    return {"out": Wanted(p, p * growth)}


def softmax_backward(y: Array, dy: Array) -> Results:
    dx = np.stack([(np.diagflat(row) - np.outer(row, row)) @ d for row, d in zip(y, dy, strict=True)])
    return {"out": Wanted(dx, y * (np.abs(dy) + (y * np.abs(dy)).sum(axis=1, keepdims=True)))}


def softmax_jacobian(y: Array) -> Results:
    matrices = np.stack([np.diagflat(row) - np.outer(row, row) for row in y])
    return {"out": Wanted(matrices, np.stack([np.diagflat(row) + np.outer(row, row) for row in y]))}


# ---- losses ----------------------------------------------------------------------------------------------------------


def one_hot(target: Array, classes: int) -> Array:
    """Labels as rows; nothing is wanted of a label that is no class."""
    return target if target.ndim == 2 else (target[:, None] == np.arange(classes)).astype(np.float64)


def known(target: Array, classes: int, losses: Array) -> Array:
    """Losses, nan where the label is no class."""
    wrong = target.ndim == 1 and (target < 0) | (target >= classes)
    return np.where(wrong, np.nan, losses)


def clipped(p: Array, kind: type[np.floating[Any]]) -> Array:
    """Probabilities kept within [CLIP, 1 - CLIP], bounds that the type itself rounds."""
    kept: Array = np.clip(p, float(kind(CLIP)), float(kind(1 - CLIP)))
    return kept


def loss(value: Array) -> Wanted:
    """A loss is as good as its distance from 0 can be told next to 1."""
    return Wanted(value, 1 + np.abs(value))


def weighted(target: Array, cost: Array) -> Array:
    """target * cost, where nothing times infinity is nothing."""
    product: Array = np.multiply(target, cost, out=np.zeros_like(cost), where=target != 0)
    return product


def bounded(cost: Array, clip: float) -> Array:
    """-log(p) as if p had been kept within [clip, 1 - clip]."""
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


# ---- normalization ---------------------------------------------------------------------------------------------------


def spread(x: Array, axis: int, epsilon: float) -> tuple[Array, Array, Array]:
    """x less its means, 1 over its standard deviations, and the size of what was added up to a normalized number."""
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


# ---- formulas: softsign, and a loss that outliers hardly move (cases.py) ---------------------------------------------


def apply_formula(x: Array) -> Results:
    return {"out": Wanted(x / (1 + np.abs(x)))}


def apply_formula_backward(x: Array, dy: Array) -> Results:
    return {"out": Wanted(dy / (1 + np.abs(x)) ** 2)}


def formula_loss(prediction: Array, target: Array) -> Results:
    square = (prediction - target) ** 2
    return {"out": Wanted(np.mean(square / (1 + square), axis=1))}


def formula_loss_backward(prediction: Array, target: Array) -> Results:
    error = prediction - target
    return {"out": Wanted(2 * error / (1 + error**2) ** 2 / error.size)}


# ---- one training step -----------------------------------------------------------------------------------------------


def gather_rows(source: Array, order: Array, counters: Array, batch: int) -> Results:
    first = int(counters[CURSOR])
    places = range(first, first + batch)
    rows = (order[min(max(place, 0), len(order) - 1)] for place in places)
    return {"out": Wanted(np.stack([source[min(max(row, 0), len(source) - 1)] for row in rows]))}


def dropout(x: Array, rate: float, seed: int, layer: int, counters: Array) -> Results:
    kept = dropout_mask(x.shape, rate, seed, layer, int(counters[STEP]))
    return {"out": Wanted(np.divide(x, 1 - rate, out=np.zeros_like(x), where=kept))}


def add(x: Array, y: Array) -> Results:
    return {"out": Wanted(np.array(x + y), np.abs(x) + np.abs(y))}


def put_columns(x: Array, first: int, y: Array) -> Results:
    return {"y": Wanted(np.concatenate([y[:, :first], x, y[:, first + x.shape[1] :]], axis=1), exact=True)}


def take_columns(x: Array, first: int, count: int) -> Results:
    return {"out": Wanted(np.stack([x[:, first + j] for j in range(count)], axis=1), exact=True)}


def code(value: float, count: int) -> int | None:
    """A code as an index; None for what is none."""
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


def gaussian_noise(x: Array, stddev: float, seed: int, layer: int, counters: Array) -> Results:
    noise = np.empty(x.shape)
    for row, column in np.ndindex(*x.shape):
        first, second = (dropout_word(row, column // 2 * 2 + i, int(counters[STEP]), layer, seed) for i in (0, 1))
        wave = math.sin if column % 2 else math.cos
        noise[row, column] = math.sqrt(-2 * math.log((first + 0.5) / 2**32)) * wave(2 * math.pi * second / 2**32)
    return {"out": Wanted(x + stddev * noise, np.abs(x) + stddev * (np.abs(noise) + 1))}


def weigh(x: Array, weights: Array) -> Results:
    return {"out": Wanted(weighted(weights * np.ones_like(x), x))}


def tally(losses: Array, outputs: Array, target: Array, metric: str | None, tolerance: float, stats: Array) -> Results:
    once = np.ones((len(losses), 1))
    return weighted_tally(losses, outputs, target, once, metric, tolerance, stats)


def weighted_tally(
    losses: Array, outputs: Array, target: Array, weights: Array, metric: str | None, tolerance: float, stats: Array
) -> Results:
    stats, weights = stats.copy(), weights[:, 0]
    stats[LOSS] = weighted(weights, losses).mean()
    if metric == "categorical":
        labels = target.argmax(axis=1) if target.ndim == 2 else target
        right = [row.argmax() == label for row, label in zip(outputs, labels, strict=True)]
        stats[HITS] = weights @ np.array(right, np.float64)
    elif metric is not None:
        right = {
            "binary": (outputs > 0.5) == (target > 0.5),
            "logits": (outputs > 0) == (target > 0.5),
            "regression": np.abs(outputs - target) < tolerance,
        }[metric]
        stats[HITS] = weights @ right.mean(axis=1)
    return {"stats": Wanted(stats)}


def end_step(stats: Array, penalties: Array, history: Array, counters: Array, rows: int) -> Results:
    stats, history, counters = stats.copy(), history.copy(), counters.copy()
    stats[PENALTY] = penalties.sum()
    history[counters[DONE] % len(history)] = stats
    for place, by in ((STEP, 1), (CURSOR, rows), (DONE, 1)):
        counters[place] += by
    return {
        "stats": Wanted(stats),
        "history": Wanted(history),
        "counters": Wanted(counters, exact=True),
    }


def clip(g: Array, norm: float, value: float) -> Results:
    clipped = np.clip(g, -value, value)
    length = np.linalg.norm(clipped)
    if norm < math.inf:
        clipped = clipped * (min(1.0, norm / length) if length else 1.0) if np.isfinite(length) else clipped * np.nan
    return {"g": Wanted(clipped)}


def collect(g: Array, m: Array) -> Results:
    return {"g": Wanted(g + m, np.abs(g) + np.abs(m)), "m": Wanted(np.zeros_like(m))}


def average(a: Array, p: Array, counters: Array, decay: float, since: int) -> Results:
    time = int(counters[STEP]) - since + 1
    before, last = sum(decay**i for i in range(1, time)), 1.0
    return {"a": Wanted((a * before + p * last) / (before + last), np.abs(a) + np.abs(p))}


# ---- optimizers ------------------------------------------------------------------------------------------------------


def descend(name: str, p: Array, g: Array, m: Array, v: Array, hyper: Array, step: int, u: Array | None = None) -> None:
    """Do one step of an optimizer in place, by the formulas of chapter 10 and of the papers."""
    rate = hyper[LEARNING_RATE] / (1 + hyper[DECAY] * step)
    if name == "sgd":
        m[:] = hyper[BETA_1] * m - rate * g
        p += hyper[BETA_1] * m - rate * g if hyper[BETA_2] else m
        return
    if name == "accumulate":
        m += g
        return
    beta_1, beta_2 = hyper[BETA_1], hyper[BETA_2]
    if name == "lion":
        p -= rate * (np.sign(beta_1 * m + (1 - beta_1) * g) + hyper[WEIGHT_DECAY] * p)
        m[:] = beta_2 * m + (1 - beta_2) * g
        return
    if name == "adagrad":
        v += g**2
        p -= rate * g / (np.sqrt(v) + hyper[EPSILON])
    elif name == "rmsprop":
        v[:] = beta_1 * v + (1 - beta_1) * g**2
        p -= rate * g / (np.sqrt(v) + hyper[EPSILON])
    else:
        p -= rate * hyper[WEIGHT_DECAY] * p
        m[:] = beta_1 * m + (1 - beta_1) * g
        v[:] = beta_2 * v + (1 - beta_2) * g**2
        most = v
        if u is not None and name == "amsgrad":
            most = u[:] = np.maximum(u, v)
        t = step + 1
        mean, square = m / (1 - beta_1**t), most / (1 - beta_2**t)
        if name == "nadam":
            momenta = [beta_1 * (1 - 0.96 ** (i * hyper[MOMENTUM_DECAY]) / 2) for i in range(1, t + 2)]
            mean = momenta[-1] * m / (1 - math.prod(momenta)) + (1 - momenta[-2]) * g / (1 - math.prod(momenta[:-1]))
        p -= rate * mean / (np.sqrt(square) + hyper[EPSILON])


# ---- random words ----------------------------------------------------------------------------------------------------

KNOWN_ANSWERS = (  # of Random123's own test suite: counter, key, words
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x32-10 of one counter, in Python's own integers."""
    a, b, c, d = counter
    k, l = key  # noqa: E741
    for _ in range(10):
        high_a, low_a = divmod(a * 0xD2511F53, 2**32)
        high_c, low_c = divmod(c * 0xCD9E8D57, 2**32)
        a, b, c, d = high_c ^ b ^ k, low_c, high_a ^ d ^ l, low_a
        k, l = (k + 0x9E3779B9) % 2**32, (l + 0xBB67AE85) % 2**32  # noqa: E741
    return a, b, c, d


def dropout_word(row: int, column: int, step: int, layer: int, seed: int) -> int:
    """The word of one element."""
    low, high = step % 2**32, step >> 32 << 16 & 0xFFFFFFFF
    return philox((row, column // 4, low, high ^ layer), (seed % 2**32, seed >> 32 & 0xFFFFFFFF))[column % 4]


def dropout_mask(shape: tuple[int, ...], rate: float, seed: int, layer: int, step: int) -> Array:
    """Which elements of [N, C] are kept."""
    limit = min(int(rate * 2**32), 2**32 - 1)
    words = [[dropout_word(row, column, step, layer, seed) for column in range(shape[1])] for row in range(shape[0])]
    return np.array(words) >= limit
