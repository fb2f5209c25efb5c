"""Optimizers over one flat buffer, and what comes before and after them: parameters p, gradients g, moments m and v.

The learning rate of step t (counted from 0) is hyper[LEARNING_RATE] / (1 + hyper[DECAY] * t): chapter 10.
"""

from __future__ import annotations

import math

from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp
from nnx.kernels.nesterov import make_momenta
from nnx.kernels.step_state import (
    BETA_1,
    BETA_2,
    DECAY,
    EPSILON,
    LEARNING_RATE,
    MOMENTUM_DECAY,
    STEP,
    WEIGHT_DECAY,
)


@quiet
class OptimizerOperations(OverXp):
    """One step of each optimizer."""

    @operation("p g m hyper counters", "p m")
    def sgd(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        """m = momentum * m - rate * g; p += m, or, by Nesterov, p += momentum * m - rate * g.

        The momentum is hyper[BETA_1]; hyper[BETA_2] is 1 for Nesterov's, else 0.
        """
        rate, momentum = self._rate(p, hyper, counters), self._number(p, hyper[BETA_1])
        write(m, momentum * m - rate * g)
        write(p, p + self.xp.where(hyper[BETA_2] != 0, momentum * m - rate * g, m))

    @operation("p g v hyper counters", "p v")
    def adagrad(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        """v += g**2; p -= rate * g / (sqrt(v) + epsilon)."""
        write(v, v + g * g)
        self._descend(p, g, v, hyper, counters)

    @operation("p g v hyper counters", "p v")
    def rmsprop(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        """v = rho * v + (1 - rho) * g**2; p -= rate * g / (sqrt(v) + epsilon). rho is hyper[BETA_1]."""
        rho = self._number(p, hyper[BETA_1])
        write(v, rho * v + self._number(p, 1 - hyper[BETA_1]) * g * g)
        self._descend(p, g, v, hyper, counters)

    @operation("p g m v hyper counters", "p m v")
    def adam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        """Adam (Kingma and Ba, 2015) with decoupled weight decay (Loshchilov and Hutter, 2019).

        m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g**2; p -= rate * weight_decay * p;
        p -= rate * m' / (sqrt(v') + epsilon), where m' and v' are divided by 1 - beta**(t + 1).
        """
        xp = self.xp
        rate, epsilon = self._rate(p, hyper, counters), self._number(p, hyper[EPSILON])
        self._move_moments(p, g, m, v, hyper)
        time = xp.astype(counters[STEP] + 1, xp.float64)
        m_hat = m / self._number(p, 1 - hyper[BETA_1] ** time)
        v_hat = v / self._number(p, 1 - hyper[BETA_2] ** time)
        write(p, self._decayed(p, rate, hyper) - rate * m_hat / (xp.sqrt(v_hat) + epsilon))

    @operation("p g m v hyper counters", "p m v")
    def nadam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        """Adam with Nesterov's momentum (Dozat, 2016), and decoupled weight decay.

        As `adam`, with m' = ahead * m / (1 - product * ahead) + (1 - now) * g / (1 - product): see nesterov.py.
        """
        xp = self.xp
        rate, epsilon = self._rate(p, hyper, counters), self._number(p, hyper[EPSILON])
        self._move_moments(p, g, m, v, hyper)
        time = xp.astype(counters[STEP] + 1, xp.float64)
        now, ahead, product = make_momenta(self._math)(hyper[BETA_1], hyper[MOMENTUM_DECAY], time)
        mean = m * self._number(p, ahead / (1 - product * ahead)) + g * self._number(p, (1 - now) / (1 - product))
        v_hat = v / self._number(p, 1 - hyper[BETA_2] ** time)
        write(p, self._decayed(p, rate, hyper) - rate * mean / (xp.sqrt(v_hat) + epsilon))

    @operation("p g m v u hyper counters", "p m v u")
    def amsgrad(self, p: Array, g: Array, m: Array, v: Array, u: Array, hyper: Array, counters: Array) -> None:
        """Adam, whose steps are divided by the largest v so far, u (Reddi et al., 2018)."""
        xp = self.xp
        rate, epsilon = self._rate(p, hyper, counters), self._number(p, hyper[EPSILON])
        self._move_moments(p, g, m, v, hyper)
        write(u, xp.where(v <= u, u, v))  # nan where v is nan
        time = xp.astype(counters[STEP] + 1, xp.float64)
        m_hat = m / self._number(p, 1 - hyper[BETA_1] ** time)
        u_hat = u / self._number(p, 1 - hyper[BETA_2] ** time)
        write(p, self._decayed(p, rate, hyper) - rate * m_hat / (xp.sqrt(u_hat) + epsilon))

    @operation("p g m hyper counters", "p m")
    def lion(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        """p -= rate * (sign(beta_1 m + (1 - beta_1) g) + weight_decay * p); m = beta_2 m + (1 - beta_2) g.

        The sign of 0 is 0, that of nan is nan (Chen et al., 2023).
        """
        rate = self._rate(p, hyper, counters)
        way = self._number(p, hyper[BETA_1]) * m + self._number(p, 1 - hyper[BETA_1]) * g
        write(p, self._decayed(p, rate, hyper) - rate * self._sign(way))
        write(m, self._number(p, hyper[BETA_2]) * m + self._number(p, 1 - hyper[BETA_2]) * g)

    @operation("p g m hyper counters", "p m")
    def accumulate(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        """m += g, in the place of an optimizer: p stays until the last part of the batch (see `collect`)."""
        write(m, m + g)

    # ---- before and after an optimizer -------------------------------------------------------------------------------

    @operation("g m", "g m")
    def collect(self, g: Array, m: Array) -> None:
        """g += m; m = 0: the gradients of a batch are those of its last part plus those that `accumulate` kept."""
        write(g, g + m)
        m[...] = self.xp.zeros_like(m)

    @operation("g", "g")
    def clip(self, g: Array, norm: float, value: float) -> None:
        """Clip each number of g to +-value, then multiply all by norm / |g| if the Euclidean norm |g| exceeds `norm`.

        Either limit may be infinite. |g| is summed in float64; if it is not finite, all numbers become nan (Pascanu et
        al., 2013; the same as tf.clip_by_global_norm, while torch's clip_grad_norm_ divides by |g| + 1e-6).
        """
        xp = self.xp
        if value < math.inf:
            most = xp.full_like(g, value)
            write(g, xp.where(g > most, most, xp.where(g < -most, -most, g)))
        if norm < math.inf:
            wide = xp.astype(g, xp.float64)
            length = xp.sqrt(xp.sum(wide * wide))
            scale = xp.where(length <= norm, xp.ones_like(length), norm / length + (length - length))
            write(g, g * self._number(g, scale))

    @operation("a p counters", "a")
    def average(self, a: Array, p: Array, counters: Array, decay: float, since: int) -> None:
        """a += (p - a) * (1 - decay) / (1 - decay**t), t steps after step `since`; with decay 1 (p - a) / t.

        So a is the mean of p over these steps, each with `decay` times the weight of the next one.
        """
        time = self.xp.astype(counters[STEP] + (1 - since), self.xp.float64)
        share = 1 / time if decay == 1 else (1 - decay) / (1 - decay**time)
        write(a, a + self._number(a, share) * (p - a))

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def _sign(self, x: Array) -> Array:
        one = self.xp.ones_like(x)
        return self.xp.where(x > 0, one, self.xp.where(x < 0, -one, x))

    def _rate(self, p: Array, hyper: Array, counters: Array) -> Array:
        steps = self.xp.astype(counters[STEP], self.xp.float64)
        return self._number(p, hyper[LEARNING_RATE] / (1 + hyper[DECAY] * steps))

    def _descend(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        rate, epsilon = self._rate(p, hyper, counters), self._number(p, hyper[EPSILON])
        write(p, p - rate * g / (self.xp.sqrt(v) + epsilon))

    def _move_moments(self, p: Array, g: Array, m: Array, v: Array, hyper: Array) -> None:
        """Update Adam's moments: m, the running mean of the gradients, and v, that of their squares."""
        write(m, self._number(p, hyper[BETA_1]) * m + self._number(p, 1 - hyper[BETA_1]) * g)
        write(v, self._number(p, hyper[BETA_2]) * v + self._number(p, 1 - hyper[BETA_2]) * g * g)

    def _decayed(self, p: Array, rate: Array, hyper: Array) -> Array:
        """Return the parameters after weight decay."""
        return p * (1 - rate * self._number(p, hyper[WEIGHT_DECAY]))
