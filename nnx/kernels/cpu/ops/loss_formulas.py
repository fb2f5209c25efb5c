# mypy: ignore-errors
# (What @njit takes has no types for Python.)
"""The formulas of losses and accuracies (nnx/kernels/losses.py) as functions of numbers, for use inside kernels.

Recorded steps take the same ones, by their names: elementwise.py. And the rules of losses of classes, for both.
"""

from __future__ import annotations

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import EXACT, INLINED
from nnx.kernels.cpu.ops import traced
from nnx.kernels.elementwise import sigmoid
from nnx.kernels.losses import PARTS, clamp


def scalar(name):
    """One of the parts, of an output, what it should be, and up to two constants, all of one type."""
    formula = PARTS[name]
    return traced.scalar(lambda m, x, t, a=0.0, b=0.0: formula(m, x, t, a, b))


within, logistic = traced.scalar(clamp), traced.scalar(sigmoid)


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
