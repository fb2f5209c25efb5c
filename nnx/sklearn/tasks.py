"""Tasks: what a network learns, and how a network for it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from nnx.kernels.elementwise import BY_NAME
from nnx.layers import Dense, Dropout, Layer, Linear
from nnx.losses import Loss
from nnx.sequential import Sequential
from nnx.sklearn.arguments import ACTIVATIONS, Arguments

Array = Any


@dataclass(frozen=True)
class Task:
    """What a network learns.

    Attributes:
        outputs: their number. loss: what is minimised. end: the last layers. activation: the MLP's name for these.
        shown: the MLP's loss divided by nnx's. steep: the MLP's gradient divided by nnx's.
    """

    outputs: int
    loss: type[Loss]
    end: tuple[type[Layer], ...]
    activation: str
    shown: float = 1.0
    steep: float = 1.0

    def losses(self, logs: Mapping[str, Any]) -> Array:
        """Return the MLP's loss, computed from nnx's, of one epoch or, as an array, of many."""
        data, penalty = logs.get("data_loss", logs["loss"]), logs.get("regularization_loss", 0.0)
        return self.shown * np.asarray(data) + self.steep * np.asarray(penalty)


def build(arguments: Arguments, features: int, task: Task, seed: int) -> Sequential:
    """Return a new, compiled network."""
    kind, dropout = ACTIVATIONS[arguments.activation], arguments.dropout
    init = "glorot" if kind is Linear else BY_NAME[arguments.activation].init
    layers: list[Layer] = []
    widths = [features, *arguments.hidden_layers]
    for n_inputs, width in pairwise(widths):
        layers += [Dense(n_inputs, width, init=init), kind()]
        layers += [Dropout(dropout)] if dropout else []
    layers += [Dense(widths[-1], task.outputs, init="glorot"), *(end() for end in task.end)]
    model = Sequential(*layers, backend=arguments.backend, dtype=arguments.dtype, seed=seed)
    return model.compile(task.loss(), arguments.optimizer(task.steep), metrics=[])
