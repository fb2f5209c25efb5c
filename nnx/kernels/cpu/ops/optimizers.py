# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Optimizer kernels, each one pass over the flat buffers: parameters p, gradients g, moments m and v.

Floor: each array read once and all but g written once, Adam 28 bytes an element in float32. In the second-level cache
it takes 0.3 ns an element; beyond the caches it runs at the speed of memory, NumPy's ten passes at a fifth of it.

Learning rate and step count are read from `hyper` and `counters` (step_state.py says what stands where). The constants
are computed in float64, whatever the parameters are: in float32, 1 - 0.999 alone is off by 5e-5. Recorded steps call
`sizes`, once a step, and `update`, for each piece of the parameters.
"""

from __future__ import annotations

import math

import numpy as np

from nnx.kernels.cpu.jit.behaved import behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import INLINED, OPTIONS, PART, flat, view
from nnx.kernels.cpu.threads.team import make_together, share_at
from nnx.kernels.step_state import BETA_1, BETA_2, DECAY, EPSILON, LEARNING_RATE, STEP, WEIGHT_DECAY

SGD, ADAGRAD, RMSPROP, ADAM = range(4)
NUMBERS = {"sgd": SGD, "adagrad": ADAGRAD, "rmsprop": RMSPROP, "adam": ADAM}


# ---- the formulas ----------------------------------------------------------------------------------------------------


@njit(**INLINED)
def bias_factor(beta, time):
    """By what a moment is too small after so many steps, since it began at 0 (Kingma and Ba, 2015)."""
    return 1.0 - beta ** np.float64(time)  # to a whole number's power: 75 ms more to compile


@njit(**INLINED)
def sizes(kind, hyper, done):
    """What changes from step to step: a step's size (chapter 10), Adam's correction of v, and by what it shrinks p."""
    rate = hyper[LEARNING_RATE] / (1.0 + hyper[DECAY] * done)
    size, correction, shrink = rate, 1.0, 1.0
    if kind == ADAM:
        size, correction = rate / bias_factor(hyper[BETA_1], done + 1), 1.0 / bias_factor(hyper[BETA_2], done + 1)
        shrink = 1.0 - rate * hyper[WEIGHT_DECAY]
    return size, correction, shrink


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
    """One of the two."""
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


@njit(**PART)
def update(kind, p, g, m, v, hyper, size, correction, shrink):
    """One step of an optimizer on parameters p with gradients g and moments m, v."""
    if kind == ADAM:
        moments(p, g, m, v, size, correction, shrink, hyper)
    elif kind == SGD:
        descent(p, g, m, size, hyper)
    elif kind == ADAGRAD or kind == RMSPROP:  # noqa: SIM109 - `in` would be a call
        old, new = (1.0, 1.0) if kind == ADAGRAD else (hyper[BETA_1], 1.0 - hyper[BETA_1])
        adaptive(p, g, v, size, old, new, hyper[EPSILON])


# ---- kernels ---------------------------------------------------------------------------------------------------------
# The board is that of the threads which may help, each with `step` parameters at a time: see team.py.


@njit(**PART)
def sgd_share(operands, number):
    """`sgd` of some parameters."""
    p, g, m, size, hyper, step = operands
    first, count = share_at(number, step, p.size)
    descent(view(p, first, count), view(g, first, count), view(m, first, count), size, hyper)


sgd_together = make_together(sgd_share)


@takes("vvvdii")
@njit(**OPTIONS)
def sgd(p, g, m, hyper, counters, board, step):
    """Stochastic gradient descent, with momentum if hyper[BETA_1] is not 0, Nesterov's if hyper[BETA_2] is not 0."""
    if not behaved(p, g, m, hyper, counters) or g.size != p.size or m.size != p.size:
        return False
    size, _, _ = sizes(SGD, hyper, counters[STEP])
    sgd_together(board, (flat(p), flat(g), flat(m), size, flat(hyper), step), (p.size + step - 1) // step)
    return True


@njit(**PART)
def adaptive_share(operands, number):
    """`adagrad` or `rmsprop` of some parameters."""
    p, g, v, size, old, new, epsilon, step = operands
    first, count = share_at(number, step, p.size)
    adaptive(view(p, first, count), view(g, first, count), view(v, first, count), size, old, new, epsilon)


adaptive_together = make_together(adaptive_share)


@takes("vvvdii")
@njit(**OPTIONS)
def adagrad(p, g, v, hyper, counters, board, step):
    """v += g**2; p -= rate * g / (sqrt(v) + epsilon)."""
    if not behaved(p, g, v, hyper, counters) or g.size != p.size or v.size != p.size:
        return False
    size, _, _ = sizes(ADAGRAD, hyper, counters[STEP])
    operands = flat(p), flat(g), flat(v), size, 1.0, 1.0, hyper[EPSILON], step
    adaptive_together(board, operands, (p.size + step - 1) // step)
    return True


@takes("vvvdii")
@njit(**OPTIONS)
def rmsprop(p, g, v, hyper, counters, board, step):
    """v = rho * v + (1 - rho) * g**2; p -= rate * g / (sqrt(v) + epsilon)."""
    if not behaved(p, g, v, hyper, counters) or g.size != p.size or v.size != p.size:
        return False
    size, _, _ = sizes(RMSPROP, hyper, counters[STEP])
    operands = flat(p), flat(g), flat(v), size, hyper[BETA_1], 1.0 - hyper[BETA_1], hyper[EPSILON], step
    adaptive_together(board, operands, (p.size + step - 1) // step)
    return True


@njit(**PART)
def adam_share(operands, number):
    """`adam` of some parameters."""
    p, g, m, v, size, correction, shrink, hyper, step = operands
    first, count = share_at(number, step, p.size)
    p, g, m, v = view(p, first, count), view(g, first, count), view(m, first, count), view(v, first, count)
    moments(p, g, m, v, size, correction, shrink, hyper)


adam_together = make_together(adam_share)


@takes("vvvvdii")
@njit(**OPTIONS)
def adam(p, g, m, v, hyper, counters, board, step):
    """See `moments`."""
    if not behaved(p, g, m, v, hyper, counters) or g.size != p.size or m.size != p.size or v.size != p.size:
        return False
    size, correction, shrink = sizes(ADAM, hyper, counters[STEP])
    operands = flat(p), flat(g), flat(m), flat(v), size, correction, shrink, flat(hyper), step
    adam_together(board, operands, (p.size + step - 1) // step)
    return True
