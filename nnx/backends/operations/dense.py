"""The dense product, its gradients, and penalties of weights. N samples, I inputs, O outputs."""

from __future__ import annotations

from nnx.backends.errors import InputError
from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp
from nnx.kernels.elementwise import BY_NAME, FUNCTIONS


def fusible(activation: str) -> str:
    """Return the name of a function that `dense` applies to its own result; refuse any other."""
    row = BY_NAME.get(activation)
    if row is None or row.parameter:
        names = ", ".join(row.name for row in FUNCTIONS if not row.parameter)
        raise InputError(f"dense: activation={activation!r}: expected one of {names}, or None")
    return activation


@quiet
class DenseOperations(OverXp):
    """What a dense layer calls."""

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
