"""Evaluation on samples that are not trained on: the mean loss, and the share of right outputs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nnx.backends import Backend
from nnx.data.arrays import Arrays, no_targets
from nnx.distributed.communicator import Communicator
from nnx.distributed.shares import Shares
from nnx.losses import FusedLoss, Loss
from nnx.measures import beside, check_weighable, measured

if TYPE_CHECKING:
    from nnx.training.trainable import Trainable

Array = Any


class Forward(Protocol):
    """What gives outputs for inputs: see `Inference`."""

    backend: Backend

    def layers_alone(self) -> AbstractContextManager[Any]:
        """See `Inference`."""

    def outputs(self, x: np.ndarray) -> Array:
        """See `Inference`."""


LEAST = float(np.finfo(np.float64).tiny)  # of a probability, so that its logarithm is a number
PART = 250  # of a standard deviation: how near a number must be to count as right (chapter 17)


def tolerance_of(y: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return how near a regression's output must be to count as right (chapter 17); y [N, O], weights [N]."""
    with np.errstate(all="ignore"):
        if weights is None:
            return float(np.std(y, dtype=np.float64)) / PART  # float32 overflows from 2e19 on
        shares = (weights / weights.sum())[:, None] / y.shape[1]
        centred = y - np.sum(shares * y, dtype=np.float64)
        return float(np.sqrt(np.sum(shares * centred * centred))) / PART


def scores_of(
    model: Trainable, given: Arrays, rows: int, comm: Communicator, inference: Forward | None = None
) -> dict[str, float]:
    """Return what `Sequential.scores` does of arrays in memory, `rows` at a time; `inference`: instead of its own."""
    if given.y is None:
        raise no_targets("evaluate", given.x)
    x = model._inputs(given.x, "evaluate: x")
    target = model._targets(given.y, x, "evaluate")
    weights = model._weights(given.y, target, "evaluate", given.weights)
    check_weighable(model.metrics, weights)
    metric = model.loss.metric if "accuracy" in model.metrics else None
    tolerance = model._compiled("evaluate").tolerance
    if metric == "regression" and not tolerance:
        tolerance = tolerance_of(model.backend.to_numpy(target), weights)
    more, kept, factors = beside(model.metrics), list[np.ndarray](), model._factors(weights)
    how = inference or model.inference(), model.loss, metric, tolerance
    scores = mean_scores(*how, x, target, rows, factors, kept if more else None, comm)
    if more:
        outputs, wanted = np.concatenate(kept), model.backend.to_numpy(target)
        scores |= measured(more, model.loss.metric, wanted, outputs, probabilities(model.loss, outputs), weights)
    return scores


def mean_scores(
    inference: Forward, loss: Loss, metric: str | None, tolerance: float, x: np.ndarray, target: Array, rows: int,
    factors: Array | None = None, kept: list[np.ndarray] | None = None, comm: Communicator | None = None,
) -> dict[str, float]:  # fmt: skip
    """Return the mean loss, without penalties, and the accuracy, if there is a metric, by name.

    Args:
        x: inputs [N, I]. target: as the loss prepared it, an array of the backend. rows: how many are taken at a time.
        metric, tolerance: what counts as right: see `Operations.tally`.
        kept: takes the outputs, if given, for metrics that need them all.
        factors: what each sample counts [N, 1], on average 1, an array of the backend; None: all alike.
        comm: processes that share the work; each of them gets all results. None: this one does all of it.
    """
    backend, own = inference.backend, loss.apart()
    stats, starts, outputs_of = backend.zeros(3, "float64"), range(0, len(x), rows), list[np.ndarray]()
    found = np.zeros((len(starts), 2))
    comm = comm or Communicator()
    for number in Shares(comm, comm.size).rows(len(starts)):
        i = starts[number]
        wanted = target[i : min(i + rows, len(x)), ...]
        with inference.layers_alone():
            outputs = inference.outputs(x[i : i + rows])
            losses = own.each(outputs, wanted)
            if factors is None:
                backend.tally(losses, outputs, wanted, metric, tolerance, stats)
            else:
                backend.weighted_tally(
                    losses, outputs, wanted, factors[i : i + len(losses), ...], metric, tolerance, stats
                )
            if kept is not None:
                outputs_of.append(np.array(backend.to_numpy(outputs)))
        mean, right, _ = backend.to_numpy(stats).tolist()
        found[number] = mean * wanted.shape[0], right
    comm.allreduce(found)  # each number is one process's, and 0 on all others
    if kept is not None:
        kept += [outputs for theirs in comm.gather(outputs_of) for outputs in theirs]
    total, hits = (sum(column) for column in found.T.tolist())
    scores = {"loss": float(total / len(x))}
    return scores if metric is None else {**scores, "accuracy": float(hits / len(x))}


def probabilities(loss: Loss, outputs: np.ndarray) -> np.ndarray:
    """Return outputs as they are, or of logits the probabilities, in float64."""
    if not isinstance(loss, FusedLoss):
        return outputs
    logits = outputs.astype(np.float64)
    with np.errstate(all="ignore"):
        if loss.metric == "logits":
            return np.asarray(1 / (1 + np.exp(-logits)))
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))


def logits(loss: Loss, shares: np.ndarray) -> np.ndarray:
    """Return probabilities as they are, or where the loss takes logits such as give these probabilities, in float64."""
    if not isinstance(loss, FusedLoss):
        return shares
    likely = np.log(np.maximum(shares, LEAST))
    return np.asarray(likely if loss.metric == "categorical" else likely - np.log(np.maximum(1 - shares, LEAST)))
