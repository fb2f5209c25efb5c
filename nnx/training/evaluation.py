"""Evaluation on samples that are not trained on: the mean loss, and the share of right outputs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nnx.backends import Backend
from nnx.backends.inference import Scored, Scores
from nnx.data.arrays import Arrays, no_targets
from nnx.distributed.communicator import Communicator
from nnx.distributed.shares import Shares
from nnx.losses import FusedLoss, Loss
from nnx.measures import beside, check_weighable, measured

if TYPE_CHECKING:
    from nnx.training.trainable import Trainable

Array = Any
LABELS = np.dtype(np.int64)
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
    model: Trainable, given: Arrays, rows: int, comm: Communicator, inference: Predictor | None = None
) -> dict[str, float]:
    """Return what `Sequential.scores` does of arrays in memory, `rows` at a time; `inference`: instead of its own."""
    if given.y is None:
        raise no_targets("evaluate", given.x)
    metric = model.loss.metric if "accuracy" in model.metrics else None
    how = Scoring(inference or model.inference(), model.loss, metric, comm, outputs=bool(beside(model.metrics)))
    scores = None
    if how.native is not None and comm.size == 1:  # else one of the processes might find a number, and others go on
        scores = _scores_of(model, given, rows, how, look=False)
    if scores is None:
        scores = _scores_of(model, given, rows, how, look=True)
        assert scores is not None
    return scores


def _scores_of(model: Trainable, given: Arrays, rows: int, how: Scoring, look: bool) -> dict[str, float] | None:
    """Return the same; None where numbers or labels that nobody has looked at are not right for one native call."""
    x = model._inputs(given.x, "evaluate: x", look)
    ready = not look and type(given.y) is np.ndarray and given.y.dtype == LABELS and given.y.ndim == 1
    target = given.y if ready and model.loss.keeps_labels() else model._targets(given.y, x, "evaluate")
    weights = model._weights(given.y, target, "evaluate", given.weights)
    check_weighable(model.metrics, weights)
    tolerance = model._compiled("evaluate").tolerance
    if how.metric == "regression" and not tolerance:
        tolerance = tolerance_of(model.backend.to_numpy(target), weights)
    scores = how.mean(x, target, rows, tolerance, model._factors(weights), look)
    if scores is not None and how.kept is not None:
        outputs, wanted = np.concatenate(how.kept), model.backend.to_numpy(target)
        shares = probabilities(model.loss, outputs)
        scores |= measured(beside(model.metrics), model.loss.metric, wanted, outputs, shares, weights)
    return scores


class Predictor(Protocol):
    """What gives outputs for inputs: see `Inference`."""

    backend: Backend

    def layers_alone(self) -> AbstractContextManager[Any]:
        """See `Inference`."""

    def outputs(self, x: np.ndarray) -> Array:
        """See `Inference`."""

    def scores(self, loss: Scored) -> Scores | None:
        """See `Inference`."""


class Scoring:
    """How samples are evaluated: in one native call where there is one, else by one operation after the other.

    Args:
        metric: what counts as right: see `Operations.tally`.
        comm: processes that share the work; each of them gets all results. None: this one does all of it.
        outputs: whether they are kept, for metrics that need them all.

    Attributes:
        native: does it in one call. kept: the outputs of all samples, if they are wanted, in parts.
    """

    def __init__(
        self,
        inference: Predictor,
        loss: Loss,
        metric: str | None,
        comm: Communicator | None = None,
        outputs: bool = False,
    ) -> None:
        self.inference, self.loss, self.metric, self.comm = inference, loss, metric, comm or Communicator()
        self.kept = list[np.ndarray]() if outputs else None
        known = None if outputs else loss.scored(metric)
        self.native = None if known is None else inference.scores(known)

    def mean(
        self, x: np.ndarray, target: Array, rows: int, tolerance: float, factors: Array | None = None, look: bool = True
    ) -> dict[str, float] | None:
        """Return the mean loss, without penalties, and the accuracy, if there is a metric, by name.

        Args:
            x: inputs [N, I]. target: as the loss prepared it, an array of the backend. rows: how many are added up, and
                by operations taken, at a time.
            tolerance: see `Operations.tally`.
            factors: what each sample counts [N, 1], on average 1, an array of the backend; None: all alike.
            look: False where it is left to the native call whether inputs are finite and labels classes; then it
                returns None if they are not, or there is no such call for so many rows.
        """
        native = self.native if self.native is not None and len(x) > self.native.few else None
        sums = None if native is None or self.comm.size > 1 else native(x, target, factors, tolerance, rows)
        if sums is None:
            if not look:
                return None
            sums = self._sums(native, x, target, rows, tolerance, factors)
        scores = {"loss": sums[0] / len(x)}
        return scores if self.metric is None else {**scores, "accuracy": sums[1] / len(x)}

    def _sums(
        self, native: Scores | None, x: np.ndarray, target: Array, rows: int, tolerance: float, factors: Array | None
    ) -> tuple[float, float]:
        """Return the sums over all samples of losses and of what is right, each process taking some of the rows."""
        own, outputs_of = self.loss.apart(), list[np.ndarray]()
        stats, starts = self.inference.backend.zeros(3, "float64"), range(0, len(x), rows)
        found = np.zeros((len(starts), 2))
        for number in Shares(self.comm, self.comm.size).rows(len(starts)):
            part = slice(starts[number], min(starts[number] + rows, len(x)))
            some = x[part], target[part, ...], tolerance, None if factors is None else factors[part, ...]
            sums = None if native is None else native(some[0], some[1], some[3], tolerance, rows)
            found[number] = sums or self._by_operations(own, *some, stats, outputs_of)
        self.comm.allreduce(found)  # each number is one process's, and 0 on all others
        if self.kept is not None:
            self.kept += [outputs for theirs in self.comm.gather(outputs_of) for outputs in theirs]
        loss, right = (sum(column) for column in found.T.tolist())
        return loss, right

    def _by_operations(
        self, own: Loss, x: np.ndarray, target: Array, tolerance: float, factors: Array | None, stats: Array,
        outputs_of: list[np.ndarray],
    ) -> tuple[float, float]:  # fmt: skip
        """Return the sums of some rows, by operations; `outputs_of` takes the outputs, if they are wanted."""
        backend = self.inference.backend
        with self.inference.layers_alone():
            outputs = self.inference.outputs(x)
            losses = own.each(outputs, target)
            if factors is None:
                backend.tally(losses, outputs, target, self.metric, tolerance, stats)
            else:
                backend.weighted_tally(losses, outputs, target, factors, self.metric, tolerance, stats)
            if self.kept is not None:
                outputs_of.append(np.array(backend.to_numpy(outputs)))
        loss, right, _ = backend.to_numpy(stats).tolist()
        return loss * len(x), right


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
