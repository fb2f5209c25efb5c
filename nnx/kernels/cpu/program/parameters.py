"""Parameter kernels of a recorded step: bias gradients, regularization, the optimizers; and the step's end.

Floor: the bytes of parameters, gradients and moments, once: Adam reads 16 and writes 12 a float32 parameter. Applied to
a tile of a gradient that was just made, it finds the gradient in the cache; about 0.25 ns a parameter.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import math

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import PART, view
from nnx.kernels.cpu.ops.sums import sum_numbers
from nnx.kernels.cpu.program.table import (
    ADAGRAD,
    ADAM,
    COEF,
    CORRECTION,
    HITS,
    LOSSES,
    M_DELTA,
    NOWHERE,
    OPTIMIZER,
    PENALTIES,
    RATE,
    RMSPROP,
    ROWS,
    SGD,
    SHRINK,
    SLOT,
    STEP_SIZE,
    UPDATE,
    V_DELTA,
    part,
)
from nnx.kernels.step_state import BETA_1, BETA_2, CURSOR, DECAY, EPSILON, LEARNING_RATE, STEP, WEIGHT_DECAY
from nnx.kernels.step_state import DONE as STEPS_LOGGED


@njit(**PART)
def begin_step(optimizer, hyper, counters, numbers):
    """Set the step's learning rate (chapter 10) and Adam's correction, in float64."""
    done = counters[STEP]
    rate = hyper[LEARNING_RATE] / (1.0 + hyper[DECAY] * done)
    numbers[RATE], numbers[STEP_SIZE], numbers[CORRECTION], numbers[SHRINK] = rate, rate, 1.0, 1.0
    if optimizer == ADAM:
        numbers[STEP_SIZE] = rate / (1.0 - hyper[BETA_1] ** (done + 1))
        numbers[CORRECTION] = 1.0 / (1.0 - hyper[BETA_2] ** (done + 1))
        numbers[SHRINK] = 1.0 - rate * hyper[WEIGHT_DECAY]


@njit(**PART)
def end_step(header, memory, counters, stats, penalties, history, numbers):
    """Add up losses, hits and penalties, each in one fixed order whatever the threads; log them; count the step."""
    rows, total = header[ROWS], 0.0
    losses = part(memory, header[LOSSES], rows)
    for r in range(rows):
        total += losses[r]
    stats[0] = total / rows
    if header[HITS] != NOWHERE:
        hits, total = part(memory, header[HITS], rows), 0.0
        for r in range(rows):
            total += hits[r]
        stats[1] = total
    at, whole = header[PENALTIES], 0.0
    for i in range(len(penalties)):
        # what each penalty is the sum of: a count, then that many places in `numbers`
        count = int(numbers[at])
        if count > 0:
            penalty = 0.0
            for n in range(count):
                penalty += numbers[int(numbers[at + 1 + n])]
            penalties[i] = penalty
        at += 1 + count
        whole += penalties[i]
    stats[2] = whole
    row = 3 * (counters[STEPS_LOGGED] % (len(history) // 3))
    for i in range(3):
        history[row + i] = stats[i]
    counters[STEP] += 1
    counters[CURSOR] += rows
    counters[STEPS_LOGGED] += 1


@njit(**PART)
def regularize(p, g, l1, l2):
    """Add the penalty's gradient to g; return the penalty l1 sum|p| + l2 sum p**2 (chapter 14)."""
    number, penalty = p.dtype.type, 0.0
    zero, c1, c2 = number(0), number(l1), number(2 * l2)
    for j in range(len(p)):
        a = p[j]
        wide = np.float64(a)
        penalty += l1 * abs(wide) + l2 * wide * wide
        g[j] += (c1 if a >= zero else -c1) + c2 * a
    return penalty


@njit(**PART)
def update(kind, p, g, m, v, hyper, numbers):
    """One step of an optimizer on parameters p with gradients g and moments m, v."""
    number = p.dtype.type
    size, epsilon, b1, b2 = (
        number(numbers[STEP_SIZE]),
        number(hyper[EPSILON]),
        number(hyper[BETA_1]),
        number(hyper[BETA_2]),
    )
    c1, c2, fix = number(1 - hyper[BETA_1]), number(1 - hyper[BETA_2]), number(numbers[CORRECTION])
    if kind == ADAM:
        shrink = number(numbers[SHRINK])
        for j in range(len(p)):
            mean, square = b1 * m[j] + c1 * g[j], b2 * v[j] + c2 * g[j] * g[j]
            m[j] = mean
            v[j] = square
            p[j] = shrink * p[j] - size * mean / (math.sqrt(square * fix) + epsilon)
    elif kind == SGD:
        for j in range(len(p)):
            step = b1 * m[j] - size * g[j]
            m[j] = step
            p[j] += step
    elif kind == ADAGRAD or kind == RMSPROP:  # noqa: SIM109 - `in` would be a call
        keep, add = (number(1), number(1)) if kind == ADAGRAD else (b1, c1)
        for j in range(len(p)):
            square = keep * v[j] + add * g[j] * g[j]
            v[j] = square
            p[j] -= size * g[j] / (math.sqrt(square) + epsilon)


@njit(**PART)
def finish(t, header, memory, hyper, numbers, p, g, n):
    """Regularize and update n parameters at place p whose gradients stand at g."""
    values, gradients = part(memory, p, n), part(memory, g, n)
    if t[SLOT] > 0:
        numbers[t[SLOT]] = regularize(values, gradients, numbers[t[COEF]], numbers[t[COEF] + 1])
    if t[UPDATE]:
        first, second = part(memory, p + header[M_DELTA], n), part(memory, p + header[V_DELTA], n)
        update(header[OPTIMIZER], values, gradients, first, second, hyper, numbers)


@njit(**PART)
def sum_lanes(d, n, stride, out):
    """The gradient of biases: out [n] = the sums of d [n, stride], feature by feature."""
    for j in range(n):
        out[j] = sum_numbers(view(d, j * stride, stride))
