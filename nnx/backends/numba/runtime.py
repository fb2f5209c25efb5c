"""Runtime of a compiled step: its arrays, and how it is run; threads come from nnx/kernels/cpu/threads/pool.py."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from threading import get_ident
from typing import Any, NamedTuple
from weakref import proxy

import numpy as np

from nnx.backends.addresses import Array, address, same
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
FIRST = 7  # index of the first of a program's arrays that holds data
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
        self._room, self._constants, self._products = layout.work, np.array(layout.numbers), step.work
        nowhere = [None] * (len(GIVEN) - len(layout.inputs))
        state = optimizer["hyper"], end["counters"], end["stats"], end["penalties"], end["history"]
        self.running = False
        self.clocks: Array | None = None
        self._take([layout.arena, layout.more, *state, *layout.inputs, *nowhere, step.labels, step.order])
        self._pooled = [[(self.numbers[at : at + a.size], a.reshape(-1)) for at, a in stop] for stop in layout.stops]

    def _take(self, arrays: Sequence[Array | None]) -> None:
        """Take the arrays of a model and its data, None where there is none, and memory to work in.

        Args:
            arrays: the arena, and what is kept beside it; the optimizer's numbers, counters, stats, penalties, history;
                and from FIRST on data: what is given from outside, labels, and the order of rows.
        """
        self._arrays = arrays  # keeps them alive, as `plain` may not
        self.numbers, self.sync = self._constants.copy(), aligned(t.SYNC, np.dtype(np.int64))
        self.work = aligned(self._room, self._dtype)
        floats, whole = np.zeros(1, self._dtype), np.zeros(1, np.int64)
        arena, more, *state = arrays[:FIRST]
        *given, labels, order = arrays[FIRST:]
        self._arguments = (
            self.table.reshape(-1), self.work, plain(arena), *(floats if a is None else plain(a) for a in given),
            floats if more is None else plain(more), *(whole if a is None else plain(a) for a in (labels, order)),
            *map(plain, state), self.numbers, self.sync,
        )  # fmt: skip
        choices = current().choices
        among = choices.prediction.weight_among * self._dtype.itemsize / 4
        self.seconds = 1e-9 * AROUND * self._products * among  # of a step
        self._worth = 1e-6 * choices.share_us  # a call must take so long that waking a helper pays

    def template(self, arrays: Sequence[Array]) -> Template | None:
        """See `Program`."""
        return self._template(self._arrays[:FIRST], [place_in(arrays, a) for a in self._arrays[FIRST:]])

    def whole_template(self, arrays: Sequence[Array]) -> Template | None:
        """Return what makes this program anew for another model, too, or None.

        Args:
            arrays: all operands of what was recorded.
        """
        return self._template([], [place_in(arrays, a) or place_within(arrays, a) for a in self._arrays])

    def _template(self, stay: Sequence[Array | None], places: Sequence[Place | None]) -> Template | None:
        there = [*stay, *places]
        lost = any(a is not None and place is None for a, place in zip(self._arrays, there, strict=True))
        return None if self._pooled or lost else Template(self, there)

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


class Place(NamedTuple):
    """Which of some arrays it is; or so many bytes of the memory that it is in, `first` behind where it begins."""

    number: int
    first: int = 0
    bytes: int | None = None

    def of(self, arrays: Sequence[Array], dtype: np.dtype[Any]) -> Array:
        """Return the array; if it is of bytes, as numbers of a type."""
        a = arrays[self.number]
        if self.bytes is None:
            return a
        memory = memory_of(a)
        first = address(a) - address(memory) + self.first
        return memory.reshape(-1).view(np.uint8)[first : first + self.bytes].view(dtype)


class Template:
    """What is left of a program without its arrays and the memory that it works in: others are made of it.

    Args:
        arrays: those that stay, None where there is none, and the places of those that don't.
    """

    def __init__(self, program: NumbaProgram, arrays: Sequence[Array | Place | None]) -> None:
        self._arrays, self._kept = arrays, {**vars(program), "calls": []}
        for name in ("numbers", "sync", "work", "_arrays", "_arguments", "_limit"):
            del self._kept[name]

    def on(self, arrays: Sequence[Array], limit: Any) -> NumbaProgram:
        """Return the program on other arrays, which are of the same form; `limit` as for `NumbaProgram`."""
        program = NumbaProgram.__new__(NumbaProgram)
        program.__dict__.update(self._kept, _limit=limit)
        program._take([a.of(arrays, program._dtype) if type(a) is Place else a for a in self._arrays])
        return program


def place_in(arrays: Sequence[Array], a: Array | None) -> Place | None:
    """Return which of the arrays it is; None: none of them."""
    return next((Place(number) for number, array in enumerate(arrays) if same(a, array)), None)


def place_within(arrays: Sequence[Array], a: Array | None) -> Place | None:
    """Return where it is in memory that one of the arrays lies in; None: in none of them."""
    if a is not None:
        for number, array in enumerate(arrays):
            if memory_of(array) is memory_of(a):
                return Place(number, address(a) - address(array), a.nbytes)
    return None


def memory_of(a: Array) -> Array:
    """Return the array that a view looks into; of any other itself."""
    return a if a.base is None else a.base


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
