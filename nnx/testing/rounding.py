"""Bounds of rounding errors that hold on any processor. Tests take their tolerances from them.

BLAS on each processor, and each vector width, sums in a different order, may or may not fuse multiply-adds, and has a
different exp. A tolerance that was measured on one processor would only be a guess for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MARGIN = 10  # by how much a measured sensitivity is multiplied


def rounding(count: float, dtype: Any = "float64") -> float:
    """Return the largest error that `count` successive roundings can cause, relative to the size of what was summed.

    A sum of n terms has n - 1 roundings in any order. A product in each term adds one unless the multiply-add is fused.
    An exp or a log adds a few: libraries compute them to within 1 to 4 units in the last place.
    """
    one = float(np.finfo(dtype).eps) / 2
    return count * one / (1 - count * one)


def drift(wanted: Sequence[Any], *others: Sequence[Any]) -> list[float]:
    """Return the largest error that rounding may cause in each array of a training: ten times what was measured.

    Each step builds on the last and amplifies its rounding errors; how much depends on the network and the optimizer.
    So it is measured: `others` are the results of the same training with its samples in other orders, in which every
    sum over the samples is rounded differently.
    """
    bounds = []
    for a, *variants in zip(wanted, *others, strict=True):
        seen = [float(np.abs(np.subtract(b, a)).max()) for b in variants]
        bounds.append(MARGIN * max(rounding(1, np.asarray(a).dtype) * float(np.abs(a).max()), *seen))
    return bounds


def assert_within(got: Any, wanted: Any, bound: Any) -> None:
    """Raise AssertionError if any number differs from the correct one by more than its own bound."""
    got, wanted = (np.asarray(a).astype(np.float64) for a in (got, wanted))
    assert got.shape == wanted.shape, f"shape {got.shape}, expected {wanted.shape}"
    with np.errstate(all="ignore"):
        share = np.asarray(np.abs(got - wanted) / np.broadcast_to(bound, got.shape))
    share[np.isnan(share)] = np.inf
    share[(got == wanted) | (np.isnan(got) & np.isnan(wanted))] = 0
    worst = int(share.argmax()) if share.size else 0
    assert (share <= 1).all(), (
        f"{(share > 1).sum()} of {share.size} numbers are off by more than rounding explains; number {worst} is "
        f"{got.flat[worst]:.9g} instead of {wanted.flat[worst]:.9g}, {share.flat[worst]:.3g} times its bound"
    )
