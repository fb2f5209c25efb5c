# mypy: ignore-errors
# (What @njit takes has no types for Python.)
"""The formulas of losses and of accuracies for one number: a prediction and what was wanted.

Each stands here once. Kernels that are called by themselves (losses.py, cross_entropy.py, step.py) take it by `scalar`,
recorded steps (elementwise.py) by its name in `PARTS`. p is a probability, x a logit, y any prediction, t the target; a
gradient is times `factor`. What `m` is, nnx/kernels/elementwise.py says.
"""

from __future__ import annotations

import math

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import EXACT, INLINED
from nnx.kernels.cpu.ops import traced
from nnx.kernels.elementwise import sigmoid
from nnx.kernels.step_state import CLIP

# ---- formulas: of two numbers, and of two constants ------------------------------------------------------------------


def clamp(m, v, low, high):
    """v within [low, high]; NaN stays."""
    v = m.where(v < low, low, v)  # one after the other, which is two instructions; one in the other would be four
    return m.where(v > high, high, v)


def clipped(m, p):
    """A probability kept within [CLIP, 1 - CLIP]; NaN stays."""
    return clamp(m, p, CLIP, 1 - CLIP)


def absolute_gradient(m, y, t, factor, *_):
    """The sign of an error, infinite or not; 0 and NaN stay."""
    error = y - t
    return m.where(abs(error) > 0, m.where(error > 0, factor, -factor), error)


def binary(m, p, t, *_):
    """A share t of yes, of which p is the probability."""
    p = clipped(m, p)
    return -(t * m.log(p) + (1 - t) * m.log(1 - p))


def binary_gradient(m, p, t, factor, *_):
    """Of `binary`, in p."""
    p = clipped(m, p)
    return ((1 - t) / (1 - p) - t / p) * factor


def logit(m, x, t, low, high):
    """`binary` of sigmoid(x), its costs kept within bounds. A share of 0 costs nothing, though 0 * inf is NaN."""
    more = m.log1p(m.exp(-abs(x)))
    yes = clamp(m, more - m.where(x < 0, x, 0.0), low, high)  # -log(p)
    no = clamp(m, more + m.where(x < 0, 0.0, x), low, high)  # -log(1 - p)
    return m.where(t == 0, 0.0, t * yes) + m.where(t == 1, 0.0, (1 - t) * no)


def known(m, loss, label, classes, *_):
    """A loss, or NaN where the label is no class."""
    return m.where((label >= 0) & (label < classes), loss, math.nan)


PARTS = {
    "square": lambda m, y, t, *_: (y - t) * (y - t),
    "square_backward": lambda m, y, t, twice, *_: (y - t) * twice,
    "abs_error": lambda m, y, t, *_: abs(y - t),
    "abs_error_backward": absolute_gradient,
    "binary": binary,
    "binary_backward": binary_gradient,
    "logit": logit,
    "logit_backward": lambda m, x, t, factor, *_: (sigmoid(m, x) - t) * factor,
    "above": lambda m, y, t, level, *_: m.where((y > level) == (t > 0.5), 1.0, 0.0),
    "near": lambda m, y, t, precision, *_: m.where(abs(y - t) < precision, 1.0, 0.0),
    "equal": lambda m, y, t, *_: m.where(y == t, 1.0, 0.0),
    "nll": lambda m, p, t, *_: -t * m.log(clipped(m, p)),
    "nll_backward": lambda m, p, t, factor, *_: -t / clipped(m, p) * factor,
    "known": known,
}


def scalar(name):
    """One of the parts for use inside kernels, of numbers of one type."""
    return traced.scalar(PARTS[name])


within, logistic = traced.scalar(clamp), traced.scalar(sigmoid)


# ---- softmax's classes -----------------------------------------------------------------------------------------------


@njit(**INLINED)
def class_of(label, n):
    """A label as an index, and whether it names one of n classes: if not, the index is 0.

    The loss is NaN then, and the gradient that of a sample of which nothing is wanted.
    """
    known = label >= 0 and label < n
    return np.int64(label) if known else 0, known


@njit(**EXACT)
def cost_of(logarithm, z, top):
    """-log(p) of a softmax's output, given the logarithm of its sum.

    With sums reordered it would be (logarithm + top) - z, which loses all digits where logits are 1e4.
    """
    return logarithm - (z - top)
