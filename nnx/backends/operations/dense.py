"""Operations of dense layers: the product, its gradients, and weight penalties. N samples, I inputs, O outputs."""

from __future__ import annotations

from nnx.backends.errors import InputError
from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp
from nnx.kernels.elementwise import BY_NAME, FUNCTIONS


def fusible(activation: str) -> str:
    """Return `activation` if it is a function that `dense` can apply to its result; raise an error for any other."""
    row = BY_NAME.get(activation)
    if row is None or row.parameter:
        names = ", ".join(row.name for row in FUNCTIONS if not row.parameter)
        raise InputError(f"dense: activation={activation!r}: expected one of {names}, or None")
    return activation


@quiet
class DenseOperations(OverXp):
    """The operations of dense layers."""

    @operation("x w b")
    def dense(self, x: Array, w: Array, b: Array, activation: str | None = None, out: Array | None = None) -> Array:
        """Return `x @ w + b` [N, O], or the activation function of it.

        Args:
            x: inputs [N, I]. w: weights [I, O]. b: biases [1, O].
            activation: the name of an elementwise function without a parameter; None: none.
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
        """Return only the gradient of the inputs [N, I]: for a layer that is not trained."""
        return write(out, self.xp.matmul(dy, self.xp.matrix_transpose(w)))

    @operation("x dy", "dw db")
    def dense_gradients(self, x: Array, dy: Array, dw: Array, db: Array) -> None:
        """Write only the gradients of the parameters: for the first layer, whose inputs need none."""
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
