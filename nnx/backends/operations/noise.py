"""Operations that use random numbers: dropout, and Gaussian noise."""

from __future__ import annotations

from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp
from nnx.kernels.philox import dropout_words, keep_threshold, normal_numbers
from nnx.kernels.step_state import STEP


@quiet
class NoiseOperations(OverXp):
    """An element's random numbers are a function of its place, the step and the layer, so none are stored."""

    @operation("x counters")
    def dropout(self, x: Array, rate: float, seed: int, layer: int, counters: Array, out: Array | None = None) -> Array:
        """Return x / (1 - rate) for the elements that are kept, else 0; applied to a gradient, it drops the same ones.

        The random integer of element (r, c) is Philox4x32-10 of (r, c // 4, step, layer) with the key `seed`
        (nnx/kernels/philox.py).
        """
        xp = self.xp
        step = xp.astype(counters[STEP], xp.uint64)
        words = dropout_words(xp, x.shape[0], x.shape[1], step, layer, seed, x.device)
        return write(out, xp.where(words >= keep_threshold(rate), x * (1 / (1 - rate)), xp.zeros_like(x)))

    @operation("x counters")
    def gaussian_noise(
        self, x: Array, stddev: float, seed: int, layer: int, counters: Array, out: Array | None = None
    ) -> Array:
        """Return x plus normal numbers of standard deviation `stddev`, made of the random integers of `dropout`."""
        xp = self.xp
        step = xp.astype(counters[STEP], xp.uint64)
        numbers = normal_numbers(xp, x.shape[0], x.shape[1], step, layer, seed, x.device)
        return write(out, x + stddev * xp.astype(numbers, x.dtype))
