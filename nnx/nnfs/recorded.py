"""Training of the book's models by recording one step and replaying it, as `nnx.Sequential` does.

Between its steps `Model.train` only prints lines of text. So if the fast backend is used and all parts are unchanged
classes of this package, an equal `nnx.Sequential` is trained instead, and its result is copied back. The dropout masks
are then those of nnx/kernels/philox.py, with a seed from NumPy's global generator. Book precision has its own order of
operations, and its steps are not recorded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnx.errors import InputError
from nnx.kernels.compiling import heard_by, once
from nnx.kernels.step_state import HITS, LOSS, PENALTY
from nnx.layers import Dense
from nnx.nnfs import saving
from nnx.nnfs.accuracy import Accuracy_Categorical, Accuracy_Regression
from nnx.nnfs.activations import Activation_Linear, Activation_Sigmoid, Activation_Softmax
from nnx.nnfs.layers import Layer_Dense, Layer_Dropout
from nnx.nnfs.losses import (
    Loss_BinaryCrossentropy,
    Loss_CategoricalCrossentropy,
    Loss_MeanAbsoluteError,
    Loss_MeanSquaredError,
)
from nnx.nnfs.precision import backend, is_book
from nnx.output import Output
from nnx.sequential import Sequential
from nnx.training.step import HISTORY
from nnx.training.streamed_batches import batches_for

Array = Any
FEWEST = 8  # for fewer steps, recording takes longer than it saves

# What must stand at the end, and who counts what is right there, for nnx to count it alike.
ENDINGS: dict[type, tuple[type, type]] = {
    Loss_CategoricalCrossentropy: (Activation_Softmax, Accuracy_Categorical),
    Loss_BinaryCrossentropy: (Activation_Sigmoid, Accuracy_Categorical),
    Loss_MeanSquaredError: (Activation_Linear, Accuracy_Regression),
    Loss_MeanAbsoluteError: (Activation_Linear, Accuracy_Regression),
}
PARTS = (*saving.ACTIVATIONS, *saving.LOSSES, *saving.OPTIMIZERS, Accuracy_Categorical, Accuracy_Regression,
         Layer_Dense, Layer_Dropout)  # fmt: skip
METHODS = {
    part: {name: getattr(part, name) for name in dir(part) if callable(getattr(part, name)) and name[:2] != "__"}
    for part in PARTS
}


@dataclass(frozen=True)
class Step:
    """The results of one step.

    Attributes:
        iteration: the step's number, from 0. rows: its samples. data_loss: their mean loss. penalty: of all layers.
        right, outputs: the number of right predictions, and of all.
    """

    iteration: int
    rows: int
    data_loss: float
    penalty: float
    right: int
    outputs: int


class Recording:
    """Steps of a book's model, run by an equal `nnx.Sequential`; `of` makes one."""

    def __init__(self, parts: saving.Parts, x: Array, y: Array, batch: int, sequential: Sequential) -> None:
        self._parts, self._model = parts, sequential
        self._trainer = sequential._trainable("Model.train")
        host = sequential._inputs(x, "Model.train: X")
        target = sequential._host_targets(y, host, "Model.train")
        self._width = 1 if isinstance(parts.loss, Loss_CategoricalCrossentropy) else target.shape[1]
        self._batches = batches_for(self._trainer, host, target, min(batch, len(host)), False, False)
        self._runners = {}
        for feed in self._batches.feeds:
            self._batches.begin(0, 1)
            self._runners[feed] = self._trainer.runner(feed)

    @classmethod
    def of(cls, parts: saving.Parts, x: Array, y: Array, batch: int) -> Recording | None:
        """Return a recording, or None if the model must train step by step, where errors in it will be reported."""
        if is_book() or not _unchanged(parts) or not _counted_alike(parts, y):
            return None
        dropout = any(type(layer) is Layer_Dropout for layer in parts.layers)
        seed = int(np.random.randint(2**31)) if dropout else 0  # noqa: NPY002 - the book's scripts seed this one
        try:
            with heard_by(once(_note)):
                return cls(parts, x, y, batch, saving.to_sequential(parts, backend(), seed))
        except InputError:
            return None

    def steps(self, n: int, by_epoch: bool) -> Iterator[Step]:
        """Do n steps, batch after batch; yield the results of each.

        Args:
            by_epoch: whether a step may only be done after all steps of earlier epochs have been yielded.
        """
        trainer, sizes = self._trainer, self._batches.sizes.astype(int)
        left, epochs = n, 1 if by_epoch else self._batches.epochs
        while left:
            for feed, ready in self._batches.block(0, epochs):
                while ready and left:
                    begin, first = time.perf_counter(), self._model.optimizer.iterations
                    count = feed.pace.chunk(min(ready, left, HISTORY), trainer._owner)
                    rows = trainer.run(self._runners[feed], count)
                    feed.pace.seconds = (time.perf_counter() - begin) / count
                    for number, row in enumerate(rows):
                        size = int(sizes[(n - left + number) % len(sizes)])
                        outputs, share = size * self._width, float(row[HITS]) / size
                        yield Step(
                            first + number, size, float(row[LOSS]), float(row[PENALTY]), round(share * outputs), outputs
                        )
                    ready, left = ready - count, left - count

    def bring_back(self) -> None:
        """Copy parameters and the optimizer's state back into the arrays of the book's layers."""
        layers, optimizer = self._parts.layers, self._parts.optimizer
        for layer, part in zip(layers, self._model.layers, strict=True):
            if isinstance(part, Dense):
                layer.weights[...], layer.biases[...] = part.weights, part.biases
        optimizer.iterations = self._model.optimizer.iterations
        for layer, name, view in saving.states(layers, optimizer, self._model):
            optimizer.state(layer, name, view)[...] = view


def _note(text: str) -> None:
    """Print a message that the book doesn't have. It goes to stderr, since stdout is as in the book."""
    Output(sys.stderr).write(f"{text}\n")


def _unchanged(parts: saving.Parts) -> bool:
    """Tell whether each part is one of the book's classes, with its original methods."""
    for part in (*parts.layers, parts.loss, parts.optimizer, parts.accuracy):
        came_with = METHODS.get(type(part))
        if came_with is None or any(getattr(type(part), name) is not it for name, it in came_with.items()):
            return False
        if came_with.keys() & vars(part).keys():
            return False
    return len({layer.dtype for layer in parts.layers if type(layer) is Layer_Dense}) == 1


def _counted_alike(parts: saving.Parts, y: Array) -> bool:
    """Tell whether the book's accuracy counts in the same way as nnx."""
    end, accuracy = ENDINGS[type(parts.loss)]
    if type(parts.layers[-1]) is not end or type(parts.accuracy) is not accuracy:
        return False
    if accuracy is Accuracy_Regression:
        return True
    binary = type(parts.loss) is Loss_BinaryCrossentropy  # targets between 0 and 1 are never right in the book
    return getattr(parts.accuracy, "binary", False) == binary and (not binary or bool(np.all((y == 0) | (y == 1))))
