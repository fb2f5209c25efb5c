"""Operations on samples in the lanes that many networks don't use: functions that `run_lanes` calls by their address.

Their arguments are described in shared.py.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import CALLED
from nnx.kernels.cpu.program.lanes_kernels import lanes_clear, lanes_dropout, lanes_mask, lanes_mean, lanes_noise
from nnx.kernels.cpu.program.shared import CALLED_BY_ALL
from nnx.kernels.cpu.program.shared_norm import NORMS_IN_LANES
from nnx.kernels.cpu.program.table import (
    COEF,
    DRAWN,
    KIND,
    LANES_CLEAR,
    LANES_DROPOUT,
    LANES_MEAN,
    NOISE,
    OP,
    R0,
    R1,
    STRIDE,
    N,
    W,
    X,
    Y,
    part,
)
from nnx.kernels.philox import FIRST
from nnx.kernels.step_state import STEP


@njit(**CALLED)
def dropout_in_lanes(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """LANES_DROPOUT: of X, to Y. The mask is at W already, or is drawn and written there."""
    n, stride = t[N], t[STRIDE]
    span = (n + 3) * stride
    x, y, kept = part(memory, t[X] + r0, span), part(memory, t[Y] + r0, span), part(memory, t[W] + r0, span)
    if t[KIND] != DRAWN:
        first, scale = r0 + (t[KIND] >> FIRST), numbers[t[COEF]]
        lanes_mask(kept, n, stride, first, count, t[R1], scale, t[KIND], counters[STEP], t[R0])
    lanes_dropout(x, y, kept, n, stride, count)


@njit(**CALLED)
def noise_in_lanes(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """NOISE: adds noise to X; the result goes to Y."""
    n, stride = t[N], t[STRIDE]
    span, first = (n + 3) * stride, r0 + (t[KIND] >> FIRST)
    x, y = part(memory, t[X] + r0, span), part(memory, t[Y] + r0, span)
    lanes_noise(x, y, n, stride, first, count, numbers[t[COEF]], t[KIND], counters[STEP], t[R0])


@njit(**CALLED)
def mean_in_lanes(t, header, memory, hyper, counters, numbers, r0, rows, count):
    """LANES_MEAN: the mean of each sample of X, to Y. LANES_CLEAR: zeros in the samples of X past the batch's end."""
    n, stride = t[N], t[STRIDE]
    x = part(memory, t[X] + r0, (n - 1) * stride + count)
    if t[OP] == LANES_MEAN:
        lanes_mean(x, part(memory, t[Y] + r0, count), n, stride, numbers[t[COEF]])
    else:
        lanes_clear(x, n, stride, rows, count)


CALLED_IN_LANES = CALLED_BY_ALL | NORMS_IN_LANES | {
    LANES_DROPOUT: dropout_in_lanes, NOISE: noise_in_lanes, LANES_MEAN: mean_in_lanes, LANES_CLEAR: mean_in_lanes,
}  # fmt: skip
