# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Softmax or sigmoid with its cross-entropy: losses, probabilities and gradient in one pass.

Floor: one exp an element, then 8 bytes an element (12 with probabilities). The gradient's buffer serves as scratch,
block by block while it is in the first-level cache, so logits are read once from memory and nothing else is allocated.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.behaved import apart, apart_or_same, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import EXACT, INLINED, OPTIONS, flat, row, view
from nnx.kernels.cpu.ops.math import exp, log
from nnx.kernels.cpu.ops.softmax import BLOCK, exponential, shifted


@njit(**INLINED)
def fit(logits, losses, probabilities, gradient):
    """Whether the shapes of what is written are right, and no two of them share memory; `gradient` may be `logits`."""
    if not behaved(logits, losses, probabilities, gradient) or not apart_or_same(gradient, logits):
        return False
    if not apart(losses, logits, gradient) or not apart(probabilities, logits, losses, gradient):
        return False
    kept = probabilities.size == 0 or probabilities.shape == logits.shape
    return logits.size > 0 and gradient.shape == logits.shape and losses.shape[0] == logits.shape[0] and kept


@njit(**INLINED)
def clamp(cost, low, high):
    """Keep -log(p) within what p in [clip, 1 - clip] would give; NaN stays."""
    cost = low if cost < low else cost
    return high if cost > high else cost


@njit(**EXACT)
def cost_of(logarithm, z, top):
    """-log(p). With sums reordered it would be (logarithm + top) - z, which loses all digits where logits are 1e4."""
    return logarithm - (z - top)


@takes("mivmm")
@njit(**OPTIONS)
def indices(logits, labels, losses, probabilities, gradient, low, high, scale):
    """For class indices `labels` [N].

    Args:
        probabilities: [N, C], or empty. losses: [N]. gradient: [N, C], becomes (p - one-hot) * scale.
        low, high: bounds of a loss. A label that is no class makes its loss NaN.
    """
    n, c = logits.shape
    if not fit(logits, losses, probabilities, gradient) or labels.shape != (n,):
        return False
    if not behaved(labels) or not apart(gradient, labels):
        return False
    number = gradient.dtype.type
    step, keep = max(1, BLOCK // c), probabilities.size > 0
    least, most, factor = number(low), number(high), number(scale)
    for first in range(0, n, step):
        last = min(first + step, n)
        for i in range(first, last):
            g = row(gradient, i)
            shifted(row(logits, i), g)
            label = labels[i]
            losses[i] = g[label] if 0 <= label < c else number(np.nan)
        exponential(view(gradient, first * c, (last - first) * c))
        for i in range(first, last):
            g = row(gradient, i)
            total = number(0)
            for j in range(c):
                total += g[j]
            losses[i] = clamp(log(total) - losses[i], least, most)
            inverse = number(1) / total
            if keep:
                p = row(probabilities, i)
                for j in range(c):
                    p[j] = g[j] * inverse
            inverse *= factor
            for j in range(c):
                g[j] *= inverse
            label = labels[i]
            if 0 <= label < c:
                g[label] -= factor
    return True


@takes("mmvmm")
@njit(**OPTIONS)
def distributions(logits, target, losses, probabilities, gradient, low, high, scale):
    """For distributions `target` [N, C]; the rest as in `indices`."""
    n, c = logits.shape
    if not fit(logits, losses, probabilities, gradient) or target.shape != logits.shape:
        return False
    if not behaved(target) or not apart(gradient, target, logits) or not apart(losses, target):
        return False
    number = gradient.dtype.type
    zero = number(0)
    keep = probabilities.size > 0
    least, most, factor = number(low), number(high), number(scale)
    for i in range(n):
        z, g, t = row(logits, i), row(gradient, i), row(target, i)
        top = shifted(z, g)
        exponential(g)
        total = zero
        for j in range(c):
            total += g[j]
        logarithm = log(total)
        loss = zero
        for j in range(c):
            cost, share = clamp(cost_of(logarithm, z[j], top), least, most), t[j]
            product = share * cost
            loss += product if share > zero else zero  # a class with logit -inf costs nothing unless it is wanted
        losses[i] = loss
        inverse = number(1) / total
        if keep:
            p = row(probabilities, i)
            for j in range(c):
                p[j] = g[j] * inverse
        for j in range(c):
            g[j] = (g[j] * inverse - t[j]) * factor
    return True


@takes("mmvmm")
@njit(**OPTIONS)
def binary(logits, target, losses, probabilities, gradient, low, high, scale):
    """Sigmoid and binary cross-entropy for `target` [N, O]; the loss of a sample is the mean over its outputs."""
    n, c = logits.shape
    if not fit(logits, losses, probabilities, gradient) or target.shape != logits.shape:
        return False
    if not behaved(target) or not apart(gradient, target, logits) or not apart(losses, target):
        return False
    number = gradient.dtype.type
    zero, one = number(0), number(1)
    keep = probabilities.size > 0
    least, most, factor = number(low), number(high), number(scale)
    for i in range(n):
        z, g, t = row(logits, i), row(gradient, i), row(target, i)
        loss = zero
        for j in range(c):
            x, wanted = z[j], t[j]
            e = exp(-abs(x))
            more = log(one + e)
            yes = clamp(more - (x if x < zero else zero), least, most)  # -log(p)
            no = clamp(more + (zero if x < zero else x), least, most)  # -log(1 - p)
            a, b = wanted * yes, (one - wanted) * no
            # the right answer at an infinite logit costs nothing, though 0 * inf is NaN
            loss += (zero if wanted == zero else a) + (zero if wanted == one else b)
            g[j] = ((one if x >= zero else e) / (one + e) - wanted) * factor
        losses[i] = loss / number(c)
    if keep:
        a, p = flat(logits), flat(probabilities)
        for j in range(a.size):
            x = a[j]
            e = exp(-abs(x))
            p[j] = (one if x >= zero else e) / (one + e)
    return True
