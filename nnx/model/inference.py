"""Inference: a faster forward pass for `predict` and `evaluate`, for models whose layers are all nnx's own.

A layer keeps its inputs and output for the backward pass, and checks both each time. Prediction doesn't need that. So
the layers are converted once to stages. The stages run one after the other as operations of the backend or, if the
backend can do that, together as one native function.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from nnx.backends import Backend
from nnx.backends.inference import AnyStage, Branches, Forward, Lookup, Norm, Scored, Scores, Stage
from nnx.backends.recorder import AS_WRITTEN, Program, lent
from nnx.errors import InputError
from nnx.kernels.elementwise import BY_NAME
from nnx.layers import (
    ELEMENTWISE,
    Activation,
    BatchNorm,
    Concat,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GaussianNoise,
    Layer,
    LayerNorm,
    Linear,
    Residual,
    Softmax,
)
from nnx.layers.blocks import Block
from nnx.layers.chain import output_of
from nnx.owner import Owner
from nnx.settings import replaced

Array = Any
ELEMENTWISE_KINDS = frozenset(ELEMENTWISE.values())
PASSED = (Linear, Dropout, GaussianNoise, Flatten)  # layers that do nothing in a prediction


class Inference:
    """The forward pass of a network with its present layers and backend; its parameters may change.

    If the network's layers change, or the settings or methods of one, the network makes a new `Inference`.

    Args:
        layers: attached to `backend`. owner: that of their network, whose `flat` holds all their parameters.

    Attributes:
        layers: the layers that it was made from.
        stages: the stages for these layers; None if one is not nnx's own, so that the layers themselves run.
        native: a function that predicts in one call, or returns None if it cannot take these rows.
    """

    def __init__(self, layers: Sequence[Layer], backend: Backend, owner: Owner) -> None:
        self.backend, self.layers = backend, layers
        self.stages = stages_of(layers)
        self._bound = [stage.bound(backend) for stage in self.stages or ()]
        plain = plain_stages(self.stages)
        compiled = None if plain is None else backend.compile_forward(plain, owner.flat.state)
        self.native: Forward = compiled or refuse
        self._owner = owner
        self._own = threading.local()
        self._scores: dict[Scored, Scores | None] = {}

    @property
    def description(self) -> str:
        """A description of how predictions run."""
        if self.stages is None:
            return AS_WRITTEN
        if self.native is refuse:
            return Program.description
        return str(getattr(self.native, "description", "one native function, where it takes the rows"))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the outputs [N, O] for x [N, I], contiguous and of the model's type: always a new array.

        Any number of threads may call it at once.
        """
        outputs = self._at_once(x)
        if outputs is not None:
            return outputs
        if self.stages is not None:
            return self.backend.to_numpy(self._by_stages(x))
        with self.layers_alone():
            return self.backend.to_numpy(self.outputs(x)).copy()

    def _at_once(self, x: np.ndarray) -> np.ndarray | None:
        """Return the outputs if one native call can compute them, otherwise None."""
        if self.native is refuse:
            return None
        return self.native(x if x.flags.writeable else x.copy())  # compiled code doesn't take read-only arrays

    def scores(self, loss: Scored) -> Scores | None:
        """Return a native function that evaluates by a loss, or None if there is none."""
        if loss not in self._scores:
            plain = self.native is refuse
            self._scores[loss] = None if plain else self.backend.compile_scores(self.native, loss)
        return self._scores[loss]

    def layers_alone(self) -> AbstractContextManager[Any]:
        """Return a context in which no other thread uses the layers, which have only one workspace."""
        return nullcontext() if self.stages is not None else self._owner.layers  # of its own in a forked process

    def outputs(self, x: np.ndarray) -> Array:
        """Return the outputs as an array of the backend; it may be a workspace that the next call overwrites."""
        if self.stages is not None:
            outputs = self._at_once(x) if isinstance(self.backend.from_numpy(x), np.ndarray) else None
            return self._by_stages(x) if outputs is None else outputs
        outputs = lent(self.backend.from_numpy(x), self.backend)
        with np.errstate(all="ignore"):  # as in training: an overflow shows in the result
            for layer in self.layers:
                outputs = output_of(layer, outputs, training=False)
        shape = tuple(getattr(outputs, "shape", ()))
        if len(shape) != 2:
            raise InputError(
                f"{self.layers[-1]}: forward() returned {shape or type(outputs).__name__}, but a model's last layer "
                "gives an array [samples, outputs]; one output for each sample is y[:, None]"
            )
        return outputs

    def _by_stages(self, x: np.ndarray) -> Array:
        outputs = self.backend.from_numpy(x)
        with np.errstate(all="ignore"):
            for stage, room in zip(self._bound, self._rooms(len(x), outputs.dtype), strict=True):
                outputs = stage(outputs, room)
        return outputs

    def _rooms(self, rows: int, dtype: Any) -> list[Array | None]:
        """The outputs of the stages: this thread's workspaces, or None for a new array, as for the last stage."""
        rooms: list[Array | None] = getattr(self._own, "rooms", [])
        if not rooms or any(room is not None and room.shape[0] < rows for room in rooms):
            assert self.stages is not None
            rooms = [None if s.weights is None else self.backend.empty((rows, s.weights.shape[1]), dtype)
                     for s in self.stages[:-1]] + [None]  # fmt: skip
            self._own.rooms = rooms
        return [room if room is None or room.shape[0] == rows else room[:rows, ...] for room in rooms]


def stages_of(layers: Sequence[Layer]) -> list[AnyStage] | None:
    """Convert layers to stages; return None if one of them is not nnx's own, or if there are no stages."""
    return reduced(layers) or None


def plain_stages(stages: Sequence[AnyStage] | None) -> list[Stage] | None:
    """Return stages that may be compiled together; None if there are no stages, or if some may not."""
    plain = [stage for stage in stages or () if isinstance(stage, Stage)]
    return plain if stages is not None and len(plain) == len(stages) else None


def reduced(layers: Sequence[Layer]) -> list[AnyStage] | None:
    """Convert layers to stages; the list of stages may be empty."""
    stages: list[AnyStage] = []
    for layer in layers:
        kind = type(layer)
        if replaced(layer):
            return None
        if isinstance(layer, Dense) and kind is Dense:
            stages.append(Stage(layer.weights, layer.biases, None))
        elif kind is Softmax:
            stages.append(Stage(None, None, "softmax"))
        elif isinstance(layer, Activation) and kind in ELEMENTWISE_KINDS:
            add_function(stages, layer.operation, layer.config())
        elif isinstance(layer, Block) and kind in (Concat, Residual):
            paths = [reduced(path) for path in layer.paths]
            if None in paths:
                return None
            stages.append(Branches(tuple(tuple(path or ()) for path in paths), kind is Residual))
        elif isinstance(layer, Embedding) and kind is Embedding:
            tables = layer.weights
            stages.append(Lookup(tuple((at, count, tables.get(at)) for at, count, _ in layer._pieces())))
        elif isinstance(layer, LayerNorm) and kind is LayerNorm:
            stages.append(Stage(None, None, None, norm=Norm(layer.gamma, layer.beta, layer.epsilon)))
        elif isinstance(layer, BatchNorm) and kind is BatchNorm:
            running = layer.running_mean, layer.running_var
            stages.append(Stage(None, None, None, norm=Norm(layer.gamma, layer.beta, layer.epsilon, *running)))
        elif kind not in PASSED:
            return None
    return stages


def add_function(stages: list[AnyStage], name: str, settings: dict[str, Any]) -> None:
    """Add a function of single numbers: to the dense stage before it, if `dense` can apply it to its own result.

    No gradient is needed here, so `dense` can apply any function without a parameter.
    """
    parameter, last = BY_NAME[name].parameter, stages[-1] if stages else None
    if parameter or not isinstance(last, Stage) or last.weights is None or last.activation is not None:
        stages.append(Stage(None, None, name, settings[parameter] if parameter else 0.0))
    else:
        stages[-1] = Stage(last.weights, last.biases, name)


def refuse(x: np.ndarray) -> None:
    """Take the place of a native function if there is none."""
