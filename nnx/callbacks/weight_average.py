"""Averaging of the parameters over the training steps."""

from __future__ import annotations

from nnx import checks
from nnx.callbacks.callback import Callback
from nnx.errors import InputError


class WeightAverage(Callback):
    """Train as usual, and end with the mean of the parameters over the steps (Polyak and Juditsky, 1992).

    In the mean, each step has `decay` times the weight of the next one; it begins with the first step, not with zeros,
    so it needs no correction. During validation, and in callbacks after an epoch, the parameters are the mean, so that
    is what is saved there; training continues with the parameters that the optimizer moves. A fit that ends with an
    error leaves the latter in the model. So a callback that assigns parameters after an epoch changes the mean; before
    an epoch, it changes what is trained.

    Args:
        decay: from 0 to 1; with 1 all steps count alike. start: the number of epochs to train before the mean begins.
    """

    def __init__(self, decay: float = 0.999, start: int = 0) -> None:
        self.decay = checks.real(decay, "WeightAverage: decay")
        if self.decay > 1:
            raise InputError(f"WeightAverage: decay={decay!r}: expected a number from 0 to 1")
        self.start = checks.integer(start, "WeightAverage: start", low=0)
