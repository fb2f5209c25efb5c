"""Learning rates as functions of the epoch, for `nnx.callbacks.LearningRateSchedule`. Epochs count from 0.

With `LearningRateSchedule(..., by="step")` they are functions of the step instead: `epochs`
and `every` then count steps.
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
    """Go from `rate` down to `final` along half a cosine wave, then stay (Loshchilov and Hutter, 2017).

    The last of the `epochs` is still above `final`, so that with final=0 every epoch learns something.
    """
    rate = checks.real(rate, "cosine: rate", open_low=True)
    epochs = checks.integer(epochs, "cosine: epochs")
    final = checks.real(final, "cosine: final")
    floor = max(final, rate * 1e-6)
    return lambda epoch: max(floor, _between(rate, final, min(epoch / epochs, 1)))


@explained
def warmup(after: Schedule, epochs: int) -> Schedule:
    """Rise to the rate of `after` in equal steps over so many epochs, then follow it."""
    if not callable(after):
        raise InputTypeError(f"warmup: after={after!r}: expected a schedule, such as constant(0.1)")
    epochs = checks.integer(epochs, "warmup: epochs")
    return lambda epoch: after(epoch) * min(1.0, (epoch + 1) / epochs)


@explained
def one_cycle(rate: float, epochs: int, rise: float = 0.3, first: float = 25.0, last: float = 1e4) -> Schedule:
    """Rise to `rate` and go far down again, each along half a cosine wave, in one fit (Smith, 2018).

    It is torch's OneCycleLR, with 0 <= epoch < epochs. Afterwards it stays.

    Args:
        rate: the highest. rise: the share of all epochs that go up. first: by how much the first rate is lower than
            `rate`. last: by how much the last one is lower than the first.
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
    """Return what is so far from a to b along half a cosine wave."""
    return b + (a - b) * (1 + math.cos(math.pi * share)) / 2
