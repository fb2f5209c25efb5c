"""Operations of a training step around its layers: gathering rows, weights, loss and accuracy, the end. N samples."""

from __future__ import annotations

from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp
from nnx.kernels.step_state import CURSOR, DONE, HITS, LOSS, PENALTY, STEP


@quiet
class StepOperations(OverXp):
    """The operations that a training step itself calls."""

    @operation("source order counters")
    def gather_rows(self, source: Array, order: Array, counters: Array, out: Array) -> Array:
        """Write to `out` the next rows of `source`: those whose numbers are in `order` from the cursor on.

        Indices out of range are replaced by the nearest valid one.
        """
        xp = self.xp
        places = xp.clip(counters[CURSOR] + self._range(out.shape[0], counters), 0, order.shape[0] - 1)
        return write(out, xp.take(source, xp.clip(xp.take(order, places), 0, source.shape[0] - 1), axis=0))

    @operation("x weights")
    def weigh(self, x: Array, weights: Array, out: Array | None = None) -> Array:
        """Return each row of x [N, C] times its weight [N, 1]; a row of weight 0 becomes 0, even if it was nan."""
        return write(out, self._weighed(x, weights))

    @operation("losses outputs target", "stats")
    def tally(
        self, losses: Array, outputs: Array, target: Array, metric: str | None, tolerance: float, stats: Array
    ) -> None:
        """Write the mean of `losses` and the number of right outputs to `stats`.

        Args:
            losses: [N]. outputs: [N, O]. target: class indices [N], or [N, O]. stats: [3].
            metric: which outputs are right. "categorical": the largest one is that of the target class. "binary", or
                "logits": outputs on the same side of 0.5, or of 0, as the target. "regression": those within
                `tolerance` of the target. With several outputs, a sample counts by the share that is right. None: no
                outputs are counted.
        """
        xp = self.xp
        stats[LOSS] = xp.mean(xp.astype(losses, xp.float64))
        if metric is not None:
            stats[HITS] = xp.sum(self._hits(outputs, target, metric, tolerance))

    @operation("losses outputs target weights", "stats")
    def weighted_tally(
        self, losses: Array, outputs: Array, target: Array, weights: Array, metric: str | None, tolerance: float,
        stats: Array,
    ) -> None:  # fmt: skip
        """Do the same as `tally`, with each sample's loss and share of right outputs times its weight [N, 1]."""
        xp = self.xp
        factors = xp.astype(weights[:, 0], xp.float64)
        stats[LOSS] = xp.mean(self._weighed(xp.astype(losses, xp.float64), factors))
        if metric is not None:
            stats[HITS] = xp.sum(self._weighed(self._hits(outputs, target, metric, tolerance), factors))

    @operation("stats penalties counters", "stats history counters")
    def end_step(self, stats: Array, penalties: Array, history: Array, counters: Array, rows: int) -> None:
        """Write the step's loss, hits and penalty to `history`, and advance the counters by a step of `rows` rows."""
        stats[PENALTY] = self.xp.sum(penalties)
        # All of the history is rewritten: to index one row, the host would have to wait for the counter's value.
        row = self._range(history.shape[0], counters) == counters[DONE] % history.shape[0]
        write(history, self.xp.where(row[:, None], stats, history))
        counters[STEP] += 1
        counters[CURSOR] += rows
        counters[DONE] += 1

    def _weighed(self, x: Array, weights: Array) -> Array:
        return self.xp.where(weights == 0, self.xp.zeros_like(x), x * weights)

    def _hits(self, outputs: Array, target: Array, metric: str, tolerance: float) -> Array:
        xp = self.xp
        if metric == "categorical":
            wanted = xp.argmax(target, axis=1) if target.ndim == 2 else target
            return xp.astype(xp.argmax(outputs, axis=1) == wanted, xp.float64)
        if metric == "regression":
            right = xp.abs(outputs - target) < tolerance
        else:
            right = (outputs > (0 if metric == "logits" else 0.5)) == (target > 0.5)
        return xp.mean(xp.astype(right, xp.float64), axis=1)
