"""Rounding error bounds, for any processor: what tolerances are made of.

Each processor's BLAS, and each width of vectors, adds numbers up in an order of its own, fuses a multiply-add or does
not, and has an exp of its own. A tolerance that was found on one of them is a guess about the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MARGIN = 10  # by how much a measured sensitivity is multiplied


def rounding(count: float, dtype: Any = "float64") -> float:
    """Return how far `count` roundings in a row can carry a result, as a share of the size of what was added up.

    A sum of n terms has n - 1, in whatever order. A product in each term adds one, which a fused multiply-add leaves
    out; an exp or a log adds a few: libraries give them to 1 to 4 units in the last place.
    """
    one = float(np.finfo(dtype).eps) / 2
    return count * one / (1 - count * one)


def drift(wanted: Sequence[Any], *others: Sequence[Any]) -> list[float]:
    """Return how far rounding may carry each of the arrays that a training gives: ten times as far as it was seen to.

    Each step is built on the last and makes more of what rounding did before, by how much depends on the network and on
    the optimizer. So it is measured: `others` are what the same training gives where it rounds otherwise, on the
    samples in another order, in which every sum over them is then added up.
    """
    bounds = []
    for a, *variants in zip(wanted, *others, strict=True):
        seen = [float(np.abs(np.subtract(b, a)).max()) for b in variants]
        bounds.append(MARGIN * max(rounding(1, np.asarray(a).dtype) * float(np.abs(a).max()), *seen))
    return bounds


def assert_within(got: Any, wanted: Any, bound: Any) -> None:
    """Raise AssertionError where a number is further from the one wanted than its own bound."""
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
