# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Step kernels beside the layers: gather rows in shuffled order, regularize, count hits, log.

Floor of each: the bytes it touches, once. For the networks of the notes a call takes 0.5 us, where NumPy's take 2 to 6.
"""

from __future__ import annotations

from nnx.kernels.cpu.jit.behaved import apart, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import INLINED, OPTIONS, flat, row
from nnx.kernels.cpu.ops.softmax import largest

NONE, DISTRIBUTIONS, BINARY, LOGITS, REGRESSION = range(5)  # metrics of `tally`
METRICS = {None: NONE, "categorical": DISTRIBUTIONS, "binary": BINARY, "logits": LOGITS, "regression": REGRESSION}
STEP, CURSOR, DONE = range(3)  # places in `counters`
LOSS, HITS, PENALTY = range(3)  # and in `stats`


@takes("miim")
@njit(**OPTIONS)
def gather(source, order, counters, out):
    """out = source[order[cursor : cursor + rows]], for matrices. Rows that are not there become the nearest that is."""
    if not behaved(source, order, counters, out) or not apart(out, source, order):
        return False
    if source.shape[1] != out.shape[1] or not source.size * order.size:
        return False
    first, last, n = counters[CURSOR], order.size - 1, source.shape[0] - 1
    for i in range(out.shape[0]):
        a, b = row(source, min(max(order[min(max(first + i, 0), last)], 0), n)), row(out, i)
        for j in range(b.size):
            b[j] = a[j]
    return True


@takes("iiii")
@njit(**OPTIONS)
def gather_labels(source, order, counters, out):
    """The same for class indices."""
    if not behaved(source, order, counters, out) or not apart(out, source, order) or not source.size * order.size:
        return False
    first, last, n = counters[CURSOR], order.size - 1, source.size - 1
    for i in range(out.size):
        out[i] = source[min(max(order[min(max(first + i, 0), last)], 0), n)]
    return True


@takes("mmd")
@njit(**OPTIONS)
def regularize(w, dw, penalty, l1, l2):
    """dw += l1 * sign(w) + 2 * l2 * w; penalty = l1 * sum|w| + l2 * sum(w**2), added up in float64."""
    if not behaved(w, dw, penalty) or w.shape != dw.shape or penalty.size != 1 or not apart(dw, w):
        return False
    number = w.dtype.type
    zero = number(0)
    up, twice = number(l1), number(2.0 * l2)
    a, g = flat(w), flat(dw)
    sizes = squares = 0.0
    for j in range(a.size):
        v = a[j]
        wide = float(v)
        sizes += abs(wide)
        squares += wide * wide
        g[j] += (-up if v < zero else up) + twice * v
    penalty[0] = l1 * sizes + l2 * squares
    return True


@njit(**INLINED)
def first_largest(a):
    """The first place of a row's maximum."""
    top, place = largest(a), 0
    while place < a.size - 1 and a[place] < top:
        place += 1
    return place


@njit(**INLINED)
def mean(losses):
    """The mean, added up in float64."""
    total = 0.0
    for i in range(losses.size):
        total += losses[i]
    return total / losses.size


@takes("vmmd")
@njit(**OPTIONS)
def tally(losses, outputs, target, stats, metric, precision):
    """Write the mean loss and the number of right outputs; `target` is a matrix, unless `metric` is NONE any one."""
    n, c = outputs.shape
    if not behaved(losses, outputs, target, stats) or target.shape != outputs.shape:
        return False
    if losses.size != n or stats.size != 3 or not outputs.size:
        return False
    number = outputs.dtype.type
    stats[LOSS] = mean(losses)
    hits = 0
    a, t = flat(outputs), flat(target)
    half, zero, near = number(0.5), number(0), number(precision)
    if metric == NONE:
        return True
    if metric == DISTRIBUTIONS:
        for i in range(n):
            hits += first_largest(row(outputs, i)) == first_largest(row(target, i))
        stats[HITS] = hits
        return True
    if metric == REGRESSION:
        for j in range(a.size):
            hits += abs(a[j] - t[j]) < near
    else:
        level = zero if metric == LOGITS else half
        for j in range(a.size):
            hits += (a[j] > level) == (t[j] > half)
    stats[HITS] = hits / c
    return True


@takes("vmid")
@njit(**OPTIONS)
def tally_labels(losses, outputs, labels, stats):
    """The same for class indices [N]: an output is right if the first of its largest numbers is the label's."""
    n, c = outputs.shape
    if not behaved(losses, outputs, labels, stats) or labels.size != n:
        return False
    if losses.size != n or stats.size != 3 or not outputs.size:
        return False
    hits = 0
    for i in range(n):
        a, label = row(outputs, i), labels[i]
        top = largest(a)
        if 0 <= label < c and a[label] == top:
            earlier = 0
            for j in range(label):
                earlier += a[j] == top
            hits += earlier == 0
    stats[LOSS], stats[HITS] = mean(losses), hits
    return True


@takes("ddDi")
@njit(**OPTIONS)
def end_step(stats, penalties, history, counters, rows):
    """Log the step and move the counters on."""
    if not behaved(stats, penalties, history, counters) or history.shape[1] != 3 or not history.size:
        return False
    if stats.size != 3 or counters.size != 3:
        return False
    total = 0.0
    for j in range(penalties.size):
        total += penalties[j]
    stats[PENALTY] = total
    log = row(history, counters[DONE] % history.shape[0])
    for j in range(3):
        log[j] = stats[j]
    counters[STEP] += 1
    counters[CURSOR] += rows
    counters[DONE] += 1
    return True
