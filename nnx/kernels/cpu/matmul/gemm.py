# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Matrix products: `c (+)= a @ b`, then the bias, ReLU, or the mask of ReLU's gradient, while a tile is in registers.

Floor: 2 m k n FLOP. A **tile** is a block of the result held in vector registers (register_tile.py): 8x32 numbers
with AVX-512, 6x16 with AVX2. It is made from a strip of `a` and a panel of `b` (packing.py), and stored once,
finished.

Reaches, float32, one thread of a Zen 3 core with AVX2, GFLOP/s (OpenBLAS): 128x784x512 85 (89), its dW 94 (92),
1024x784x512 94 (92), its dW 93 (92), 512x2048x2048 88 (93); and 98-101 where the panels are there already, as in a
recorded step. With AVX-512, on an Emerald Rapids: 175, 182, 171, 181, 163 for products by themselves, and 203-208 in
recorded steps on panels that are there (OpenBLAS reaches 192 at best; multiply-adds on numbers from the first-level
cache 226). It loses where the result fills few tiles, at 10 columns or one row: those are BLAS's, by `prefer_own`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from nnx.kernels.cpu.caches import Caches, caches
from nnx.kernels.cpu.jit.behaved import apart, behaved
from nnx.kernels.cpu.jit.cache import njit, typed
from nnx.kernels.cpu.jit.clock import EPILOGUE, PACKING, PRODUCT, mark_product
from nnx.kernels.cpu.jit.simd import PART, larger, smaller, view
from nnx.kernels.cpu.matmul.packing import pack_strips, panels_from_columns, panels_from_rows
from nnx.kernels.cpu.matmul.register_tile import (
    ROWS,
    VECTORS,
    WIDTH,
    accumulate,
    add,
    fetch,
    load,
    new_tile,
    store,
    where_positive,
    width_of,
)

LANES = {4: WIDTH // 4, 8: WIDTH // 8}
GRAIN, LINE = 16, 64  # columns of `a` that are packed together; bytes of a cache line
FEWEST = 4  # strips that are packed at once, at least: each reads the whole panel


def block_of(cache: Caches, width: int, rows: int, vectors: int) -> tuple[int, int]:
    """Return how many rows of a panel are used at a time, and how many of `a` are packed at once.

    Those of a panel fill two thirds of the first-level cache. With vectors of 64 bytes they are twice as many: in the
    eight cycles that a row keeps the multipliers busy the second-level cache gives more than one, and each block of
    depth is another pass over the result. Those of `a` fill a third of the second, in float32, beside the panel at hand
    and the next; of the deepest panels that leave room for a few strips.
    """
    deep = min(cache.l1 * (4 if width == 64 else 2) // 3 // (vectors * width), cache.l2 // 3 // (4 * FEWEST * rows))
    deep = max(deep // GRAIN, 1) * GRAIN
    return deep, max(cache.l2 // 3 // (4 * deep) // rows, FEWEST) * rows


BLOCK_DEPTH, BLOCK_ROWS = block_of(caches(), WIDTH, ROWS, VECTORS)
BLOCK_COLUMNS = 1024  # columns of `b` that are packed at once: they stay in the third-level cache
UNPACKED = 2  # panels for which it does not pay to pack `a`
STRIPS = (BLOCK_ROWS + ROWS) * BLOCK_DEPTH + 64  # numbers that the strips take at most
Array = Any


# ---- the product -----------------------------------------------------------------------------------------------------


@njit(**PART)
def blocks_of(m, whole):
    """How many rows and columns of `a` are packed at once: as equal as tiles allow, since low ones are slow."""
    high = -(-m // (larger(1, -(-m // BLOCK_ROWS)) * ROWS)) * ROWS
    deep = -(-whole // (larger(1, -(-whole // BLOCK_DEPTH)) * GRAIN)) * GRAIN
    return larger(high, ROWS), larger(deep, GRAIN)


@njit(**PART)
def times_panel(a, packed, strips, panels, at, ahead, soon, share, step, turns, c, bias, active, relu, edges, clock):
    """All tiles of one panel: ``c (+)= a @ panel``, the panel standing at `panels[at]`, with what follows.

    Args:
        packed: whether `a` stands in `strips`. ahead, soon, share: what is fetched meanwhile, see `accumulate`; with
            each strip `step` numbers further on, and after so many `turns` again.
        edges: whether the block of depth is the first, and whether it is the last.
    """
    (m, depth), (first, last), empty = a.shape, edges, new_tile(c, ROWS, VECTORS)
    columns = width_of(empty)
    for i in range(0, m, ROWS):
        place = soon + i // ROWS % turns * step
        if not first:
            fetch(empty, c, i, 0)
        if last and active.size:
            fetch(empty, active, i, 0)
        tile = accumulate(empty, a, i, strips, i * depth, packed, panels, at, columns, depth, ahead, place, share)
        mark_product(clock, PRODUCT)
        if not first:
            tile = add(tile, load(empty, c, i, 0))
        if last and bias.size:
            tile = add(tile, load(empty, bias, 0, 0))
        if last and relu:
            tile = where_positive(tile, tile)
        if last and active.size:
            tile = where_positive(tile, load(empty, active, i, 0))
        store(tile, c, i, 0)
        mark_product(clock, EPILOGUE)


@njit(**PART)
def multiply(a, panels, tall, c, bias, active, relu, accumulating, strips, clock=None, thread=0, threads=1):
    """``c (+)= a @ b`` for a `b` that lies in panels, plus bias, ReLU and mask; see `gemm`. `strips` is scratch.

    Panels are `tall` rows deep, which may be more than `a` has columns: those are multiplied by the first of them.
    Of several `threads` that read the same panels at once each begins with another: what one core has fetched just now
    another gets from that core only, and slowly. On two cores of an Emerald Rapids, where the panels have been written
    since the last time, products on 64 rows run at 159 GFLOP/s if both begin with the first, at 191 so.
    """
    (m, whole), n, columns = a.shape, c.shape[1], VECTORS * (WIDTH // c.itemsize)
    (high, deep), packed, wide = blocks_of(m, whole), n > UNPACKED * columns, -(-n // columns)
    turn = thread * wide // threads
    for k in range(0, larger(whole, 1), deep):
        depth = smaller(deep, whole - k)
        edges = k == 0 and not accumulating, k + depth >= whole
        for i in range(0, m, high):
            some = a[i : i + high, k : k + depth]
            if packed:
                pack_strips(some, strips)
                mark_product(clock, PACKING)
            # Of the next panel, each strip fetches its share, in bytes for each row: 4% of a large step's time.
            share = -(-columns * c.itemsize * ROWS // some.shape[0])
            step = depth * share // c.itemsize
            for place in range(wide):
                panel = (turn + place) % wide
                after, its_k = ((panel + 1) % wide, k) if place + 1 < wide else (turn, k + depth)
                at, soon, j = (panel * tall + k) * columns, (after * tall + its_k) * columns, panel * columns
                times_panel(
                    some, packed, strips, panels, at, panels, soon, share, step, m, c[i : i + high, j:], bias[:, j:],
                    active[i : i + high, j:], relu, edges, clock,
                )  # fmt: skip


@njit(**PART)
def pack_panels(b, panels):
    """Copy all of `b`, contiguous along its rows or its columns, to panels."""
    if b.strides[1] == b.itemsize:
        panels_from_rows(b, panels, b.shape[0], 0)
    else:
        panels_from_columns(b.T, panels, b.shape[0])


@njit(**PART)
def multiply_afresh(a, b, c, bias, active, relu, accumulating, memory):
    """The product of two matrices, each panel of `b` being made right before its use: both lie in `memory`.

    So panels stay in the first-level cache. Made before the first is used, they go out to the third, and come back.
    """
    (m, whole), n, columns = a.shape, c.shape[1], VECTORS * (WIDTH // c.itemsize)
    (high, deep), packed, by_rows = blocks_of(m, whole), n > UNPACKED * columns, b.strides[1] == b.itemsize
    skip = -memory.ctypes.data % LINE // c.itemsize  # to the first cache line
    panel, strips = view(memory, skip, columns * deep), view(memory, skip + columns * deep, 0)
    for k in range(0, larger(whole, 1), deep):
        depth = smaller(deep, whole - k)
        edges = k == 0 and not accumulating, k + depth >= whole
        for i in range(0, m, high):
            some = a[i : i + high, k : k + depth]
            if packed:
                pack_strips(some, strips)
            for j in range(0, n, columns):
                part = b[k : k + depth, j : j + columns]
                pack_panels(part, panel)
                # Of the next panel's rows each strip fetches another cache line.
                soon, share = (columns, b.strides[0]) if by_rows else (0, 0)
                times_panel(
                    some, packed, strips, panel, 0, part, soon, share, LINE // c.itemsize,
                    columns * c.itemsize // LINE, c[i : i + high, j:], bias[:, j:], active[i : i + high, j:], relu,
                    edges, None,
                )  # fmt: skip


@njit(**PART)
def in_blocks(a, b, c, bias, active, relu, accumulating, wide, memory):
    """The product, `wide` columns of `b` at a time, whose panels and then strips of `a` lie in `memory`.

    It does not make `memory` itself: views own nothing, so what it made would be freed before their last use.
    """
    skip = -memory.ctypes.data % LINE // c.itemsize  # to the first cache line
    room = wide * a.shape[1]
    panels, strips = view(memory, skip, room), view(memory, skip + room, memory.size - skip - room)
    for j in range(0, b.shape[1], BLOCK_COLUMNS):
        pack_panels(b[:, j : j + BLOCK_COLUMNS], panels)
        multiply(
            a, panels, a.shape[1], c[:, j : j + BLOCK_COLUMNS], bias[:, j : j + BLOCK_COLUMNS],
            active[:, j : j + BLOCK_COLUMNS], relu, accumulating, strips,
        )  # fmt: skip


@njit(**PART)
def fit(a, b, c, bias):
    """Whether memory allows a product, `c` sharing none with what is read; operands of no product are an error."""
    if a.shape[1] != b.shape[0] or (a.shape[0], b.shape[1]) != c.shape:
        raise ValueError("gemm: shapes do not fit")
    if (b.size and b.itemsize not in b.strides) or (c.size and c.strides[1] != c.itemsize):
        raise ValueError("gemm: an operand is not contiguous")
    return behaved(a, b, c, bias) and apart(c, a, b, bias)


def make(itemsize: int) -> Any:
    """The product for numbers of `itemsize` bytes."""
    columns = VECTORS * LANES[itemsize]

    @njit(cache=True, nogil=True, error_model="numpy", no_cfunc_wrapper=True)
    def gemm(a, b, c, bias, active, relu, accumulating):
        """``c (+)= a @ b``, plus `bias` (1, n), ReLU, and zero where `active` (m, n) is not positive; empty means none.

        Each of `a` and `b` is contiguous along its rows or its columns, the others along their rows. Returns False,
        having done nothing, where `c` shares memory with `a`, `b` or `bias`.
        """
        if not fit(a, b, c, bias):
            return False
        (m, depth), n = a.shape, c.shape[1]
        high, deep = blocks_of(m, depth)
        if m <= BLOCK_ROWS:
            memory = np.empty((high + ROWS + columns) * deep + LINE, c.dtype)
            multiply_afresh(a, b, c, bias, active, relu, accumulating, memory)
        else:
            wide = (smaller(n, BLOCK_COLUMNS) + columns - 1) // columns * columns
            memory = np.empty(wide * depth + (high + ROWS) * deep + LINE, c.dtype)
            in_blocks(a, b, c, bias, active, relu, accumulating, wide, memory)
        return True

    return gemm


# Callers in compiled code name these as globals of this module; `ready` must have been called for their type before.
gemm_float32 = make(4)
gemm_float64 = make(8)


@cache
def ready(dtype: Any) -> Any:
    """Return the product for one number type, compiled for operands of any layout: once, not for each combination."""
    single = np.dtype(dtype).itemsize == 4
    number = types.float32 if single else types.float64
    matrix = types.Array(number, 2, "A")
    product = typed(gemm_float32 if single else gemm_float64, *[matrix] * 5, types.boolean, types.boolean)
    product.disable_compile()
    return product


WIDE = WIDTH == 64
RULE = (
    "the own product where the result fills 3/4 of its tiles, or 1/2 with bias and activation"
    if WIDE
    else "the own product for products of a column and a row"
)


def prefer_own(m: int, n: int, k: int, itemsize: int, fused: bool) -> bool:
    """Tell whether this product is faster than BLAS for an [m, n] result of depth k.

    With AVX-512, where the result fills its tiles: from three quarters on, or from half on if an epilogue is fused, for
    which BLAS needs another pass. (128x512 by 10 columns fills 0.62: 63 against BLAS's 92 GFLOP/s without an epilogue,
    67 against 60 with one. Batch 1 fills an eighth.) With AVX2 the two are within 5% of each other wherever it
    matters when this one packs its operands for a single product: 128x784x512 takes it 1.21 ms, BLAS 1.15. A column
    times a row, the gradient of the weights at batch 1, is slow in BLAS with either: 784x512 takes it 570 us, the tiles
    120.
    """
    if k == 1 and m > 1:
        return True
    if not WIDE:
        return False
    lanes = LANES[itemsize]
    fill = m * n / ((-(-m // ROWS) * ROWS) * (-(-n // lanes) * lanes))
    return fill >= (0.5 if fused else 0.75)
