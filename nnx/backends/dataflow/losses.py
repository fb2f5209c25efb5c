"""Losses: reads their calls in a recorded step."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

from nnx.backends.addresses import Array
from nnx.backends.dataflow.buffers import Buffers
from nnx.backends.dataflow.nodes import Step, Value
from nnx.kernels.losses import Loss, bounds


class LossCalls(Buffers):
    """Reads the calls of losses."""

    def __init__(self, step: Step) -> None:
        super().__init__(step)
        self.hot: dict[int, Value] = {}  # labels as rows, by the labels' value

    def loss(self, row: Loss, prediction: Array, target: Array, *more: Any) -> None:
        (*parameter, out), each = more, Value(prediction.shape[1])
        constants = (0.0, *(parameter or (0.0,)))
        self.add("elementwise", self.read(prediction), self.read(target), each, kind=row.part, constants=constants)
        self.add("mean", each, None, self.write(out), constants=(1 / each.width, 0.0))

    def loss_gradient(self, row: Loss, prediction: Array, target: Array, *more: Any) -> None:
        (*parameter, out), scale = more, row.factor / (prediction.shape[0] * prediction.shape[1])
        self.elementwise(row.slope, prediction, target, out, (scale, *(parameter or (0.0,))))

    def on_sigmoid_cross_entropy(
        self, logits: Array, target: Array, losses: Array, probabilities: Array | None, clip: float, out: Array
    ) -> None:
        x, t, each = self.read(logits), self.read(target), Value(logits.shape[1])
        self.add("elementwise", x, t, each, kind="logit", constants=bounds(clip))
        self.add("mean", each, None, self.write(losses), constants=(1 / each.width, 0.0))
        if probabilities is not None:
            self.add("elementwise", x, None, self.write(probabilities), kind="sigmoid")
        scale = 1 / (logits.shape[0] * logits.shape[1])
        self.add("elementwise", x, t, self.write(out), kind="logit_backward", constants=(scale, 0.0))

    def on_softmax_cross_entropy(
        self, logits: Array, target: Array, losses: Array, probabilities: Array | None, clip: float, out: Array
    ) -> None:
        x, t = self.read(logits), self.target(target)
        if probabilities is not None:
            self.add("softmax", x, None, self.write(probabilities))
        op = "cross_entropy" if target.ndim == 1 else "cross_entropy_soft"
        each, gradient = self.write(losses), self.write(out)
        self.add(op, x, t, gradient, each, constants=(1 / len(logits), *bounds(clip)))

    def rows_of(self, target: Array, width: int) -> Value:
        """A categorical target as a distribution for every sample."""
        value = self.target(target)
        if target.ndim == 2:
            return value
        key = id(value)
        if key not in self.hot:
            self.hot[key] = Value(width)
            self.add("one_hot", value, None, self.hot[key])
        return self.hot[key]

    def on_cross_entropy(self, p: Array, target: Array, out: Array) -> None:
        each, classes = Value(p.shape[1]), p.shape[1]
        self.add("elementwise", self.read(p), self.rows_of(target, classes), each, kind="nll")
        if target.ndim == 2:
            self.add("mean", each, None, self.write(out), constants=(1.0, 0.0))
            return
        total = Value(1)
        self.add("mean", each, None, total, constants=(1.0, 0.0))
        wanted = self.target(target)  # the row of a label that is not a class is all zeros, but its loss is nan, not 0
        self.add("elementwise", total, wanted, self.write(out), kind="known", constants=(classes, 0.0))

    def on_cross_entropy_backward(self, p: Array, target: Array, out: Array) -> None:
        x, t = self.read(p), self.rows_of(target, p.shape[1])
        self.add("elementwise", x, t, self.write(out), kind="nll_backward", constants=(1 / len(p), 0.0))
