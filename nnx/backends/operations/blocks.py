"""Operations of blocks and embeddings: sums, columns joined and split, vectors looked up. N samples, C columns."""

from __future__ import annotations

import math

from nnx.backends.operation_table import operation, quiet, write
from nnx.backends.operations.over_xp import Array, OverXp


@quiet
class BlockOperations(OverXp):
    """The operations of layers made of other layers, and of embeddings."""

    @operation("x y")
    def add(self, x: Array, y: Array, out: Array | None = None) -> Array:
        """Return x + y, both of the same shape."""
        return write(out, x + y)

    @operation("x", "y")
    def put_columns(self, x: Array, first: int, y: Array) -> None:
        """Write x [N, C] into the columns of y [N, O] from number `first` on; the others stay."""
        y[:, first : first + x.shape[1]] = x

    @operation("x")
    def take_columns(self, x: Array, first: int, count: int, out: Array | None = None) -> Array:
        """Return `count` columns of x [N, C] from number `first` on: a copy [N, count]."""
        some = x[:, first : first + count]
        return self.xp.asarray(some, copy=True) if out is None else write(out, some)

    @operation("x w", "y")
    def embed(self, x: Array, w: Array, column: int, first: int, y: Array) -> None:
        """Write, for each code in a column of x [N, I], its row of w [C, O] into the columns of y from `first` on.

        Codes are integers from 0 to C - 1; anything else gets nan.
        """
        xp = self.xp
        codes = x[:, column]
        known = self._codes(codes, w.shape[0])
        rows = xp.take(w, xp.astype(xp.where(known, codes, xp.zeros_like(codes)), xp.int64), axis=0)
        y[:, first : first + w.shape[1]] = xp.where(known[:, None], rows, xp.full_like(rows, math.nan))

    @operation("x dy", "dw")
    def embed_gradients(self, x: Array, dy: Array, dw: Array, column: int, first: int) -> None:
        """Write to `dw` the gradient of w in `embed`: for each code, the sum over the samples with this code.

        Sums are made in the order of the samples. Samples with an invalid code are left out.
        """
        xp = self.xp
        codes, dy = x[:, column], dy[:, first : first + dw.shape[1]]
        known = self._codes(codes, dw.shape[0])
        chosen = (codes[:, None] == xp.astype(self._range(dw.shape[0], x), x.dtype)[None, :]) & known[:, None]
        share, zero = xp.astype(chosen, x.dtype), xp.zeros_like(dy)
        dy = xp.where(known[:, None], dy, zero)
        self._in_runs(x.shape[0], lambda run: xp.matmul(xp.matrix_transpose(share[run, ...]), dy[run, ...]), dw)

    def _codes(self, codes: Array, count: int) -> Array:
        """Return which numbers [N] are integers from 0 to count - 1, as codes must be."""
        return (codes >= 0) & (codes < count) & (codes == self.xp.floor(codes))
