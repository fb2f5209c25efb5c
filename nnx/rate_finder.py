"""Learning rate finder (Smith, 2017): train for some steps with a growing learning rate, and look at the losses."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnx import checks, rng, targets
from nnx.arguments import explained
from nnx.errors import InputError
from nnx.sequential import Sequential

KEPT = 0.8  # the weight of the previous mean in the exponential moving average of the loss
TOO_FAR = 2.0  # the search ends where the loss exceeds so many times that of the untrained model
MOST = 1_000_000  # the largest number of steps that may be asked for
FIRST = 10  # the search does not end for that reason before so many steps
SAFE = 10.0  # the suggestion is the rate of the lowest loss divided by this


@dataclass(frozen=True)
class LearningRates:
    """What `find_learning_rate` found; `nnx.plots.learning_rates` draws it.

    Attributes:
        rates, losses: the learning rate and the loss of each step, float64 [steps].
        smoothed: the losses without the noise of the batches: each batch's loss minus its loss before training, as a
            moving average over steps, plus the mean loss before training.
        suggestion: a tenth of the rate at which `smoothed` is lowest; None if it never falls.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None

    def __repr__(self) -> str:
        found = "none" if self.suggestion is None else f"{self.suggestion:.2g}"
        return f"<LearningRates {self.rates[0]:.2g} to {self.rates[-1]:.2g}, suggestion {found}>"


@explained
def find_learning_rate(
    model: Sequential, x: Any, y: Any, *, low: float = 1e-6, high: float = 10.0, steps: int = 100,
    batch_size: int | None = 32, sample_weight: Any = None,
) -> LearningRates:  # fmt: skip
    """Train a copy of a model for some steps with rates from low to high, and return rates, losses and a suggestion.

    The model itself is not changed. The copy starts with its parameters and its optimizer's moments, without `decay`.

    Args:
        model: compiled. x: inputs [N, I]. y: targets. sample_weight: the weight of each sample [N], as in `fit`.
        low, high: the rates of the first and the last step; in between they form a geometric sequence.
        steps: at most so many; the search ends early if the loss reaches twice its first value or is not finite.
        batch_size: samples in a step, shuffled; None: all of them.

    Raises:
        InputError: the model is not compiled, or an argument cannot be used.
    """
    who = "find_learning_rate"
    checks.instance(model, Sequential, f"{who}: model", "Sequential(...)")
    low, high = checks.real(low, f"{who}: low", open_low=True), checks.real(high, f"{who}: high", open_low=True)
    if high <= low:
        raise InputError(f"{who}: low={low:g}, high={high:g}: expected the second above the first")
    steps = checks.integer(steps, f"{who}: steps", low=FIRST)
    if steps > MOST:
        raise InputError(f"{who}: steps={steps}: expected at most {MOST}; a hundred are enough")
    if model.optimizer is None:
        raise InputError(f"{who}: the model has no loss and no optimizer yet; call model.compile(...) first")
    trial = copy.deepcopy(model)
    trial.optimizer.decay = 0.0
    inputs = trial._inputs(x, f"{who}: x")
    trial._host_targets(y, inputs, who)  # refuses targets that do not fit the inputs
    wanted = targets.given(trial._from_device(y), f"{who}: y")
    weights = None if sample_weight is None else trial._checked_weights(sample_weight, len(inputs), who)
    size = len(inputs) if batch_size is None else checks.integer(batch_size, f"{who}: batch_size")
    rates, losses, before, smoothed = np.geomspace(low, high, steps), list[float](), list[float](), list[float]()
    change = 0.0
    for rate, rows in zip(rates, batches(len(inputs), size, trial.seed), strict=False):
        trial.optimizer.learning_rate = float(rate)
        batch = inputs[rows], wanted[rows], None if weights is None else weights[rows]
        before.append(model.evaluate(batch[0], batch[1], sample_weight=batch[2])["loss"])
        losses.append(trial.step(*batch))
        change = KEPT * change + (1 - KEPT) * (losses[-1] - before[-1])
        smoothed.append(change / (1 - KEPT ** len(losses)))
        limit = (TOO_FAR - 1) * abs(float(np.mean(before)))
        if not math.isfinite(change) or (len(losses) > FIRST and smoothed[-1] > limit):
            break
    mean, lowest = np.array(smoothed) + np.mean(before), int(np.nanargmin(smoothed))
    suggestion = float(rates[lowest]) / SAFE if smoothed[lowest] < smoothed[0] else None
    return LearningRates(rates[: len(losses)], np.array(losses), mean, suggestion)


def batches(samples: int, size: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the row numbers of batches of one size without end, shuffled anew after each pass over the samples."""
    size, epoch = min(size, samples), 0
    while True:
        order = rng.generator(seed, rng.SHUFFLE, epoch).permutation(samples)
        for first in range(0, samples - size + 1, size):
            yield order[first : first + size]
        epoch += 1
