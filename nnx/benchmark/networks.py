"""Networks that are measured: alternating Dense and ReLU, with softmax and cross-entropy at the end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

RATE, MOMENTUM, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.9, 0.999, 1e-7
CHECKED = 6  # first steps whose losses every player must agree on
FLOAT, LABEL = 4, 8  # bytes of a float32, and of an int64


@dataclass(frozen=True)
class Network:
    """A network and its data.

    Attributes:
        rows: those of a batch. widths: inputs, then neurons of each layer. optimizer: "adam" or "momentum".
        turns: how many batches alternate, so that none is in a cache in which it would not be in real training.
        seed: for the initial weights.
    """

    rows: int
    widths: tuple[int, ...]
    optimizer: str = "adam"
    turns: int = 1
    seed: int = 1

    @property
    def layers(self) -> str:
        """The widths, as text."""
        return "-".join(map(str, self.widths))

    def batches(self) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs [turns * rows, I] and labels [turns * rows], the same every time."""
        random = np.random.default_rng(0)
        x = random.standard_normal((self.turns * self.rows, self.widths[0]), np.float32)
        return x, random.integers(0, self.widths[-1], len(x))

    def weights(self) -> list[np.ndarray]:
        """Return each layer's weights [I, O], the same every time; biases are 0."""
        random = np.random.default_rng(self.seed)
        return [(random.standard_normal((a, b)) * np.sqrt(2 / a)).astype(np.float32) for a, b in pairwise(self.widths)]

    def networks(self) -> list[Network]:
        """Return all that are trained: itself."""
        return [self]

    # ---- what it takes at least --------------------------------------------------------------------------------------

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum((a + 1) * b for a, b in pairwise(self.widths))

    @property
    def products(self) -> int:
        """Multiply-adds of one forward pass of a batch."""
        return self.rows * sum(a * b for a, b in pairwise(self.widths))

    def step_flops(self) -> int:
        """Floating-point operations of a step's matrix products: the first layer needs no gradient of its inputs."""
        return 6 * self.products - 2 * self.rows * self.widths[0] * self.widths[1]

    def step_bytes(self) -> int:
        """Bytes that a step must move: the batch in, parameters and the optimizer's state in and out."""
        arrays = {"adam": 3, "momentum": 2}[self.optimizer]
        return FLOAT * (2 * arrays * self.parameters + self.rows * self.widths[0])

    def step_resident(self) -> int:
        """Bytes that a step touches, each counted once."""
        arrays = {"adam": 3, "momentum": 2}[self.optimizer]
        return FLOAT * (arrays * self.parameters + self.rows * self.widths[0])

    def predict_flops(self) -> int:
        """Floating-point operations of a forward pass."""
        return 2 * self.products

    def predict_bytes(self) -> int:
        """Bytes that a forward pass must move: parameters and inputs in, outputs out."""
        return FLOAT * (self.parameters + self.rows * (self.widths[0] + self.widths[-1]))

    def evaluate_bytes(self) -> int:
        """Bytes that an evaluation must move: parameters, inputs and labels in."""
        return FLOAT * (self.parameters + self.rows * self.widths[0]) + LABEL * self.rows


@dataclass(frozen=True)
class Many:
    """Networks of the same form that are trained together on the same batches, each with its own initial weights.

    Attributes:
        network: one of them. count: their number. steps: those of a training, whose beginning and end are timed too.
    """

    network: Network
    count: int
    steps: int

    def networks(self) -> list[Network]:
        """Return all that are trained."""
        return [replace(self.network, seed=self.network.seed + number) for number in range(self.count)]


SPIRAL = (2, 64, 3)
DIGITS = (64, 128, 64, 10)
IMAGES = (784, 512, 512, 10)
DEEP = (784, 1024, 1024, 10)
WIDE = (2048, 2048, 2048, 1000)
