"""Blocks of layers: sums, columns put together and taken apart, and codes looked up. N samples, C columns."""

from __future__ import annotations

import math

from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp


@quiet
class BlockOperations(OverXp):
    """What layers that hold layers, and embeddings, call."""

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
