"""Random numbers of a training step: dropout, and Gaussian noise."""

from __future__ import annotations

from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp
from nnx.kernels.philox import dropout_words, keep_threshold, normal_numbers
from nnx.kernels.step_state import STEP


@quiet
class NoiseOperations(OverXp):
    """The numbers of an element are made of its place, the step and the layer: nothing is stored."""

    @operation("x counters")
    def dropout(self, x: Array, rate: float, seed: int, layer: int, counters: Array, out: Array | None = None) -> Array:
        """Return x / (1 - rate) where the element's random word says keep, else 0; the gradient's mask is the same.

        The word of element (r, c) is Philox4x32-10 of (r, c // 4, step, layer) under `seed` (nnx/kernels/philox.py):
        nothing is stored.
        """
        xp = self.xp
        step = xp.astype(counters[STEP], xp.uint64)
        words = dropout_words(xp, x.shape[0], x.shape[1], step, layer, seed, x.device)
        return write(out, xp.where(words >= keep_threshold(rate), x * (1 / (1 - rate)), xp.zeros_like(x)))

    @operation("x counters")
    def gaussian_noise(
        self, x: Array, stddev: float, seed: int, layer: int, counters: Array, out: Array | None = None
    ) -> Array:
        """Return x plus normal numbers of that standard deviation, made of the words that `dropout` would take."""
        xp = self.xp
        step = xp.astype(counters[STEP], xp.uint64)
        numbers = normal_numbers(xp, x.shape[0], x.shape[1], step, layer, seed, x.device)
        return write(out, x + stddev * xp.astype(numbers, x.dtype))
