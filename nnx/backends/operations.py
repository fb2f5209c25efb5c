"""Every operation of the backend protocol, written once over `xp` with the array-API standard alone.

A backend inherits these bodies and replaces those it can do faster. An operation writes into `out` when given one and
returns it; what changes from one training step to the next (step number, learning rate, cursor) is read from arrays,
never from Python numbers, so that a recorded step can be replayed. `@operation` declares what is read and written.

Shapes: N samples, I inputs, O outputs, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nnx.backends.array_math import ArrayMath, math_of
from nnx.backends.errors import InputError, InputTypeError
from nnx.backends.formula import Formula
from nnx.backends.operation_table import operation, quiet, with_functions, with_losses, write
from nnx.kernels.elementwise import BY_NAME, FUNCTIONS, Elementwise
from nnx.kernels.losses import PARTS, Loss, bounds
from nnx.kernels.nesterov import make_momenta
from nnx.kernels.philox import dropout_words, keep_threshold, normal_numbers
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


def fusible(activation: str) -> str:
    """Return the name of a function that `dense` applies to its own result; refuse any other."""
    row = BY_NAME.get(activation)
    if row is None or row.parameter:
        names = ", ".join(row.name for row in FUNCTIONS if not row.parameter)
        raise InputError(f"dense: activation={activation!r}: expected one of {names}, or None")
    return activation


@quiet
@with_losses
@with_functions
class Operations:
    """The named operations with their default bodies. `self.xp` is the array namespace."""

    xp: Any

    # ---- dense -------------------------------------------------------------------------------------------------------

    @operation("x w b")
    def dense(self, x: Array, w: Array, b: Array, activation: str | None = None, out: Array | None = None) -> Array:
        """Return `x @ w + b` [N, O], passed through `activation` if a function without a parameter is named.

        Args:
            x: inputs [N, I]. w: weights [I, O]. b: biases [1, O].
        """
        y = write(out, self.xp.matmul(x, w) + b)
        return y if activation is None else getattr(self, fusible(activation))(y, out=y)

    @operation("x w dy", "dw db out")
    def dense_backward(self, x: Array, w: Array, dy: Array, dw: Array, db: Array, out: Array | None = None) -> Array:
        """Write the gradients of weights `dw` [I, O] and biases `db` [1, O]; return that of the inputs [N, I]."""
        self.dense_gradients(x, dy, dw, db)
        return self.dense_dinputs(w, dy, out)

    @operation("w dy")
    def dense_dinputs(self, w: Array, dy: Array, out: Array | None = None) -> Array:
        """Return the gradient of the inputs alone [N, I]: the parameters of a layer that is not trained need none."""
        return write(out, self.xp.matmul(dy, self.xp.matrix_transpose(w)))

    @operation("x dy", "dw db")
    def dense_gradients(self, x: Array, dy: Array, dw: Array, db: Array) -> None:
        """Write the gradients of the parameters alone: the first layer's inputs need none."""
        xp = self.xp
        self._in_runs(x.shape[0], lambda run: xp.matmul(xp.matrix_transpose(x[run, ...]), dy[run, ...]), dw)
        self._in_runs(x.shape[0], lambda run: xp.sum(dy[run, ...], axis=0, keepdims=True), db)

    @operation("w dw", "dw penalty")
    def regularize(self, w: Array, dw: Array, l1: float, l2: float, penalty: Array) -> None:
        """Add the gradient of `l1 * sum|w| + l2 * sum w**2` to `dw`, and write the sum itself to `penalty` [1] float64.

        The gradient of |w| at 0 is taken as +1 (chapter 14).
        """
        xp = self.xp
        one = xp.ones_like(w)
        dw[...] = dw + l1 * xp.where(w >= 0, one, -one) + (2 * l2) * w
        w = xp.astype(w, xp.float64)
        write(penalty, l1 * xp.sum(xp.abs(w)) + l2 * xp.sum(w * w))

    # ---- activations -------------------------------------------------------------------------------------------------
    # Those that act on each number by itself come from their table: see `with_functions`.

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., Array]: ...

    @property
    def _math(self) -> ArrayMath:
        """The mathematics that formulas of the table are given."""
        return math_of(self.xp)

    def _function(self, row: Elementwise, x: Array, a: float, out: Array | None) -> Array:
        """Return a function of the table of x; `a` is its parameter, or nothing."""
        return write(out, row.forward(self._math, x, *row.given(a)))

    def _gradient(self, row: Elementwise, of: Array, dy: Array, a: float, out: Array | None) -> Array:
        """Return dy times the slope of a function of the table; `of` is its input or its output, as its row says."""
        return write(out, row.backward(self._math, of, dy, *row.given(a)))

    # Those of the user's own: see nnx/backends/formula.py.

    @operation("x")
    def apply_formula(self, x: Array, of: Formula, out: Array | None = None) -> Array:
        """Return a formula's value of each number of x [N, C]."""
        return write(out, self._each(of, of.on_arrays(of.value, x), x))

    @operation("x y dy")
    def apply_formula_backward(self, x: Array, y: Array, dy: Array, of: Formula, out: Array | None = None) -> Array:
        """Return dy times the formula's slope at x [N, C], where y is its value."""
        return write(out, dy * self._each(of, of.on_arrays(of.slope, x, y), x))

    @operation("x")
    def softmax(self, x: Array, out: Array | None = None) -> Array:
        """Return exp(x - max) / sum exp(x - max) for each row of x [N, C]."""
        xp = self.xp
        e = xp.exp(x - xp.max(x, axis=1, keepdims=True))
        return write(out, e / xp.sum(e, axis=1, keepdims=True))

    @operation("y dy")
    def softmax_backward(self, y: Array, dy: Array, out: Array | None = None) -> Array:
        """Return each row's Jacobian times its gradient, without the Jacobian: `y * (dy - sum(y * dy))`.

        The notes build `diagflat(y) - y @ y.T` for every sample; the product with it needs only its row sums.
        """
        return write(out, y * (dy - self.xp.sum(y * dy, axis=1, keepdims=True)))

    @operation("y")
    def softmax_jacobian(self, y: Array, out: Array | None = None) -> Array:
        """Return the book's matrix for every sample, `diagflat(y) - y @ y.T`: [N, C, C]."""
        identity = self._distribution(self._range(y.shape[1], y), y)
        return write(out, y[:, :, None] * identity - y[:, :, None] * y[:, None, :])

    # ---- normalization: a layer's numbers to mean 0 and variance 1 ---------------------------------------------------
    # Means are taken off twice, so that nothing is lost where numbers are far from 0. `normalized` [N, C], the result
    # before gamma and beta, and `scales`, 1 over each standard deviation, are written where given: gradients read them.

    @operation("x gamma beta", "normalized scales out")
    def layer_norm(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        epsilon: float,
        normalized: Array | None = None,
        scales: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """Return each row of x [N, C] less its mean, by its standard deviation, times gamma, plus beta [1, C].

        Args:
            epsilon: is added to variances. scales: [N].
        """
        xp = self.xp
        centred = x - xp.mean(x, axis=1, keepdims=True)
        centred = centred - xp.mean(centred, axis=1, keepdims=True)
        scale = 1 / xp.sqrt(xp.mean(centred * centred, axis=1, keepdims=True) + epsilon)
        if scales is not None:
            write(scales, scale[:, 0])
        return self._scaled(centred * scale, gamma, beta, normalized, out)

    @operation("normalized scales gamma dy")
    def layer_norm_backward(
        self, normalized: Array, scales: Array, gamma: Array, dy: Array, out: Array | None = None
    ) -> Array:
        """Return the gradient of the inputs of `layer_norm` [N, C]."""
        xp, slope = self.xp, dy * gamma
        along = xp.mean(slope * normalized, axis=1, keepdims=True)
        return write(out, scales[:, None] * (slope - xp.mean(slope, axis=1, keepdims=True) - normalized * along))

    @operation("normalized dy", "dgamma dbeta")
    def norm_gradients(self, normalized: Array, dy: Array, dgamma: Array, dbeta: Array) -> None:
        """Write the gradients of gamma and beta [1, C]: sums over samples of `normalized * dy`, and of `dy`."""
        rows = dy.shape[0]
        self._sum_rows(rows, lambda run: normalized[run, ...] * dy[run, ...], dgamma)
        self._sum_rows(rows, lambda run: dy[run, ...], dbeta)

    @operation("x gamma beta mean variance", "mean variance normalized scales out")
    def batch_norm(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        mean: Array,
        variance: Array,
        epsilon: float,
        momentum: float,
        normalized: Array | None = None,
        scales: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """Return each column of x [N, C] less its mean, by its standard deviation, times gamma, plus beta [1, C].

        Args:
            mean, variance: running ones [1, C], moved to this batch's by 1 - `momentum` of the way; for that its
                variance is that of N - 1. epsilon: is added to variances. scales: [1, C].
        """
        xp, rows = self.xp, x.shape[0]
        first, rest, spread = (xp.zeros_like(mean) for _ in range(3))
        self._sum_rows(rows, lambda run: x[run, ...], first)
        first = first / rows
        self._sum_rows(rows, lambda run: x[run, ...] - first, rest)
        rest = rest / rows
        centred = (x - first) - rest
        self._sum_rows(rows, lambda run: centred[run, ...] * centred[run, ...], spread)
        scale = 1 / xp.sqrt(spread / rows + epsilon)
        write(mean, momentum * mean + (1 - momentum) * (first + rest))
        write(variance, momentum * variance + (1 - momentum) * (spread / max(rows - 1, 1)))
        if scales is not None:
            write(scales, scale)
        return self._scaled(centred * scale, gamma, beta, normalized, out)

    @operation("x gamma beta mean variance", "normalized scales out")
    def fixed_norm(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        mean: Array,
        variance: Array,
        epsilon: float,
        normalized: Array | None = None,
        scales: Array | None = None,
        out: Array | None = None,
    ) -> Array:
        """Return the same by a mean and a variance [1, C] that stay as they are."""
        scale = 1 / self.xp.sqrt(variance + epsilon)
        if scales is not None:
            write(scales, scale)
        return self._scaled((x - mean) * scale, gamma, beta, normalized, out)

    @operation("normalized scales gamma dy dgamma dbeta")
    def batch_norm_backward(
        self, normalized: Array, scales: Array, gamma: Array, dy: Array, dgamma: Array, dbeta: Array,
        out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return the gradient of the inputs of `batch_norm` [N, C]; `dgamma`, `dbeta`: from `norm_gradients`."""
        rows = dy.shape[0]
        return write(out, (gamma * scales) * (dy - dbeta / rows - normalized * (dgamma / rows)))

    @operation("scales gamma dy")
    def fixed_norm_backward(self, scales: Array, gamma: Array, dy: Array, out: Array | None = None) -> Array:
        """Return the gradient of the inputs of `fixed_norm` [N, C]."""
        return write(out, dy * (gamma * scales))

    # ---- losses: one number for each sample --------------------------------------------------------------------------
    # Categorical targets are int64 class indices [N], or distributions (one-hot, soft labels) [N, C]. The loss of an
    # index that is no class is nan, and its gradient that of a sample of which nothing is wanted.

    @operation("p target")
    def cross_entropy(self, p: Array, target: Array, out: Array | None = None) -> Array:
        """Return -sum(target * log(p)) of each row: p [N, C] probabilities, kept within [1e-7, 1 - 1e-7]."""
        log_p = self.xp.log(self._clipped(p))
        return write(out, self._known(target, p, -self.xp.sum(self._distribution(target, p) * log_p, axis=1)))

    @operation("p target")
    def cross_entropy_backward(self, p: Array, target: Array, out: Array | None = None) -> Array:
        """Return the gradient of the mean over samples of `cross_entropy`: [N, C]."""
        return write(out, -self._distribution(target, p) / self._clipped(p) / p.shape[0])

    @operation("logits target", "out losses probabilities")
    def softmax_cross_entropy(
        self,
        logits: Array,
        target: Array,
        losses: Array,
        probabilities: Array | None = None,
        clip: float = 0.0,
        out: Array | None = None,
    ) -> Array:
        """Softmax and categorical cross-entropy in one pass; return the gradient of the mean loss: (p - target) / N.

        Args:
            logits: [N, C]. losses: [N], written: the loss of each sample.
            probabilities: [N, C], written when given.
            clip: take the losses, not the gradient, as if the probabilities had been kept within [clip, 1 - clip], as
                `cross_entropy` does; 0 means the exact loss.
        """
        xp = self.xp
        shifted = logits - xp.max(logits, axis=1, keepdims=True)
        e = xp.exp(shifted)
        total = xp.sum(e, axis=1, keepdims=True)
        wanted = self._distribution(target, logits)
        cost = self._clamped(xp.log(total) - shifted, clip)
        # where, because 0 * inf is nan: a class with logit -inf costs nothing unless it is wanted
        total_cost = xp.sum(xp.where(wanted > 0, wanted * cost, xp.zeros_like(e)), axis=1)
        write(losses, self._known(target, logits, total_cost))
        p = e / total
        if probabilities is not None:
            write(probabilities, p)
        return write(out, (p - wanted) / logits.shape[0])

    @operation("logits target", "out losses probabilities")
    def sigmoid_cross_entropy(
        self,
        logits: Array,
        target: Array,
        losses: Array,
        probabilities: Array | None = None,
        clip: float = 0.0,
        out: Array | None = None,
    ) -> Array:
        """Sigmoid and binary cross-entropy in one pass; return the gradient of the mean loss: (p - t) / (N O)."""
        xp = self.xp
        e = xp.exp(-xp.abs(logits))
        zero, more = xp.zeros_like(e), xp.log1p(e)
        yes = self._clamped(more - xp.where(logits < 0, logits, zero), clip)  # -log(p)
        no = self._clamped(more + xp.where(logits < 0, zero, logits), clip)  # -log(1 - p)
        # where, because 0 * inf is nan: the right answer at an infinite logit costs nothing
        cost = xp.where(target == 0, zero, target * yes) + xp.where(target == 1, zero, (1 - target) * no)
        write(losses, xp.mean(cost, axis=1))
        p = xp.where(logits >= 0, xp.ones_like(e), e) / (1 + e)
        if probabilities is not None:
            write(probabilities, p)
        return write(out, (p - target) / (logits.shape[0] * logits.shape[1]))

    # The losses of each output by itself come from their table: see `with_losses`.

    def _loss(self, row: Loss, outputs: Array, target: Array, b: float, out: Array | None) -> Array:
        """Return a loss of the table; `b` is its parameter, or nothing."""
        return write(out, self.xp.mean(PARTS[row.part](self._math, outputs, target, 0.0, b), axis=1))

    def _loss_gradient(self, row: Loss, outputs: Array, target: Array, b: float, out: Array | None) -> Array:
        """Return the gradient of the mean over samples of a loss of the table."""
        scale = row.factor / (outputs.shape[0] * outputs.shape[1])
        return write(out, PARTS[row.slope](self._math, outputs, target, scale, b))

    @operation("prediction target")
    def formula_loss(self, prediction: Array, target: Array, of: Formula, out: Array | None = None) -> Array:
        """Return the mean over outputs of a formula of each output and its target, both [N, O]: [N]."""
        return write(out, self.xp.mean(self._each(of, of.on_arrays(of.value, prediction, target), prediction), axis=1))

    @operation("prediction target")
    def formula_loss_backward(self, prediction: Array, target: Array, of: Formula, out: Array | None = None) -> Array:
        """Return the gradient of the mean over samples of `formula_loss`: [N, O]."""
        slope = self._each(of, of.on_arrays(of.slope, prediction, target), prediction)
        return write(out, slope / (prediction.shape[0] * prediction.shape[1]))

    # ---- one training step -------------------------------------------------------------------------------------------

    @operation("source order counters")
    def gather_rows(self, source: Array, order: Array, counters: Array, out: Array) -> Array:
        """Write the next rows of `source` to `out`: those that `order` names from the cursor on.

        Places and rows that are not there become the nearest that is.
        """
        xp = self.xp
        places = xp.clip(counters[CURSOR] + self._range(out.shape[0], counters), 0, order.shape[0] - 1)
        return write(out, xp.take(source, xp.clip(xp.take(order, places), 0, source.shape[0] - 1), axis=0))

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

    @operation("x weights")
    def weigh(self, x: Array, weights: Array, out: Array | None = None) -> Array:
        """Return each row of x [N, C] times its weight [N, 1]; a row of weight 0 is 0, whatever stands in it."""
        return write(out, self._weighed(x, weights))

    # ---- blocks of layers --------------------------------------------------------------------------------------------

    @operation("x y")
    def add(self, x: Array, y: Array, out: Array | None = None) -> Array:
        """Return x + y, of one shape."""
        return write(out, x + y)

    @operation("x", "y")
    def put_columns(self, x: Array, first: int, y: Array) -> None:
        """Write x [N, C] to the columns of y [N, O] from the one numbered `first` on; those beside it stay."""
        y[:, first : first + x.shape[1]] = x

    @operation("x")
    def take_columns(self, x: Array, first: int, count: int, out: Array | None = None) -> Array:
        """Return so many columns of x [N, C] from the one numbered `first` on: a copy [N, count]."""
        some = x[:, first : first + count]
        return self.xp.asarray(some, copy=True) if out is None else write(out, some)

    @operation("x w", "y")
    def embed(self, x: Array, w: Array, column: int, first: int, y: Array) -> None:
        """Write the row of w [C, O] that each code in a column of x [N, I] names, to the columns of y from `first` on.

        What is no code, a whole number from 0 to C - 1, gets nan.
        """
        xp = self.xp
        codes = x[:, column]
        known = self._codes(codes, w.shape[0])
        rows = xp.take(w, xp.astype(xp.where(known, codes, xp.zeros_like(codes)), xp.int64), axis=0)
        y[:, first : first + w.shape[1]] = xp.where(known[:, None], rows, xp.full_like(rows, math.nan))

    @operation("x dy", "dw")
    def embed_gradients(self, x: Array, dy: Array, dw: Array, column: int, first: int) -> None:
        """Write the gradient of `embed`'s w: for each code the sum of those of its samples; what is no code has none.

        Sums are made in one order: that of the samples.
        """
        xp = self.xp
        codes, dy = x[:, column], dy[:, first : first + dw.shape[1]]
        known = self._codes(codes, dw.shape[0])
        chosen = (codes[:, None] == xp.astype(self._range(dw.shape[0], x), x.dtype)[None, :]) & known[:, None]
        share, zero = xp.astype(chosen, x.dtype), xp.zeros_like(dy)
        dy = xp.where(known[:, None], dy, zero)
        self._in_runs(x.shape[0], lambda run: xp.matmul(xp.matrix_transpose(share[run, ...]), dy[run, ...]), dw)

    def _codes(self, codes: Array, count: int) -> Array:
        """Which numbers [N] are whole, and one of so many."""
        return (codes >= 0) & (codes < count) & (codes == self.xp.floor(codes))

    @operation("losses outputs target", "stats")
    def tally(
        self, losses: Array, outputs: Array, target: Array, metric: str | None, tolerance: float, stats: Array
    ) -> None:
        """Write the mean of `losses` and the number of right outputs to `stats`.

        Args:
            metric: "categorical" (the largest output is the wanted class), "binary" (outputs above 0.5, or
                "logits" above 0, on the same side as the target), "regression" (within `tolerance` of the
                target), None. With several outputs a sample counts by the share of them that are right.
        """
        xp = self.xp
        stats[LOSS] = xp.mean(xp.astype(losses, xp.float64))
        if metric is not None:
            stats[HITS] = xp.sum(self._hits(outputs, target, metric, tolerance))

    @operation("losses outputs target weights", "stats")
    def weighted_tally(
        self, losses: Array, outputs: Array, target: Array, weights: Array, metric: str | None, tolerance: float,
        stats: Array,
    ) -> None:  # fmt: skip
        """The same with the loss and the rightness of each sample times its weight [N, 1]."""
        xp = self.xp
        factors = xp.astype(weights[:, 0], xp.float64)
        stats[LOSS] = xp.mean(self._weighed(xp.astype(losses, xp.float64), factors))
        if metric is not None:
            stats[HITS] = xp.sum(self._weighed(self._hits(outputs, target, metric, tolerance), factors))

    @operation("stats penalties counters", "stats history counters")
    def end_step(self, stats: Array, penalties: Array, history: Array, counters: Array, rows: int) -> None:
        """Log the step to `history` and move the counters on by one step of `rows` rows."""
        stats[PENALTY] = self.xp.sum(penalties)
        # A whole new history, because a row cannot be named without asking the device which, and waiting for it.
        row = self._range(history.shape[0], counters) == counters[DONE] % history.shape[0]
        write(history, self.xp.where(row[:, None], stats, history))
        counters[STEP] += 1
        counters[CURSOR] += rows
        counters[DONE] += 1

    # ---- optimizers over one flat buffer: parameters p, gradients g, moments m and v ---------------------------------
    # The learning rate of step t (counted from 0) is hyper[LEARNING_RATE] / (1 + hyper[DECAY] * t): chapter 10.

    @operation("p g m hyper counters", "p m")
    def sgd(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        """m = momentum * m - rate * g; p += m, or, by Nesterov, p += momentum * m - rate * g.

        The momentum stands in hyper[BETA_1], and in hyper[BETA_2] whether it is Nesterov's, 1 or 0.
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
        """v = rho * v + (1 - rho) * g**2; p -= rate * g / (sqrt(v) + epsilon). rho stands in hyper[BETA_1]."""
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
        write(m, self._number(p, hyper[BETA_1]) * m + self._number(p, 1 - hyper[BETA_1]) * g)
        write(v, self._number(p, hyper[BETA_2]) * v + self._number(p, 1 - hyper[BETA_2]) * g * g)
        time = xp.astype(counters[STEP] + 1, xp.float64)
        m_hat = m / self._number(p, 1 - hyper[BETA_1] ** time)
        v_hat = v / self._number(p, 1 - hyper[BETA_2] ** time)
        shrink = 1 - rate * self._number(p, hyper[WEIGHT_DECAY])
        write(p, p * shrink - rate * m_hat / (xp.sqrt(v_hat) + epsilon))

    @operation("p g m v hyper counters", "p m v")
    def nadam(self, p: Array, g: Array, m: Array, v: Array, hyper: Array, counters: Array) -> None:
        """Adam with Nesterov's momentum (Dozat, 2016), and decoupled weight decay.

        As `adam`, with m' = ahead * m / (1 - product * ahead) + (1 - now) * g / (1 - product): see nesterov.py.
        """
        xp = self.xp
        rate, epsilon = self._rate(p, hyper, counters), self._number(p, hyper[EPSILON])
        write(m, self._number(p, hyper[BETA_1]) * m + self._number(p, 1 - hyper[BETA_1]) * g)
        write(v, self._number(p, hyper[BETA_2]) * v + self._number(p, 1 - hyper[BETA_2]) * g * g)
        time = xp.astype(counters[STEP] + 1, xp.float64)
        now, ahead, product = make_momenta(self._math)(hyper[BETA_1], hyper[MOMENTUM_DECAY], time)
        mean = m * self._number(p, ahead / (1 - product * ahead)) + g * self._number(p, (1 - now) / (1 - product))
        v_hat = v / self._number(p, 1 - hyper[BETA_2] ** time)
        shrink = 1 - rate * self._number(p, hyper[WEIGHT_DECAY])
        write(p, p * shrink - rate * mean / (xp.sqrt(v_hat) + epsilon))

    @operation("p g m v u hyper counters", "p m v u")
    def amsgrad(self, p: Array, g: Array, m: Array, v: Array, u: Array, hyper: Array, counters: Array) -> None:
        """Adam, whose steps are divided by the largest v so far, u (Reddi et al., 2018)."""
        xp = self.xp
        rate, epsilon = self._rate(p, hyper, counters), self._number(p, hyper[EPSILON])
        write(m, self._number(p, hyper[BETA_1]) * m + self._number(p, 1 - hyper[BETA_1]) * g)
        write(v, self._number(p, hyper[BETA_2]) * v + self._number(p, 1 - hyper[BETA_2]) * g * g)
        write(u, xp.where(v <= u, u, v))  # where v is nan, that
        time = xp.astype(counters[STEP] + 1, xp.float64)
        m_hat = m / self._number(p, 1 - hyper[BETA_1] ** time)
        u_hat = u / self._number(p, 1 - hyper[BETA_2] ** time)
        shrink = 1 - rate * self._number(p, hyper[WEIGHT_DECAY])
        write(p, p * shrink - rate * m_hat / (xp.sqrt(u_hat) + epsilon))

    @operation("p g m hyper counters", "p m")
    def lion(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        """p -= rate * (sign(beta_1 m + (1 - beta_1) g) + weight_decay * p); m = beta_2 m + (1 - beta_2) g.

        The sign of 0 is 0, that of nan is nan (Chen et al., 2023).
        """
        rate = self._rate(p, hyper, counters)
        way = self._number(p, hyper[BETA_1]) * m + self._number(p, 1 - hyper[BETA_1]) * g
        shrink = 1 - rate * self._number(p, hyper[WEIGHT_DECAY])
        write(p, p * shrink - rate * self._sign(way))
        write(m, self._number(p, hyper[BETA_2]) * m + self._number(p, 1 - hyper[BETA_2]) * g)

    @operation("p g m hyper counters", "p m")
    def accumulate(self, p: Array, g: Array, m: Array, hyper: Array, counters: Array) -> None:
        """m += g, in an optimizer's place: p stays until the last part of the batch is there (see `collect`)."""
        write(m, m + g)

    # ---- before and after an optimizer -------------------------------------------------------------------------------

    @operation("g m", "g m")
    def collect(self, g: Array, m: Array) -> None:
        """g += m; m = 0: the gradients of a batch from those of its last part and what `accumulate` has kept."""
        write(g, g + m)
        m[...] = self.xp.zeros_like(m)

    @operation("g", "g")
    def clip(self, g: Array, norm: float, value: float) -> None:
        """Keep each number within +-value, and then their Euclidean norm within `norm` by making all smaller alike.

        Either may be infinite, which is no limit. Where the norm is not finite, all numbers become nan. The norm is
        added up in float64, and g multiplied by norm / |g| where that is below 1 (Pascanu et al., 2013; as
        tf.clip_by_global_norm does, where torch's clip_grad_norm_ divides by |g| + 1e-6).
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

    # ---- pieces ------------------------------------------------------------------------------------------------------

    def _each(self, of: Formula, result: Any, like: Array) -> Array:
        """Return what a formula of the user's own gave: one number for each of `like`, or one for all."""
        shape, dtype = getattr(result, "shape", ()), getattr(result, "dtype", None)
        if shape not in ((), like.shape):
            raise InputError(f"{of.name}: its formula made {shape} of {tuple(like.shape)}, expected a number for each")
        if not isinstance(result, float | int) if dtype is None else not _is_real(dtype):
            given = f"{result!r:.60}" if dtype is None else f"numbers of type {dtype}"
            raise InputTypeError(f"{of.name}: its formula made {given}, expected a real number for each it was given")
        if not shape:
            return self.xp.full_like(like, float(result))
        return result if result.dtype == like.dtype else self.xp.astype(result, like.dtype)

    def _clipped(self, p: Array) -> Array:
        return self.xp.clip(p, CLIP, 1 - CLIP)

    def _clamped(self, cost: Array, clip: float) -> Array:
        """Bound -log(p) as if p had been clipped: the logarithm is monotone."""
        if clip == 0:
            return cost
        return self.xp.clip(cost, *bounds(clip))

    def _in_runs(self, rows: int, part: Callable[[slice], Array], out: Array) -> None:
        """out = part(all rows); of many rows, the parts of RUN at a time, added up in float64."""
        xp, runs = self.xp, [slice(first, min(first + RUN, rows)) for first in range(0, max(rows, 1), RUN)]
        if len(runs) == 1:
            write(out, part(runs[0]))
            return
        total = xp.astype(part(runs[0]), xp.float64)
        for run in runs[1:]:
            total = total + part(run)
        write(out, xp.astype(total, out.dtype))

    def _sum_rows(self, rows: int, part: Callable[[slice], Array], out: Array) -> None:
        """out [1, C] = the sum of all rows, of which `part` gives some."""
        self._in_runs(rows, lambda run: self.xp.sum(part(run), axis=0, keepdims=True), out)

    def _scaled(self, normalized: Array, gamma: Array, beta: Array, kept: Array | None, out: Array | None) -> Array:
        """Return `normalized * gamma + beta`, and keep `normalized`."""
        if kept is not None:
            write(kept, normalized)
        return write(out, normalized * gamma + beta)

    def _classes(self, target: Array, count: int) -> Array:
        """Which labels [N] are one of so many classes."""
        return (target >= 0) & (target < count)

    def _known(self, target: Array, like: Array, losses: Array) -> Array:
        """Losses [N], where the target is a label that is no class of `like` nan."""
        if target.ndim == 2:
            return losses
        return self.xp.where(self._classes(target, like.shape[1]), losses, self.xp.full_like(losses, math.nan))

    def _distribution(self, target: Array, like: Array) -> Array:
        """Class indices [N] as one-hot rows [N, C] of `like`'s type; distributions as they are."""
        if target.ndim == 2:
            return target
        return self.xp.astype(target[:, None] == self._range(like.shape[1], like)[None, :], like.dtype)

    def _range(self, count: int, like: Array) -> Array:
        """0 .. count - 1 as int64, on the device of `like`."""
        return self.xp.arange(count, dtype=self.xp.int64, device=like.device)

    def _weighed(self, x: Array, weights: Array) -> Array:
        return self.xp.where(weights == 0, self.xp.zeros_like(x), x * weights)

    def _hits(self, outputs: Array, target: Array, metric: str, tolerance: float) -> Array:
        xp = self.xp
        if metric == "categorical":
            wanted = xp.argmax(target, axis=1) if target.ndim == 2 else target
            return xp.astype(xp.argmax(outputs, axis=1) == wanted, xp.float64)
        if metric == "regression":
            right = xp.abs(outputs - target) < tolerance
        else:
            right = (outputs > (0 if metric == "logits" else 0.5)) == (target > 0.5)
        return xp.mean(xp.astype(right, xp.float64), axis=1)

    def _number(self, like: Array, value: Array) -> Array:
        """A float64 number in `like`'s type, so that float32 arrays stay float32."""
        return self.xp.astype(value, like.dtype)

    def _sign(self, x: Array) -> Array:
        one = self.xp.ones_like(x)
        return self.xp.where(x > 0, one, self.xp.where(x < 0, -one, x))

    def _rate(self, p: Array, hyper: Array, counters: Array) -> Array:
        steps = self.xp.astype(counters[STEP], self.xp.float64)
        return self._number(p, hyper[LEARNING_RATE] / (1 + hyper[DECAY] * steps))

    def _descend(self, p: Array, g: Array, v: Array, hyper: Array, counters: Array) -> None:
        rate, epsilon = self._rate(p, hyper, counters), self._number(p, hyper[EPSILON])
        write(p, p - rate * g / (self.xp.sqrt(v) + epsilon))


def _is_real(dtype: Any) -> bool:
    """Tell whether numbers of a type are real; a type of the array-API standard alone has no `kind`."""
    return dtype.kind in "biuf" if hasattr(dtype, "kind") else "complex" not in str(dtype)
