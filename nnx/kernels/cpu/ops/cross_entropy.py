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
from nnx.kernels.cpu.jit.simd import INLINED, OPTIONS, PART, flat, on_stack, smaller, view
from nnx.kernels.cpu.ops.loss_formulas import class_of, cost_of, logistic, scalar, within
from nnx.kernels.cpu.ops.math import exponentials, logarithms
from nnx.kernels.cpu.ops.softmax import LONG, ROWS, is_first, rows_of_block, scale, shift_rows
from nnx.kernels.cpu.threads.team import divided, make_together, share_at

logit, logit_gradient = scalar("logit"), scalar("logit_backward")


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
def fit_numbers(logits, target, losses, probabilities, gradient):
    """`fit`, where the target has as many numbers as the logits; both are read after the gradient is written to."""
    if not fit(logits, losses, probabilities, gradient) or target.shape != logits.shape or not behaved(target):
        return False
    return apart(gradient, target, logits) and apart(losses, target)


@njit(**INLINED)
def operands_of(logits, target, losses, probabilities, gradient, tall, low, high, scale):
    """What the shares of a kernel's work are given."""
    number = gradient.dtype.type
    return (
        flat(logits), flat(target), flat(losses), flat(probabilities), flat(gradient), tall, logits.shape[1],
        number(scale), number(low), number(high),
    )  # fmt: skip


@njit(**INLINED)
def copy_scaled(a, factor, out, kept):
    """out = a * factor, if anything is kept."""
    if kept:
        for j in range(len(a)):
            out[j] = a[j] * factor


# ---- a block of rows: also what recorded steps run -------------------------------------------------------------------


@njit(**PART)
def of_labels(logits, labels, losses, probabilities, gradient, hits, c, factor, low, high):
    """Losses, probabilities and gradient of rows of c logits, a block of them at a time; see `indices`.

    `hits` becomes 1 where the label's logit is the first of the largest ones. It may be empty, and so may
    `probabilities`, or None.
    """
    number, step = logits.dtype.type, rows_of_block(c)
    totals = on_stack(logits.dtype, ROWS)
    for first in range(0, len(losses), step):
        rows = smaller(step, len(losses) - first)
        block, wanted = view(gradient, first * c, rows * c), view(losses, first, rows)
        shift_rows(view(logits, first * c, rows * c), block, wanted, c)
        for r in range(rows):
            g, (label, known) = view(block, r * c, c), class_of(labels[first + r], c)
            wanted[r] = g[label] if known else number(np.nan)
            if len(hits):
                hits[first + r] = known and is_first(g, label, number(0))
        exponentials(block)
        for r in range(rows):
            g, (label, known), total = view(block, r * c, c), class_of(labels[first + r], c), number(0)
            for j in range(c):
                total += g[j]
            totals[r] = total
            if probabilities is not None:
                copy_scaled(g, number(1) / total, view(probabilities, (first + r) * c, c), len(probabilities))
            inverse = factor / total
            for j in range(c):
                g[j] *= inverse
            g[label] -= factor if known else number(0)
        logarithms(view(totals, 0, rows))
        for r in range(rows):
            wanted[r] = within(totals[r] - wanted[r], low, high)


@njit(**PART)
def of_distributions(logits, target, losses, probabilities, gradient, c, factor, low, high):
    """The same where distributions are wanted; see `distributions`."""
    number, step = logits.dtype.type, rows_of_block(c)
    totals = on_stack(logits.dtype, ROWS)
    for first in range(0, len(losses), step):
        rows = smaller(step, len(losses) - first)
        block, tops = view(gradient, first * c, rows * c), view(losses, first, rows)
        shift_rows(view(logits, first * c, rows * c), block, tops, c)
        exponentials(block)
        for r in range(rows):
            g, total = view(block, r * c, c), number(0)
            for j in range(c):
                total += g[j]
            totals[r] = total
            scale(g, total)
            if probabilities is not None:
                copy_scaled(g, number(1), view(probabilities, (first + r) * c, c), len(probabilities))
        logarithms(view(totals, 0, rows))
        for r in range(rows):
            at = (first + r) * c
            z, t, g = view(logits, at, c), view(target, at, c), view(gradient, at, c)
            logarithm, top, loss = totals[r], tops[r], number(0)
            for j in range(c):
                share = t[j]
                part = share * within(cost_of(logarithm, z[j], top), low, high)
                loss += part if share > number(0) else number(0)  # one with logit -inf costs nothing unless wanted
                g[j] = (g[j] - share) * factor
            tops[r] = loss


@njit(**INLINED)
def binary_long(logits, target, losses, gradient, c, factor, low, high):
    """`binary` for long rows: the exponential is for loss and gradient. 256x1000 takes 0.45 ms, in blocks 0.6."""
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
    """`binary` for short rows, which do not fill a vector: a block of them at once. 300x3 takes 4 us, by rows 17."""
    step = rows_of_block(c)
    for first in range(0, len(losses), step):
        rows = smaller(step, len(losses) - first)
        at, size = first * c, rows * c
        z, t, g = view(logits, at, size), view(target, at, size), view(gradient, at, size)
        for j in range(size):
            g[j] = logit(z[j], t[j], low, high)
        for r in range(rows):
            each, loss = view(g, r * c, c), logits.dtype.type(0)
            for j in range(c):
                loss += each[j]
            losses[first + r] = loss / logits.dtype.type(c)
        for j in range(size):
            g[j] = logit_gradient(z[j], t[j], factor)


# ---- kernels ---------------------------------------------------------------------------------------------------------
# `board` is where that of the threads lies which may help, in so many `parts` at most: see team.py.


@njit(**INLINED)
def rows_at(a, first, rows, c):
    """Some rows of c numbers; nothing of nothing."""
    kept = smaller(len(a), 1)
    return view(a, first * c * kept, rows * c * kept)


@njit(**PART)
def labels_share(operands, number):
    """`indices` of some rows."""
    logits, labels, losses, probabilities, gradient, tall, c, factor, low, high = operands
    first, rows = share_at(number, tall, losses.size)
    of_labels(
        rows_at(logits, first, rows, c), view(labels, first, rows), view(losses, first, rows),
        rows_at(probabilities, first, rows, c), rows_at(gradient, first, rows, c), view(losses, 0, 0), c,
        factor, low, high,
    )  # fmt: skip


labels_together = make_together(labels_share)


@takes("mivmm")
@njit(**OPTIONS)
def indices(logits, labels, losses, probabilities, gradient, board, parts, low, high, scale):
    """For class indices `labels` [N].

    Args:
        probabilities: [N, C], or empty. losses: [N]. gradient: [N, C], becomes (p - one-hot) * scale.
        low, high: bounds of a loss. A label that is no class makes its loss NaN.
    """
    if not fit(logits, losses, probabilities, gradient) or labels.shape != losses.shape:
        return False
    if not behaved(labels) or not apart(gradient, labels):
        return False
    tall, parts = divided(losses.size, parts, 1)
    operands = operands_of(logits, labels, losses, probabilities, gradient, tall, low, high, scale)
    labels_together(board, operands, parts)
    return True


@njit(**PART)
def distributions_share(operands, number):
    """`distributions` of some rows."""
    logits, target, losses, probabilities, gradient, tall, c, factor, low, high = operands
    first, rows = share_at(number, tall, losses.size)
    of_distributions(
        rows_at(logits, first, rows, c), rows_at(target, first, rows, c), view(losses, first, rows),
        rows_at(probabilities, first, rows, c), rows_at(gradient, first, rows, c), c, factor, low, high,
    )  # fmt: skip


distributions_together = make_together(distributions_share)


@takes("mmvmm")
@njit(**OPTIONS)
def distributions(logits, target, losses, probabilities, gradient, board, parts, low, high, scale):
    """For distributions `target` [N, C]; the rest as in `indices`."""
    if not fit_numbers(logits, target, losses, probabilities, gradient):
        return False
    tall, parts = divided(losses.size, parts, 1)
    operands = operands_of(logits, target, losses, probabilities, gradient, tall, low, high, scale)
    distributions_together(board, operands, parts)
    return True


@njit(**PART)
def binary_share(operands, number):
    """`binary` of some rows."""
    logits, target, losses, probabilities, gradient, tall, c, factor, low, high = operands
    first, rows = share_at(number, tall, losses.size)
    z, t, g = rows_at(logits, first, rows, c), rows_at(target, first, rows, c), rows_at(gradient, first, rows, c)
    if c >= LONG:
        binary_long(z, t, view(losses, first, rows), g, c, factor, low, high)
    else:
        binary_blocks(z, t, view(losses, first, rows), g, c, factor, low, high)
    p = rows_at(probabilities, first, rows, c)
    for j in range(len(p)):
        p[j] = logistic(z[j])


binary_together = make_together(binary_share)


@takes("mmvmm")
@njit(**OPTIONS)
def binary(logits, target, losses, probabilities, gradient, board, parts, low, high, scale):
    """Sigmoid and binary cross-entropy for `target` [N, O]; the loss of a sample is the mean over its outputs."""
    if not fit_numbers(logits, target, losses, probabilities, gradient):
        return False
    tall, parts = divided(losses.size, parts, 1)
    operands = operands_of(logits, target, losses, probabilities, gradient, tall, low, high, scale)
    binary_together(board, operands, parts)
    return True
