"""Activation functions: those of the table in nnx/kernels/elementwise.py, and softmax. N samples, C classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nnx.backends.operation_table import operation, quiet, with_functions, write
from nnx.backends.operations.over_xp import Array, OverXp
from nnx.kernels.elementwise import Elementwise


@quiet
@with_functions
class ActivationOperations(OverXp):
    """Softmax, and the elementwise functions, which `with_functions` makes from their table."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., Array]: ...

    def _function(self, row: Elementwise, x: Array, a: float, out: Array | None) -> Array:
        """Return f(x) for a function f of the table; `a` is its parameter, if it has one."""
        return write(out, row.forward(self._math, x, *row.given(a)))

    def _gradient(self, row: Elementwise, of: Array, dy: Array, a: float, out: Array | None) -> Array:
        """Return dy times the derivative of a function of the table; `of` is its input or output, as its row says."""
        return write(out, row.backward(self._math, of, dy, *row.given(a)))

    @operation("x")
    def softmax(self, x: Array, out: Array | None = None) -> Array:
        """Return exp(x - max) / sum exp(x - max) for each row of x [N, C]."""
        xp = self.xp
        e = xp.exp(x - xp.max(x, axis=1, keepdims=True))
        return write(out, e / xp.sum(e, axis=1, keepdims=True))

    @operation("y dy")
    def softmax_backward(self, y: Array, dy: Array, out: Array | None = None) -> Array:
        """Return each row's Jacobian times its gradient, without building the Jacobian: `y * (dy - sum(y * dy))`.

        The book builds the Jacobian `diagflat(y) - y @ y.T` for every sample (chapter 9).
        """
        return write(out, y * (dy - self.xp.sum(y * dy, axis=1, keepdims=True)))

    @operation("y")
    def softmax_jacobian(self, y: Array, out: Array | None = None) -> Array:
        """Return the Jacobian of every sample, `diagflat(y) - y @ y.T`: [N, C, C]."""
        identity = self._distribution(self._range(y.shape[1], y), y)
        return write(out, y[:, :, None] * identity - y[:, :, None] * y[:, None, :])
