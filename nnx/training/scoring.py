"""Scoring: the mean loss of samples and the share of right outputs, in one native call or by operations."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from nnx.backends import Backend
from nnx.backends.inference import Scored, Scores
from nnx.distributed.communicator import Communicator
from nnx.distributed.shares import Shares
from nnx.losses import Loss
from nnx.measures import Metric, beside

Array = Any


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
    """How samples are evaluated by a model as it is now; parameters may change.

    The model makes another one when it gets another loss, or anything another setting or method.

    Attributes:
        metric: what counts as right (see `Operations.tally`), or None. more: metrics that need all outputs.
        native: a function that does it in one call, or None: then it is done by one operation after the other.
    """

    def __init__(self, inference: Predictor, loss: Loss, metrics: Sequence[Metric]) -> None:
        self.inference, self.loss = inference, loss
        self.metric, self.more = loss.metric if "accuracy" in metrics else None, beside(metrics)
        known = None if self.more else loss.scored(self.metric)
        self.native = None if known is None else inference.scores(known)
        self._dimensions = loss.kept_dimensions()

    def as_given(self, x: Any, y: Any, rows: int, tolerance: float) -> dict[str, float] | None:
        """Return what `mean` does, of inputs and targets that nobody has looked at: the native call looks itself.

        Returns:
            None if it does not take them as they are, for whatever reason.
        """
        native = self.native
        if native is None or type(x) is not np.ndarray or type(y) is not np.ndarray:
            return None
        if (
            x.ndim != 2
            or y.ndim != self._dimensions
            or len(x) <= native.few
            or (self.metric == "regression" and not tolerance)
        ):
            return None
        sums = native(x, y, None, tolerance, rows)
        return None if sums is None else self._means(sums, len(x))

    def _means(self, sums: tuple[float, float], rows: int) -> dict[str, float]:
        scores = {"loss": sums[0] / rows}
        return scores if self.metric is None else {**scores, "accuracy": sums[1] / rows}

    def mean(
        self, x: np.ndarray, target: Array, rows: int, tolerance: float, factors: Array | None = None,
        kept: list[np.ndarray] | None = None, comm: Communicator | None = None,
    ) -> dict[str, float]:  # fmt: skip
        """Return the mean loss, without penalties, and the accuracy, if there is a metric, by name.

        Args:
            x: inputs [N, I]. target: as the loss prepared it, an array of the backend.
            rows: how many are added up at a time, and by operations also taken at a time.
            tolerance: what counts as right: see `Operations.tally`.
            factors: what each sample counts [N, 1], on average 1, an array of the backend; None: all alike.
            kept: takes the outputs, if given, for metrics that need them all.
            comm: processes that share the work; each of them gets all results. None: this one does all of it.
        """
        comm = comm or Communicator()
        native = self.native if self.native is not None and kept is None and len(x) > self.native.few else None
        sums = None if native is None or comm.size > 1 else native(x, target, factors, tolerance, rows)
        if sums is None:
            sums = self._sums(native, x, target, rows, tolerance, factors, kept, comm)
        return self._means(sums, len(x))

    def _sums(
        self, native: Scores | None, x: np.ndarray, target: Array, rows: int, tolerance: float, factors: Array | None,
        kept: list[np.ndarray] | None, comm: Communicator,
    ) -> tuple[float, float]:  # fmt: skip
        """Return the sums over all samples of losses and of what is right, each process taking some of the rows."""
        own, outputs_of = self.loss.apart(), None if kept is None else list[np.ndarray]()
        starts = range(0, len(x), rows)
        found = np.zeros((len(starts), 2))
        for number in Shares(comm, comm.size).rows(len(starts)):
            part = slice(starts[number], min(starts[number] + rows, len(x)))
            some = x[part], target[part, ...], None if factors is None else factors[part, ...], tolerance
            sums = None if native is None else native(*some, rows)
            found[number] = sums or self._by_operations(own, *some, outputs_of)
        comm.allreduce(found)  # each number is one process's, and 0 on all others
        if kept is not None:
            kept += [outputs for theirs in comm.gather(outputs_of) for outputs in theirs]
        loss, right = (sum(column) for column in found.T.tolist())
        return loss, right

    def _by_operations(
        self, own: Loss, x: np.ndarray, target: Array, factors: Array | None, tolerance: float,
        outputs_of: list[np.ndarray] | None,
    ) -> tuple[float, float]:  # fmt: skip
        """Return the sums of some rows; `outputs_of` takes their outputs, if given."""
        backend = self.inference.backend
        stats = backend.zeros(3, "float64")
        with self.inference.layers_alone():
            outputs = self.inference.outputs(x)
            losses = own.each(outputs, target)
            if factors is None:
                backend.tally(losses, outputs, target, self.metric, tolerance, stats)
            else:
                backend.weighted_tally(losses, outputs, target, factors, self.metric, tolerance, stats)
            if outputs_of is not None:
                outputs_of.append(np.array(backend.to_numpy(outputs)))
        loss, right, _ = backend.to_numpy(stats).tolist()
        return loss * len(x), right
