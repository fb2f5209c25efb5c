"""Runtime of a compiled step: its arrays, and how it is run; threads come from nnx/kernels/cpu/threads/pool.py."""

from __future__ import annotations

import ctypes
from functools import cache
from threading import get_ident
from typing import Any
from weakref import proxy

import numpy as np

from nnx.backends.addresses import Array
from nnx.backends.dataflow import Step
from nnx.backends.numba import listing
from nnx.backends.numba.lowering import GIVEN, Layout
from nnx.backends.numba.tuning import current
from nnx.backends.recorder import Call
from nnx.backends.threads import busy
from nnx.kernels.cpu.jit.clock import ROOM
from nnx.kernels.cpu.program import table as t
from nnx.kernels.cpu.program.compiled import ready
from nnx.kernels.cpu.threads import pool

function_of = cache(ready)  # looking it up takes 30 us
WAYS = {"rows": "by rows", "lanes": "in vector lanes"}  # how samples are arranged
GO_ON = -1  # in the place of the number of steps: continue after a stop, see compiled.py
AROUND = 2  # a step with losses and optimizer takes roughly so many times as long as its products


class NumbaProgram:
    """A recorded training step that runs inside one compiled function.

    After `run`, everything that Python reads is up to date: parameters, gradients, moments, counters, stats, penalties,
    history. The layers' own buffers (`output`, `dinputs`) are not, since the numbers are kept elsewhere. A step with
    stops is run by its pieces, each up to the next stop; arrays to be pooled are then where the recorded step had them.

    Attributes:
        family: "rows" or "lanes". threads: how many may work on it. running: whether helping threads are wanted.
        description, kernels: see `Program`. table: what the compiled function interprets.
    """

    native = True
    reason = None

    def __init__(self, step: Step, layout: Layout, calls: list[Call], limit: Any) -> None:
        assert step.optimizer is not None
        assert step.end is not None
        self.calls = calls  # keeps all buffers alive
        self.family, self.threads, self._limit = layout.family, layout.threads, limit
        nothing, dtype = np.zeros(1, np.int64), layout.arena.dtype
        inputs = [plain(a) for a in layout.inputs] + [np.zeros(1, dtype)] * (len(GIVEN) - len(layout.inputs))
        end, optimizer = step.end.operands, step.optimizer.operands
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        self.description = f"one compiled function, samples {WAYS[self.family]}, {layout.products}{threads}"
        self.kernels, self.table = listing.kernels_of(step, self.family, layout.product), layout.table
        self._formulas = layout.formulas  # kept while the table holds their addresses
        self._kinds = listing.kinds_of(step) | {code.address: name for code, name in layout.formulas.items()}
        self.numbers, self.sync = np.array(layout.numbers), aligned(t.SYNC, np.dtype(np.int64))
        self.work = aligned(layout.work, dtype)
        self._unit = layout.unit
        self._function = function_of(dtype, self.family, unit=self._unit)
        self._arguments = (
            self.table.reshape(-1), self.work, plain(layout.arena), *inputs,
            np.zeros(1, dtype) if layout.more is None else plain(layout.more),
            nothing if step.labels is None else plain(step.labels), nothing if step.order is None else
            plain(step.order),
            *(plain(a) for a in (optimizer["hyper"], end["counters"], end["stats"], end["penalties"], end["history"])),
            self.numbers, self.sync,
        )  # fmt: skip
        self.running = False
        self._pooled = [[(self.numbers[at : at + a.size], a.reshape(-1)) for at, a in stop] for stop in layout.stops]
        self.clocks: Array | None = None
        choices = current().choices
        self.seconds = 1e-9 * AROUND * step.work * choices.prediction.weight_among * dtype.itemsize / 4  # of a step
        self._worth = 1e-6 * choices.share_us  # a call must take so long that waking a helper pays

    @property
    def pieces(self) -> list[NumbaProgram | GoesOn]:
        """This program, which runs up to the first stop, and the pieces after each stop."""
        return [self, *(GoesOn(self, stop) for stop in range(len(self._pooled)))]

    def watch(self) -> Array:
        """Measure each phase from now on; return an array int64 [threads, ROOM] of cycles: see clock.py."""
        self.clocks = aligned(self.threads * ROOM, np.dtype(np.int64))
        self._function = function_of(self.work.dtype, self.family, unit=self._unit, clocked=True)
        return self.clocks.reshape(self.threads, ROOM)

    def listing(self) -> str:
        """Return the table in words: see listing.py."""
        return listing.listing(self.table, self._kinds)

    def run(self, steps: int) -> None:
        """Run `steps` steps; a program with stops runs 1 step up to the first stop."""
        self._call(steps)
        if self._pooled:
            self._tell(0)

    def go_on(self, stop: int) -> None:
        """Continue after a stop, to the next one or the end of the step."""
        for mine, array in self._pooled[stop]:
            mine[...] = array
        self._call(GO_ON)
        self._tell(stop + 1)

    def _tell(self, stop: int) -> None:
        """Copy the arrays to be pooled at a stop to where the recorded step had them."""
        for mine, array in self._pooled[stop] if stop < len(self._pooled) else ():
            array[...] = mine

    def _call(self, steps: int) -> None:
        mine = get_ident()
        claimed = mine in busy
        try:
            if self.threads > 1 and abs(steps) * self.seconds >= self._worth:
                wanted = min(self.threads, int(self._limit() or 1) - len(busy) + claimed) - 1
                self.running = wanted > 0
                pool.helpers.assist(self, wanted)
            busy.add(mine)
            self._function(*self._arguments, 0, steps, self.clocks)
        finally:
            self.running = False
            if not claimed:
                busy.discard(mine)

    def help(self, number: int) -> None:
        """Help the thread that runs the program, until its call ends."""
        self._function(*self._arguments, number, 0, self.clocks)


class GoesOn:
    """The piece of a program after a stop."""

    def __init__(self, program: NumbaProgram, stop: int) -> None:
        self._program, self._stop = proxy(program), stop

    def run(self, steps: int) -> None:
        """Continue the one step that has begun."""
        self._program.go_on(self._stop)


def plain(a: Array) -> Array:
    """Return a contiguous array as a flat one, and as writable, so that compiled code needs no second variant.

    A read-only array, such as a user's data set, would be another type to Numba; nothing writes to it nevertheless.
    """
    flat = a if a.ndim == 1 else a.reshape(-1)
    if flat.flags.writeable:
        return flat
    kind: Any = {"float32": ctypes.c_float, "float64": ctypes.c_double, "int64": ctypes.c_int64}[a.dtype.name]
    view = (kind * flat.size).from_address(flat.__array_interface__["data"][0])
    return np.frombuffer(view, a.dtype)


def aligned(count: int, dtype: np.dtype[Any]) -> Array:
    """Return zeros that begin at a multiple of 64 bytes."""
    raw = np.zeros(count * dtype.itemsize + 64, np.uint8)
    first = -raw.__array_interface__["data"][0] % 64
    return raw[first : first + count * dtype.itemsize].view(dtype)
