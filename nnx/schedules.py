"""Learning rates as functions of the epoch, for `nnx.callbacks.LearningRateSchedule`. Epochs are counted from 0.

With `LearningRateSchedule(..., by="step")` they are functions of the step instead; `epochs` and `every` then count
steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from nnx import checks
from nnx.arguments import explained
from nnx.errors import InputTypeError

Schedule = Callable[[int], float]


@explained
def constant(rate: float) -> Schedule:
    """Return `rate` for every epoch."""
    rate = checks.real(rate, "constant: rate", open_low=True)
    return lambda epoch: rate


@explained
def step(rate: float, drop: float = 0.5, every: int = 10) -> Schedule:
    """Multiply `rate` by `drop` after every `every` epochs."""
    rate = checks.real(rate, "step: rate", open_low=True)
    drop = checks.real(drop, "step: drop", open_low=True)
    every = checks.integer(every, "step: every")
    return lambda epoch: rate * drop ** (epoch // every)


@explained
def exponential(rate: float, factor: float = 0.95) -> Schedule:
    """Multiply `rate` by `factor` after every epoch."""
    rate = checks.real(rate, "exponential: rate", open_low=True)
    return step(rate, checks.real(factor, "exponential: factor", open_low=True), every=1)


@explained
def cosine(rate: float, epochs: int, final: float = 0.0) -> Schedule:
    """Fall from `rate` to `final` along half a cosine wave, then stay there (Loshchilov and Hutter, 2017).

    `final` is reached one epoch after the last of the `epochs`, so that with final=0 every epoch learns something.
    """
    rate = checks.real(rate, "cosine: rate", open_low=True)
    epochs = checks.integer(epochs, "cosine: epochs")
    final = checks.real(final, "cosine: final")
    floor = max(final, rate * 1e-6)
    return lambda epoch: max(floor, _between(rate, final, min(epoch / epochs, 1)))


@explained
def warmup(after: Schedule, epochs: int) -> Schedule:
    """Rise to the first rate of the schedule `after` in equal steps over `epochs`, then follow that schedule."""
    if not callable(after):
        raise InputTypeError(f"warmup: after={after!r}: expected a schedule, such as constant(0.1)")
    epochs = checks.integer(epochs, "warmup: epochs")
    return lambda epoch: after(epoch) * min(1.0, (epoch + 1) / epochs)


@explained
def one_cycle(rate: float, epochs: int, rise: float = 0.3, first: float = 25.0, last: float = 1e4) -> Schedule:
    """Rise to `rate`, then fall far below the first rate, each along half a cosine wave, in one fit (Smith, 2018).

    It gives the rates of PyTorch's OneCycleLR for 0 <= epoch < epochs, and stays at the last one afterwards.

    Args:
        rate: the highest rate. epochs: of the whole cycle. rise: the share of the epochs in which the rate rises.
        first: the first rate is `rate / first`. last: the last rate is the first one divided by `last`.
    """
    rate = checks.real(rate, "one_cycle: rate", open_low=True)
    epochs = checks.integer(epochs, "one_cycle: epochs")
    rise = checks.real(rise, "one_cycle: rise", high=1.0)
    low = rate / checks.real(first, "one_cycle: first", low=1.0)
    end, top = low / checks.real(last, "one_cycle: last", low=1.0), max(rise * epochs - 1, 0.0)

    def schedule(epoch: int) -> float:
        if epoch < top:
            return _between(low, rate, epoch / top)
        return _between(rate, end, min((epoch - top) / max(epochs - 1 - top, 1e-9), 1.0))

    return schedule


def _between(a: float, b: float, share: float) -> float:
    """Return the value at `share` of the way from a to b, along half a cosine wave."""
    return b + (a - b) * (1 + math.cos(math.pi * share)) / 2
