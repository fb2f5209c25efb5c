# mypy: ignore-errors
# (What @njit takes has no types for Python.)
"""Products of float32 matrices on tile registers (tile_registers.py): `c = a @ b`, with bias, ReLU, or its mask.

Each number is split into parts of bfloat16 as it is packed (amx_packing.py). With three parts, of the nine products of
parts the six that matter are added up; the rest is below 2**-24 of |a| @ |b|, as one rounding of float32. With two
parts three are, to 2**-15; with one it is a product in bfloat16.

Floor: 2 m k n FLOP, six, three or one time, at 3.7 TFLOP/s of one Emerald Rapids core: 620 GFLOP/s in float32. Reaches
240-280 where the product in vectors reaches 160-190 (128x784x512 to 2048x512x2048); it loses by packing, and by what is
done to sums. In one part it reaches 390-530, and 85-103 by AVX512_BF16 (tile_units.py), whose own limit is 120 there.

Every 256 numbers of depth, with three parts, sums begin from zero, and are added up in `c` by plain vectors: carried on
in the registers they would be rounded six times as often as sgemm's. Vectors add up one block of sums while the tiles
make the next, bit by bit: a core that has not used its vectors for 0.5 us takes 0.3 us to wake them up, a third of a
block's time. Strips of a piece of `a` stay in the second-level cache. A panel of `b` is packed right before its use,
always to the same memory, while the rows of the next one are fetched; a recorded step has all panels ready.

Results that are not finite are made once more in float32: of infinite, NaN or huge operands (from 2**104 on, or where
sums of products go beyond 2**79). Nothing else is lost: see SCALE.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types

from nnx.kernels.cpu.caches import Caches, caches
from nnx.kernels.cpu.jit.cache import njit, typed
from nnx.kernels.cpu.jit.simd import larger, smaller, vfill, view, vsum
from nnx.kernels.cpu.matmul import gemm as in_vectors
from nnx.kernels.cpu.matmul.amx_finish import TILE, ZERO, finish
from nnx.kernels.cpu.matmul.amx_packing import KERNEL, LANES, pack_panel, pack_strips
from nnx.kernels.cpu.matmul.register_tile import VECTORS
from nnx.kernels.cpu.matmul.tile_registers import PART, accumulate, begin, configure, end, fetch, release, tiles_of
from nnx.kernels.cpu.matmul.tile_units import EDGE, MEMORY, UNITS, require

DEPTH = 768  # numbers of depth that are packed at once, times the number of parts; each processor gives the same bits
PANEL = EDGE * DEPTH // 2  # float32 that a panel takes, of any number of parts, 48 KB; so does a strip


def rows_of(cache: Caches) -> int:
    """Return how many rows of `a` are packed at once, twice as much of the depth where they are half as many.

    Their strips fill three eighths of the second-level cache; more than 512 gain nothing.
    """
    return min(16, max(2, cache.l2 * 3 // 8 // (4 * PANEL))) * EDGE


ROWS = rows_of(caches())
IN_FLOAT32 = in_vectors.BLOCK_DEPTH * VECTORS * LANES  # and a panel of the product in float32
SPARE, SUMS = 16 * EDGE, 2 * EDGE * EDGE
FIXED = SPARE + SUMS + max(2 * PANEL, IN_FLOAT32)  # float32 of a thread's scratch beside strips
SCRATCH = FIXED + ROWS // EDGE * PANEL  # all of it
THREAD = SCRATCH + MEMORY  # and registers in memory behind

LEAST = 2 * EDGE  # in every direction: of fewer much of each block is empty
WORK = {1: 1 << 18, 2: 1 << 20}  # multiply-adds from which what is asked for less than full precision rounds, by parts


def prefer_amx(m: int, n: int, k: int, work: float) -> bool:
    """Tell whether a product of [m, k] by [k, n] is large enough to be split: of `work` multiply-adds at least."""
    return min(m, n, k) >= LEAST and m * n * k >= work


# ---- the product -----------------------------------------------------------------------------------------------------


@njit(**KERNEL)
def in_float32(a, b, c, bias, active, relu, memory):
    """The product by vectors, a panel at a time."""
    whole, n, columns = a.shape[1], c.shape[1], VECTORS * LANES
    for j in range(0, n, columns):
        for k in range(0, larger(whole, 1), in_vectors.BLOCK_DEPTH):
            depth = smaller(in_vectors.BLOCK_DEPTH, whole - k)
            width = columns if k + depth >= whole else 0  # of what is done at the end
            in_vectors.pack_panels(b[k : k + depth, j : j + columns], memory)
            in_vectors.multiply(
                a[:, k : k + depth], memory, depth, c[:, j : j + columns], bias[:, j : j + width],
                active[:, j : j + width], relu and width > 0, k > 0, memory,
            )  # fmt: skip


@njit(**KERNEL)
def share(size, most):
    """How large to make the blocks of at most `most` that cover `size`: as equal as tiles allow."""
    blocks = larger(1, -(-size // most))
    return larger(1, -(-size // (blocks * EDGE))) * EDGE


@njit(**KERNEL)
def add_up(tiles, strips, at, panels, panel, parts):
    """`accumulate` for a number of parts that only the caller knows."""
    if parts == 3:
        accumulate(tiles, strips, at, panels, panel, 3)
    elif parts == 2:
        accumulate(tiles, strips, at, panels, panel, 2)
    else:
        accumulate(tiles, strips, at, panels, panel, 1)


@njit(**KERNEL)
def multiply(a, b, panels, tall, c, bias, active, relu, thread, parts, tiles, memory):
    """``c = a @ b``, plus bias, ReLU and mask; see `gemm`.

    All of `b` lies in `panels` too, `tall` pieces of 32 numbers deep; empty: it is packed on the way. Each `thread`
    begins with another of them: what one core has just fetched another gets slowly. `memory` is scratch that begins at
    a cache line.
    """
    (m, whole), n = a.shape, c.shape[1]
    spare, fresh, buffer = view(memory, 0, SPARE), view(memory, SPARE, SUMS), view(memory, SPARE + SUMS, 0)
    strips, unit, ready = view(memory, FIXED, 0), parts * PART, len(panels) > 0
    height, wide = share(m, ROWS), -(-n // EDGE)
    at_once = share(whole, DEPTH // parts)  # added up in registers: of any number of rows the same, for the same bits
    step = at_once if height > ROWS // 2 else 2 * at_once
    some = at_once // EDGE
    every = larger(1, some * TILE // EDGE)
    b_step, c_step, by_rows = b.strides[0] // b.itemsize, c.strides[0] // c.itemsize, b.strides[1] == b.itemsize
    configure(tiles)
    for i0 in range(0, m, height):
        rows, done, odd = smaller(height, m - i0), EDGE, vfill(ZERO)
        i1 = j1 = turn = 0
        first = last = True
        for k0 in range(0, larger(whole, 1), step):
            depth = smaller(step, whole - k0)
            groups = -(-depth // EDGE)
            pack_strips(a[i0 : i0 + rows, k0 : k0 + depth], strips, spare, parts)
            # Each piece of a strip fetches its share of the next panel: lines of it, or rows of `b`.
            pieces = larger(1, -(-rows // EDGE))
            lines, ahead = (-(-parts * EDGE // pieces), 0) if ready else (0, -(-EDGE // pieces) if by_rows else 0)
            for place in range(wide):
                j = (place + thread * wide // (thread + 1)) % wide * EDGE
                panel, at = buffer, 0
                if ready:
                    panel, at = panels, (j // EDGE * tall + k0 // EDGE) * unit
                else:
                    pack_panel(b[k0 : k0 + depth, j : j + EDGE], buffer, 0, spare, parts)
                soon, line = k0, at + tall * unit
                for i in range(i0, i0 + rows, EDGE):
                    for h in range(0, larger(1, groups), some):  # of no depth the sums are zeros
                        begin(tiles)
                        for g in range(h, smaller(h + some, groups)):
                            fetch(panels, line, lines)
                            line += lines * 16
                            for r in range(soon, soon + ahead):
                                fetch(b, r * b_step + j + EDGE, 2)
                            soon += ahead
                            for r in range(i + 4 * g, smaller(i + 4 * g + 4, i + EDGE)):
                                fetch(c, r * c_step + j, 2)
                            add_up(tiles, strips, ((i - i0) // EDGE * groups + g) * unit, panel, at + g * unit, parts)
                            if done < EDGE and (g - h) % every == 0:
                                odd = finish(
                                    fresh, turn + done, c, i1 + done, j1, bias, active, relu, first, last, odd
                                )  # fmt: skip
                                done += TILE
                        while done < EDGE:
                            odd = finish(fresh, turn + done, c, i1 + done, j1, bias, active, relu, first, last, odd)
                            done += TILE
                        turn = EDGE - turn
                        end(tiles, view(fresh, turn * EDGE, 0))
                        i1, j1, done, first = i, j, 0, k0 == 0 and h == 0
                        last = k0 + depth >= whole and h + some >= groups
        while done < EDGE:
            odd = finish(fresh, turn + done, c, i1 + done, j1, bias, active, relu, first, last, odd)
            done += TILE
        if vsum(odd) != ZERO:
            i1 = i0 + rows
            in_float32(a[i0:i1], b, c[i0:i1], bias, active[i0:i1], relu, view(memory, SPARE + SUMS, 0))
    release(tiles)


@njit(**KERNEL)
def aligned(memory):
    """Scratch that begins at a cache line."""
    return view(memory, -memory.ctypes.data % 64 // 4, memory.size)


def make(unit: str) -> Any:
    """The product by a unit."""

    @njit(**KERNEL)
    def within(a, b, c, bias, active, relu, parts, strips, memory):
        """The product, in memory that it must not own: see gemm.py."""
        scratch = aligned(memory)
        tiles = tiles_of(unit, scratch, FIXED + strips)
        multiply(a, b, view(memory, 0, 0), 0, c, bias, active, relu, 0, parts, tiles, scratch)

    @njit(cache=True, nogil=True, error_model="numpy", no_cfunc_wrapper=True)
    def gemm(a, b, c, bias, active, relu, parts):
        """``c = a @ b``, plus `bias` (1, n), ReLU, and zero where `active` (m, n) is not positive; empty means none.

        Each of `a` and `b` is contiguous along its rows or its columns, the others along their rows. `parts` is 1 to 3.
        Returns False, having done nothing, where `c` shares memory with `a`, `b` or `bias`.
        """
        if not in_vectors.fit(a, b, c, bias):
            return False
        strips = smaller(2 * -(-a.shape[0] // EDGE), ROWS // EDGE) * PANEL
        within(a, b, c, bias, active, relu, parts, strips, np.empty(FIXED + strips + MEMORY + 16, np.float32))
        return True

    return gemm


PRODUCTS = {unit: make(unit) for unit in UNITS}


@cache
def ready(unit: str) -> Any:
    """Return the product by a unit, compiled for operands of any layout."""
    require(unit)
    matrix = types.Array(types.float32, 2, "A")
    return typed(PRODUCTS[unit], *[matrix] * 5, types.boolean, types.int64)
