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
    """A layer that draws random numbers in training: those of a step, of this layer, under a seed.

    On its own, each training `forward` is a step; in a model the model counts.
    """

    seed = Setting(partial(checks.integer, low=0), "in a model random numbers follow from Sequential(..., seed=...)")
    number = Setting(partial(checks.integer, low=0), "in a model it is the layer's place")

    _counters: Any = None  # whose step the numbers are of
    _counts_itself = True
    _first = 0  # the number of the first row in its batch, where the layer gets a part of it
    _runtime: ClassVar[tuple[str, ...]] = (*Layer._runtime, "_counters", "_counts_itself", "_first")
    _results = Layer._results | {"_counters", "_counts_itself", "_first"}

    def __init__(self, seed: int) -> None:
        self.seed, self.number = seed, 0

    def follow(self, counters: Array, seed: int, number: int) -> None:
        """Take the step from a model's counters, and numbers that no other layer of it has."""
        self._counters, self._counts_itself = counters, False
        self.__dict__.update(seed=seed, number=number)

    def output_width(self, width: int | None) -> int | None:
        """Return `width`: as many outputs as inputs."""
        return width

    def begin_at(self, row: int) -> None:
        """Be told which row of the batch is the first of those to come."""
        self._first = row

    def _drawn(self) -> int:
        """Return what tells this layer's numbers from others', and where in the batch they begin."""
        return self._first << FIRST | int(self.number)

    def hold(self) -> None:
        """Use the numbers of step 0 for every forward: for checking gradients."""
        self._counters, self._counts_itself = self.backend.zeros(3, "int64"), False

    def _advance(self) -> None:
        """Begin a step, if nobody else counts them."""
        if not self._counts_itself:
            return
        if self._counters is None:
            self._counters = self.backend.asarray(np.array([-1, 0, 0]), "int64")
        self._counters[STEP] += 1


class Dropout(Drawing):
    """In training, set a random share of the inputs to 0 and divide the others by what is kept.

    The mask is a function of (seed, layer, step, element), the same on every backend, and is never stored:
    `backward` computes it again. On its own, each training `forward` is a step; in a model the model counts.

    Args:
        rate: the share dropped, at least 0 and below 1. Assignable at any time, right from the next step on.
        seed: of the masks. A model uses its own.

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
        """Return the inputs [N, C], thinned out if `training`."""
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
    """In training, add normal random numbers to the inputs: an example is never seen twice alike.

    The numbers are a function of (seed, layer, step, element), the same on every backend but for rounding, and never
    stored: they are made of the words that Dropout's masks are made of (nnx/kernels/philox.py).

    Args:
        stddev: their standard deviation, at least 0. Assignable at any time, right from the next step on.
        seed: of the numbers. A model uses its own.

    Attributes:
        inputs, output, dinputs: [N, C]. `dinputs` are `dvalues`: what is added has no gradient.
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
