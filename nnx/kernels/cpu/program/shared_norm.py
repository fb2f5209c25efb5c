"""Normalization in recorded steps: by rows, with the kernels of ops/norm.py, and with the samples in the lanes.

Each column of all samples has three *moments*, [3, n]: its mean in two parts (ops/norm.py), and 1 / its standard
deviation. MOMENTS is a task; operations that read the moments are in a later region. If other processes have the rest
of the samples, MEANS and SPREADS write to `numbers` what is pooled with theirs, and POOLED computes the moments of it.
Samples past the batch's end get gradients of 0. Floor: see ops/norm.py.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import CALLED, IN_ORDER, PART, view
from nnx.kernels.cpu.ops.norm import (
    about,
    batch_norm_backward_rows,
    batch_norm_rows,
    layer_norm_backward_rows,
    layer_norm_rows,
    mean_columns,
    mean_square,
    normalize,
    recall,
    remember,
    remember_columns,
    spread,
    spread_columns,
)
from nnx.kernels.cpu.program.lanes_kernels import lanes_clear
from nnx.kernels.cpu.program.table import (
    BATCH_NORM,
    BATCH_NORM_BACKWARD,
    COEF,
    KIND,
    LAYER_NORM,
    LAYER_NORM_BACKWARD,
    MEANS,
    MOMENTS,
    OP,
    POOLED,
    R0,
    R1,
    ROWS,
    SLOT,
    SPREADS,
    STRIDE,
    B,
    D,
    G,
    N,
    W,
    X,
    Y,
    part,
)


@njit(**PART)
def recalled(t, memory, numbers):
    """MOMENTS of KIND 1: of features R0 .. R1, computed from the running mean and variance, to Y."""
    n = t[N]
    moments, mean, running = part(memory, t[Y], 3 * n), part(memory, t[W], n), part(memory, t[B], n)
    recall(t[R0], t[R1], numbers[t[COEF]], moments, n, mean, running)


@njit(**CALLED)
def pooled_moments(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """MEANS, SPREADS: of features R0 .. R1 of X, to `numbers` from SLOT or KIND on. POOLED: MOMENTS from these."""
    op, n, stride, c, number, samples = t[OP], t[N], t[STRIDE], t[COEF], memory[0].dtype.type, header[ROWS]
    means, spreads = view(numbers, t[SLOT], n), view(numbers, t[KIND], n)
    if op == POOLED:
        moments, mean, running = part(memory, t[Y], 3 * n), part(memory, t[W], n), part(memory, t[B], n)
        for j in range(t[R0], t[R1]):
            high, all_rows = number(means[j]), numbers[c + 2]
            low = means[j] - high
            remember(j, high, low, spreads[j], all_rows, numbers[c], numbers[c + 1], moments, n, mean, running)
    elif stride > 0:
        for j in range(t[R0], t[R1]):
            x = part(memory, t[X] + j * stride, samples)
            if op == MEANS:
                high, low, _ = spread(x)
                means[j] = high + low
            else:
                high = number(means[j])
                rest, squares = about(x, high)
                spreads[j] = mean_square(rest, squares, samples, means[j] - high)
    elif op == MEANS:
        mean_columns(part(memory, t[X], samples * n), samples, n, t[R0], t[R1], means)
    else:
        spread_columns(part(memory, t[X], samples * n), samples, n, t[R0], t[R1], means, spreads)


# ---- by rows ---------------------------------------------------------------------------------------------------------


@njit(**CALLED)
def moments_of_rows(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """MOMENTS: of features R0 .. R1 of X, to Y. W: running mean, B: running variance, which KIND 1 doesn't change."""
    n, c, samples = t[N], t[COEF], header[ROWS]
    if t[KIND]:
        recalled(t, memory, numbers)
        return
    moments, mean, running = part(memory, t[Y], 3 * n), part(memory, t[W], n), part(memory, t[B], n)
    x = part(memory, t[X], samples * n)
    remember_columns(x, samples, n, t[R0], t[R1], numbers[c], numbers[c + 1], moments, mean, running)


@njit(**CALLED)
def layer_norm_of_rows(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """LAYER_NORM: X: inputs, W: gamma, B: beta, D: normalized, Y: scales, G: outputs.

    LAYER_NORM_BACKWARD: X: normalized, Y: scales, W: gamma, D: gradient, G: gradient of the inputs.
    """
    n, at = t[N], r0 * t[N]
    x, d = part(memory, t[X] + at, rows * n), part(memory, t[D] + at, rows * n)
    out, gamma, scales = part(memory, t[G] + at, rows * n), part(memory, t[W], n), part(memory, t[Y] + r0, rows)
    if t[OP] == LAYER_NORM:
        layer_norm_rows(x, gamma, part(memory, t[B], n), d, scales, out, n, numbers[t[COEF]])
    else:
        layer_norm_backward_rows(x, scales, gamma, d, out, n)


@njit(**CALLED)
def batch_norm_of_rows(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """BATCH_NORM: X: inputs, Y: moments, W: gamma, B: beta, D: normalized, G: outputs.

    BATCH_NORM_BACKWARD: X: normalized, Y: moments, W: gamma, R0: its gradient, B: gradient of beta, D: gradient, G:
    gradient of the inputs; KIND is that of the moments.
    """
    n, at = t[N], r0 * t[N]
    x, d = part(memory, t[X] + at, rows * n), part(memory, t[D] + at, rows * n)
    out, gamma, moments = part(memory, t[G] + at, rows * n), part(memory, t[W], n), part(memory, t[Y], 3 * n)
    if t[OP] == BATCH_NORM:
        batch_norm_rows(x, moments, gamma, part(memory, t[B], n), d, out, rows, n)
    else:
        dgamma, dbeta = part(memory, t[R0], n), part(memory, t[B], n)
        divided = 0 if t[KIND] else header[ROWS]
        batch_norm_backward_rows(x, moments, gamma, dgamma, dbeta, d, out, rows, n, divided)


# ---- samples in the lanes --------------------------------------------------------------------------------------------


@njit(**CALLED)
def moments_in_lanes(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """MOMENTS, as above."""
    n, stride, c, samples = t[N], t[STRIDE], t[COEF], header[ROWS]
    if t[KIND]:
        recalled(t, memory, numbers)
        return
    moments, mean, running = part(memory, t[Y], 3 * n), part(memory, t[W], n), part(memory, t[B], n)
    for j in range(t[R0], t[R1]):
        high, low, variance = spread(part(memory, t[X] + j * stride, samples))
        remember(j, high, low, variance, samples, numbers[c], numbers[c + 1], moments, n, mean, running)


@njit(**CALLED)
def layer_norm_in_lanes(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """LAYER_NORM and LAYER_NORM_BACKWARD, as above; R0: scratch for two numbers per sample."""
    n, stride = t[N], t[STRIDE]
    span = (n - 1) * stride + count
    x, d = part(memory, t[X] + r0, span), part(memory, t[D] + r0, span)
    out, gamma = part(memory, t[G] + r0, span), part(memory, t[W], n)
    scales, scratch = part(memory, t[Y] + r0, count), part(memory, t[R0] + 2 * r0, 2 * count)
    if t[OP] == LAYER_NORM:
        lanes_layer_norm(x, gamma, part(memory, t[B], n), d, scales, out, scratch, n, stride, numbers[t[COEF]])
    else:
        lanes_layer_norm_backward(x, scales, gamma, d, out, scratch, n, stride)
        lanes_clear(out, n, stride, rows, count)


@njit(**CALLED)
def batch_norm_in_lanes(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """BATCH_NORM and BATCH_NORM_BACKWARD, as above."""
    n, stride = t[N], t[STRIDE]
    span = (n - 1) * stride + count
    x, d = part(memory, t[X] + r0, span), part(memory, t[D] + r0, span)
    out, gamma, moments = part(memory, t[G] + r0, span), part(memory, t[W], n), part(memory, t[Y], 3 * n)
    if t[OP] == BATCH_NORM:
        beta = part(memory, t[B], n)
        for j in range(n):
            a, b, c = view(x, j * stride, count), view(d, j * stride, count), view(out, j * stride, count)
            normalize(a, moments[j], moments[n + j], moments[2 * n + j], b)
            affine_lanes(b, gamma[j], beta[j], c)
    else:
        dgamma, dbeta = part(memory, t[R0], n), part(memory, t[B], n)
        share = x.dtype.type(0.0 if t[KIND] else 1.0 / header[ROWS])
        for j in range(n):
            a, b, c = view(x, j * stride, count), view(d, j * stride, count), view(out, j * stride, count)
            less_sums(b, a, dbeta[j] * share, dgamma[j] * share, gamma[j] * moments[2 * n + j], c)
        lanes_clear(out, n, stride, rows, count)


@njit(**PART)
def affine_lanes(normalized, gamma, beta, out):
    """out = normalized * gamma + beta, of one feature."""
    for s in range(len(out)):
        out[s] = normalized[s] * gamma + beta


@njit(**PART)
def less_sums(dy, normalized, dbeta, dgamma, factor, dx):
    """dx = (dy - dbeta - normalized * dgamma) * factor, of one feature."""
    for s in range(len(dx)):
        dx[s] = (dy[s] - (dbeta + normalized[s] * dgamma)) * factor


@njit(**PART)
def add_lanes(x, n, stride, out, factor):
    """out = each sample's sum times `factor`."""
    for s in range(len(out)):
        out[s] = 0
    for j in range(n):
        a = view(x, j * stride, len(out))
        for s in range(len(out)):
            out[s] += a[s]
    for s in range(len(out)):
        out[s] *= factor


@njit(**IN_ORDER)
def less_lanes(x, n, stride, mean, out):
    """out = x - mean, with each sample's own mean. out may be x."""
    for j in range(n):
        a, b = view(x, j * stride, len(mean)), view(out, j * stride, len(mean))
        for s in range(len(mean)):
            b[s] = a[s] - mean[s]


@njit(**PART)
def lanes_layer_norm(x, gamma, beta, normalized, scales, out, scratch, n, stride, epsilon):
    """The same as `layer_norm_rows` (ops/norm.py), but here all samples take each step together."""
    count, number = len(scales), x.dtype.type
    mean, share = view(scratch, 0, count), number(1.0 / n)
    add_lanes(x, n, stride, mean, share)
    less_lanes(x, n, stride, mean, normalized)
    add_lanes(normalized, n, stride, mean, share)  # the rest of the mean, which rounding has left
    less_lanes(normalized, n, stride, mean, normalized)
    for s in range(count):
        scales[s] = 0
    for j in range(n):
        a = view(normalized, j * stride, count)
        for s in range(count):
            scales[s] += a[s] * a[s]
    one, more = number(1), number(epsilon)
    for s in range(count):
        scales[s] = one / np.sqrt(scales[s] * share + more)
    for j in range(n):
        a, b = view(normalized, j * stride, count), view(out, j * stride, count)
        for s in range(count):
            a[s] *= scales[s]
        affine_lanes(a, gamma[j], beta[j], b)


@njit(**PART)
def lanes_layer_norm_backward(normalized, scales, gamma, dy, dx, scratch, n, stride):
    """The same as `layer_norm_backward_rows`, but here all samples take each step together."""
    count, number = len(scales), dy.dtype.type
    whole, along, share = view(scratch, 0, count), view(scratch, count, count), number(1.0 / n)
    for s in range(count):
        whole[s] = 0
        along[s] = 0
    for j in range(n):
        a, d, factor = view(normalized, j * stride, count), view(dy, j * stride, count), gamma[j] * share
        for s in range(count):
            slope = d[s] * factor
            whole[s] += slope
            along[s] += slope * a[s]
    for j in range(n):
        a, d, b = view(normalized, j * stride, count), view(dy, j * stride, count), view(dx, j * stride, count)
        for s in range(count):
            b[s] = (d[s] * gamma[j] - whole[s] - a[s] * along[s]) * scales[s]


# The functions that carry out the operations: see shared.py.
POOLING = dict.fromkeys((MEANS, SPREADS, POOLED), pooled_moments)
NORMS_OF_ROWS = POOLING | {
    LAYER_NORM: layer_norm_of_rows, LAYER_NORM_BACKWARD: layer_norm_of_rows, MOMENTS: moments_of_rows,
    BATCH_NORM: batch_norm_of_rows, BATCH_NORM_BACKWARD: batch_norm_of_rows,
}  # fmt: skip
NORMS_IN_LANES = POOLING | {
    LAYER_NORM: layer_norm_in_lanes, LAYER_NORM_BACKWARD: layer_norm_in_lanes, MOMENTS: moments_in_lanes,
    BATCH_NORM: batch_norm_in_lanes, BATCH_NORM_BACKWARD: batch_norm_in_lanes,
}  # fmt: skip
