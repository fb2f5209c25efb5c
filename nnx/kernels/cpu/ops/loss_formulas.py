# mypy: ignore-errors
# (What @njit takes has no types for Python.)
"""The formulas of losses and of accuracies for one number: a prediction and what was wanted.

Each stands here once, for the kernels that are called by themselves (losses.py, cross_entropy.py, step.py) and for
recorded steps. p is a probability, x a logit, y any prediction, t the target; a gradient is times `factor`.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import EXACT, INLINED
from nnx.kernels.cpu.ops.math import exp, log, log1p, sigmoid
from nnx.kernels.step_state import CLIP


@njit(**INLINED)
def clamp(v, low, high):
    """v within [low, high]; NaN stays."""
    v = low if v < low else v
    return high if v > high else v


@njit(**INLINED)
def clipped(p):
    """A probability kept within [CLIP, 1 - CLIP]; NaN stays."""
    return clamp(p, type(p)(CLIP), type(p)(1 - CLIP))


# ---- classes ---------------------------------------------------------------------------------------------------------


@njit(**INLINED)
def is_class(label, n):
    """Whether a label, whole or held as a number of the step's type, names one of n classes."""
    return label >= 0 and label < n


@njit(**INLINED)
def class_of(label, n):
    """A label as an index, and whether it is one: if not, the index is 0, the loss NaN, and nothing is wanted."""
    known = is_class(label, type(label)(n))
    return np.int64(label) if known else 0, known


@njit(**INLINED)
def nll(p, t):
    """The negative logarithm of a probability, times the share of its class that is wanted."""
    return -t * log(clipped(p))


@njit(**INLINED)
def nll_gradient(p, t, factor):
    """Of `nll`, in p."""
    return -t / clipped(p) * factor


@njit(**EXACT)
def cost_of(logarithm, z, top):
    """-log(p) of a softmax's output, given the logarithm of its sum.

    With sums reordered it would be (logarithm + top) - z, which loses all digits where logits are 1e4.
    """
    return logarithm - (z - top)


# ---- outputs that are probabilities by themselves --------------------------------------------------------------------


@njit(**INLINED)
def binary(p, t):
    """-(t log(p) + (1 - t) log(1 - p))."""
    p, one = clipped(p), type(p)(1)
    return -(t * log(p) + (one - t) * log(one - p))


@njit(**INLINED)
def binary_gradient(p, t, factor):
    """Of `binary`, in p."""
    p, one = clipped(p), type(p)(1)
    return ((one - t) / (one - p) - t / p) * factor


@njit(**INLINED)
def logit(x, t, low, high):
    """`binary` of sigmoid(x), whose two logarithms are kept within [low, high]."""
    zero, one = type(x)(0), type(x)(1)
    more = log1p(exp(-abs(x)))
    yes = t * clamp(more - (x if x < zero else zero), low, high)  # -log(p)
    no = (one - t) * clamp(more + (zero if x < zero else x), low, high)  # -log(1 - p)
    # the right answer at an infinite logit costs nothing, though 0 * inf is NaN
    return (zero if t == zero else yes) + (zero if t == one else no)


@njit(**INLINED)
def logit_gradient(x, t, factor):
    """Of `logit`, in x."""
    return (sigmoid(x) - t) * factor


# ---- numbers ---------------------------------------------------------------------------------------------------------


@njit(**INLINED)
def squared(y, t):
    """(y - t)**2."""
    error = y - t
    return error * error


@njit(**INLINED)
def squared_gradient(y, t, twice):
    """Of `squared`, in y; `twice` is 2 * factor."""
    return (y - t) * twice


@njit(**INLINED)
def absolute(y, t):
    """|y - t|."""
    return abs(y - t)


@njit(**INLINED)
def absolute_gradient(y, t, factor):
    """Of `absolute`, in y: the sign of y - t, infinite or not; 0 and NaN stay."""
    error = y - t
    sign = factor if error > type(y)(0) else -factor
    return sign if abs(error) > type(y)(0) else error


# ---- accuracies ------------------------------------------------------------------------------------------------------


@njit(**INLINED)
def same_side(y, t, level):
    """Whether an output above `level` means what a target above a half does."""
    return (y > level) == (t > type(t)(0.5))


@njit(**INLINED)
def near(y, t, precision):
    """Whether a prediction counts as right."""
    return abs(y - t) < precision
