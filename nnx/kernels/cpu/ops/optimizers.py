# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Optimizer kernels, each one pass over the flat buffers: parameters p, gradients g, moments m and v.

Floor: each array read once and all but g written once, Adam 28 bytes an element in float32. In the second-level cache
it takes 0.3 ns an element; beyond the caches it runs at the speed of memory, NumPy's ten passes at a fifth of it.

Learning rate and step count are read from `hyper` and `counters` (operations.py says what stands where). The constants
are computed in float64, whatever the parameters are: in float32, 1 - 0.999 alone is off by 5e-5.
"""

from __future__ import annotations

import math

from nnx.kernels.cpu.jit.behaved import behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import INLINED, OPTIONS

STEP = 0
LEARNING_RATE, DECAY, BETA_1, BETA_2, EPSILON, WEIGHT_DECAY = range(6)


@njit(**INLINED)
def rate_of(hyper, counters):
    """The learning rate of this step (chapter 10)."""
    return hyper[LEARNING_RATE] / (1.0 + hyper[DECAY] * counters[STEP])


@takes("vvvdi")
@njit(**OPTIONS)
def sgd(p, g, m, hyper, counters):
    """m = momentum * m - rate * g; p += m."""
    if not behaved(p, g, m, hyper, counters) or g.size != p.size or m.size != p.size:
        return False
    number = p.dtype.type
    size, keep = number(rate_of(hyper, counters)), number(hyper[BETA_1])
    for j in range(p.size):
        update = keep * m[j] - size * g[j]
        m[j] = update
        p[j] += update
    return True


@njit(**INLINED)
def adaptive(p, g, v, rate, keep, add, epsilon):
    """v = keep * v + add * g**2; p -= rate * g / (sqrt(v) + epsilon)."""
    number = p.dtype.type
    size, old, new, small = number(rate), number(keep), number(add), number(epsilon)
    for j in range(p.size):
        slope = g[j]
        square = old * v[j] + new * slope * slope
        v[j] = square
        p[j] -= size * slope / (math.sqrt(square) + small)


@takes("vvvdi")
@njit(**OPTIONS)
def adagrad(p, g, v, hyper, counters):
    """v += g**2; p -= rate * g / (sqrt(v) + epsilon)."""
    if not behaved(p, g, v, hyper, counters) or g.size != p.size or v.size != p.size:
        return False
    adaptive(p, g, v, rate_of(hyper, counters), 1.0, 1.0, hyper[EPSILON])
    return True


@takes("vvvdi")
@njit(**OPTIONS)
def rmsprop(p, g, v, hyper, counters):
    """v = rho * v + (1 - rho) * g**2; p -= rate * g / (sqrt(v) + epsilon)."""
    if not behaved(p, g, v, hyper, counters) or g.size != p.size or v.size != p.size:
        return False
    adaptive(p, g, v, rate_of(hyper, counters), hyper[BETA_1], 1.0 - hyper[BETA_1], hyper[EPSILON])
    return True


@takes("vvvvdi")
@njit(**OPTIONS)
def adam(p, g, m, v, hyper, counters):
    """Adam with decoupled weight decay; the moments are corrected by 1 - beta**(t + 1)."""
    if not behaved(p, g, m, v, hyper, counters) or g.size != p.size or m.size != p.size or v.size != p.size:
        return False
    number, time = p.dtype.type, counters[STEP] + 1
    rate, beta_1, beta_2 = rate_of(hyper, counters), hyper[BETA_1], hyper[BETA_2]
    shrink, small = number(1.0 - rate * hyper[WEIGHT_DECAY]), number(hyper[EPSILON])
    size, fix = number(rate / (1.0 - beta_1**time)), number(1.0 / (1.0 - beta_2**time))
    b1, b2, c1, c2 = number(beta_1), number(beta_2), number(1.0 - beta_1), number(1.0 - beta_2)
    for j in range(p.size):
        slope = g[j]
        mean, square = b1 * m[j] + c1 * slope, b2 * v[j] + c2 * slope * slope
        m[j] = mean
        v[j] = square
        p[j] = shrink * p[j] - size * mean / (math.sqrt(square * fix) + small)
    return True
