"""Layers that draw random numbers: Dropout (chapter 15; Srivastava et al., 2014) and GaussianNoise."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np

from nnx import checks
from nnx.kernels.philox import FIRST
from nnx.kernels.step_state import STEP
from nnx.layers.base import Array, Layer
from nnx.settings import Setting


class Drawing(Layer):
    """A layer that draws random numbers in training: a function of the seed, of the layer and of the training step.

    In a model the step is the model's; outside one, each `forward` with training=True is a step.
    """

    seed = Setting(partial(checks.integer, low=0), "in a model random numbers follow from Sequential(..., seed=...)")
    number = Setting(partial(checks.integer, low=0), "in a model it is the layer's place")

    _counters: Any = None  # the array that holds the number of the current step
    _counts_itself = True
    _first = 0  # the number of the first row within its batch, where the layer gets a part of a batch
    _runtime: ClassVar[tuple[str, ...]] = (*Layer._runtime, "_counters", "_counts_itself", "_first")
    _results = Layer._results | {"_counters", "_counts_itself", "_first"}

    def __init__(self, seed: int) -> None:
        self.seed, self.number = seed, 0

    def follow(self, counters: Array, seed: int, number: int) -> None:
        """Take the step from a model's counters; `number` tells this layer's random numbers from other layers'."""
        self._counters, self._counts_itself = counters, False
        self.__dict__.update(seed=seed, number=number)

    def output_width(self, width: int | None) -> int | None:
        """Return `width`: as many outputs as inputs."""
        return width

    def begin_at(self, row: int) -> None:
        """Set which row of the batch is the first one of the next `forward`."""
        self._first = row

    def _drawn(self) -> int:
        """Return one number made of this layer's number and of the row of the batch at which it begins."""
        return self._first << FIRST | int(self.number)

    def hold(self) -> None:
        """Use the random numbers of step 0 in every `forward`: for checking gradients."""
        self._counters, self._counts_itself = self.backend.zeros(3, "int64"), False

    def _advance(self) -> None:
        """Begin a new step, if no model counts the steps."""
        if not self._counts_itself:
            return
        if self._counters is None:
            self._counters = self.backend.asarray(np.array([-1, 0, 0]), "int64")
        self._counters[STEP] += 1


class Dropout(Drawing):
    """In training, set a random share of the inputs to 0 and divide the others by the share that is kept.

    The mask is a function of (seed, layer, step, element), the same on every backend, and is never stored: `backward`
    computes it again. In a model the step is the model's; outside one, each `forward` with training=True is a step.

    Args:
        rate: the share dropped, at least 0 and below 1. Assignable at any time; the next step uses the new value.
        seed: that of the masks; in a model, the model's seed is used instead.

    Attributes:
        inputs, output, dinputs: [N, C].
    """

    operation: ClassVar[str] = "dropout"
    rate = Setting(partial(checks.real, high=1.0))

    _masked = False  # whether the last forward dropped anything
    _runtime: ClassVar[tuple[str, ...]] = (*Drawing._runtime, "_masked")
    _results = Drawing._results | {"_masked"}

    def __init__(self, rate: float, seed: int = 0) -> None:
        super().__init__(seed)
        self.rate = rate

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return the inputs [N, C]; if `training`, some of them dropped and the others scaled."""
        self.inputs = x = self._accept(inputs)
        self._masked = training and self.rate > 0
        if not self._masked:
            self.output = x
            return x
        self._advance()
        self.output = self._drop(x, "output")
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return `dvalues` under the mask of the last forward."""
        dvalues = self._accept_gradient(dvalues)
        self.dinputs = self._drop(dvalues, "dinputs") if self._masked else dvalues
        return self.dinputs

    def _drop(self, x: Array, room: str) -> Array:
        out = self._room(room, tuple(x.shape), x)
        dropped: Array = self.backend.dropout(x, self.rate, self.seed, self._drawn(), self._counters, out=out)
        return dropped

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        return {"rate": self.rate, "seed": self.seed}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rate:g})"


class GaussianNoise(Drawing):
    """In training, add normally distributed random numbers to the inputs, so that no sample looks the same twice.

    The numbers are a function of (seed, layer, step, element), the same on every backend except for rounding, and never
    stored: they are made from the same random integers as Dropout's masks (nnx/kernels/philox.py).

    Args:
        stddev: the standard deviation, at least 0. Assignable at any time; the next step uses the new value.
        seed: that of the numbers; in a model, the model's seed is used instead.

    Attributes:
        inputs, output, dinputs: [N, C]. `dinputs` is `dvalues`: the derivative of x + noise is 1.
    """

    operation: ClassVar[str] = "gaussian_noise"
    stddev = Setting(checks.real)

    def __init__(self, stddev: float, seed: int = 0) -> None:
        super().__init__(seed)
        self.stddev = stddev

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return the inputs [N, C], with noise if `training`."""
        self.inputs = self.output = x = self._accept(inputs)
        if training and self.stddev > 0:
            self._advance()
            out = self._room("output", tuple(x.shape), x)
            self.output = self.backend.gaussian_noise(x, self.stddev, self.seed, self._drawn(), self._counters, out=out)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return `dvalues`."""
        self.dinputs = self._accept_gradient(dvalues)
        return self.dinputs

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        return {"stddev": self.stddev, "seed": self.seed}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.stddev:g})"
