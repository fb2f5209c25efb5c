"""Normalization in recorded steps, for rows by the kernels of ops/norm.py, and with the samples in the lanes.

Of each column of all samples there are three *moments*, [3, n]: its mean in two parts (ops/norm.py), and 1 over its
standard deviation. MOMENTS is a task; what reads them stands in a region after it. Where other processes have the rest
of the samples, MEANS and SPREADS leave in `numbers` what is pooled with theirs, and POOLED makes the moments of that.
Samples past the batch's end get gradients of 0. Floor: see ops/norm.py.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import IN_ORDER, PART, view
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
    SLOT,
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
def apply_norm(t, samples, memory, numbers, r0, rows, count):
    """One of the operations on samples r0 .. r0 + rows, of `samples`; by features `count` of them.

    LAYER_NORM: X inputs, W gamma, B beta, D normalized, Y scales, G outputs. LAYER_NORM_BACKWARD: X normalized, Y
    scales, W gamma, D gradient, G that of the inputs. Both by features: R0 scratch for two numbers a sample.
    MOMENTS: of features R0 .. R1 of X, to Y; W running mean, B running variance, which stay as they are if KIND is 1.
    BATCH_NORM: X inputs, Y moments, W gamma, B beta, D normalized, G outputs. BATCH_NORM_BACKWARD: X normalized, Y
    moments, W gamma, R0 its gradient, B that of beta, D gradient, G that of the inputs; KIND as of the moments.
    MEANS, SPREADS: of features R0 .. R1 of X, to `numbers` from SLOT and from KIND on; POOLED: of those, as MOMENTS.
    """
    op, n, stride = t[OP], t[N], t[STRIDE]
    if op == MOMENTS:
        moments_of(t, samples, memory, numbers)
    elif op >= MEANS:
        pooled_moments(t, samples, memory, numbers)
    elif stride > 0:
        norm_in_lanes(t, samples, memory, numbers, r0, rows, count)
    else:
        norm_of_rows(t, samples, memory, numbers, r0 * n, r0, rows)


@njit(**PART)
def moments_of(t, samples, memory, numbers):
    """MOMENTS, however the samples lie."""
    n, stride, c = t[N], t[STRIDE], t[COEF]
    moments, mean, running = part(memory, t[Y], 3 * n), part(memory, t[W], n), part(memory, t[B], n)
    if t[KIND]:
        recall(t[R0], t[R1], numbers[c], moments, n, mean, running)
    elif stride > 0:
        for j in range(t[R0], t[R1]):
            high, low, variance = spread(part(memory, t[X] + j * stride, samples))
            remember(j, high, low, variance, samples, numbers[c], numbers[c + 1], moments, n, mean, running)
    else:
        x = part(memory, t[X], samples * n)
        remember_columns(x, samples, n, t[R0], t[R1], numbers[c], numbers[c + 1], moments, mean, running)


@njit(**PART)
def pooled_moments(t, samples, memory, numbers):
    """MEANS, SPREADS and POOLED, however the samples lie."""
    op, n, stride, c, number = t[OP], t[N], t[STRIDE], t[COEF], memory[0].dtype.type
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


@njit(**PART)
def norm_of_rows(t, samples, memory, numbers, at, r0, rows):
    """The others by rows."""
    op, n = t[OP], t[N]
    x, d = part(memory, t[X] + at, rows * n), part(memory, t[D] + at, rows * n)
    out, gamma = part(memory, t[G] + at, rows * n), part(memory, t[W], n)
    if op == LAYER_NORM:
        beta = part(memory, t[B], n)
        layer_norm_rows(x, gamma, beta, d, part(memory, t[Y] + r0, rows), out, n, numbers[t[COEF]])
    elif op == LAYER_NORM_BACKWARD:
        layer_norm_backward_rows(x, part(memory, t[Y] + r0, rows), gamma, d, out, n)
    elif op == BATCH_NORM:
        batch_norm_rows(x, part(memory, t[Y], 3 * n), gamma, part(memory, t[B], n), d, out, rows, n)
    else:
        dgamma, dbeta = part(memory, t[R0], n), part(memory, t[B], n)
        divided = 0 if t[KIND] else samples
        batch_norm_backward_rows(x, part(memory, t[Y], 3 * n), gamma, dgamma, dbeta, d, out, rows, n, divided)


# ---- samples in the lanes --------------------------------------------------------------------------------------------


@njit(**PART)
def norm_in_lanes(t, samples, memory, numbers, r0, rows, count):
    """The others by features."""
    op, n, stride = t[OP], t[N], t[STRIDE]
    span = (n - 1) * stride + count
    x, d = part(memory, t[X] + r0, span), part(memory, t[D] + r0, span)
    out, gamma = part(memory, t[G] + r0, span), part(memory, t[W], n)
    if op == LAYER_NORM:
        scales, scratch = part(memory, t[Y] + r0, count), part(memory, t[R0] + 2 * r0, 2 * count)
        lanes_layer_norm(x, gamma, part(memory, t[B], n), d, scales, out, scratch, n, stride, numbers[t[COEF]])
    elif op == LAYER_NORM_BACKWARD:
        scales, scratch = part(memory, t[Y] + r0, count), part(memory, t[R0] + 2 * r0, 2 * count)
        lanes_layer_norm_backward(x, scales, gamma, d, out, scratch, n, stride)
        lanes_clear(out, n, stride, rows, count)
    elif op == BATCH_NORM:
        moments, beta = part(memory, t[Y], 3 * n), part(memory, t[B], n)
        for j in range(n):
            a, b, c = view(x, j * stride, count), view(d, j * stride, count), view(out, j * stride, count)
            normalize(a, moments[j], moments[n + j], moments[2 * n + j], b)
            affine_lanes(b, gamma[j], beta[j], c)
    else:
        moments, dgamma, dbeta = part(memory, t[Y], 3 * n), part(memory, t[R0], n), part(memory, t[B], n)
        share = x.dtype.type(0.0 if t[KIND] else 1.0 / samples)
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
    """out = x - mean, each sample by its own. out may be x."""
    for j in range(n):
        a, b = view(x, j * stride, len(mean)), view(out, j * stride, len(mean))
        for s in range(len(mean)):
            b[s] = a[s] - mean[s]


@njit(**PART)
def lanes_layer_norm(x, gamma, beta, normalized, scales, out, scratch, n, stride, epsilon):
    """As `layer_norm_rows` (ops/norm.py): here each step is taken by all samples at once."""
    count, number = len(scales), x.dtype.type
    mean, share = view(scratch, 0, count), number(1.0 / n)
    add_lanes(x, n, stride, mean, share)
    less_lanes(x, n, stride, mean, normalized)
    add_lanes(normalized, n, stride, mean, share)  # what rounding left of it
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
    """As `layer_norm_backward_rows`."""
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
