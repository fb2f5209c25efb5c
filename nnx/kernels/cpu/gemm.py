# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Matrix products: `c (+)= a @ b`, then the bias, ReLU, or the mask of ReLU's gradient, while a tile is in registers.

Floor: 2 m k n FLOP. Reaches, float32, one thread, of a Zen 4 core's 118 GFLOP/s with AVX-512: 101-107 on the shapes of
training (128x784x512: 106, with bias and ReLU 105, masked 105; OpenBLAS there 101, 97, 86), 34 where k = 2. It loses
where the result fills few tiles, at 10 columns or one row: those are BLAS's, by `prefer_own`.

* A **tile** is a block of the result held in vector registers (tile.py): 8x32 numbers with AVX-512, 6x16 with AVX2.
* A **panel** is a strip of `b` as wide as a tile, copied so that the inner loop reads it in order.
* `gemm` takes panel after panel, and for each walks down `a`; each tile is stored once, finished.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from nnx.kernels.cpu.cache import njit, typed
from nnx.kernels.cpu.tile import (
    add,
    load,
    multiply_add,
    new_tile,
    store,
    tile_shape,
    transpose,
    vector_bytes,
    where_positive,
)

BLOCK_DEPTH = 512  # rows of b in a panel (a multiple of every vector length): a panel stays in the fast caches
BLOCK_ROWS = 512  # rows of a for which a panel is used before it is made again: they stay in the second-level cache
Array = Any


# ---- the product -----------------------------------------------------------------------------------------------------
# These helpers are inlined before anything is compiled, so that LLVM optimises `gemm` as one function, once.


@njit(inline="always")
def copy_block(a, spare, lanes):
    """A copy of `a`, in the same order, whose rows do not start a power of two bytes apart."""
    by_rows = a.strides[1] == a.itemsize
    source = a if by_rows else a.T
    m, n = source.shape
    block = spare[: m * (n + lanes)].reshape(m, n + lanes)[:, :n]
    for i in range(m):
        row, copy = source[i], block[i]
        for j in range(n):
            copy[j] = row[j]
    return block if by_rows else block.T


@njit(inline="always")
def fill_panel(panel, vectors, lanes, b, j):
    """Copy ``b[:, j:]`` into `panel`, by square blocks if `b` is a transposed array."""
    for v in range(vectors):
        if b.strides[1] == b.itemsize:
            for k in range(b.shape[0]):
                store(load(new_tile(b, 1, 1, lanes), b, k, j + v * lanes), panel, k, v * lanes)
        else:
            for k in range(0, b.shape[0], lanes):
                block = load(new_tile(b, lanes, 1, lanes), b.T, j + v * lanes, k)
                store(transpose(block), panel, k, v * lanes)


@njit(inline="always")
def multiply_columns(panel, rows, vectors, lanes, a, b, c, bias, active, j, first, last, relu):
    """``c[:, j:]`` = (or +=, unless `first`) ``a @ b[:, j:]`` one panel wide; then the epilogue if this is `last`."""
    fill_panel(panel, vectors, lanes, b, j)
    empty = new_tile(c, rows, vectors, lanes)  # made inside the loop it costs a tenth of the speed
    for i in range(0, a.shape[0], rows):
        tile = empty
        for k in range(a.shape[1]):
            tile = multiply_add(tile, a, i, k, panel, k)
        if not first:
            tile = add(tile, load(empty, c, i, j))
        if last and bias.size:
            tile = add(tile, load(empty, bias, 0, j))
        if last and relu:
            tile = where_positive(tile, tile)
        if last and active.size:
            tile = where_positive(tile, load(empty, active, i, j))
        store(tile, c, i, j)


def make(itemsize: int, width: int) -> Any:
    """The product for numbers of `itemsize` bytes in vectors of `width` bytes."""
    rows, vectors = tile_shape(width)
    lanes = width // itemsize

    @njit(cache=True, nogil=True, error_model="numpy")
    def gemm(a, b, c, bias, active, relu, accumulate):
        """``c (+)= a @ b``, plus `bias` (1, n), ReLU, and zero where `active` (m, n) is not positive; empty means none.

        Each of `a` and `b` is contiguous along its rows or its columns, the others along their rows.
        """
        (m, k_size), n, columns = a.shape, b.shape[1], vectors * lanes
        if k_size != b.shape[0] or (m, n) != c.shape:
            raise ValueError("gemm: shapes do not fit")
        if (b.size and b.itemsize not in b.strides) or (c.size and c.strides[1] != c.itemsize):
            raise ValueError("gemm: an operand is not contiguous")
        memory = np.empty((BLOCK_DEPTH + 1) * columns, c.dtype)
        skip = -memory.ctypes.data % (lanes * c.itemsize) // c.itemsize  # to the first aligned vector
        wide = memory[skip : skip + BLOCK_DEPTH * columns].reshape(BLOCK_DEPTH, columns)
        narrow = memory[skip : skip + BLOCK_DEPTH * lanes].reshape(BLOCK_DEPTH, lanes)
        # Rows a power of two apart compete for the same few cache lines; a copy pays if enough panels use it.
        crowded = max(a.strides) % 512 == 0 and n >= 4 * columns
        spare = np.empty((min(m, BLOCK_ROWS) + lanes) * (BLOCK_DEPTH + lanes) if crowded else 0, c.dtype)
        for i0 in range(0, m, BLOCK_ROWS):
            some_c, some_active = c[i0 : i0 + BLOCK_ROWS], active[i0 : i0 + BLOCK_ROWS]
            for k0 in range(0, max(k_size, 1), BLOCK_DEPTH):
                some_a, some_b = a[i0 : i0 + BLOCK_ROWS, k0 : k0 + BLOCK_DEPTH], b[k0 : k0 + BLOCK_DEPTH]
                if crowded:
                    some_a = copy_block(some_a, spare, lanes)
                first, last = k0 == 0 and not accumulate, k0 + BLOCK_DEPTH >= k_size
                j = 0
                while j < n:
                    if n - j > lanes:
                        multiply_columns(
                            wide, rows, vectors, lanes, some_a, some_b, some_c, bias, some_active, j, first, last, relu
                        )
                        j += columns
                    else:
                        multiply_columns(
                            narrow, rows, 1, lanes, some_a, some_b, some_c, bias, some_active, j, first, last, relu
                        )
                        j += lanes

    return gemm


WIDTH = vector_bytes()
# Callers in compiled code name these as globals of this module; `ready` must have been called for their type before.
gemm_float32 = make(4, WIDTH)
gemm_float64 = make(8, WIDTH)
TILE_ROWS = tile_shape(WIDTH)[0]
LANES = {4: WIDTH // 4, 8: WIDTH // 8}


@cache
def ready(dtype: Any) -> Any:
    """Return the product for one number type, compiled for operands of any layout: once, not for each combination."""
    single = np.dtype(dtype).itemsize == 4
    number = types.float32 if single else types.float64
    matrix = types.Array(number, 2, "A")
    return typed(gemm_float32 if single else gemm_float64, *[matrix] * 5, types.boolean, types.boolean)


WIDE = WIDTH == 64
RULE = (
    "the own product where the result fills 3/4 of its tiles, or 1/2 with bias and activation"
    if WIDE
    else "the own product for products of a column and a row"
)


def prefer_own(m: int, n: int, k: int, itemsize: int, fused: bool) -> bool:
    """Tell whether this product is faster than BLAS for an [m, n] result of depth k.

    With AVX-512, where the result fills its tiles: from three quarters on, or from half on if an epilogue is fused, for
    which BLAS needs another pass. (cpu.md: 128x512 by 10 columns fills 0.62: 63 against BLAS's 92 GFLOP/s without an
    epilogue, 67 against 60 with one. Batch 1 fills an eighth.) With AVX2, BLAS is 5-10% faster wherever it matters:
    128x784x512 takes it 1.12 ms, the tiles 1.22. A column times a row, the gradient of the weights at batch 1, is slow
    in BLAS with either: 784x512 takes it 570 us, the tiles 120.
    """
    if k == 1 and m > 1:
        return True
    if not WIDE:
        return False
    lanes = LANES[itemsize]
    fill = m * n / ((-(-m // TILE_ROWS) * TILE_ROWS) * (-(-n // lanes) * lanes))
    return fill >= (0.5 if fused else 0.75)
