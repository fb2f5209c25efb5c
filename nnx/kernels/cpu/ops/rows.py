"""Row kernels of a recorded step, on samples that lie row by row: softmax, cross-entropy, dropout, gathering.

The matrix products between them are gemm.py's. A block of rows goes through all operations while it is in the cache.
Floor: reading and writing each number once; softmax with cross-entropy reaches about 1.2 ns a number, dropout 1.5.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import PART, view
from nnx.kernels.cpu.ops.dropout import HALF, MASK, philox
from nnx.kernels.cpu.ops.elementwise import exp_all, log_all


@njit(inline="always")
def named(order, place, last):
    """The row that `order` names at a place. Places and rows that are not there become the nearest that is."""
    return min(max(order[min(max(place, 0), len(order) - 1)], 0), last)


@njit(**PART)
def gather(source, order, first, out, rows, n, last):
    """Copy the `rows` rows of `source` [last + 1, n] that `order` names from `first` on to `out`."""
    for r in range(rows):
        row, copy = view(source, named(order, first + r, last) * n, n), view(out, r * n, n)
        for j in range(n):
            copy[j] = row[j]


@njit(**PART)
def shift_rows(x, out, tops, n):
    """out = x less each row's maximum; the maxima to `tops`."""
    for r in range(len(tops)):
        a, b = view(x, r * n, n), view(out, r * n, n)
        top = a[0]
        for j in range(1, n):
            v = a[j]
            top = v if v > top or v != v else top
        for j in range(n):
            b[j] = a[j] - top
        tops[r] = top


@njit(**PART)
def softmax_rows(x, out, totals, n):
    """exp(x - max) / sum exp(x - max) of each row; `totals` is scratch, a number for each row."""
    shift_rows(x, out, totals, n)
    exp_all(out)
    for r in range(len(totals)):
        b, total = view(out, r * n, n), x.dtype.type(0)
        for j in range(n):
            total += b[j]
        for j in range(n):
            b[j] /= total


@njit(**PART)
def softmax_back_rows(y, dy, out, rows, n):
    """y * (dy - sum(y * dy)): each row's Jacobian times its gradient."""
    for r in range(rows):
        a, d, b, total = view(y, r * n, n), view(dy, r * n, n), view(out, r * n, n), y.dtype.type(0)
        for j in range(n):
            total += a[j] * d[j]
        for j in range(n):
            b[j] = a[j] * (d[j] - total)


@njit(inline="always")
def class_of(label, n):
    """A label, held as a number of the step's type, as an index; and whether it is one: if not, the index is 0."""
    known = label >= 0 and label < n
    return int(label) if known else 0, known


@njit(**PART)
def cross_entropy_rows(x, labels, out, losses, totals, hits, n, scale, low, high):
    """Softmax, loss, hits and gradient of rows of logits: out = (p - one hot) * scale.

    `hits` is empty where nobody counts; `totals` is scratch, a number for each row. Losses are kept within low .. high;
    that of a label that is no class is NaN, and nothing is wanted then.
    """
    number, counting = x.dtype.type, len(hits) > 0
    factor, least, most = number(scale), number(low), number(high)
    shift_rows(x, out, losses, n)
    for r in range(len(losses)):
        b = view(x, r * n, n)
        label, known = class_of(labels[r], n)
        if counting:
            hit = known and b[label] == losses[r]
            for j in range(label):  # the first of equal maxima counts, as in numpy.argmax
                hit = hit and b[j] != losses[r]
            hits[r] = hit
        losses[r] = view(out, r * n, n)[label] if known else number(np.nan)
    exp_all(out)
    for r in range(len(losses)):
        g, total = view(out, r * n, n), number(0)
        for j in range(n):
            total += g[j]
        inverse = factor / total
        for j in range(n):
            g[j] *= inverse
        label, known = class_of(labels[r], n)
        g[label] -= factor if known else number(0)
        totals[r] = total
    log_all(totals)
    for r in range(len(losses)):
        loss = totals[r] - losses[r]
        loss = least if loss < least else loss
        losses[r] = most if loss > most else loss


@njit(**PART)
def cross_entropy_soft_rows(x, target, out, losses, totals, n, scale, low, high):
    """As `cross_entropy_rows`, with distributions as targets. `totals` is scratch, a number for each row."""
    number = x.dtype.type
    factor, least, most, zero = number(scale), number(low), number(high), number(0)
    shift_rows(x, out, losses, n)
    exp_all(out)
    for r in range(len(losses)):
        g, total = view(out, r * n, n), zero
        for j in range(n):
            total += g[j]
        totals[r] = total
        for j in range(n):
            g[j] /= total
    log_all(totals)
    for r in range(len(losses)):
        a, t, g, top, more, loss = (
            view(x, r * n, n),
            view(target, r * n, n),
            view(out, r * n, n),
            losses[r],
            totals[r],
            zero,
        )
        for j in range(n):
            wanted = t[j]
            cost = more - (a[j] - top)
            cost = least if cost < least else cost
            cost = most if cost > most else cost
            part = wanted * cost
            loss += part if wanted > zero else zero  # a class with logit -inf costs nothing unless it is wanted
            g[j] = (g[j] - wanted) * factor
        losses[r] = loss


@njit(**PART)
def argmax_rows(x, out, n):
    """Where each row's first maximum is, as a number of the row's own type."""
    for r in range(len(out)):
        a, best = view(x, r * n, n), 0
        for j in range(1, n):
            if a[j] > a[best]:
                best = j
        out[r] = best


@njit(**PART)
def one_hot_rows(labels, out, n):
    """Rows of zeros with a one where the label says."""
    one, zero = out.dtype.type(1), out.dtype.type(0)
    for r in range(len(labels)):
        b, label = view(out, r * n, n), int(labels[r])
        for j in range(n):
            b[j] = one if j == label else zero


@njit(**PART)
def mean_rows(x, out, n, scale):
    """Each row's sum times `scale`."""
    factor = x.dtype.type(scale)
    for r in range(len(out)):
        a, total = view(x, r * n, n), x.dtype.type(0)
        for j in range(n):
            total += a[j]
        out[r] = total * factor


# ---- dropout ---------------------------------------------------------------------------------------------------------


@njit(**PART)
def dropout_rows(x, out, r0, rows, n, threshold, scale, layer, step, seed):
    """x * scale where the element's random word is at least `threshold`, else 0; rows r0 .. r0 + rows of a batch."""
    least, factor, zero = np.uint64(threshold), x.dtype.type(scale), x.dtype.type(0)
    c2, c3, k0, k1 = np.uint64(step), np.uint64(layer), np.uint64(seed) & MASK, np.uint64(seed) >> HALF
    whole = n // 4
    for r in range(rows):
        a, b, c0 = view(x, r * n, n), view(out, r * n, n), np.uint64(r0 + r)
        for group in range(whole):
            w0, w1, w2, w3 = philox(c0, np.uint64(group), c2, c3, k0, k1)
            # loads before the choice: a load inside the branch would keep the loop scalar
            v0, v1, v2, v3 = a[4 * group], a[4 * group + 1], a[4 * group + 2], a[4 * group + 3]
            b[4 * group] = v0 * factor if w0 >= least else zero
            b[4 * group + 1] = v1 * factor if w1 >= least else zero
            b[4 * group + 2] = v2 * factor if w2 >= least else zero
            b[4 * group + 3] = v3 * factor if w3 >= least else zero
        if 4 * whole < n:
            words = philox(c0, np.uint64(whole), c2, c3, k0, k1)
            for j in range(4 * whole, n):
                b[j] = a[j] * factor if words[j - 4 * whole] >= least else zero
