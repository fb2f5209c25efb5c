"""Nadam's momenta (Dozat, 2016), as in PyTorch and Keras: they grow with each step, and their product is needed.

The momentum of step t, counted from 1, is beta (1 - 0.96**(t s) / 2), and m is corrected by the product of all so far.
A product over all steps would be one more number to carry from step to step, to save and to restore. With
q = 0.96**s its logarithm is t log(beta) - sum over n of (1/2)**n / n * (q**n + ... + q**(n t)): sums of powers of q are
known, and the half makes 64 terms enough, so it is computed anew in each step, from t alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Number = Any
TERMS = 64  # 2**-64 times the largest possible number of steps is negligible in float64
LOG = math.log(0.96)
NO_ZERO = 1e-300  # keeps q from being exactly 1, where a sum of powers would be 0 / 0


def make_momenta(m: Any) -> Callable[[Number, Number, Number], tuple[Number, Number, Number]]:
    """Return the function below, using `exp` and `expm1` of `m`: the module `math`, or an `ArrayMath`."""

    def momenta(beta: Number, slowness: Number, time: Number) -> tuple[Number, Number, Number]:
        """Return the momentum of step `time`, that of the next step, and the product of all up to `time`."""
        rate = LOG * slowness - NO_ZERO
        one, all_of = m.expm1(rate), m.expm1(rate * time)  # q - 1, q**t - 1
        single, whole, half, total = one, all_of, 0.5, 0.0  # the same of q**n, and (1/2)**n
        for n in range(1, TERMS):
            total = total + half / n * (1.0 + single) * whole / single
            single, whole, half = single + one + single * one, whole + all_of + whole * all_of, half * 0.5
        now, ahead = 1.0 - 0.5 * m.exp(rate * time), 1.0 - 0.5 * m.exp(rate * (time + 1.0))
        return beta * now, beta * ahead, beta**time * m.exp(-total)

    return momenta
