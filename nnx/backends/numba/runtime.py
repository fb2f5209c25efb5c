"""Runtime of a compiled step: its arrays, and how it is run; threads come from nnx/kernels/cpu/threads/pool.py."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from copy import copy
from functools import cache
from threading import get_ident
from typing import Any
from weakref import proxy

import numpy as np

from nnx.backends.addresses import Array, same
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

function_of = cache(ready)  # to look for it takes 30 us
WAYS = {"rows": "by rows", "lanes": "in vector lanes"}  # how samples lie
GO_ON = -1  # in place of how many steps: see compiled.py
AROUND = 2  # times as long as its products a step takes, roughly, with losses and optimizer


class NumbaProgram:
    """A recorded training step that runs inside one compiled function.

    After `run`, what Python reads is up to date: parameters, gradients, moments, counters, stats, penalties, history.
    The layers' own buffers (`output`, `dinputs`) are not: the numbers are kept elsewhere. A step with stops is run by
    its pieces, each up to the next stop; what is pooled there stands where the recorded step had it.

    Attributes:
        family: "rows" or "lanes". threads: how many may work on it. running: whether helpers are wanted.
        description, kernels: see `Program`. table: what the compiled function interprets.
    """

    native = True
    reason = None

    def __init__(self, step: Step, layout: Layout, calls: list[Call], limit: Any) -> None:
        assert step.optimizer is not None
        assert step.end is not None
        self.calls = calls
        self.family, self.threads, self._limit = layout.family, layout.threads, limit
        dtype, end, optimizer = layout.arena.dtype, step.end.operands, step.optimizer.operands
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        self.description = f"one compiled function, samples {WAYS[self.family]}, {layout.products}{threads}"
        self.kernels, self.table = listing.kernels_of(step, self.family, layout.product), layout.table
        self._formulas = layout.formulas  # kept while the table holds their addresses
        self._kinds = listing.kinds_of(step) | {code.address: name for code, name in layout.formulas.items()}
        self._dtype, self._unit = dtype, layout.unit
        self._function = function_of(dtype, self.family, unit=self._unit)
        self._room, self._constants = layout.work, np.array(layout.numbers)
        state = optimizer["hyper"], end["counters"], end["stats"], end["penalties"], end["history"]
        self._arena, self._more, self._state = layout.arena, layout.more, state
        nowhere = [None] * (len(GIVEN) - len(layout.inputs))
        self._take((*layout.inputs, *nowhere, step.labels, step.order))
        self.running = False
        self._pooled = [[(self.numbers[at : at + a.size], a.reshape(-1)) for at, a in stop] for stop in layout.stops]
        self.clocks: Array | None = None
        choices = current().choices
        self.seconds = 1e-9 * AROUND * step.work * choices.prediction.weight_among * dtype.itemsize / 4  # of a step
        self._worth = 1e-6 * choices.share_us  # of a call: below, to wake a helper takes longer than it saves

    def _take(self, data: Sequence[Array | None]) -> None:
        """Take data: arrays in the order of GIVEN, labels, the order of rows; None where there is none. And memory."""
        self._data = data  # keeps it alive, as `plain` may not
        self.numbers, self.sync = self._constants.copy(), aligned(t.SYNC, np.dtype(np.int64))
        self.work = aligned(self._room, self._dtype)
        floats, whole = np.zeros(1, self._dtype), np.zeros(1, np.int64)
        more = floats if self._more is None else plain(self._more)
        *given, labels, order = data
        self._arguments = (
            self.table.reshape(-1), self.work, plain(self._arena), *(floats if a is None else plain(a) for a in given),
            more, *(whole if a is None else plain(a) for a in (labels, order)), *map(plain, self._state),
            self.numbers, self.sync,
        )  # fmt: skip

    def template(self, arrays: Sequence[Array]) -> Template | None:
        """See `Program`."""
        places = [None if a is None else number_in(arrays, a) for a in self._data]
        return None if self._pooled or -1 in places else Template(self, places)

    @property
    def pieces(self) -> list[NumbaProgram | GoesOn]:
        """This, and what goes on behind each stop."""
        return [self, *(GoesOn(self, stop) for stop in range(len(self._pooled)))]

    def watch(self) -> Array:
        """From now on count what each phase takes; return int64 [threads, ROOM] of cycles: see clock.py."""
        self.clocks = aligned(self.threads * ROOM, np.dtype(np.int64))
        self._function = function_of(self.work.dtype, self.family, unit=self._unit, clocked=True)
        return self.clocks.reshape(self.threads, ROOM)

    def listing(self) -> str:
        """Return the table in words: see listing.py."""
        return listing.listing(self.table, self._kinds)

    def run(self, steps: int) -> None:
        """Run `steps` steps; of one with stops 1, up to the first."""
        self._call(steps)
        if self._pooled:
            self._tell(0)

    def go_on(self, stop: int) -> None:
        """Go on behind a stop, to the next one or the end of the step."""
        for mine, array in self._pooled[stop]:
            mine[...] = array
        self._call(GO_ON)
        self._tell(stop + 1)

    def _tell(self, stop: int) -> None:
        """Put what is pooled at a stop where others find it."""
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
        """Work on it beside the thread that runs it, until that has ended."""
        self._function(*self._arguments, number, 0, self.clocks)


class GoesOn:
    """What comes behind a stop of a program, as one of its pieces."""

    def __init__(self, program: NumbaProgram, stop: int) -> None:
        self._program, self._stop = proxy(program), stop

    def run(self, steps: int) -> None:
        """Go on with the one step that has begun."""
        self._program.go_on(self._stop)


class Template:
    """What is left of a program without its data and its memory: programs on other data are made of it.

    Args:
        places: of each of a program's data, which of the arrays it is that the program was recorded on.
    """

    def __init__(self, program: NumbaProgram, places: Sequence[int | None]) -> None:
        self._program, self._places = copy(program), places
        for name in ("calls", "numbers", "sync", "work", "_data", "_arguments"):
            delattr(self._program, name)

    def on(self, arrays: Sequence[Array]) -> NumbaProgram:
        """Return the program on other arrays, which are alike: see `form`."""
        program = copy(self._program)
        program.calls = []
        program._take([None if place is None else arrays[place] for place in self._places])
        return program


def number_in(arrays: Sequence[Array], a: Array) -> int:
    """Return which of the arrays it is; -1: none."""
    return next((number for number, array in enumerate(arrays) if same(array, a)), -1)


def plain(a: Array) -> Array:
    """The numbers of a contiguous array as a flat one that compiled code takes without another variant of itself.

    A read-only array (a user's data set, say) would be another type; nothing writes to it all the same.
    """
    flat = a if a.ndim == 1 else a.reshape(-1)
    if flat.flags.writeable:
        return flat
    kind: Any = {"float32": ctypes.c_float, "float64": ctypes.c_double, "int64": ctypes.c_int64}[a.dtype.name]
    view = (kind * flat.size).from_address(flat.__array_interface__["data"][0])
    return np.frombuffer(view, a.dtype)


def aligned(count: int, dtype: np.dtype[Any]) -> Array:
    """Zeros that begin at a multiple of 64 bytes."""
    raw = np.zeros(count * dtype.itemsize + 64, np.uint8)
    first = -raw.__array_interface__["data"][0] % 64
    return raw[first : first + count * dtype.itemsize].view(dtype)
