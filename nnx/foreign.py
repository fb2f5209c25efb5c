"""Layers of the user's own while a step is recorded: they may count, draw random numbers, or edit their inputs.

Recording runs a step that does not count, so whatever such a layer keeps for itself is put back afterwards. And where
one of its numbers changed, the recording would hold the old one fast: then the step cannot be replayed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from nnx.errors import NotReplayable
from nnx.layers import Layer


class Foreign:
    """Remembers the layers that nnx did not define, and the inputs of the step."""

    def __init__(self, layers: Sequence[Layer], inputs: Any, xp: Any) -> None:
        self._layers = [(layer, own_state(layer)) for layer in layers if not type(layer).__module__.startswith("nnx.")]
        self._inputs, self._xp = inputs, xp
        self._copy = xp.asarray(inputs, copy=True) if self._layers else None

    def check(self) -> None:
        """Raise NotReplayable if a layer counted, or changed another number of its own."""
        for layer, state in self._layers:
            for name, value in own_state(layer).items():
                before = state.get(name, getattr(type(layer), name, None))
                if isinstance(before, int | float | list | tuple | np.ndarray) and not np.array_equal(before, value):
                    raise NotReplayable(f"{layer} keeps numbers of its own from step to step: its {name} changed")

    def restore(self) -> None:
        """Put the layers and the inputs back to what they were."""
        for layer, state in self._layers:
            for name in own_state(layer).keys() - state.keys():  # made by the step
                del layer.__dict__[name]
            layer.__dict__.update(state)
        if self._copy is not None and not bool(self._xp.all(self._inputs == self._copy)):
            self._inputs[...] = self._copy


def own_state(layer: Layer) -> dict[str, Any]:
    """Return copies of a layer's attributes, without its parameters, its workspace and the model's counters."""
    skip, state = {*layer._runtime, "_counters"}, {}
    for name in layer.__dict__.keys() - skip:
        with suppress(Exception):  # a lock or an open file cannot be copied; it is left as it is
            state[name] = copy.deepcopy(layer.__dict__[name])
    return state
