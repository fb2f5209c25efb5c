"""Evaluation: the mean loss of samples in memory, and the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnx.data.arrays import Arrays, no_targets
from nnx.distributed.communicator import Communicator
from nnx.losses import FusedLoss, Loss
from nnx.measures import check_weighable, measured
from nnx.training.scoring import Predictor, Scoring

if TYPE_CHECKING:
    from nnx.training.trainable import Trainable

Array = Any
LEAST = float(np.finfo(np.float64).tiny)  # the smallest probability whose logarithm is taken
PART = 250  # a regression's output is right within 1 / 250 of the targets' standard deviation (chapter 17)


def tolerance_of(y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return how near to its target a regression's output must be to be right (chapter 17); y [N, O], weights [N]."""
    with np.errstate(all="ignore"):
        if weights is None:
            return float(np.std(y, dtype=np.float64)) / PART  # float32 overflows from 2e19 on
        shares = (weights / weights.sum())[:, None] / y.shape[1]
        centred = y - np.sum(shares * y, dtype=np.float64)
        return float(np.sqrt(np.sum(shares * centred * centred))) / PART


def scores_of(
    model: Trainable, given: Arrays, rows: int, comm: Communicator, inference: Predictor | None = None
) -> dict[str, float]:
    """Return the loss and the metrics of arrays in memory, by name, as `Sequential.scores` does.

    Args:
        given: inputs, targets and weights. rows: how many to take at a time. comm: the processes that share the work.
        inference: makes the outputs; None: the model does.
    """
    if given.y is None:
        raise no_targets("evaluate", given.x)
    how = model.scoring() if inference is None else Scoring(inference, model.loss, model.metrics)
    tolerance = model._compiled("evaluate").tolerance
    if given.weights is None and comm.size == 1:  # not with several processes, which must all take the same path
        scores = how.as_given(given.x, given.y, rows, tolerance)
        if scores is not None:
            return scores
    x = model._inputs(given.x, "evaluate: x")
    target = model._targets(given.y, x, "evaluate")
    weights = model._weights(given.y, target, "evaluate", given.weights)
    check_weighable(model.metrics, weights)
    if how.metric == "regression" and not tolerance:
        tolerance = tolerance_of(model.backend.to_numpy(target), weights)
    kept = list[np.ndarray]() if how.more else None
    scores = how.mean(x, target, rows, tolerance, model._factors(weights), kept, comm)
    if kept is not None:
        outputs, wanted = np.concatenate(kept), model.backend.to_numpy(target)
        shares = probabilities(model.loss, outputs)
        scores |= measured(how.more, model.loss.metric, wanted, outputs, shares, weights)
    return scores


def probabilities(loss: Loss, outputs: np.ndarray) -> np.ndarray:
    """Return the outputs; if the loss takes logits, the probabilities for them in float64."""
    if not isinstance(loss, FusedLoss):
        return outputs
    logits = outputs.astype(np.float64)
    with np.errstate(all="ignore"):
        if loss.metric == "logits":
            return np.asarray(1 / (1 + np.exp(-logits)))
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))


def logits(loss: Loss, shares: np.ndarray) -> np.ndarray:
    """Return the probabilities; if the loss takes logits, logits that give these probabilities, in float64."""
    if not isinstance(loss, FusedLoss):
        return shares
    likely = np.log(np.maximum(shares, LEAST))
    return np.asarray(likely if loss.metric == "categorical" else likely - np.log(np.maximum(1 - shares, LEAST)))
