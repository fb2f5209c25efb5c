"""Convergence as scikit-learn's MLP defines it: when a fit ends, which samples are held out, how the rate changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from warnings import warn

import numpy as np
from sklearn.model_selection import train_test_split

from nnx.callbacks.callback import Callback, copied_parameters
from nnx.errors import InputError
from nnx.history import History
from nnx.sklearn.arguments import Arguments

Array = Any
LEAST_RATE = 1e-6  # the lowest rate of "adaptive"


class Convergence(Callback):
    """Ends a fit, or first divides the rate by 5, if there was no improvement by `tol` for over `patience` epochs.

    Args:
        patience, tol: see above. best: the lowest loss, or the best score, of earlier fits.
        loss: returns the loss to compare, given an epoch's values.
        score: returns the score of held-out samples, watched instead of the loss; the best parameters are kept.
        lowest: the learning rate below which the fit ends instead of lowering it; None: the rate doesn't change.
    """

    def __init__(
        self, patience: float, tol: float, best: float, loss: Callable[[Mapping[str, float]], Any],
        score: Callable[[Any], float] | None = None, lowest: float | None = None, waited: int = 0,
    ) -> None:  # fmt: skip
        self.patience, self.tol, self.best, self.loss, self.score = patience, tol, best, loss, score
        self.lowest, self.waited = lowest, waited  # epochs without improvement
        self.scores: list[float] = []
        self.ended = False
        self._parameters: dict[str, np.ndarray] | None = None

    def on_fit_begin(self, model: Any) -> None:
        """Keep the present parameters if those of an earlier fit may remain the best."""
        if self.score is not None and self.best > -math.inf:
            self._keep(model)

    def on_epoch_end(self, model: Any, epoch: int, logs: Mapping[str, float]) -> None:
        """Compare the epoch with the best one."""
        if self.score is None:
            loss = float(self.loss(logs))
            enough, better = loss <= self.best - self.tol, loss < self.best
            self.best = min(self.best, loss)
        else:
            score = self.score(model)
            self.scores.append(score)
            enough, better = not score < self.best + self.tol, score > self.best
            if better:
                self.best = score
                self._keep(model)
        self.waited = 0 if enough else self.waited + 1
        if self.waited > self.patience:
            self._converged(model)

    def _converged(self, model: Any) -> None:
        rate = model.optimizer.learning_rate
        if self.lowest is not None and rate > self.lowest:
            model.optimizer.learning_rate, self.waited = rate / 5, 0
        else:
            model.stop_training = self.ended = True

    def on_fit_end(self, model: Any, history: History) -> None:
        """Restore the parameters with the best score."""
        if self._parameters is not None:
            model.set_parameters(self._parameters)

    def _keep(self, model: Any) -> None:
        self._parameters = copied_parameters(model)


def falling(highest: float, power: float, first: int, seen: int, samples: int, once: bool) -> Callable[[int], float]:
    """Return the learning rate of each epoch for "invscaling": it falls with the number of all samples seen so far.

    Args:
        highest: the first rate. first: the number of the first epoch. seen: the samples seen before it.
        samples: the number of samples in an epoch.
        once: whether it is an epoch of `partial_fit`; `fit` begins with an optimizer that has seen no samples.
    """

    def rate(epoch: int) -> float:
        begins = epoch == first and not once
        return float(highest / (1 if begins else seen + (epoch - first) * samples + 1) ** power)

    return rate


def hold_out(
    data: tuple[Array, ...], strata: Array, arguments: Arguments, random: np.random.RandomState
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Return the part of each array to train on, and the part that is held out.

    Args:
        data: inputs, targets and perhaps weights.
        strata: the class of each sample, so that the same share of each is held out if possible; or None.
    """
    share = arguments.held_out
    try:
        split = train_test_split(*data, test_size=share, random_state=random, stratify=strata)
    except ValueError as reason:  # a class with one sample, or fewer samples held out than there are classes
        if strata is None or arguments.watched == "score":
            raise InputError(f"validation_fraction={share}: {reason}") from reason
        split = train_test_split(*data, test_size=share, random_state=random)
        warn(f"validation_fraction={share}: held out regardless of classes: {reason}", UserWarning, stacklevel=4)
    if arguments.watched == "score" and len(split[1]) < 2:
        raise InputError(
            f"The validation set is too small: validation_fraction={share} of {len(data[0])} samples; expected 2 "
            "samples at least, to tell scores apart"
        )
    if arguments.watched == "score" and len(data) == 3 and not split[5].any():
        raise InputError(
            f"validation_fraction={share}: sample_weight is 0 for all {len(split[1])} samples held out, so that they "
            "have no score; hold out more, or give another random_state"
        )
    return tuple(split[::2]), tuple(split[1::2])
