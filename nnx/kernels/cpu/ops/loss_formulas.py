# mypy: ignore-errors
# (What @njit takes has no types for Python.)
"""The formulas of losses and accuracies (nnx/kernels/losses.py) as functions of numbers, for use inside kernels.

Recorded steps use the same formulas, by their names: elementwise.py. The rules for labels here are used by both.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import EXACT, INLINED
from nnx.kernels.cpu.ops import traced
from nnx.kernels.elementwise import sigmoid
from nnx.kernels.losses import PARTS, clamp


def scalar(name):
    """A formula as a function of an output, its target, and up to two constants, all of one type."""
    formula = PARTS[name]
    return traced.scalar(lambda m, x, t, a=0.0, b=0.0: formula(m, x, t, a, b))


within, logistic = traced.scalar(clamp), traced.scalar(sigmoid)


@njit(**INLINED)
def class_of(label, n):
    """A label as an index, and whether it is one of n classes; if not, the index is 0.

    In that case the loss is NaN, and the gradient is that for a target of all zeros.
    """
    known = label >= 0 and label < n
    return np.int64(label) if known else 0, known


@njit(**EXACT)
def cost_of(logarithm, z, top):
    """-log(p) of a softmax's output, given the logarithm of the sum of exponentials.

    If sums were reordered, it would become (logarithm + top) - z, which loses all digits for logits of 1e4.
    """
    return logarithm - (z - top)
