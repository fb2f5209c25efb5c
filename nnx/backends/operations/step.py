"""A training step around its layers: the rows it takes, their weights, what it reports, and its end. N samples."""

from __future__ import annotations

from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp
from nnx.kernels.step_state import CURSOR, DONE, HITS, LOSS, PENALTY, STEP


@quiet
class StepOperations(OverXp):
    """What a training step calls itself."""

    @operation("source order counters")
    def gather_rows(self, source: Array, order: Array, counters: Array, out: Array) -> Array:
        """Write the next rows of `source` to `out`: those that `order` names from the cursor on.

        Places and rows that are not there become the nearest that is.
        """
        xp = self.xp
        places = xp.clip(counters[CURSOR] + self._range(out.shape[0], counters), 0, order.shape[0] - 1)
        return write(out, xp.take(source, xp.clip(xp.take(order, places), 0, source.shape[0] - 1), axis=0))

    @operation("x weights")
    def weigh(self, x: Array, weights: Array, out: Array | None = None) -> Array:
        """Return each row of x [N, C] times its weight [N, 1]; a row of weight 0 is 0, whatever stands in it."""
        return write(out, self._weighed(x, weights))

    @operation("losses outputs target", "stats")
    def tally(
        self, losses: Array, outputs: Array, target: Array, metric: str | None, tolerance: float, stats: Array
    ) -> None:
        """Write the mean of `losses` and the number of right outputs to `stats`.

        Args:
            metric: "categorical" (the largest output is the wanted class), "binary" (outputs above 0.5, or
                "logits" above 0, on the same side as the target), "regression" (within `tolerance` of the
                target), None. With several outputs a sample counts by the share of them that are right.
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
        """The same with the loss and the rightness of each sample times its weight [N, 1]."""
        xp = self.xp
        factors = xp.astype(weights[:, 0], xp.float64)
        stats[LOSS] = xp.mean(self._weighed(xp.astype(losses, xp.float64), factors))
        if metric is not None:
            stats[HITS] = xp.sum(self._weighed(self._hits(outputs, target, metric, tolerance), factors))

    @operation("stats penalties counters", "stats history counters")
    def end_step(self, stats: Array, penalties: Array, history: Array, counters: Array, rows: int) -> None:
        """Log the step to `history` and move the counters on by one step of `rows` rows."""
        stats[PENALTY] = self.xp.sum(penalties)
        # A whole new history, because a row cannot be named without asking the device which, and waiting for it.
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
