"""Reference of the optimizers, and of what comes before and after them."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

import math

import numpy as np

from nnx.kernels.step_state import BETA_1, BETA_2, DECAY, EPSILON, LEARNING_RATE, MOMENTUM_DECAY, STEP, WEIGHT_DECAY
from nnx.testing.reference.results import Array, Results, Wanted


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
