"""Optimizers on Numba."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from typing import Any

from nnx.backends.numba.sharing import NumbaShared, offer

Array = Any


class NumbaOptimizers(NumbaShared):
    """One step of each optimizer."""

    def sgd(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        if not offer(self.kernels.optimizers.sgd, p, g, m, hyper, counters, *self._share(p.size * 0.2)):
            super().sgd(p, g, m, hyper, counters)

    def adagrad(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        if not offer(self.kernels.optimizers.adagrad, p, g, v, hyper, counters, *self._share(p.size * 0.5)):
            super().adagrad(p, g, v, hyper, counters)

    def rmsprop(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        if not offer(self.kernels.optimizers.rmsprop, p, g, v, hyper, counters, *self._share(p.size * 0.5)):
            super().rmsprop(p, g, v, hyper, counters)

    def adam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        if not offer(self.kernels.optimizers.adam, p, g, m, v, hyper, counters, *self._share(p.size * 0.6)):
            super().adam(p, g, m, v, hyper, counters)

    def nadam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        how = self._share(p.size * 0.6)
        if not offer(self.kernels.optimizers.nadam, p, g, m, v, hyper, counters, *how):
            super().nadam(p, g, m, v, hyper, counters)

    def amsgrad(self, p: Array, g: Array, m: Array, v: Array, u: Array, hyper: Array, counters: Array) -> None:
        how = self._share(p.size * 0.7)
        if not offer(self.kernels.optimizers.amsgrad, p, g, m, v, u, hyper, counters, *how):
            super().amsgrad(p, g, m, v, u, hyper, counters)

    def lion(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        if not offer(self.kernels.optimizers.lion, p, g, m, hyper, counters, *self._share(p.size * 0.2)):
            super().lion(p, g, m, hyper, counters)
