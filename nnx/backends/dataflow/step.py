"""The parts of a training step outside its layers: reads the calls for its rows, their weights, and what it reports."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

import numpy as np

from nnx.backends.addresses import Array, address, same
from nnx.backends.dataflow.buffers import Buffers
from nnx.backends.dataflow.nodes import Value
from nnx.backends.errors import NotReplayable


class StepCalls(Buffers):
    """Reads the calls of the training step itself."""

    def on_gather_rows(self, source: Array, order: Array, counters: Array, out: Array) -> None:
        self.count(counters)
        if self.step.order is not None and not same(self.step.order, order):
            raise NotReplayable("gather_rows: the step reads a second order of rows")
        if order.dtype != np.int64 or not order.flags.c_contiguous:
            raise NotReplayable(f"gather_rows: the order is {order.dtype}, expected int64, contiguous")
        self.step.order = order
        if source.dtype.kind != "f":
            self.current[address(out)] = self.labels(source, order)
            return
        self.floats(source)
        if source.ndim != 2:
            raise NotReplayable(f"gather_rows: rows of {source.shape}, expected a matrix")
        self.add("gather", Value(source.shape[1], source), None, self.write(out), ordered=True)

    def on_tally(
        self, losses: Array, outputs: Array, target: Array, metric: str | None, tolerance: float, stats: Array
    ) -> None:
        if self.step.losses is not None or self.step.end is None or not same(self.step.end.operands["stats"], stats):
            raise NotReplayable("tally: the step tells its loss twice, or where nobody logs it")
        self.step.losses = self.read(losses)
        if metric is None:
            return
        x, hits, self.step.counts = self.read(outputs), Value(1), True
        self.step.hits = hits
        if metric == "categorical":
            wanted = self.target(target)
            if target.ndim == 2:
                place = Value(1)
                self.add("argmax", wanted, None, place)
                wanted = place
            for node in self.step.nodes:
                if node.op == "cross_entropy" and node.x is x and node.y is wanted:
                    node.hits = hits  # it finds the largest logit anyway
                    return
            best = Value(1)
            self.add("argmax", x, None, best)
            self.add("elementwise", best, wanted, hits, kind="equal")
            return
        right = Value(x.width)
        kind = "near" if metric == "regression" else "above"
        limit = tolerance if metric == "regression" else 0.0 if metric == "logits" else 0.5
        self.add("elementwise", x, self.read(target), right, kind=kind, constants=(limit, 0.0))
        self.add("mean", right, None, hits, constants=(1 / x.width, 0.0))

    def on_weighted_tally(
        self, losses: Array, outputs: Array, target: Array, weights: Array, metric: str | None, tolerance: float,
        stats: Array,
    ) -> None:  # fmt: skip
        self.on_tally(losses, outputs, target, metric, tolerance, stats)
        step, factors = self.step, self.read(weights)
        assert step.losses is not None
        step.losses = self.weighed(step.losses, factors, Value(1))
        if step.hits is not None:
            step.hits = self.weighed(step.hits, factors, Value(1))

    def on_weigh(self, x: Array, weights: Array, out: Array) -> None:
        values = self.read(x), self.read(weights)
        self.weighed(*values, self.write(out))

    def weighed(self, x: Value, weights: Value, out: Value) -> Value:
        """Note that each sample's numbers are multiplied by its weight."""
        if weights.width != 1:
            raise NotReplayable(f"{self.call.name}: {weights.width} weights a sample, expected one")
        self.add("weigh", x, weights, out)
        return out
