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
from nnx.kernels.cpu.jit.simd import INLINED, OPTIONS, flat, row
from nnx.kernels.cpu.ops.math import log

CLIP = 1e-7  # probabilities are kept this far from 0 and 1 (chapter 5)
SQUARED, ABSOLUTE = range(2)


@njit(**INLINED)
def clipped(p, low, high):
    """p within [low, high]; NaN stays."""
    p = low if p < low else p
    return high if p > high else p


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
    low, high = number(CLIP), number(1 - CLIP)
    for i in range(n):
        label = labels[i]
        losses[i] = -log(clipped(p[i, label], low, high)) if 0 <= label < c else number(np.nan)
    return True


@takes("mmv")
@njit(**OPTIONS)
def cross_entropy_distributions(p, target, losses):
    """losses = -sum(target * log(p))."""
    if target.shape != p.shape or losses.shape[0] != p.shape[0] or not p.size:
        return False
    if not behaved(p, target, losses) or not apart(losses, p, target):
        return False
    number = p.dtype.type
    low, high = number(CLIP), number(1 - CLIP)
    for i in range(p.shape[0]):
        a, t = row(p, i), row(target, i)
        total = number(0)
        for j in range(a.size):
            total -= t[j] * log(clipped(a[j], low, high))
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
    low, high, factor = number(CLIP), number(1 - CLIP), number(scale)
    g = flat(gradient)
    for j in range(g.size):
        g[j] = number(0)
    for i in range(n):
        label = labels[i]
        if 0 <= label < c:
            gradient[i, label] = -factor / clipped(p[i, label], low, high)
    return True


@takes("mmm")
@njit(**OPTIONS)
def cross_entropy_distributions_backward(p, target, gradient, scale):
    """gradient = -scale * target / p."""
    if target.shape != p.shape or gradient.shape != p.shape or not p.size:
        return False
    if not behaved(p, target, gradient) or not apart_or_same(gradient, p, target):
        return False
    number = p.dtype.type
    low, high, factor = number(CLIP), number(1 - CLIP), number(scale)
    a, t, g = flat(p), flat(target), flat(gradient)
    for j in range(a.size):
        g[j] = -factor * t[j] / clipped(a[j], low, high)
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
    one = number(1)
    low, high = number(CLIP), number(1 - CLIP)
    for i in range(p.shape[0]):
        a, t = row(p, i), row(target, i)
        total = number(0)
        for j in range(a.size):
            v, wanted = clipped(a[j], low, high), t[j]
            total -= wanted * log(v) + (one - wanted) * log(one - v)
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
    number = p.dtype.type
    one = number(1)
    low, high, factor = number(CLIP), number(1 - CLIP), number(scale)
    a, t, g = flat(p), flat(target), flat(gradient)
    for j in range(a.size):
        v, wanted = clipped(a[j], low, high), t[j]
        g[j] = factor * ((one - wanted) / (one - v) - wanted / v)
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
                error = a[j] - t[j]
                total += error * error
        else:
            for j in range(a.size):
                total += abs(a[j] - t[j])
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
    number = prediction.dtype.type
    zero, factor = number(0), number(scale)
    twice = factor + factor
    a, t, g = flat(prediction), flat(target), flat(gradient)
    if kind == SQUARED:
        for j in range(a.size):
            g[j] = (a[j] - t[j]) * twice
    else:
        for j in range(a.size):
            error = a[j] - t[j]
            sign = factor if error > zero else -factor
            g[j] = sign if abs(error) > zero else error
    return True
