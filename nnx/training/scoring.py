"""Scoring: the mean loss of samples and the accuracy, in one native call or operation by operation."""

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
    """An object that returns outputs for inputs: see `Inference`."""

    backend: Backend

    def layers_alone(self) -> AbstractContextManager[Any]:
        """See `Inference`."""

    def outputs(self, x: np.ndarray) -> Array:
        """See `Inference`."""

    def scores(self, loss: Scored) -> Scores | None:
        """See `Inference`."""


class Scoring:
    """Evaluates samples for a model with its present layers, loss and settings; parameters may change.

    The model makes a new one when it gets another loss, or when a setting or a method changes.

    Attributes:
        metric: what counts as right (see `Operations.tally`), or None. more: the metrics that need all outputs.
        native: a function that does everything in one call; None: operations run one after the other.
    """

    def __init__(self, inference: Predictor, loss: Loss, metrics: Sequence[Metric]) -> None:
        self.inference, self.loss = inference, loss
        self.metric, self.more = loss.metric if "accuracy" in metrics else None, beside(metrics)
        known = None if self.more else loss.scored(self.metric)
        self.native = None if known is None else inference.scores(known)
        self._dimensions = loss.kept_dimensions()

    def as_given(self, x: Any, y: Any, rows: int, tolerance: float) -> dict[str, float] | None:
        """Return what `mean` returns, for unchecked inputs and targets: the native function checks them itself.

        Args:
            x, y: as given to `evaluate`. rows, tolerance: see `mean`.

        Returns:
            Loss and metrics by name; None if the native function does not take the data as they are.
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
            rows: losses are summed in runs of so many rows; operations also take so many at a time.
            tolerance: how near a regression's output must be to count as right: see `Operations.tally`.
            factors: of the samples [N, 1], on average 1, an array of the backend; None: all count alike.
            kept: a list to append the outputs to, for metrics that need all of them; None: they are not kept.
            comm: the processes that share the work; each gets the whole result. None: this one does all of it.
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
        """Return the sums of the losses and of the right outputs over all samples; each process takes some rows."""
        own, outputs_of = self.loss.apart(), None if kept is None else list[np.ndarray]()
        starts = range(0, len(x), rows)
        found = np.zeros((len(starts), 2))
        for number in Shares(comm, comm.size).rows(len(starts)):
            part = slice(starts[number], min(starts[number] + rows, len(x)))
            some = x[part], target[part, ...], None if factors is None else factors[part, ...], tolerance
            sums = None if native is None else native(*some, rows)
            found[number] = sums or self._by_operations(own, *some, outputs_of)
        comm.allreduce(found)  # each number is set on one process, and 0 on all others
        if kept is not None:
            kept += [outputs for theirs in comm.gather(outputs_of) for outputs in theirs]
        loss, right = (sum(column) for column in found.T.tolist())
        return loss, right

    def _by_operations(
        self, own: Loss, x: np.ndarray, target: Array, factors: Array | None, tolerance: float,
        outputs_of: list[np.ndarray] | None,
    ) -> tuple[float, float]:  # fmt: skip
        """Return the sums of losses and right outputs over some rows; append the outputs to `outputs_of`, if given."""
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
