# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Losses on outputs that are probabilities or numbers, one value for each sample, and the gradients of their mean.

Lower bound of the time: reading 8 bytes for each element, writing 4 more for a gradient, and a logarithm or a division.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.behaved import apart, apart_or_same, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import OPTIONS, PART, flat, row, view
from nnx.kernels.cpu.ops.loss_formulas import class_of, scalar
from nnx.kernels.cpu.ops.traced import made_of, total_of
from nnx.kernels.cpu.threads.team import LINE, divided, make_together, share_at
from nnx.kernels.elementwise import number_of
from nnx.kernels.losses import LOSSES, PARTS

nll, nll_gradient = scalar("nll"), scalar("nll_backward")
add_up_costs = total_of({number_of(loss.part): PARTS[loss.part] for loss in LOSSES})
apply_slope = made_of({number_of(loss.slope): PARTS[loss.slope] for loss in LOSSES})


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


@njit(**PART)
def costs_share(operands, number):
    """`of_outputs` for one share of the rows."""
    outputs, target, losses, kind, b, tall, c = operands
    first, rows = share_at(number, tall, losses.size)
    for i in range(first, first + rows):
        total = add_up_costs(kind, view(outputs, i * c, c), view(target, i * c, c), 0.0, b)
        losses[i] = total / outputs.dtype.type(c)


costs_together = make_together(costs_share)


@takes("mmv")
@njit(**OPTIONS)
def of_outputs(outputs, target, losses, board, parts, kind, b):
    """losses = the mean over each row of a loss of the table, whose constant is b.

    `board` is the address of the threads' board, `parts` the most parts to divide the work into: see team.py.
    """
    if target.shape != outputs.shape or losses.shape[0] != outputs.shape[0] or not outputs.size:
        return False
    if not behaved(outputs, target, losses) or not apart(losses, outputs, target):
        return False
    tall, parts = divided(losses.size, parts, 1)
    operands = flat(outputs), flat(target), flat(losses), kind, b, tall, outputs.shape[1]
    costs_together(board, operands, parts)
    return True


@njit(**PART)
def slope_share(operands, number):
    """`of_outputs_backward` for one share of the numbers."""
    outputs, target, gradient, kind, scale, b, step = operands
    first, size = share_at(number, step, outputs.size)
    apply_slope(kind, view(outputs, first, size), view(target, first, size), view(gradient, first, size), scale, b)


slope_together = make_together(slope_share)


@takes("mmm")
@njit(**OPTIONS)
def of_outputs_backward(outputs, target, gradient, board, parts, kind, scale, b):
    """gradient = scale times the derivative of a loss of the table, whose constant is b."""
    if target.shape != outputs.shape or gradient.shape != outputs.shape or not outputs.size:
        return False
    if not behaved(outputs, target, gradient) or not apart_or_same(gradient, outputs, target):
        return False
    step, parts = divided(outputs.size, parts, LINE)
    operands = flat(outputs), flat(target), flat(gradient), kind, scale, b, step
    slope_together(board, operands, parts)
    return True
