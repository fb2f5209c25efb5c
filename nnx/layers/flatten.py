"""Flatten: samples with several axes, such as images, become rows."""

from __future__ import annotations

import math
from typing import Any

from nnx.errors import InputError
from nnx.layers.base import Layer

Array = Any


class Flatten(Layer):
    """Reshape each sample to one row: inputs [N, 28, 28] become [N, 784]; a matrix stays as it is.

    As the first layer it lets a model take images: `Sequential(Flatten(), Dense(784, 64), ...)` trains on x
    [N, 28, 28], and takes rows as well. Elsewhere it does nothing, because all other layers return rows.

    Attributes:
        inputs: [N, ...]. output: [N, product of the other axes]. dinputs: shaped like the inputs.
    """

    def output_width(self, width: int | None) -> int | None:
        """Return `width`: as many outputs as inputs."""
        return width

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return the inputs as rows."""
        x = self._own(inputs)
        if x.ndim < 2 or 0 in x.shape:
            raise InputError(f"{self}: inputs have shape {tuple(x.shape)}, expected [samples, ...], no side of 0")
        self.inputs = x
        rows = (x.shape[0], math.prod(x.shape[1:]))
        self.output = x if x.ndim == 2 else self.backend.xp.reshape(x, rows)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return `dvalues` in the shape of the inputs."""
        dvalues = self._accept_gradient(dvalues)
        self.dinputs = dvalues if self.inputs.ndim == 2 else self.backend.xp.reshape(dvalues, self.inputs.shape)
        return self.dinputs
