"""The NumPy backend: complete, with no dependency but numpy, and the reference for the others.

Each operation here computes the same as the default one (`operations`), but avoids temporary arrays: for the networks
of the book, most of a step's time goes into allocating results and into Python itself. An operation is written a second
time only if that makes it faster. At 300x3 in float32, default and here, in us: softmax 59 and 9, its gradient 10 and
5, softmax with cross-entropy of labels 139 and 44, gradient of the squared error 2.2 and 1.7, gather_rows 24 and 2.3,
tally 12 and 5, end_step 7 and 2.4; with 900 parameters SGD 9 and 3.3, AdaGrad 10 and 4.6, RMSprop 31 and 6, Adam 70 and
8.7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnx.backends import threads
from nnx.backends.addresses import address, room
from nnx.backends.base import Backend, BackendInfo
from nnx.backends.errors import BackendUnavailable
from nnx.backends.operation_table import loud, quiet
from nnx.backends.operations.dense import fusible
from nnx.kernels.losses import bounds
from nnx.kernels.nesterov import make_momenta
from nnx.kernels.rounding import RUN
from nnx.kernels.step_state import (
    BETA_1,
    BETA_2,
    CLIP,
    CURSOR,
    DECAY,
    DONE,
    EPSILON,
    HITS,
    LEARNING_RATE,
    LOSS,
    MOMENTUM_DECAY,
    PENALTY,
    STEP,
    WEIGHT_DECAY,
)

Array = Any
BLOCK = 16384  # numbers that an optimizer handles at a time, so that all its arrays stay in the second-level cache
NARROW = 16  # a sum over rows is made in float64 for up to so many columns


@quiet
class NumpyBackend(Backend):
    """Arrays are `numpy.ndarray`s."""

    name = "numpy"
    xp = np

    # ---- arrays ------------------------------------------------------------------------------------------------------

    def from_numpy(self, a: np.ndarray) -> Array:
        return a

    def to_numpy(self, a: Array) -> np.ndarray:
        return np.asarray(a)

    def owns(self, a: Any) -> bool:
        return type(a) is np.ndarray  # no subclass: a masked array would silently lose its mask

    def address(self, a: Array) -> int:
        return address(a)

    def empty(self, shape: int | Sequence[int], dtype: Any = "float32") -> Array:
        return room(shape, np.dtype(dtype))

    def zeros(self, shape: int | Sequence[int], dtype: Any = "float32") -> Array:
        return np.zeros(shape, np.dtype(dtype))

    def threads(self) -> int | None:
        try:
            from threadpoolctl import threadpool_info
        except ImportError:
            return None
        return max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=None)

    def info(self) -> BackendInfo:
        return replace(super().info(), notes=(threads.explain(),))

    # ---- dense -------------------------------------------------------------------------------------------------------

    def dense(self, x: Array, w: Array, b: Array, activation: str | None = None, out: Array | None = None) -> Array:
        if out is not None and np.may_share_memory(out, b):
            b = b.copy()
        y = np.matmul(x, w, out=out)
        y += b
        return y if activation is None else loud(getattr(self, fusible(activation)))(y, out=y)

    def dense_backward(self, x: Array, w: Array, dy: Array, dw: Array, db: Array, out: Array | None = None) -> Array:
        self.dense_gradients(x, dy, dw, db)
        return np.matmul(dy, w.T, out=out)

    def dense_dinputs(self, w: Array, dy: Array, out: Array | None = None) -> Array:
        return np.matmul(dy, w.T, out=out)

    def dense_gradients(self, x: Array, dy: Array, dw: Array, db: Array) -> None:
        if len(dy) <= RUN:
            np.matmul(x.T, dy, out=dw)
        else:
            self._in_runs(len(dy), lambda run: np.matmul(x[run].T, dy[run]), dw)
        self._bias_gradient(dy, db)

    def _bias_gradient(self, dy: Array, db: Array) -> None:
        # A product with ones takes a third of the time of a sum over rows. Few columns are usually those of the last
        # layer, whose gradients nearly cancel: their sum is made in float64, for a microsecond more.
        if dy.shape[1] <= NARROW:
            dy = dy.astype("float64", copy=False)
        ones = np.ones((1, min(len(dy), RUN)), dy.dtype)
        if len(dy) <= RUN:
            np.matmul(ones, dy, out=db)
        else:
            self._in_runs(len(dy), lambda run: np.matmul(ones[:, : len(dy[run])], dy[run]), db)

    # ---- blocks of layers --------------------------------------------------------------------------------------------

    def add(self, x: Array, y: Array, out: Array | None = None) -> Array:
        return np.add(x, y, out=out)

    def embed_gradients(self, x: Array, dy: Array, dw: Array, column: int, first: int) -> None:
        # The default body multiplies by a matrix with a column for each code.
        codes = x[:, column]
        known = np.flatnonzero(self._codes(codes, len(dw)))
        whole, dy = codes[known].astype(np.int64), dy[known, first : first + dw.shape[1]]

        def part(run: slice) -> Array:
            sums = np.zeros_like(dw)
            np.add.at(sums, whole[run], dy[run])
            return sums

        self._in_runs(len(known), part, dw)

    # ---- activations -------------------------------------------------------------------------------------------------
    # The formulas of the table (nnx/kernels/elementwise.py) take 6 to 20 times as long for ReLU and 3 to 8 times for
    # its gradient, since np.where chooses number by number; up to 2 times for tanh, 1.05 to 1.4 times for the others.

    def relu(self, x: Array, out: Array | None = None) -> Array:
        return np.maximum(x, 0, out=out)

    def relu_backward(self, y: Array, dy: Array, out: Array | None = None) -> Array:
        # dy's bits & all ones or all zeros: exact also for inf and nan, in half the time of np.where.
        bits = f"i{dy.itemsize}"
        mask = np.negative((y > 0).view("i1").astype(bits))
        return np.bitwise_and(dy.view(bits), mask, out=None if out is None else out.view(bits)).view(dy.dtype)

    def sigmoid(self, x: Array, out: Array | None = None) -> Array:
        e = np.exp(-np.abs(x))
        return np.divide(np.where(x >= 0, 1, e), 1 + e, out=out)

    def sigmoid_backward(self, y: Array, dy: Array, out: Array | None = None) -> Array:
        slope = y * (1 - y)
        return np.multiply(dy, slope, out=out)

    def tanh(self, x: Array, out: Array | None = None) -> Array:
        return np.tanh(x, out=out)

    def tanh_backward(self, y: Array, dy: Array, out: Array | None = None) -> Array:
        slope = 1 - y * y
        return np.multiply(dy, slope, out=out)

    def softmax(self, x: Array, out: Array | None = None) -> Array:
        e = np.subtract(x, row_max(x), out=out)
        np.exp(e, out=e)
        e /= row_sum(e)
        return e

    def softmax_backward(self, y: Array, dy: Array, out: Array | None = None) -> Array:
        centred = dy - row_sum(y * dy)
        return np.multiply(y, centred, out=out)

    # ---- losses ------------------------------------------------------------------------------------------------------

    def softmax_cross_entropy(
        self,
        logits: Array,
        target: Array,
        losses: Array,
        probabilities: Array | None = None,
        clip: float = 0.0,
        out: Array | None = None,
    ) -> Array:
        if target.ndim == 2:
            return super().softmax_cross_entropy(logits, target, losses, probabilities, clip, out)
        # As uint64, negative numbers are very large.
        if np.maximum.reduce(target.astype(np.uint64), initial=0) >= logits.shape[1]:
            return super().softmax_cross_entropy(logits, target, losses, probabilities, clip, out)
        wanted = np.arange(len(logits))
        wanted *= logits.shape[1]
        wanted += target
        if out is None:
            out = np.empty(logits.shape, logits.dtype)  # stored row by row, whatever the order of the logits
        np.subtract(logits, row_max(logits), out=out)
        flat = out.reshape(-1)
        shifted = flat[wanted]
        np.exp(out, out=out)
        total = row_sum(out)
        np.subtract(np.log(total[:, 0]), shifted, out=losses)
        if clip:  # bounding -log(p) is the same as clipping p, since the logarithm is monotone
            least, most = bounds(clip)
            np.maximum(losses, least, out=losses)  # these two calls take half the time of np.clip
            np.minimum(losses, most, out=losses)
        out /= total
        if probabilities is not None:
            probabilities[...] = out
        flat[wanted] -= 1
        out *= 1 / len(logits)
        return out

    # The formulas of the table (nnx/kernels/losses.py) take 1.2 times as long for the binary cross-entropy, 2 times for
    # its gradient, and up to 20 times for the signs of errors, since np.where chooses number by number.

    def binary_cross_entropy(self, p: Array, target: Array, out: Array | None = None) -> Array:
        p = np.clip(p, CLIP, 1 - CLIP)
        return np.negative(np.mean(target * np.log(p) + (1 - target) * np.log(1 - p), axis=1), out=out)

    def binary_cross_entropy_backward(self, p: Array, target: Array, out: Array | None = None) -> Array:
        p = np.clip(p, CLIP, 1 - CLIP)
        return np.divide((1 - target) / (1 - p) - target / p, p.size, out=out)

    def mean_absolute_error_backward(self, prediction: Array, target: Array, out: Array | None = None) -> Array:
        out = np.subtract(prediction, target, out=out)
        return np.multiply(np.sign(out, out=out), 1 / out.size, out=out)

    def mean_squared_error_backward(self, prediction: Array, target: Array, out: Array | None = None) -> Array:
        out = np.subtract(prediction, target, out=out)
        out *= 2 / out.size
        return out

    # ---- one training step -------------------------------------------------------------------------------------------

    def gather_rows(self, source: Array, order: Array, counters: Array, out: Array) -> Array:
        first = counters[CURSOR]
        if first < 0 or first + len(out) > len(order):
            return super().gather_rows(source, order, counters, out)
        # not mode="raise", with which NumPy would buffer the result
        return np.take(source, order[first : first + len(out)], axis=0, out=out, mode="clip")

    def weigh(self, x: Array, weights: Array, out: Array | None = None) -> Array:
        none = weights == 0  # first, since `out` may share memory with the weights
        out = np.multiply(x, weights, out=out)
        np.copyto(out, 0, where=none)
        return out

    def tally(
        self, losses: Array, outputs: Array, target: Array, metric: str | None, tolerance: float, stats: Array
    ) -> None:
        stats[LOSS] = losses.sum(dtype=np.float64) / len(losses)
        if metric == "categorical" and target.ndim == 1:
            stats[HITS] = np.count_nonzero(outputs.argmax(axis=1) == target)
        elif metric is not None:
            stats[HITS] = self._hits(outputs, target, metric, tolerance).sum()

    def end_step(self, stats: Array, penalties: Array, history: Array, counters: Array, rows: int) -> None:
        stats[PENALTY] = penalties.sum()
        history[counters[DONE] % len(history)] = stats
        counters += (1, rows, 1)

    # ---- optimizers --------------------------------------------------------------------------------------------------

    def sgd(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        rate, momentum, nesterov = rate_of(hyper, counters), float(hyper[BETA_1]), hyper[BETA_2] != 0
        for p_, g_, m_ in blocks(p, g, m):
            m_ *= momentum
            step = rate * g_
            m_ -= step
            p_ += momentum * m_ - step if nesterov else m_

    def adagrad(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        rate, epsilon = rate_of(hyper, counters), float(hyper[EPSILON])
        for p_, g_, v_ in blocks(p, g, v):
            v_ += g_ * g_
            descend(p_, rate * g_, np.sqrt(v_), epsilon)

    def rmsprop(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        rate, epsilon, rho = rate_of(hyper, counters), float(hyper[EPSILON]), float(hyper[BETA_1])
        for p_, g_, v_ in blocks(p, g, v):
            square = g_ * g_
            square *= 1 - rho
            v_ *= rho
            v_ += square
            descend(p_, rate * g_, np.sqrt(v_), epsilon)

    def adam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        rate, epsilon = rate_of(hyper, counters), float(hyper[EPSILON])
        beta_1, beta_2, time = float(hyper[BETA_1]), float(hyper[BETA_2]), int(counters[STEP]) + 1
        correction_1, correction_2 = 1 - beta_1**time, 1 - beta_2**time
        shrink = 1 - rate * float(hyper[WEIGHT_DECAY])
        for p_, g_, m_, v_ in blocks(p, g, m, v):
            scratch = follow(m_, v_, g_, beta_1, beta_2)
            np.multiply(v_, 1 / correction_2, out=scratch)
            np.sqrt(scratch, out=scratch)
            if shrink != 1:
                p_ *= shrink
            descend(p_, m_ * (rate / correction_1), scratch, epsilon)

    def amsgrad(self, p: Array, g: Array, m: Array, v: Array, u: Array, hyper: Array, counters: Array) -> None:
        rate, epsilon = rate_of(hyper, counters), float(hyper[EPSILON])
        beta_1, beta_2, time = float(hyper[BETA_1]), float(hyper[BETA_2]), int(counters[STEP]) + 1
        size, correction = rate / (1 - beta_1**time), 1 - beta_2**time
        shrink = 1 - rate * float(hyper[WEIGHT_DECAY])
        for p_, g_, m_, v_, u_ in blocks(p, g, m, v, u):
            scratch = follow(m_, v_, g_, beta_1, beta_2)
            np.maximum(u_, v_, out=u_)
            np.multiply(u_, 1 / correction, out=scratch)
            np.sqrt(scratch, out=scratch)
            p_ *= shrink
            descend(p_, m_ * size, scratch, epsilon)

    def nadam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        rate, epsilon = rate_of(hyper, counters), float(hyper[EPSILON])
        beta_1, beta_2, time = float(hyper[BETA_1]), float(hyper[BETA_2]), int(counters[STEP]) + 1
        now, ahead, product = MOMENTA(beta_1, float(hyper[MOMENTUM_DECAY]), float(time))
        size, new = rate * ahead / (1 - product * ahead), rate * (1 - now) / (1 - product)
        correction, shrink = 1 - beta_2**time, 1 - rate * float(hyper[WEIGHT_DECAY])
        for p_, g_, m_, v_ in blocks(p, g, m, v):
            scratch = follow(m_, v_, g_, beta_1, beta_2)
            np.multiply(v_, 1 / correction, out=scratch)
            np.sqrt(scratch, out=scratch)
            p_ *= shrink
            descend(p_, m_ * size + g_ * new, scratch, epsilon)

    def lion(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        rate, beta_1, beta_2 = rate_of(hyper, counters), float(hyper[BETA_1]), float(hyper[BETA_2])
        shrink = 1 - rate * float(hyper[WEIGHT_DECAY])
        for p_, g_, m_ in blocks(p, g, m):
            way = m_ * beta_1
            way += g_ * (1 - beta_1)
            np.sign(way, out=way)
            way *= rate
            p_ *= shrink
            p_ -= way
            m_ *= beta_2
            m_ += g_ * (1 - beta_2)

    def accumulate(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        m += g

    # ---- before and after an optimizer -------------------------------------------------------------------------------

    def collect(self, g: Array, m: Array) -> None:
        g += m
        m[...] = 0

    def clip(self, g: Array, norm: float, value: float) -> None:
        if value < math.inf:
            np.clip(g, -value, value, out=g)
        if norm < math.inf:
            length = math.sqrt(sum(float(np.square(g_, dtype=np.float64).sum()) for (g_,) in blocks(g)))
            if not length <= norm:
                g *= norm / length if length < math.inf else math.nan

    def average(self, a: Array, p: Array, counters: Array, decay: float, since: int) -> None:
        time = int(counters[STEP]) - since + 1
        share = 1 / time if decay == 1 else (1 - decay) / (1 - decay**time)
        for a_, p_ in blocks(a, p):
            a_ += share * (p_ - a_)


MOMENTA = make_momenta(math)


def rate_of(hyper: Array, counters: Array) -> float:
    """Return the learning rate of this step (chapter 10)."""
    return float(hyper[LEARNING_RATE]) / (1 + float(hyper[DECAY]) * int(counters[STEP]))


def follow(m: Array, v: Array, g: Array, beta_1: float, beta_2: float) -> Array:
    """Update the running means m of g and v of g**2; return a work array of their size."""
    scratch = g * (1 - beta_1)
    m *= beta_1
    m += scratch
    np.multiply(g, g, out=scratch)
    scratch *= 1 - beta_2
    v *= beta_2
    v += scratch
    return scratch


def descend(p: Array, step: Array, root: Array, epsilon: float) -> None:
    """p -= step / (root + epsilon); `step` and `root` are overwritten."""
    root += epsilon
    step /= root
    p -= step


def blocks(*flat: Array) -> Any:
    """Yield slices of flat arrays of the same length, small enough to stay in the cache."""
    length = len(flat[0])
    if length <= BLOCK:
        return (flat,)
    return (tuple(a[first : first + BLOCK] for a in flat) for first in range(0, length, BLOCK))


# Reductions over short rows: NumPy spends some 30 ns on each row, so an array with few columns is first transposed to
# few long rows, unless it has few rows too.
FEW = 16


def row_max(x: Array) -> Array:
    """Return the maximum of each row: [N, 1]."""
    if x.shape[1] > FEW or x.shape[0] <= FEW:
        return np.maximum.reduce(x, axis=1, keepdims=True)
    return np.maximum.reduce(np.ascontiguousarray(x.T), axis=0)[:, None]


def row_sum(x: Array) -> Array:
    """Return the sum of each row: [N, 1]."""
    if x.shape[1] > FEW or x.shape[0] <= FEW:
        return np.add.reduce(x, axis=1, keepdims=True)
    return np.add.reduce(np.ascontiguousarray(x.T), axis=0)[:, None]


def create(device: str = "") -> NumpyBackend:
    """Return the backend. It has one device."""
    if device:
        raise BackendUnavailable(f"numpy:{device}", "NumPy has one device", 'Ask for plain "numpy".')
    threads.apply()
    return NumpyBackend()
