"""Random numbers of a step, as its calls tell of them."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from nnx.backends.addresses import Array
from nnx.backends.dataflow.buffers import Buffers
from nnx.kernels.philox import keep_threshold


class NoiseCalls(Buffers):
    """Reads the calls of dropout and Gaussian noise."""

    def on_dropout(self, x: Array, rate: float, seed: int, layer: int, counters: Array, out: Array) -> None:
        self.count(counters)
        value, details = self.read(x), (layer, key_of(seed), keep_threshold(rate))
        self.add("dropout", value, None, self.write(out), constants=(1 / (1 - rate), 0.0), details=details)

    def on_gaussian_noise(self, x: Array, stddev: float, seed: int, layer: int, counters: Array, out: Array) -> None:
        self.count(counters)
        value, details = self.read(x), (layer, key_of(seed))
        self.add("gaussian_noise", value, None, self.write(out), constants=(stddev, 0.0), details=details)


def key_of(seed: int) -> int:
    """Return a seed as int64: Philox takes 64 bits of it."""
    key = seed & (1 << 64) - 1
    return key - (1 << 64) if key >= 1 << 63 else key
