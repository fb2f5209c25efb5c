"""Inference on the CPU, for a few rows: a forward pass in one compiled function, for `NumbaBackend.compile_forward`."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack, unpack
from typing import Any

import numpy as np

from nnx.backends.dataflow import Array, address
from nnx.backends.inference import Forward, Stage
from nnx.backends.numba.tuning import current
from nnx.backends.recorder import Program
from nnx.kernels.cpu.jit.simd import WIDTH
from nnx.kernels.cpu.ops.elementwise import NONE
from nnx.kernels.cpu.program import inference as f
from nnx.kernels.elementwise import number_of

FEW = 4  # rows: a product of two to four takes BLAS as long as eight of them
WEIGHTS = 1 << 22  # of a network that comes from memory for each row, where two threads read faster than one


def compile_forward(stages: Sequence[Stage], parameters: Array) -> Forward | None:
    """Return a function that predicts a few rows, or None for a network that is better run stage by stage.

    Args:
        stages: what the network does. parameters: the flat buffer that all weights and biases are views of.
    """
    table = table_of(stages, parameters)
    if table is None:
        return None
    kernel, dtype, width = f.ready(parameters.dtype), parameters.dtype, int(table[-f.COLUMNS + f.N])
    place = address(table)
    ndarray, empty = np.ndarray, np.empty  # each name looked up elsewhere would take 20 ns

    def forward(x: np.ndarray) -> np.ndarray | None:
        if type(x) is ndarray:  # a masked array would lose its mask
            try:
                out = empty((len(x), width), dtype)
                if kernel(x, out, place):
                    return out
            except TypeError:  # it has no rows, or is not as the kernel takes it: of another type, not contiguous
                pass
        return None

    most = f"{table[f.ROWS]} row{'s' if table[f.ROWS] > 1 else ''}"
    forward.description = f"one compiled function up to {most}, beyond that {Program.description}"  # type: ignore[attr-defined]
    forward.alive = table, parameters  # type: ignore[attr-defined]  # of which compiled code has the addresses alone
    return forward


def table_of(stages: Sequence[Stage], parameters: Array) -> Array | None:
    """Write the stages as the kernel's table; None if they do not lie as it expects, or are too large for it."""
    first = next((stage.weights for stage in stages if stage.weights is not None), None)
    if first is None or parameters.dtype.name not in ("float32", "float64"):
        return None
    rows, width, weights = [], first.shape[0], 0
    for stage in stages:
        places = [f.NOWHERE, f.NOWHERE]
        inputs = width
        if stage.weights is not None:
            width, weights = stage.weights.shape[1], weights + stage.weights.size
            found = [place(a, parameters) for a in (stage.weights, stage.biases)]
            if None in found:
                return None
            places = [at for at in found if at is not None]
        rows.append([inputs, width, *places, kind_of(stage.activation), as_integer(stage.parameter)])
    if weights > WEIGHTS or max(max(row[:2]) for row in rows) > f.STACK:
        return None
    header = [len(rows), most_rows(weights), weights, address(parameters)]
    return np.array([*header, *(number for row in rows for number in row)], np.int64)


def most_rows(weights: int) -> int:
    """How many rows a compiled prediction takes: beyond that they are quicker all together, stage by stage."""
    choices = current().choices
    return max(FEW, int(choices.stages_us / (choices.row_us + weights * choices.weight_us)))


def as_integer(number: float) -> int:
    """The bits of a float64 as int64, as the table holds them."""
    bits: int = unpack("=q", pack("=d", number))[0]
    return bits


def kind_of(activation: str | None) -> int:
    """What the kernel knows an activation by."""
    if activation is None:
        return NONE
    return f.SOFTMAX if activation == "softmax" else number_of(activation)


def place(a: Any, parameters: Array) -> int | None:
    """Where a matrix begins in the flat buffer, if it lies there, and with it what follows its last row in vectors."""
    start = (address(a) - address(parameters)) // parameters.itemsize
    fits = start >= 0 and start + a.size + -a.shape[1] % WIDTH <= parameters.size
    return start if fits and a.dtype == parameters.dtype and a.flags.c_contiguous else None
