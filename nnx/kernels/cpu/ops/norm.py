# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Normalization of recorded steps, by rows: of each row (LayerNorm), and of each column over all rows (BatchNorm).

Lower bound of the time: reading the inputs three times, from the cache: for the mean, for the variance, and for the
result, which is written twice, before gamma and after. A mean has two parts, the second of which is the rounding error
of the first. If they are subtracted one after the other, numbers far from 0 keep all their digits; so these functions
are compiled IN_ORDER.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import IN_ORDER, PART, larger, on_stack, smaller, view
from nnx.kernels.cpu.ops.sums import sum_numbers
from nnx.kernels.rounding import RUN

ACROSS = 64  # the sums of so many columns are made at a time, on the stack


@njit(**PART)
def spread(a):
    """Mean and variance of a's numbers; the mean in two parts, in a's type and in float64."""
    n, high = len(a), a.dtype.type(sum_numbers(a) / len(a))
    rest, squares = about(a, high)
    return high, rest / n, variance_of(rest, squares, n)


@njit(**PART)
def about(a, high):
    """The sums of a's differences from `high`, and of their squares."""
    rest = squares = 0.0
    for first in range(0, len(a), RUN):
        run, part, square = view(a, first, smaller(RUN, len(a) - first)), a.dtype.type(0), a.dtype.type(0)
        for i in range(len(run)):
            d = run[i] - high
            part += d
            square += d * d
        rest += part
        squares += square
    return rest, squares


@njit(**PART)
def variance_of(rest, squares, n):
    """The variance of n numbers from the sum and the sum of squares of their differences from nearly their mean."""
    variance = (squares - rest * rest / n) / n
    return variance if not variance < 0.0 else 0.0


@njit(**IN_ORDER)
def normalize(a, high, low, scale, out):
    """out = (a - mean) * scale."""
    for i in range(len(a)):
        out[i] = ((a[i] - high) - low) * scale


@njit(**PART)
def affine_row(normalized, gamma, beta, out):
    """out = normalized * gamma + beta."""
    for j in range(len(out)):
        out[j] = normalized[j] * gamma[j] + beta[j]


# ---- of each row -----------------------------------------------------------------------------------------------------


@njit(**PART)
def layer_norm_rows(x, gamma, beta, normalized, scales, out, n, epsilon):
    """The operation `layer_norm` on rows of n numbers."""
    number = x.dtype.type
    for r in range(len(scales)):
        a, b = view(x, r * n, n), view(normalized, r * n, n)
        high, low, variance = spread(a)
        scale = number(1.0 / np.sqrt(variance + epsilon))
        scales[r] = scale
        normalize(a, high, number(low), scale, b)
        affine_row(b, gamma, beta, view(out, r * n, n))


@njit(**PART)
def layer_norm_backward_row(normalized, scale, gamma, dy, dx):
    """dx of one row, given the gradient of its output and 1 / its standard deviation."""
    n, number = len(dy), dy.dtype.type
    whole = along = number(0)
    for j in range(n):
        slope = dy[j] * gamma[j]
        whole += slope
        along += slope * normalized[j]
    whole, along = whole / number(n), along / number(n)
    for j in range(n):
        dx[j] = (dy[j] * gamma[j] - whole - normalized[j] * along) * scale


@njit(**PART)
def layer_norm_backward_rows(normalized, scales, gamma, dy, dx, n):
    """The operation `layer_norm_backward` on rows of n numbers."""
    for r in range(len(scales)):
        a, d = view(normalized, r * n, n), view(dy, r * n, n)
        layer_norm_backward_row(a, scales[r], gamma, d, view(dx, r * n, n))


# ---- of each column --------------------------------------------------------------------------------------------------


@njit(**PART)
def clear(a, n):
    """Set n numbers to 0."""
    for j in range(n):
        a[j] = 0


@njit(**PART)
def pour(run, total, n):
    """total += run; run = 0."""
    for j in range(n):
        total[j] += run[j]
        run[j] = 0


@njit(**PART)
def column_spreads(x, rows, n, first, width, high, low, variance):
    """Means, in two parts, and variances of columns first .. first + width of x [rows, n]; at most ACROSS columns."""
    number, run = x.dtype.type, on_stack(x.dtype, ACROSS)
    clear(run, width)
    clear(low, width)
    for start in range(0, rows, RUN):
        for r in range(start, smaller(start + RUN, rows)):
            a = view(x, r * n + first, width)
            for j in range(width):
                run[j] += a[j]
        pour(run, low, width)
    for j in range(width):
        high[j] = number(low[j] / rows)
    columns_about(x, rows, n, first, width, high, low, variance)
    for j in range(width):
        variance[j] = variance_of(low[j], variance[j], rows)
        low[j] = low[j] / rows


@njit(**PART)
def columns_about(x, rows, n, first, width, high, rest, squares):
    """The sums of these columns' differences from `high`, and of their squares."""
    run, more = on_stack(x.dtype, ACROSS), on_stack(x.dtype, ACROSS)
    clear(run, width)
    clear(more, width)
    clear(rest, width)
    clear(squares, width)
    for start in range(0, rows, RUN):
        for r in range(start, smaller(start + RUN, rows)):
            a = view(x, r * n + first, width)
            for j in range(width):
                d = a[j] - high[j]
                run[j] += d
                more[j] += d * d
        pour(run, rest, width)
        pour(more, squares, width)


@njit(**PART)
def mean_columns(x, rows, n, first, last, means):
    """Means of columns first .. last of x [rows, n], in float64."""
    high = on_stack(x.dtype, ACROSS)
    low, variance = on_stack(np.float64, ACROSS), on_stack(np.float64, ACROSS)
    for start in range(first, last, ACROSS):
        width = smaller(ACROSS, last - start)
        column_spreads(x, rows, n, start, width, high, low, variance)
        for j in range(width):
            means[start + j] = high[j] + low[j]


@njit(**PART)
def spread_columns(x, rows, n, first, last, means, spreads):
    """The mean squares of the differences of columns first .. last from the given means, in float64."""
    high = on_stack(x.dtype, ACROSS)
    rest, squares = on_stack(np.float64, ACROSS), on_stack(np.float64, ACROSS)
    for start in range(first, last, ACROSS):
        width = smaller(ACROSS, last - start)
        for j in range(width):
            high[j] = means[start + j]
        columns_about(x, rows, n, start, width, high, rest, squares)
        for j in range(width):
            spreads[start + j] = mean_square(rest[j], squares[j], rows, means[start + j] - high[j])


@njit(**PART)
def mean_square(rest, squares, n, off):
    """The mean square of n numbers minus `off`, from their sum and their sum of squares."""
    mean = (squares - 2.0 * off * rest) / n + off * off
    return mean if not mean < 0.0 else 0.0


@njit(**PART)
def remember(j, high, low, variance, rows, epsilon, momentum, moments, n, mean, running):
    """Write the moments of column j to `moments` [3, n], for `normalize`, and update its running statistics."""
    number, rest = mean.dtype.type, 1.0 - momentum
    moments[j], moments[n + j] = high, number(low)
    moments[2 * n + j] = number(1.0 / np.sqrt(variance + epsilon))
    mean[j] = number(momentum * mean[j] + rest * (high + low))
    running[j] = number(momentum * running[j] + rest * (variance * rows / larger(rows - 1, 1)))


@njit(**PART)
def remember_columns(x, rows, n, first, last, epsilon, momentum, moments, mean, running):
    """Compute the moments of columns first .. last of x [rows, n], and update their running statistics."""
    high = on_stack(x.dtype, ACROSS)
    low, variance = on_stack(np.float64, ACROSS), on_stack(np.float64, ACROSS)
    for start in range(first, last, ACROSS):
        width = smaller(ACROSS, last - start)
        column_spreads(x, rows, n, start, width, high, low, variance)
        for j in range(width):
            remember(
                start + j, high[j], low[j], variance[j], rows, epsilon, momentum, moments, n, mean, running
            )  # fmt: skip


@njit(**PART)
def recall(first, last, epsilon, moments, n, mean, running):
    """Write the running statistics of columns first .. last to `moments`, for `normalize`."""
    number = mean.dtype.type
    for j in range(first, last):
        moments[j], moments[n + j] = mean[j], number(0)
        moments[2 * n + j] = number(1.0 / np.sqrt(running[j] + epsilon))


@njit(**IN_ORDER)
def normalize_row(a, high, low, scale, out):
    """out = (a - mean) * scale, with a mean and a scale for each number."""
    for j in range(len(a)):
        out[j] = ((a[j] - high[j]) - low[j]) * scale[j]


@njit(**PART)
def batch_norm_rows(x, moments, gamma, beta, normalized, out, rows, n):
    """The operation `batch_norm` on rows of n numbers, given the moments of the columns."""
    high, low, scale = view(moments, 0, n), view(moments, n, n), view(moments, 2 * n, n)
    for r in range(rows):
        a, b = view(x, r * n, n), view(normalized, r * n, n)
        normalize_row(a, high, low, scale, b)
        affine_row(b, gamma, beta, view(out, r * n, n))


@njit(**PART)
def batch_norm_backward_rows(normalized, moments, gamma, dgamma, dbeta, dy, dx, rows, n, samples):
    """The operation `batch_norm_backward` on rows of n numbers; with `samples` 0, `fixed_norm_backward`."""
    scale, part = view(moments, 2 * n, n), dy.dtype.type(1.0 / samples if samples > 0 else 0.0)
    for r in range(rows):
        a, d, out = view(normalized, r * n, n), view(dy, r * n, n), view(dx, r * n, n)
        for j in range(n):
            out[j] = (d[j] - (dbeta[j] + a[j] * dgamma[j]) * part) * (gamma[j] * scale[j])
