"""Reference of user-defined formulas: softsign, and a loss that outliers hardly change (cases/formulas.py)."""

# ruff: noqa: D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

import numpy as np

from nnx.testing.reference.results import Array, Results, Wanted


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
