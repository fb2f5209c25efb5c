"""Interpreter `run_rows` with products on tile registers: the operations that use nnx/kernels/cpu/matmul/amx.py.

They correspond to DENSE, DENSE_DX, DENSE_DW, PANELS and PANELS_ACROSS of rows.py; all other operations are those of
rows.py. Panels hold parts in bfloat16, and are made again whenever the weights change. For each unit that multiplies
them (tile_units.py) it is a separate function, so that only what is used is compiled.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from typing import Any

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.clock import BACKWARD, FORWARD, GRADIENTS, PRODUCT, REPACKING, mark, mark_product, of_product
from nnx.kernels.cpu.jit.clock import UPDATE as UPDATING
from nnx.kernels.cpu.jit.simd import PART, smaller, view
from nnx.kernels.cpu.matmul.amx import SCRATCH as REGISTERS_AT
from nnx.kernels.cpu.matmul.amx import SPARE, THREAD, multiply
from nnx.kernels.cpu.matmul.amx_packing import pack_panels
from nnx.kernels.cpu.matmul.tile_registers import PART as WORDS
from nnx.kernels.cpu.matmul.tile_registers import tiles_of
from nnx.kernels.cpu.matmul.tile_units import EDGE, UNITS
from nnx.kernels.cpu.ops.sums import collect
from nnx.kernels.cpu.program import rows as by_vectors
from nnx.kernels.cpu.program.parameters import finish
from nnx.kernels.cpu.program.schedule import make_run
from nnx.kernels.cpu.program.table import (
    FINAL,
    KIND,
    OP,
    PARTS,
    R0,
    R1,
    SCRATCH,
    SCRATCH_SIZE,
    SPLIT_ACROSS,
    SPLIT_DENSE,
    SPLIT_DW,
    SPLIT_DX,
    SPLIT_PANELS,
    STRIPS,
    STRIPS_SIZE,
    UNSPLIT,
    UPDATE,
    WITH_RELU,
    B,
    D,
    G,
    K,
    N,
    W,
    X,
    Y,
    grid,
    part,
)
from nnx.kernels.rounding import RUN


@njit(**PART)
def tall(depth):
    """The number of pieces of 32 numbers in a depth."""
    return (depth + EDGE - 1) // EDGE


@njit(**PART)
def fill_split(memory, place, k, n, r0, rows, panels, across, parts, spare):
    """Copy rows r0 .. r0 + rows of a matrix [k, n] to split panels or, across, to columns of those of its transpose.

    r0 is a multiple of 32.
    """
    if across:
        source, at = grid(memory, place + r0 * n, n, rows, 1, n), r0 * tall(n) * parts * (WORDS // EDGE)
        pack_panels(source, part(memory, panels, 0), at, tall(n), spare, parts)
    else:
        source, at = grid(memory, place + r0 * n, rows, n, n, 1), r0 * parts * (WORDS // EDGE)
        pack_panels(source, part(memory, panels, 0), at, tall(k), spare, parts)


@njit(**PART)
def product(t, header, memory, hyper, numbers, r0, rows, thread, scratch, tiles, runs, clock):
    """The same as `product` of rows.py, with split panels. `runs` is where a thread computes its gradients."""
    op, k, n, high, parts = t[OP], t[K], t[N], t[R1] - t[R0], header[PARTS]
    size = high * n
    at = runs if t[UPDATE] and numbers[FINAL] == 0.0 else t[G] + t[R0] * n
    of_product(clock, FORWARD if op == SPLIT_DENSE else BACKWARD if op == SPLIT_DX else GRADIENTS)
    many = op == SPLIT_DW and rows > RUN
    for first in range(0, rows if many else 1, RUN):
        bias = active = grid(memory, 0, 0, 0, 1, 1)
        if op == SPLIT_DENSE:
            a, c = grid(memory, t[X] + r0 * k, rows, k, k, 1), grid(memory, t[Y] + r0 * n, rows, n, n, 1)
            b, bias = grid(memory, t[UNSPLIT], k, n, n, 1), grid(memory, t[B], 1, n, n, 1)
            panels, deep = t[W], k
        elif op == SPLIT_DX:
            a, c = grid(memory, t[D] + r0 * n, rows, n, n, 1), grid(memory, t[G] + r0 * k, rows, k, k, 1)
            b, panels, deep = grid(memory, t[UNSPLIT], n, k, 1, n), t[W], n
            if t[KIND] == WITH_RELU:
                active = grid(memory, t[X] + r0 * k, rows, k, k, 1)
        else:
            some = smaller(RUN, rows - first)
            a = grid(memory, t[X] + first * k + t[R0], high, some, 1, k)
            c = grid(memory, runs + size if many else at, high, n, n, 1)
            b, panels, deep = (
                grid(memory, t[UNSPLIT] + first * n, some, n, n, 1), t[D] + first * parts * (WORDS // EDGE), rows
            )  # fmt: skip
        relu = op == SPLIT_DENSE and t[KIND] == WITH_RELU
        multiply(a, b, part(memory, panels, 1), tall(deep), c, bias, active, relu, thread, parts, tiles, scratch)
        if many:
            collect(part(memory, at, size), part(memory, runs + size, size), first == 0)
    mark_product(clock, PRODUCT)
    if op == SPLIT_DW:
        spare = view(scratch, 0, SPARE)
        finish(t, header, memory, hyper, numbers, t[W] + t[R0] * n, at, size)
        mark(clock, UPDATING)
        if t[Y] >= 0:  # the new weights for the next step's products, while they are in the cache
            fill_split(memory, t[W], k, n, t[R0], high, t[Y], False, parts, spare)
        if t[B] >= 0:
            fill_split(memory, t[W], k, n, t[R0], high, t[B], True, parts, spare)
        mark(clock, REPACKING)


def make_operation(unit: str) -> Any:
    """Return the function that carries out one operation of the table, with split products by a unit."""

    @njit(inline="always")
    def operation(t, header, memory, labels, order, hyper, counters, numbers, r0, rows, thread, clock):
        """Carry out one operation of the table on samples r0 .. r0 + rows."""
        op = t[OP]
        if SPLIT_DENSE <= op <= SPLIT_ACROSS:
            scratch = part(memory, header[STRIPS] + thread * header[STRIPS_SIZE], THREAD)
            if op <= SPLIT_DW:
                runs = header[SCRATCH] + thread * header[SCRATCH_SIZE]
                tiles = tiles_of(unit, scratch, REGISTERS_AT)
                product(t, header, memory, hyper, numbers, r0, rows, thread, scratch, tiles, runs, clock)
            else:
                first, count = (t[R0], t[R1] - t[R0]) if t[R1] > 0 else (r0, rows)
                spare, across = view(scratch, 0, SPARE), op != SPLIT_PANELS
                fill_split(memory, t[X], t[K], t[N], first, count, t[Y], across, header[PARTS], spare)
        else:
            by_vectors.operation(t, header, memory, labels, order, hyper, counters, numbers, r0, rows, thread, clock)

    return operation


run_tiles = {unit: make_run(make_operation(unit)) for unit in UNITS}
