"""Compiled step: one function for each family of programs, which replays any recorded step many times in one call.

Operations that it cannot carry out itself are separate functions, whose addresses are in the table. The code that
writes the table gets the addresses from this module.

`run_rows` and `run_lanes` take:
    table: int64, flat: see table.py.
    work, arena, inputs, targets, weights, more: the arrays that places refer to, all of one type.
    labels, order: int64, read by LABELS and GATHER.
    hyper, counters, stats, penalties, history: flat arrays, described in step_state.py.
    numbers: float64: the results of begin_step, constants, the parts of penalties.
    sync: int64 [SYNC]. thread: 0 for the leader, other numbers for helpers. steps: the number of steps. For a table
        with STOPs it is 1, and then -1 in one more call for each stop. clocks: None, or those of all threads
        (clock.py).
"""

# mypy: allow-untyped-defs, allow-untyped-calls, no-check-untyped-defs

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from nnx.kernels.cpu.jit.cache import typed
from nnx.kernels.cpu.jit.called import address_of
from nnx.kernels.cpu.jit.span import Span
from nnx.kernels.cpu.matmul.tile_units import require
from nnx.kernels.cpu.ops.optimizers import UPDATES
from nnx.kernels.cpu.program.lanes import run_lanes
from nnx.kernels.cpu.program.rows import run_rows
from nnx.kernels.cpu.program.table import ARRAYS


def ready(dtype: Any, family: str, unit: str | None = None, clocked: bool = False) -> Any:
    """Return the function of a family, "rows" or "lanes", for one number type: compiled, or read from the disk.

    Args:
        unit: the unit of tile_units.py that multiplies large float32 matrices (rows_amx.py), or None.
        clocked: whether the function takes clocks (clock.py), for a profile.
    """
    run = {"rows": run_rows, "lanes": run_lanes}[family]
    if unit is not None:
        from nnx.kernels.cpu.program.rows_amx import run_tiles  # only needed here

        require(unit)
        run = run_tiles[unit]
    number = number_of(dtype)
    whole, f, i, d = types.int64, *(types.Array(kind, 1, "C") for kind in (number, types.int64, types.float64))
    signature = (i, f, f, f, f, f, f, i, i, d, i, d, d, d, d, i, whole, whole, i if clocked else types.none)
    return typed(run, *signature)


def number_of(dtype: Any) -> Any:
    """The number type that a step is compiled for."""
    return types.float32 if np.dtype(dtype).itemsize == 4 else types.float64


def operation_at(function: Any, dtype: Any) -> int:
    """Return the address of a function that carries out operations: see shared.py."""
    integers, floats = Span(types.int64), Span(types.float64)
    memory = types.UniTuple(Span(number_of(dtype)), ARRAYS)
    return address_of(function, integers, integers, memory, floats, integers, floats, *[types.int64] * 3)


def update_at(kind: int, dtype: Any) -> int:
    """Return the address of the function that updates parameters, given the optimizer's number."""
    return address_of(UPDATES[kind], *[Span(number_of(dtype))] * 5, Span(types.float64), *[types.float64] * 4)
