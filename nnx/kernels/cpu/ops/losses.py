# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Losses on outputs that are probabilities or numbers, one value for each sample, and the gradients of their mean.

Floor: 8 bytes an element read, 4 more written by a gradient; a logarithm or a division for each.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.behaved import apart, apart_or_same, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import OPTIONS, flat, row
from nnx.kernels.cpu.ops.loss_formulas import class_of, scalar

nll, nll_gradient, binary, binary_gradient = map(scalar, ("nll", "nll_backward", "binary", "binary_backward"))
squared, squared_gradient = scalar("square"), scalar("square_backward")
absolute, absolute_gradient = scalar("abs_error"), scalar("abs_error_backward")
SQUARED, ABSOLUTE = range(2)


@takes("miv")
@njit(**OPTIONS)
def cross_entropy_indices(p, labels, losses):
    """losses = -log(p[label]). A label that is no class makes its loss NaN."""
    if labels.shape[0] != p.shape[0] or losses.shape[0] != p.shape[0] or not p.size:
        return False
    if not behaved(p, labels, losses) or not apart(losses, p, labels):
        return False
    n, c = p.shape
    number = p.dtype.type
    for i in range(n):
        label, known = class_of(labels[i], c)
        losses[i] = nll(row(p, i)[label], number(1)) if known else number(np.nan)
    return True


@takes("mmv")
@njit(**OPTIONS)
def cross_entropy_distributions(p, target, losses):
    """losses = -sum(target * log(p))."""
    if target.shape != p.shape or losses.shape[0] != p.shape[0] or not p.size:
        return False
    if not behaved(p, target, losses) or not apart(losses, p, target):
        return False
    for i in range(p.shape[0]):
        a, t = row(p, i), row(target, i)
        total = p.dtype.type(0)
        for j in range(a.size):
            total += nll(a[j], t[j])
        losses[i] = total
    return True


@takes("mim")
@njit(**OPTIONS)
def cross_entropy_indices_backward(p, labels, gradient, scale):
    """gradient = -scale / p at the label, else 0."""
    if labels.shape[0] != p.shape[0] or gradient.shape != p.shape or not p.size:
        return False
    if not behaved(p, labels, gradient) or not apart(gradient, p, labels):
        return False
    n, c = p.shape
    number = p.dtype.type
    factor, g = number(scale), flat(gradient)
    for j in range(g.size):
        g[j] = number(0)
    for i in range(n):
        label, known = class_of(labels[i], c)
        if known:
            row(gradient, i)[label] = nll_gradient(row(p, i)[label], number(1), factor)
    return True


@takes("mmm")
@njit(**OPTIONS)
def cross_entropy_distributions_backward(p, target, gradient, scale):
    """gradient = -scale * target / p."""
    if target.shape != p.shape or gradient.shape != p.shape or not p.size:
        return False
    if not behaved(p, target, gradient) or not apart_or_same(gradient, p, target):
        return False
    factor, a, t, g = p.dtype.type(scale), flat(p), flat(target), flat(gradient)
    for j in range(a.size):
        g[j] = nll_gradient(a[j], t[j], factor)
    return True


@takes("mmv")
@njit(**OPTIONS)
def binary_cross_entropy(p, target, losses):
    """losses = -mean(t log(p) + (1 - t) log(1 - p))."""
    if target.shape != p.shape or losses.shape[0] != p.shape[0] or not p.size:
        return False
    if not behaved(p, target, losses) or not apart(losses, p, target):
        return False
    number = p.dtype.type
    for i in range(p.shape[0]):
        a, t = row(p, i), row(target, i)
        total = number(0)
        for j in range(a.size):
            total += binary(a[j], t[j])
        losses[i] = total / number(a.size)
    return True


@takes("mmm")
@njit(**OPTIONS)
def binary_cross_entropy_backward(p, target, gradient, scale):
    """gradient = scale * ((1 - t) / (1 - p) - t / p)."""
    if target.shape != p.shape or gradient.shape != p.shape or not p.size:
        return False
    if not behaved(p, target, gradient) or not apart_or_same(gradient, p, target):
        return False
    factor, a, t, g = p.dtype.type(scale), flat(p), flat(target), flat(gradient)
    for j in range(a.size):
        g[j] = binary_gradient(a[j], t[j], factor)
    return True


@takes("mmv")
@njit(**OPTIONS)
def regression(prediction, target, losses, kind):
    """losses = mean((prediction - target)**2), or the mean of its absolute value."""
    if target.shape != prediction.shape or losses.shape[0] != prediction.shape[0] or not prediction.size:
        return False
    if not behaved(prediction, target, losses) or not apart(losses, prediction, target):
        return False
    number = prediction.dtype.type
    for i in range(prediction.shape[0]):
        a, t = row(prediction, i), row(target, i)
        total = number(0)
        if kind == SQUARED:
            for j in range(a.size):
                total += squared(a[j], t[j])
        else:
            for j in range(a.size):
                total += absolute(a[j], t[j])
        losses[i] = total / number(a.size)
    return True


@takes("mmm")
@njit(**OPTIONS)
def regression_backward(prediction, target, gradient, kind, scale):
    """gradient = 2 * scale * (prediction - target), or scale times its sign; NaN stays."""
    if target.shape != prediction.shape or gradient.shape != prediction.shape or not prediction.size:
        return False
    if not behaved(prediction, target, gradient) or not apart_or_same(gradient, prediction, target):
        return False
    factor = prediction.dtype.type(scale)
    twice = factor + factor
    a, t, g = flat(prediction), flat(target), flat(gradient)
    if kind == SQUARED:
        for j in range(a.size):
            g[j] = squared_gradient(a[j], t[j], twice)
    else:
        for j in range(a.size):
            g[j] = absolute_gradient(a[j], t[j], factor)
    return True
