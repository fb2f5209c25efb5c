"""Operations on samples by rows that many networks don't use: functions that `run_rows` calls by their address.

Their arguments are described in shared.py.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import CALLED
from nnx.kernels.cpu.ops.cross_entropy import of_distributions
from nnx.kernels.cpu.ops.dropout import HALF, MASK, U, apply_shares, dropout_rows, noise_rows
from nnx.kernels.cpu.ops.softmax import backward_rows, forward_blocks
from nnx.kernels.cpu.ops.step import argmax_rows, mean_rows, one_hot_rows
from nnx.kernels.cpu.program.shared import CALLED_BY_ALL
from nnx.kernels.cpu.program.shared_norm import NORMS_OF_ROWS
from nnx.kernels.cpu.program.table import (
    ARGMAX,
    COEF,
    CROSS_ENTROPY_SOFT,
    DRAWN,
    DROPOUT,
    KIND,
    NOISE,
    ONE_HOT,
    OP,
    R0,
    R1,
    ROW_MEAN,
    SOFTMAX,
    SOFTMAX_BACKWARD,
    B,
    G,
    N,
    W,
    X,
    Y,
    part,
)
from nnx.kernels.philox import FIRST
from nnx.kernels.step_state import STEP


@njit(**CALLED)
def soft_cross_entropy(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """Softmax with cross-entropy of distributions. X: logits, B: targets, G: gradient, Y: losses."""
    n, at, c, number = t[N], r0 * t[N], t[COEF], memory[0].dtype.type
    factor, low, high = number(numbers[c]), number(numbers[c + 1]), number(numbers[c + 2])
    x, out, losses = part(memory, t[X] + at, rows * n), part(memory, t[G] + at, rows * n), part(memory, t[Y] + r0, rows)
    of_distributions(x, part(memory, t[B] + at, rows * n), losses, None, out, n, factor, low, high)


@njit(**CALLED)
def dropout_of_rows(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """DROPOUT: of X, to Y. The mask is at W already, or is drawn and written there."""
    n, at = t[N], r0 * t[N]
    x, y, kept = part(memory, t[X] + at, rows * n), part(memory, t[Y] + at, rows * n), part(memory, t[W] + at, rows * n)
    if t[KIND] == DRAWN:
        apply_shares(0, x, kept, y, 0.0, 0.0)
    else:
        first, key_0, key_1 = r0 + (t[KIND] >> FIRST), U(t[R0]) & MASK, U(t[R0]) >> HALF
        scale = numbers[t[COEF]]
        dropout_rows(x, y, kept, first, rows, n, counters[STEP], t[KIND], key_0, key_1, t[R1], scale)


@njit(**CALLED)
def noise_of_rows(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """NOISE: adds noise to X; the result goes to Y."""
    n, at = t[N], r0 * t[N]
    x, y = part(memory, t[X] + at, rows * n), part(memory, t[Y] + at, rows * n)
    key_0, key_1 = U(t[R0]) & MASK, U(t[R0]) >> HALF
    noise_rows(x, y, r0 + (t[KIND] >> FIRST), rows, n, counters[STEP], t[KIND], key_0, key_1, numbers[t[COEF]])


@njit(**CALLED)
def softmax_of_rows(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """SOFTMAX: of X, to Y. SOFTMAX_BACKWARD: X: outputs, Y: their gradient, G: the gradient of the inputs."""
    n, at = t[N], r0 * t[N]
    x, y = part(memory, t[X] + at, rows * n), part(memory, t[Y] + at, rows * n)
    if t[OP] == SOFTMAX:
        forward_blocks(x, y, n)
    else:
        backward_rows(x, y, part(memory, t[G] + at, rows * n), n, 0)


@njit(**CALLED)
def reduction_of_rows(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """ARGMAX and ROW_MEAN: a number for each row of X. ONE_HOT: a row for each number of X. Results go to Y."""
    n, at = t[N], r0 * t[N]
    if t[OP] == ONE_HOT:
        one_hot_rows(part(memory, t[X] + r0, rows), part(memory, t[Y] + at, rows * n), n)
    elif t[OP] == ARGMAX:
        argmax_rows(part(memory, t[X] + at, rows * n), part(memory, t[Y] + r0, rows), n)
    else:
        mean_rows(part(memory, t[X] + at, rows * n), part(memory, t[Y] + r0, rows), n, numbers[t[COEF]])


CALLED_BY_ROWS = CALLED_BY_ALL | NORMS_OF_ROWS | {
    CROSS_ENTROPY_SOFT: soft_cross_entropy, DROPOUT: dropout_of_rows, NOISE: noise_of_rows, SOFTMAX: softmax_of_rows,
    SOFTMAX_BACKWARD: softmax_of_rows, **dict.fromkeys((ARGMAX, ONE_HOT, ROW_MEAN), reduction_of_rows),
}  # fmt: skip
