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
from nnx.kernels.cpu.jit.simd import INLINED, OPTIONS, PART, flat, on_stack, view
from nnx.kernels.cpu.ops.loss_formulas import clamp, class_of, cost_of, logit, logit_gradient
from nnx.kernels.cpu.ops.math import exponentials, logarithms, sigmoid
from nnx.kernels.cpu.ops.softmax import BLOCK, LONG, is_first, scale, shifted

ROWS = 1024  # rows in a block, at most: a number for each lies on the stack


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
def step_of(c):
    """How many rows of c numbers make a block."""
    return min(max(1, BLOCK // c), ROWS)


# ---- a block of rows: also what recorded steps run -------------------------------------------------------------------


@njit(**PART)
def of_labels(logits, labels, losses, probabilities, gradient, hits, c, factor, low, high):
    """Losses, probabilities and gradient of rows of c logits, a block of them at a time; see `indices`.

    `hits` becomes 1 where the label's logit is the first of the largest ones. It may be empty, as `probabilities` may.
    """
    number, keep, step = logits.dtype.type, min(len(probabilities), c), step_of(c)
    totals = on_stack(logits.dtype, ROWS)
    for first in range(0, len(losses), step):
        last = min(first + step, len(losses))
        for r in range(first, last):
            g = view(gradient, r * c, c)
            shifted(view(logits, r * c, c), g)
            label, known = class_of(labels[r], c)
            losses[r] = g[label] if known else number(np.nan)
            if len(hits):
                hits[r] = known and is_first(g, label, number(0))
        exponentials(view(gradient, first * c, (last - first) * c))
        for r in range(first, last):
            g, total = view(gradient, r * c, c), number(0)
            for j in range(c):
                total += g[j]
            totals[r - first] = total
            if keep:
                p, inverse = view(probabilities, r * c, c), number(1) / total
                for j in range(c):
                    p[j] = g[j] * inverse
            inverse = factor / total
            for j in range(c):
                g[j] *= inverse
            label, known = class_of(labels[r], c)
            g[label] -= factor if known else number(0)
        logarithms(view(totals, 0, last - first))
        for r in range(first, last):
            losses[r] = clamp(totals[r - first] - losses[r], low, high)


@njit(**PART)
def of_distributions(logits, target, losses, probabilities, gradient, c, factor, low, high):
    """The same where distributions are wanted; see `distributions`."""
    number, keep, step = logits.dtype.type, min(len(probabilities), c), step_of(c)
    totals = on_stack(logits.dtype, ROWS)
    for first in range(0, len(losses), step):
        last = min(first + step, len(losses))
        for r in range(first, last):
            losses[r] = shifted(view(logits, r * c, c), view(gradient, r * c, c))
        exponentials(view(gradient, first * c, (last - first) * c))
        for r in range(first, last):
            g, total = view(gradient, r * c, c), number(0)
            for j in range(c):
                total += g[j]
            totals[r - first] = total
            scale(g, total)
            p = view(probabilities, r * keep, keep)
            for j in range(keep):
                p[j] = g[j]
        logarithms(view(totals, 0, last - first))
        for r in range(first, last):
            z, t, g = view(logits, r * c, c), view(target, r * c, c), view(gradient, r * c, c)
            logarithm, top, loss = totals[r - first], losses[r], number(0)
            for j in range(c):
                wanted = t[j]
                part = wanted * clamp(cost_of(logarithm, z[j], top), low, high)
                loss += part if wanted > number(0) else number(0)  # one with logit -inf costs nothing unless wanted
                g[j] = (g[j] - wanted) * factor
            losses[r] = loss


@njit(**INLINED)
def binary_long(logits, target, losses, gradient, c, factor, low, high):
    """`binary` for long rows: the exponential of a logit is for its loss and its gradient."""
    for i in range(len(losses)):
        z, t, g = view(logits, i * c, c), view(target, i * c, c), view(gradient, i * c, c)
        loss = logits.dtype.type(0)
        for j in range(c):
            x, wanted = z[j], t[j]
            loss += logit(x, wanted, low, high)
            g[j] = logit_gradient(x, wanted, factor)
        losses[i] = loss / logits.dtype.type(c)


@njit(**INLINED)
def binary_blocks(logits, target, losses, gradient, c, factor, low, high):
    """`binary` for short rows, which do not fill a vector: a block of them at once."""
    step = step_of(c)
    for first in range(0, len(losses), step):
        last = min(first + step, len(losses))
        size = (last - first) * c
        z, t, g = view(logits, first * c, size), view(target, first * c, size), view(gradient, first * c, size)
        for j in range(size):
            g[j] = logit(z[j], t[j], low, high)
        for i in range(first, last):
            row_losses, loss = view(gradient, i * c, c), logits.dtype.type(0)
            for j in range(c):
                loss += row_losses[j]
            losses[i] = loss / logits.dtype.type(c)
        for j in range(size):
            g[j] = logit_gradient(z[j], t[j], factor)


# ---- kernels ---------------------------------------------------------------------------------------------------------


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
    of_labels(
        flat(logits), flat(labels), flat(losses), flat(probabilities), flat(gradient), view(losses, 0, 0), c,
        number(scale), number(low), number(high),
    )  # fmt: skip
    return True


@takes("mmvmm")
@njit(**OPTIONS)
def distributions(logits, target, losses, probabilities, gradient, low, high, scale):
    """For distributions `target` [N, C]; the rest as in `indices`."""
    c = logits.shape[1]
    if not fit(logits, losses, probabilities, gradient) or target.shape != logits.shape:
        return False
    if not behaved(target) or not apart(gradient, target, logits) or not apart(losses, target):
        return False
    number = gradient.dtype.type
    of_distributions(
        flat(logits), flat(target), flat(losses), flat(probabilities), flat(gradient), c,
        number(scale), number(low), number(high),
    )  # fmt: skip
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
    number, keep = gradient.dtype.type, probabilities.size > 0
    least, most, factor = number(low), number(high), number(scale)
    if c >= LONG:
        binary_long(flat(logits), flat(target), losses, flat(gradient), c, factor, least, most)
    else:
        binary_blocks(flat(logits), flat(target), losses, flat(gradient), c, factor, least, most)
    if keep:
        a, p = flat(logits), flat(probabilities)
        for j in range(a.size):
            p[j] = sigmoid(a[j])
    return True
