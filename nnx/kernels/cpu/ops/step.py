# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Step kernels beside the layers: gather rows in shuffled order, regularize, count hits, log.

Lower bound of the time of each: moving its bytes once. For the book's networks a call takes 0.5 us, NumPy's 2 to 6 us.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.behaved import apart, apart_or_same, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import INLINED, OPTIONS, PART, flat, larger, row, smaller, view
from nnx.kernels.cpu.ops.loss_formulas import class_of, scalar
from nnx.kernels.cpu.ops.softmax import first_largest, is_first, largest
from nnx.kernels.cpu.threads.team import divided, make_together, share_at
from nnx.kernels.step_state import CURSOR, DONE, HITS, LOSS, PENALTY, STEP

NONE, DISTRIBUTIONS, BINARY, LOGITS, REGRESSION = range(5)  # metrics of `tally`
METRICS = {None: NONE, "categorical": DISTRIBUTIONS, "binary": BINARY, "logits": LOGITS, "regression": REGRESSION}

above, near = scalar("above"), scalar("near")


# ---- functions that recorded steps call too --------------------------------------------------------------------------


@njit(**INLINED)
def named(order, place, last):
    """The row number in `order` at a place. Indices out of range are replaced by the nearest valid one."""
    return smaller(larger(order[smaller(larger(place, 0), len(order) - 1)], 0), last)


@njit(**PART)
def gather_rows(source, order, first, out, rows, n, last):
    """Copy to `out` `rows` rows of `source` [last + 1, n]: those whose numbers are in `order` from `first` on."""
    for r in range(rows):
        a, b = view(source, named(order, first + r, last) * n, n), view(out, r * n, n)
        for j in range(n):
            b[j] = a[j]


@njit(**INLINED)
def gather_numbers(source, order, first, out):
    """The same for rows of a single number."""
    for r in range(len(out)):
        out[r] = source[named(order, first + r, len(source) - 1)]


@njit(**PART)
def penalize(w, dw, l1, l2):
    """dw += l1 * sign(w) + 2 * l2 * w; return l1 * sum|w| + l2 * sum(w**2), added up in float64 (chapter 14)."""
    number = w.dtype.type
    up, twice = number(l1), number(2.0 * l2)
    lengths = squares = 0.0
    for j in range(len(w)):
        v = w[j]
        wide = np.float64(v)
        lengths += abs(wide)
        squares += wide * wide
        dw[j] += (-up if v < number(0) else up) + twice * v
    return l1 * lengths + l2 * squares


@njit(**INLINED)
def total(a):
    """The sum of a's numbers, added up in float64."""
    whole = 0.0
    for i in range(len(a)):
        whole += a[i]
    return whole


@njit(**INLINED)
def log_step(stats, history, counters, rows):
    """Write the step's results to the next row of `history`, which is flat, and advance the counters."""
    size = len(stats)
    log = view(history, counters[DONE] % (len(history) // size) * size, size)
    for i in range(size):
        log[i] = stats[i]
    counters[STEP] += 1
    counters[CURSOR] += rows
    counters[DONE] += 1


@njit(**PART)
def argmax_rows(x, out, n):
    """The index of the first occurrence of each row's maximum, in the row's own type."""
    for r in range(len(out)):
        out[r] = first_largest(view(x, r * n, n))


@njit(**PART)
def one_hot_rows(labels, out, n):
    """One-hot rows of the labels; zeros for a label that is not one of n classes."""
    one, zero = out.dtype.type(1), out.dtype.type(0)
    for r in range(len(labels)):
        b, (label, known) = view(out, r * n, n), class_of(labels[r], n)
        for j in range(n):
            b[j] = one if known and j == label else zero


@njit(**PART)
def mean_rows(x, out, n, scale):
    """Each row's sum times `scale`."""
    factor = x.dtype.type(scale)
    for r in range(len(out)):
        a, whole = view(x, r * n, n), x.dtype.type(0)
        for j in range(n):
            whole += a[j]
        out[r] = whole * factor


@njit(**PART)
def weigh_numbers(x, weights, out):
    """out = x * weights, for one number of each sample; 0 where the weight is 0."""
    zero = out.dtype.type(0)
    for s in range(len(weights)):
        weight = weights[s]
        out[s] = x[s] * weight if weight != zero else zero


@njit(**PART)
def weigh_rows(x, weights, out, n):
    """The same for rows of n numbers."""
    zero = out.dtype.type(0)
    for r in range(len(weights)):
        a, b, weight = view(x, r * n, n), view(out, r * n, n), weights[r]
        for j in range(n):
            b[j] = a[j] * weight if weight != zero else zero


@njit(**PART)
def copy_columns(x, out, rows, n, wide, first, to, count):
    """Copy columns first .. first + count of rows of n numbers to columns `to` .. of rows of `wide` numbers."""
    for r in range(rows):
        a, b = view(x, r * n + first, count), view(out, r * wide + to, count)
        for j in range(count):
            b[j] = a[j]


@njit(**INLINED)
def code_of(value, count):
    """A code as an index, and whether it is valid: an integer from 0 to count - 1, and not nan."""
    inside = value >= 0 and value < count
    code = np.int64(value) if inside else 0
    return code, inside and value == code


@njit(**PART)
def embed_rows(x, w, out, rows, n, wide, codes, width, column, to):
    """Copy the rows of w [codes, width] for the codes in a column of x [rows, n] to columns `to` .. of out's rows."""
    for r in range(rows):
        code, known = code_of(x[r * n + column], codes)
        a, b = view(w, code * width, width), view(out, r * wide + to, width)
        for j in range(width):
            b[j] = a[j] if known else out.dtype.type(np.nan)


@njit(**PART)
def scatter_rows(x, d, out, first, last, n, wide, codes, width, column, to):
    """out [codes, width] = for each code, the sum of columns `to` .. of the rows of d [., wide] with that code in x."""
    for j in range(len(out)):
        out[j] = 0
    for r in range(first, last):
        code, known = code_of(x[r * n + column], codes)
        if known:
            a, b = view(d, r * wide + to, width), view(out, code * width, width)
            for j in range(width):
                b[j] += a[j]


# ---- kernels ---------------------------------------------------------------------------------------------------------


@njit(**PART)
def gather_share(operands, number):
    """`gather` for one share of the rows."""
    source, order, begin, out, tall, n, last = operands
    first, rows = share_at(number, tall, out.size // n)
    gather_rows(source, order, begin + first, view(out, first * n, rows * n), rows, n, last)


gather_together = make_together(gather_share)


@takes("miim")
@njit(**OPTIONS)
def gather(source, order, counters, out, board, parts):
    """out = source[order[cursor : cursor + rows]], for matrices; rows out of range become the nearest valid one.

    `board` is the address of the threads' board, `parts` the most parts to divide the work into: see team.py.
    """
    if not behaved(source, order, counters, out) or not apart(out, source, order):
        return False
    if source.shape[1] != out.shape[1] or not source.size * order.size:
        return False
    rows, n = out.shape
    tall, parts = divided(rows, parts, 1)
    operands = flat(source), flat(order), counters[CURSOR], flat(out), tall, n, source.shape[0] - 1
    gather_together(board, operands, parts)
    return True


@takes("iiii")
@njit(**OPTIONS)
def gather_labels(source, order, counters, out):
    """The same for class indices."""
    if not behaved(source, order, counters, out) or not apart(out, source, order) or not source.size * order.size:
        return False
    gather_numbers(flat(source), flat(order), counters[CURSOR], flat(out))
    return True


@takes("mmm")
@njit(**OPTIONS)
def weigh(x, weights, out):
    """out = x * weights [N, 1], row by row; 0 where the weight is 0."""
    if not behaved(x, weights, out) or not apart(out, weights) or not apart_or_same(out, x):
        return False
    if out.shape != x.shape or weights.shape != (x.shape[0], 1):
        return False
    weigh_rows(flat(x), flat(weights), flat(out), x.shape[1])
    return True


@takes("mmd")
@njit(**OPTIONS)
def regularize(w, dw, penalty, l1, l2):
    """dw += l1 * sign(w) + 2 * l2 * w; penalty = l1 * sum|w| + l2 * sum(w**2), added up in float64."""
    if not behaved(w, dw, penalty) or w.shape != dw.shape or penalty.size != 1 or not apart(dw, w):
        return False
    penalty[0] = penalize(flat(w), flat(dw), l1, l2)
    return True


@takes("vmmd")
@njit(**OPTIONS)
def tally(losses, outputs, target, stats, metric, tolerance):
    """Write the mean loss and the number of right outputs; `target` is a matrix, or anything if `metric` is NONE."""
    n, c = outputs.shape
    if not behaved(losses, outputs, target, stats) or target.shape != outputs.shape:
        return False
    if losses.size != n or stats.size != 3 or not outputs.size:
        return False
    number = outputs.dtype.type
    stats[LOSS] = total(losses) / n
    hits = 0
    a, t, limit = flat(outputs), flat(target), number(tolerance)
    if metric == NONE:
        return True
    if metric == DISTRIBUTIONS:
        for i in range(n):
            hits += first_largest(row(outputs, i)) == first_largest(row(target, i))
        stats[HITS] = hits
        return True
    if metric == REGRESSION:
        for j in range(a.size):
            hits += near(a[j], t[j], limit) > 0
    else:
        level = number(0) if metric == LOGITS else number(0.5)
        for j in range(a.size):
            hits += above(a[j], t[j], level) > 0
    stats[HITS] = hits / c
    return True


@takes("vmid")
@njit(**OPTIONS)
def tally_labels(losses, outputs, labels, stats):
    """The same for class indices [N]: an output is right if the index of its first largest number is the label."""
    n, c = outputs.shape
    if not behaved(losses, outputs, labels, stats) or labels.size != n:
        return False
    if losses.size != n or stats.size != 3 or not outputs.size:
        return False
    hits = 0
    for i in range(n):
        a, (label, known) = row(outputs, i), class_of(labels[i], c)
        hits += known and is_first(a, label, largest(a))
    stats[LOSS], stats[HITS] = total(losses) / n, hits
    return True


@takes("ddDi")
@njit(**OPTIONS)
def end_step(stats, penalties, history, counters, rows):
    """Write the step's results to the history, and advance the counters."""
    if not behaved(stats, penalties, history, counters) or history.shape[1] != 3 or not history.size:
        return False
    if stats.size != 3 or counters.size != 3:
        return False
    stats[PENALTY] = total(penalties)
    log_step(flat(stats), flat(history), flat(counters), rows)
    return True
