"""Mean of the parameters over the steps."""

from __future__ import annotations

from nnx import checks
from nnx.callbacks.callback import Callback
from nnx.errors import InputError


class WeightAverage(Callback):
    """Train as ever, and end with the mean of the parameters over the steps (Polyak and Juditsky, 1992).

    In the mean each step has `decay` times the weight of the next one; it begins with the first step, so no start has
    to be forgotten. Validation, and callbacks after an epoch, see the mean in the parameters' place, and what they save
    is that; training goes on with the parameters as they are. A fit that ends by an error leaves these. What a callback
    assigns to parameters after an epoch is therefore assigned to the mean; before one, to what is trained.

    Args:
        decay: from 0 to 1; with 1 all steps count alike. start: epochs of the fit before the first one that counts.
    """

    def __init__(self, decay: float = 0.999, start: int = 0) -> None:
        self.decay = checks.real(decay, "WeightAverage: decay")
        if self.decay > 1:
            raise InputError(f"WeightAverage: decay={decay!r}: expected a number from 0 to 1")
        self.start = checks.integer(start, "WeightAverage: start", low=0)
