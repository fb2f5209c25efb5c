"""Kernels on samples in the vector lanes, except products: transposing the inputs, cross-entropy, dropout.

Matrices are [features, stride], flat; a block has some samples of every feature. Floor: reading and writing each number
once. Softmax with cross-entropy reaches about 0.7 ns per number, transposing the inputs 0.5, dropout 0.5.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import PART, view
from nnx.kernels.cpu.ops.dropout import HALF, MASK, apply_shares, normals, philox
from nnx.kernels.cpu.ops.loss_formulas import within
from nnx.kernels.cpu.ops.math import exp, logarithms
from nnx.kernels.cpu.ops.step import named


@njit(**PART)
def lanes_load(source, order, first, last, out, n, stride, r0, rows):
    """Transpose rows r0 .. r0 + rows of a batch: out[feature, r] = source[r, feature].

    With an order, the rows are those that it names from `first` on; there are last + 1 rows in all. Without one,
    `first` is -1.
    """
    for r in range(r0, r0 + rows):
        place = named(order, first + r, last) if first >= 0 else r
        row, column = view(source, place * n, n), view(out, r - r0, (n - 1) * stride + 1)
        for j in range(n):
            column[j * stride] = row[j]


@njit(**PART)
def lanes_cross_entropy(z, labels, out, losses, hits, scratch, n, stride, rows, scale, low, high):
    """The same as `of_labels` (cross_entropy.py), on a block of samples: out = (p - one hot) * scale, 0 past `rows`.

    It is a separate function because here all samples take each step together: 320 samples of three classes take
    1.2 us, row by row they would take 3.2 us (AVX-512).

    Args:
        z, out: the logits and their gradient, starting at the block's first sample.
        labels, losses, hits (or empty): [count]. scratch: [2, count].
    """
    count, number = len(labels), z.dtype.type
    one, zero, factor, least, most = number(1), number(0), number(scale), number(low), number(high)
    nothing = number(np.nan)  # the loss of a label that is not a class
    top, best = view(scratch, 0, count), view(scratch, count, count)
    first = view(z, 0, count)
    for s in range(count):
        top[s] = first[s]
        best[s] = zero
    for c in range(1, n):
        a, index = view(z, c * stride, count), number(c)
        for s in range(count):
            value, highest, where = a[s], top[s], best[s]
            higher = value > highest
            best[s] = index if higher else where
            top[s] = value if higher or value != value else highest
    if len(hits) > 0:
        for s in range(rows):
            hits[s] = one if best[s] == labels[s] else zero
    # Each loop uses few arrays. With more, LLVM gives up checking that they don't overlap, and the loop stays scalar.
    total = best
    for c in range(n):
        a, e, index = view(z, c * stride, count), view(out, c * stride, count), number(c)
        if c == 0:
            for s in range(count):
                v = exp(a[s] - top[s])
                e[s] = v
                total[s] = v
            for s in range(count):
                shifted = a[s] - top[s]
                losses[s] = shifted if labels[s] == zero else nothing
        else:
            for s in range(count):
                v = exp(a[s] - top[s])
                e[s] = v
                total[s] += v
            for s in range(count):
                shifted, so_far = a[s] - top[s], losses[s]
                losses[s] = shifted if labels[s] == index else so_far
    for s in range(count):
        top[s] = factor / total[s]
    for s in range(rows, count):
        top[s] = zero  # samples past the batch's end
    for c in range(n):
        e, index = view(out, c * stride, count), number(c)
        for s in range(rows):
            e[s] = e[s] * top[s] - (factor if labels[s] == index else zero)
        for s in range(rows, count):
            e[s] = zero
    logarithms(total)
    for s in range(rows):
        losses[s] = within(total[s] - losses[s], least, most)


@njit(**PART)
def lanes_mean(x, out, n, stride, scale):
    """Each sample's sum over its n features, times `scale`."""
    count, factor, zero = len(out), x.dtype.type(scale), x.dtype.type(0)
    for s in range(count):
        out[s] = zero
    for c in range(n):
        a = view(x, c * stride, count)
        for s in range(count):
            out[s] += a[s] * factor


@njit(**PART)
def lanes_clear(x, n, stride, rows, count):
    """Set the samples rows .. count to zero: those past the batch's end, in the last block."""
    for c in range(n):
        rest = view(x, c * stride + rows, count - rows)
        for s in range(count - rows):
            rest[s] = 0


@njit(**PART)
def lanes_mask(kept, n, stride, r0, count, threshold, scale, layer, step, seed):
    """The same masks as those of `dropout_rows`, feature by feature: `scale`, or 0. Features are padded to four.

    It is a separate function because here the random words come in the order in which they are needed: 64 features of
    320 samples take 9 us, by rows 12 us.
    """
    least, factor, zero = np.uint64(threshold), kept.dtype.type(scale), kept.dtype.type(0)
    c2, c3, k0, k1 = np.uint64(step), np.uint64(layer), np.uint64(seed) & MASK, np.uint64(seed) >> HALF
    for j in range(0, n, 4):
        shares, group = view(kept, j * stride, 3 * stride + count), np.uint64(j >> 2)
        for s in range(count):
            w0, w1, w2, w3 = philox(np.uint64(r0 + s), group, c2, c3, k0, k1)
            shares[s] = factor if w0 >= least else zero
            shares[s + stride] = factor if w1 >= least else zero
            shares[s + 2 * stride] = factor if w2 >= least else zero
            shares[s + 3 * stride] = factor if w3 >= least else zero


@njit(**PART)
def lanes_dropout(x, out, kept, n, stride, count):
    """out = x times the mask; 0 where the mask is 0. out may be x."""
    for j in range(0, n * stride, stride):
        apply_shares(0, view(x, j, count), view(kept, j, count), view(out, j, count), 0.0, 0.0)


@njit(**PART)
def lanes_noise(x, out, n, stride, r0, count, deviation, layer, step, seed):
    """The same numbers as those of `noise_rows`, feature by feature. Features are padded to four."""
    c2, c3, k0, k1 = np.uint64(step), np.uint64(layer), np.uint64(seed) & MASK, np.uint64(seed) >> HALF
    number = x.dtype.type
    for j in range(0, n, 4):
        a, b, group = view(x, j * stride, 4 * stride), view(out, j * stride, 4 * stride), np.uint64(j >> 2)
        for s in range(count):
            w0, w1, w2, w3 = philox(np.uint64(r0 + s), group, c2, c3, k0, k1)
            n0, n1 = normals(w0, w1)
            n2, n3 = normals(w2, w3)
            b[s] = a[s] + number(deviation * n0)
            b[s + stride] = a[s + stride] + number(deviation * n1)
            b[s + 2 * stride] = a[s + 2 * stride] + number(deviation * n2)
            b[s + 3 * stride] = a[s + 3 * stride] + number(deviation * n3)
