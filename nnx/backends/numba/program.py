"""Compiler of a recorded training step for the CPU: `NumbaBackend.compile` lets one compiled function run the step.

nnx/backends/dataflow reads the recorded calls, `lowering.py` writes them as a table of integers, row by row or feature
by feature, and `runtime.py` runs it. The compiled function interprets the table (nnx/kernels/cpu/program/compiled.py).
It is the same for all networks, so no network costs compile time.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from nnx.backends.addresses import Array, address
from nnx.backends.dataflow import Reader, Step, fuse
from nnx.backends.errors import InputError, NotReplayable
from nnx.backends.numba.lowering import Layout, round_up
from nnx.backends.numba.lowering_lanes import NODES, Lanes
from nnx.backends.numba.lowering_rows import Rows
from nnx.backends.numba.runtime import NumbaProgram
from nnx.backends.numba.tuning import current
from nnx.backends.recorder import Call
from nnx.kernels.cpu.matmul import register_tile
from nnx.kernels.cpu.program.lanes_matmul import SAMPLES
from nnx.kernels.cpu.threads.pool import useful

__all__ = ["NumbaProgram", "compile", "compile_program"]

FLOATS = np.dtype("float32"), np.dtype("float64")
MORE_EMPTY = 1.15  # lanes are chosen if tiles are emptier than vectors of samples by this factor


def compile_program(
    backend: Any, calls: list[Call], family: str | None = None, threads: int | None = None, updates: bool = True
) -> NumbaProgram:
    """Return a recorded step as a program with `run(steps)`.

    Args:
        backend: its `threads()` says how many threads may work.
        calls: the recorded calls.
        family: "rows" or "lanes"; None: NNX_PROGRAM in the environment, otherwise chosen automatically.
        threads: the largest number of threads, whatever the size of the step; None: chosen automatically.
        updates: whether parameters are updated. Otherwise their gradients can be read after each step.

    Raises:
        NotReplayable: the step has an operation that the compiled function cannot do; the message says which.
    """
    step = Reader(calls).step
    fuse(step)
    arena, more = flat_buffer(step), more_of(step)
    if threads is None:
        threads = min(int(backend.threads() or 1), useful(step.work, current().choices.threads_from))
    family = family or wanted_family() or choose(step)
    if family == "lanes" and not {node.op for node in step.nodes} <= NODES:
        family = "rows"
    return NumbaProgram(step, layout_of(step, arena, more, threads, family, backend, updates), calls, backend.threads)


def layout_of(
    step: Step, arena: Array, more: Array | None, threads: int, family: str, backend: Any, updates: bool = True
) -> Layout:
    """Return the layout of the step's samples, with the kind of its products."""
    if family == "lanes":
        return Lanes(step, arena, more, threads, updates)
    parts = getattr(backend, "parts", 0)  # a backend with other operations has none
    if parts and arena.dtype == np.float32:
        from nnx.backends.numba.lowering_tiles import TileRows, on_tiles  # imports kernels that are only needed here

        if any(on_tiles(step, weights, backend.split_from) for weights in step.weights):
            return TileRows(step, arena, more, threads, backend, updates)
    return Rows(step, arena, more, threads, updates)


def wanted_family() -> str:
    """The value of NNX_PROGRAM: "rows", "lanes", or nothing."""
    family = os.environ.get("NNX_PROGRAM", "").strip().lower()
    if family not in ("", "rows", "lanes"):
        raise InputError(f"NNX_PROGRAM={family!r}: expected rows or lanes")
    return family


def choose(step: Step) -> str:
    """Which family is faster: lanes where layers are narrow, and more of tiles is empty than of vectors of samples.

    Of 14 networks and 4 to 512 samples on one thread of an Emerald Rapids, that costs 4% more on average than to know
    which is faster; half a vector more or less of samples changes it by 1%. A second thread helps rows more: with two
    and AVX2, 128 samples of 64-128-64-10, where tiles are 3% empty, take 88 us by rows, 104 in lanes. So MORE_EMPTY.
    """
    widest = max((a.size for a in [*step.weights, *(gradient.dw for gradient in step.gradients)]), default=0)
    narrow = widest <= current().choices.lanes_weights
    return "lanes" if narrow and padded(step) * step.rows > MORE_EMPTY * round_up(step.rows, SAMPLES) else "rows"


def padded(step: Step) -> float:
    """The multiply-adds that `run_rows` does, divided by those that the step needs: its products use whole tiles."""
    high, wide = register_tile.ROWS, register_tile.VECTORS * register_tile.WIDTH // np.dtype(step.dtype).itemsize
    counted = done = 0
    for gradient in step.gradients:
        k, n = gradient.dw.shape
        counted, done = counted + k * n, done + round_up(k, high) * round_up(n, wide)
    for node in step.nodes:
        if node.op in ("dense", "dense_dx") and node.weights is not None:
            k, n = node.weights.shape
            counted += k * n
            done += k * round_up(n, wide) if node.op == "dense" else n * round_up(k, wide)
    return done / max(counted, 1)


def flat_buffer(step: Step) -> Array:
    """The array that holds all parameters, gradients and moments."""
    assert step.optimizer is not None
    beyond = [address(a) for a in beyond_the_arena(step)]
    parts = [call.operands[name] for call in step.updates for name in ("p", "g", "m", "v") if name in call.operands]
    first = parts[0]
    owner = first if first.base is None else first.base
    read = [a for node in step.nodes for a in (node.weights, node.biases, node.table) if a is not None]
    parts += [a for a in read if (a if a.base is None else a.base) is owner]  # untrained layers' too
    parts += [call.operands["p"] for call in step.after]  # parameters whose mean is kept
    return spanned([a for a in parts if address(a) not in beyond])


def more_of(step: Step) -> Array | None:
    """The array that holds what some steps keep in addition, or None."""
    parts = beyond_the_arena(step)
    return spanned(parts) if parts else None


def beyond_the_arena(step: Step) -> list[Array]:
    """The arrays that an optimizer, or an operation around it, keeps for each parameter besides its moments."""
    assert step.optimizer is not None
    name = "m" if step.optimizer.name == "accumulate" else "u"
    parts = [call.operands[name] for call in step.updates if name in call.operands]
    parts += [call.operands["m"] for call in step.before if call.name == "collect"]
    return parts + [call.operands["a"] for call in step.after]


def spanned(parts: list[Array]) -> Array:
    """The part of an array from the first to the last of some views into it."""
    places = [address(a) for a in parts]
    begin, end = min(places), max(place + a.nbytes for place, a in zip(places, parts, strict=True))
    first = parts[places.index(begin)]
    owner = first if first.base is None else first.base
    mine = all((a if a.base is None else a.base) is owner and a.dtype == first.dtype for a in parts)
    if not (mine and isinstance(owner, np.ndarray) and owner.flags.c_contiguous and address(owner) <= begin):
        raise NotReplayable("parameters, gradients and moments are not views into one buffer")
    if address(owner) + owner.nbytes < end or first.dtype not in FLOATS:
        raise NotReplayable(f"the model's flat buffer is {first.dtype}, or shorter than its parts")
    skipped = begin - address(owner)  # bytes: the owner may be memory of another type
    return owner.reshape(-1).view(np.uint8)[skipped : skipped + end - begin].view(first.dtype)
