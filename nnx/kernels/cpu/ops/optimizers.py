# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Optimizer kernels, each one pass over the flat buffers: parameters p, gradients g, moments m and v, the largest v u.

Lower bound of the time: reading each array once, and writing all but g once; for Adam 28 bytes for each float32
parameter. In the second-level cache Adam takes 0.3 ns for each; beyond the caches it runs at the speed of memory, and
NumPy's ten passes at a fifth of that.

Learning rate and step count are read from `hyper` and `counters` (step_state.py has the layout). Constants are computed
in float64 for either type of parameters: in float32, 1 - 0.999 alone has an error of 5e-5. Recorded steps call `sizes`
once in a step, and for each piece of the parameters the function that `make_update` returns.
"""

from __future__ import annotations

import math

import numpy as np

from nnx.kernels.cpu.jit.behaved import behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import CALLED, INLINED, OPTIONS, PART, flat, view
from nnx.kernels.cpu.threads.team import LINE, divided, make_together, share_at
from nnx.kernels.nesterov import make_momenta
from nnx.kernels.step_state import BETA_1, BETA_2, DECAY, EPSILON, LEARNING_RATE, MOMENTUM_DECAY, STEP, WEIGHT_DECAY

SGD, ADAGRAD, RMSPROP, ADAM, NADAM, AMSGRAD, LION, ACCUMULATE = range(8)
NUMBERS = {
    "sgd": SGD, "adagrad": ADAGRAD, "rmsprop": RMSPROP, "adam": ADAM, "nadam": NADAM, "amsgrad": AMSGRAD, "lion": LION,
    "accumulate": ACCUMULATE,
}  # fmt: skip

momenta = njit(**INLINED)(make_momenta(math))


# ---- the formulas ----------------------------------------------------------------------------------------------------


@njit(**INLINED)
def bias_factor(beta, time):
    """The factor by which a moment is too small after `time` steps, since it began at 0 (Kingma and Ba, 2015)."""
    return 1.0 - beta ** np.float64(time)  # an integer power would take 75 ms longer to compile


@njit(**INLINED)
def sizes(kind, hyper, done):
    """The numbers of a step: its size (chapter 10), Adam's correction of v, and the factor that shrinks p.

    Nadam has a second size, for the gradient itself.
    """
    rate = hyper[LEARNING_RATE] / (1.0 + hyper[DECAY] * done)
    size, correction, shrink, fresh = rate, 1.0, 1.0, 0.0
    if ADAM <= kind <= LION:
        shrink = 1.0 - rate * hyper[WEIGHT_DECAY]
    if ADAM <= kind <= AMSGRAD:
        correction = 1.0 / bias_factor(hyper[BETA_2], done + 1)
        if kind == NADAM:
            now, ahead, product = momenta(hyper[BETA_1], hyper[MOMENTUM_DECAY], np.float64(done + 1))
            size, fresh = rate * ahead / (1.0 - product * ahead), rate * (1.0 - now) / (1.0 - product)
        else:
            size = rate / bias_factor(hyper[BETA_1], done + 1)
    return size, correction, shrink, fresh


@njit(**INLINED)
def momentum(p, g, m, size, beta):
    """m = beta * m - size * g; p += m."""
    number = p.dtype.type
    step, keep = number(size), number(beta)
    for j in range(len(p)):
        moved = keep * m[j] - step * g[j]
        m[j] = moved
        p[j] += moved


@njit(**INLINED)
def nesterov(p, g, m, size, beta):
    """m = beta * m - size * g; p += beta * m - size * g (Sutskever et al., 2013)."""
    number = p.dtype.type
    step, keep = number(size), number(beta)
    for j in range(len(p)):
        slope = step * g[j]
        moved = keep * m[j] - slope
        m[j] = moved
        p[j] += keep * moved - slope


@njit(**INLINED)
def descent(p, g, m, size, hyper):
    """`momentum` or `nesterov`."""
    if hyper[BETA_2] != 0:
        nesterov(p, g, m, size, hyper[BETA_1])
    else:
        momentum(p, g, m, size, hyper[BETA_1])


@njit(**INLINED)
def adaptive(p, g, v, size, old, new, epsilon):
    """v = old * v + new * g**2; p -= size * g / (sqrt(v) + epsilon)."""
    number = p.dtype.type
    step, keep, add, small = number(size), number(old), number(new), number(epsilon)
    for j in range(len(p)):
        slope = g[j]
        square = keep * v[j] + add * slope * slope
        v[j] = square
        p[j] -= step * slope / (math.sqrt(square) + small)


@njit(**INLINED)
def moments(p, g, m, v, size, correction, shrink, hyper):
    """Adam with decoupled weight decay; the moments are corrected by 1 - beta**(t + 1)."""
    number = p.dtype.type
    step, fix, less, small = number(size), number(correction), number(shrink), number(hyper[EPSILON])
    b1, b2, c1, c2 = (
        number(hyper[BETA_1]),
        number(hyper[BETA_2]),
        number(1.0 - hyper[BETA_1]),
        number(1.0 - hyper[BETA_2]),
    )
    for j in range(len(p)):
        slope = g[j]
        mean, square = b1 * m[j] + c1 * slope, b2 * v[j] + c2 * slope * slope
        m[j] = mean
        v[j] = square
        p[j] = less * p[j] - step * mean / (math.sqrt(square * fix) + small)


@njit(**INLINED)
def nesterov_moments(p, g, m, v, size, correction, shrink, fresh, hyper):
    """Nadam: like `moments`, with a part of the gradient itself beside its mean."""
    number = p.dtype.type
    step, new, fix, less = number(size), number(fresh), number(correction), number(shrink)
    b1, b2, small = number(hyper[BETA_1]), number(hyper[BETA_2]), number(hyper[EPSILON])
    c1, c2 = number(1.0 - hyper[BETA_1]), number(1.0 - hyper[BETA_2])
    for j in range(len(p)):
        slope = g[j]
        mean, square = b1 * m[j] + c1 * slope, b2 * v[j] + c2 * slope * slope
        m[j] = mean
        v[j] = square
        p[j] = less * p[j] - (step * mean + new * slope) / (math.sqrt(square * fix) + small)


@njit(**INLINED)
def largest_moments(p, g, m, v, u, size, correction, shrink, hyper):
    """AMSGrad: like `moments`, with the largest v so far, u; nan where v is nan."""
    number = p.dtype.type
    step, fix, less = number(size), number(correction), number(shrink)
    b1, b2, small = number(hyper[BETA_1]), number(hyper[BETA_2]), number(hyper[EPSILON])
    c1, c2 = number(1.0 - hyper[BETA_1]), number(1.0 - hyper[BETA_2])
    for j in range(len(p)):
        slope, most = g[j], u[j]
        mean, square = b1 * m[j] + c1 * slope, b2 * v[j] + c2 * slope * slope
        most = most if square <= most else square
        m[j] = mean
        v[j] = square
        u[j] = most
        p[j] = less * p[j] - step * mean / (math.sqrt(most * fix) + small)


@njit(**INLINED)
def signs(p, g, m, size, shrink, hyper):
    """Lion: p = shrink * p - size * sign(beta_1 m + (1 - beta_1) g); m = beta_2 m + (1 - beta_2) g."""
    number = p.dtype.type
    step, less, zero = number(size), number(shrink), number(0)
    b1, b2, c1, c2 = (
        number(hyper[BETA_1]),
        number(hyper[BETA_2]),
        number(1.0 - hyper[BETA_1]),
        number(1.0 - hyper[BETA_2]),
    )
    for j in range(len(p)):
        slope, kept = g[j], m[j]
        way = b1 * kept + c1 * slope
        way = step if way > zero else -step if way < zero else way  # nan stays nan
        p[j] = less * p[j] - way
        m[j] = b2 * kept + c2 * slope


@njit(**INLINED)
def add_to(m, g):
    """m += g."""
    for j in range(len(m)):
        m[j] += g[j]


def make_update(kind):
    """Return a function for one step of the optimizer `kind` on parameters p with gradients g and moments m, v, u."""

    @njit(**CALLED)
    def update(p, g, m, v, u, hyper, size, correction, shrink, fresh):
        if kind == ADAM:  # Numba removes the branches of other kinds
            moments(p, g, m, v, size, correction, shrink, hyper)
        elif kind == NADAM:
            nesterov_moments(p, g, m, v, size, correction, shrink, fresh, hyper)
        elif kind == AMSGRAD:
            largest_moments(p, g, m, v, u, size, correction, shrink, hyper)
        elif kind == LION:
            signs(p, g, m, size, shrink, hyper)
        elif kind == ACCUMULATE:
            add_to(m, g)
        elif kind == SGD:
            descent(p, g, m, size, hyper)
        elif kind == ADAGRAD:
            adaptive(p, g, v, size, 1.0, 1.0, hyper[EPSILON])
        elif kind == RMSPROP:
            adaptive(p, g, v, size, hyper[BETA_1], 1.0 - hyper[BETA_1], hyper[EPSILON])

    return update


UPDATES = {kind: make_update(kind) for kind in NUMBERS.values()}


# ---- kernels ---------------------------------------------------------------------------------------------------------
# `board` is the address of the threads' board, `parts` the most parts to divide the work into: see team.py.


@njit(**PART)
def sgd_share(operands, number):
    """`sgd` of some parameters."""
    p, g, m, size, hyper, step = operands
    first, count = share_at(number, step, p.size)
    descent(view(p, first, count), view(g, first, count), view(m, first, count), size, hyper)


sgd_together = make_together(sgd_share)


@takes("vvvdi")
@njit(**OPTIONS)
def sgd(p, g, m, hyper, counters, board, parts):
    """Stochastic gradient descent, with momentum if hyper[BETA_1] is not 0, Nesterov's if hyper[BETA_2] is not 0."""
    if not behaved(p, g, m, hyper, counters) or g.size != p.size or m.size != p.size:
        return False
    size, _, _, _ = sizes(SGD, hyper, counters[STEP])
    step, parts = divided(p.size, parts, LINE)
    sgd_together(board, (flat(p), flat(g), flat(m), size, flat(hyper), step), parts)
    return True


@njit(**PART)
def adaptive_share(operands, number):
    """`adagrad` or `rmsprop` of some parameters."""
    p, g, v, size, old, new, epsilon, step = operands
    first, count = share_at(number, step, p.size)
    adaptive(view(p, first, count), view(g, first, count), view(v, first, count), size, old, new, epsilon)


adaptive_together = make_together(adaptive_share)


@takes("vvvdi")
@njit(**OPTIONS)
def adagrad(p, g, v, hyper, counters, board, parts):
    """v += g**2; p -= rate * g / (sqrt(v) + epsilon)."""
    if not behaved(p, g, v, hyper, counters) or g.size != p.size or v.size != p.size:
        return False
    size, _, _, _ = sizes(ADAGRAD, hyper, counters[STEP])
    step, parts = divided(p.size, parts, LINE)
    operands = flat(p), flat(g), flat(v), size, 1.0, 1.0, hyper[EPSILON], step
    adaptive_together(board, operands, parts)
    return True


@takes("vvvdi")
@njit(**OPTIONS)
def rmsprop(p, g, v, hyper, counters, board, parts):
    """v = rho * v + (1 - rho) * g**2; p -= rate * g / (sqrt(v) + epsilon)."""
    if not behaved(p, g, v, hyper, counters) or g.size != p.size or v.size != p.size:
        return False
    size, _, _, _ = sizes(RMSPROP, hyper, counters[STEP])
    step, parts = divided(p.size, parts, LINE)
    operands = flat(p), flat(g), flat(v), size, hyper[BETA_1], 1.0 - hyper[BETA_1], hyper[EPSILON], step
    adaptive_together(board, operands, parts)
    return True


@njit(**PART)
def adam_share(operands, number):
    """`adam` of some parameters."""
    p, g, m, v, size, correction, shrink, hyper, step = operands
    first, count = share_at(number, step, p.size)
    p, g, m, v = view(p, first, count), view(g, first, count), view(m, first, count), view(v, first, count)
    moments(p, g, m, v, size, correction, shrink, hyper)


adam_together = make_together(adam_share)


@takes("vvvvdi")
@njit(**OPTIONS)
def adam(p, g, m, v, hyper, counters, board, parts):
    """See `moments`."""
    if not behaved(p, g, m, v, hyper, counters) or g.size != p.size or m.size != p.size or v.size != p.size:
        return False
    size, correction, shrink, _ = sizes(ADAM, hyper, counters[STEP])
    step, parts = divided(p.size, parts, LINE)
    operands = flat(p), flat(g), flat(m), flat(v), size, correction, shrink, flat(hyper), step
    adam_together(board, operands, parts)
    return True


@njit(**PART)
def nadam_share(operands, number):
    """`nadam` of some parameters."""
    p, g, m, v, size, correction, shrink, fresh, hyper, step = operands
    first, count = share_at(number, step, p.size)
    p, g, m, v = view(p, first, count), view(g, first, count), view(m, first, count), view(v, first, count)
    nesterov_moments(p, g, m, v, size, correction, shrink, fresh, hyper)


nadam_together = make_together(nadam_share)


@takes("vvvvdi")
@njit(**OPTIONS)
def nadam(p, g, m, v, hyper, counters, board, parts):
    """See `nesterov_moments`."""
    if not behaved(p, g, m, v, hyper, counters) or g.size != p.size or m.size != p.size or v.size != p.size:
        return False
    size, correction, shrink, fresh = sizes(NADAM, hyper, counters[STEP])
    step, parts = divided(p.size, parts, LINE)
    operands = flat(p), flat(g), flat(m), flat(v), size, correction, shrink, fresh, flat(hyper), step
    nadam_together(board, operands, parts)
    return True


@njit(**PART)
def amsgrad_share(operands, number):
    """`amsgrad` of some parameters."""
    p, g, m, v, u, size, correction, shrink, hyper, step = operands
    first, count = share_at(number, step, p.size)
    p, g, m, v = view(p, first, count), view(g, first, count), view(m, first, count), view(v, first, count)
    largest_moments(p, g, m, v, view(u, first, count), size, correction, shrink, hyper)


amsgrad_together = make_together(amsgrad_share)


@takes("vvvvvdi")
@njit(**OPTIONS)
def amsgrad(p, g, m, v, u, hyper, counters, board, parts):
    """See `largest_moments`."""
    if not behaved(p, g, m, v, u, hyper, counters) or g.size != p.size or m.size != p.size:
        return False
    if v.size != p.size or u.size != p.size:
        return False
    size, correction, shrink, _ = sizes(AMSGRAD, hyper, counters[STEP])
    step, parts = divided(p.size, parts, LINE)
    operands = flat(p), flat(g), flat(m), flat(v), flat(u), size, correction, shrink, flat(hyper), step
    amsgrad_together(board, operands, parts)
    return True


@njit(**PART)
def lion_share(operands, number):
    """`lion` of some parameters."""
    p, g, m, size, shrink, hyper, step = operands
    first, count = share_at(number, step, p.size)
    signs(view(p, first, count), view(g, first, count), view(m, first, count), size, shrink, hyper)


lion_together = make_together(lion_share)


@takes("vvvdi")
@njit(**OPTIONS)
def lion(p, g, m, hyper, counters, board, parts):
    """See `signs`."""
    if not behaved(p, g, m, hyper, counters) or g.size != p.size or m.size != p.size:
        return False
    size, _, shrink, _ = sizes(LION, hyper, counters[STEP])
    step, parts = divided(p.size, parts, LINE)
    lion_together(board, (flat(p), flat(g), flat(m), size, shrink, flat(hyper), step), parts)
    return True


# ---- before and after an optimizer, in recorded steps ----------------------------------------------------------------


@njit(**PART)
def collect_numbers(g, m):
    """g += m; m = 0."""
    zero = m.dtype.type(0)
    for j in range(len(g)):
        g[j] += m[j]
        m[j] = zero


@njit(**PART)
def bound_numbers(g, value):
    """Clip each number to +-value; nan stays nan."""
    most = g.dtype.type(value)
    for j in range(len(g)):
        x = g[j]
        x = most if x > most else x
        g[j] = -most if x < -most else x


@njit(**PART)
def squares_of(g):
    """The sum of squares, in float64."""
    total = 0.0
    for j in range(len(g)):
        wide = np.float64(g[j])
        total += wide * wide
    return total


@njit(**PART)
def scale_numbers(g, squares, norm):
    """g *= norm / |g| if that is below 1, with |g|**2 = `squares`; if that is not finite, all numbers become nan."""
    length = math.sqrt(squares)
    if length <= norm:
        return
    scale = g.dtype.type(norm / length + (length - length))
    for j in range(len(g)):
        g[j] *= scale


@njit(**PART)
def average_numbers(a, p, decay, time):
    """a += (p - a) * (1 - decay) / (1 - decay**time), or, with decay 1, / time."""
    share = a.dtype.type(1.0 / time if decay == 1.0 else (1.0 - decay) / (1.0 - decay**time))
    for j in range(len(a)):
        a[j] += share * (p[j] - a[j])
