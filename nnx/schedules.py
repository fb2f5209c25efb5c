"""Learning rates as functions of the epoch, for `nnx.callbacks.LearningRateSchedule`. Epochs count from 0."""

from __future__ import annotations

import math
from collections.abc import Callable

from nnx import checks
from nnx.errors import InputTypeError

Schedule = Callable[[int], float]


def constant(rate: float) -> Schedule:
    """Return `rate` for every epoch."""
    rate = checks.real(rate, "constant: rate", open_low=True)
    return lambda epoch: rate


def step(rate: float, drop: float = 0.5, every: int = 10) -> Schedule:
    """Multiply `rate` by `drop` after every `every` epochs."""
    rate = checks.real(rate, "step: rate", open_low=True)
    drop = checks.real(drop, "step: drop", open_low=True)
    every = checks.integer(every, "step: every")
    return lambda epoch: rate * drop ** (epoch // every)


def exponential(rate: float, factor: float = 0.95) -> Schedule:
    """Multiply `rate` by `factor` after every epoch."""
    return step(rate, factor, every=1)


def cosine(rate: float, epochs: int, final: float = 0.0) -> Schedule:
    """Go from `rate` down to `final` along half a cosine wave, then stay (Loshchilov and Hutter, 2017).

    The last of the `epochs` is still above `final`, so that with final=0 every epoch learns something.
    """
    rate = checks.real(rate, "cosine: rate", open_low=True)
    epochs = checks.integer(epochs, "cosine: epochs")
    final = checks.real(final, "cosine: final")
    floor = max(final, rate * 1e-6)
    return lambda epoch: max(floor, final + (rate - final) * (1 + math.cos(math.pi * min(epoch / epochs, 1))) / 2)


def warmup(after: Schedule, epochs: int) -> Schedule:
    """Rise to the rate of `after` in equal steps over so many epochs, then follow it."""
    if not callable(after):
        raise InputTypeError(f"warmup: after={after!r}: expected a schedule, such as constant(0.1)")
    epochs = checks.integer(epochs, "warmup: epochs")
    return lambda epoch: after(epoch) * min(1.0, (epoch + 1) / epochs)
