"""Runtime of a compiled step: its arrays, and the threads that run it."""

from __future__ import annotations

import ctypes
import os
import threading
from queue import SimpleQueue
from typing import Any

import numpy as np

from nnx.backends.dataflow import Array, Step
from nnx.backends.numba import listing
from nnx.backends.numba.lowering import Layout
from nnx.backends.recorder import Call
from nnx.kernels.cpu.program import table as t
from nnx.kernels.cpu.program.compiled import ready
from nnx.kernels.cpu.threads import affinity

WORTH_HELP = 200e-6  # seconds of work in a call below which waking a helper costs more than it does
WAYS = {"rows": "by rows", "lanes": "in vector lanes"}  # how samples lie
SPEED = 50e9  # FLOP a second of one thread, roughly


class NumbaProgram:
    """A recorded training step that runs inside one compiled function.

    After `run`, what Python reads is up to date: parameters, gradients, moments, counters, stats, penalties, history.
    The layers' own buffers (`output`, `dinputs`) are not: the numbers are kept elsewhere.

    Attributes:
        family: "rows" or "lanes". threads: how many may work on it. running: whether helpers are wanted.
        description, kernels: see `Program`. table: what the compiled function interprets.
    """

    native = True
    reason = None

    def __init__(self, step: Step, layout: Layout, calls: list[Call], limit: Any) -> None:
        assert step.optimizer is not None
        assert step.end is not None
        self.calls = calls  # keeps all buffers alive
        self.family, self.threads, self._limit = type(layout).__name__.lower(), layout.threads, limit
        nothing, dtype = np.zeros(1, np.int64), layout.arena.dtype
        inputs = [plain(a) for a in layout.inputs] + [np.zeros(1, dtype)] * (2 - len(layout.inputs))
        end, optimizer = step.end.operands, step.optimizer.operands
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        self.description = f"one compiled function, samples {WAYS[self.family]}, {threads}"
        self.kernels, self.table = listing.kernels_of(step, self.family), layout.table
        self._kinds = listing.kinds_of(step)
        self.numbers, self.sync = np.array(layout.numbers), aligned(t.SYNC, np.dtype(np.int64))
        self.work = aligned(layout.work, dtype)
        self._function = ready(dtype, self.family)
        self._arguments = (
            self.table.reshape(-1), self.work, plain(layout.arena), *inputs,
            nothing if step.labels is None else plain(step.labels), nothing if step.order is None else
            plain(step.order),
            *(plain(a) for a in (optimizer["hyper"], end["counters"], end["stats"], end["penalties"], end["history"])),
            self.numbers, self.sync,
        )  # fmt: skip
        self.running = False
        self.seconds = 2 * step.work / SPEED + 5e-6  # of a step, roughly

    def listing(self) -> str:
        """Return the table in words: see listing.py."""
        return listing.listing(self.table, self._kinds)

    def run(self, steps: int) -> None:
        """Run `steps` steps."""
        try:
            if self.threads > 1 and steps * self.seconds > WORTH_HELP:
                wanted = min(self.threads, int(self._limit() or 1)) - 1
                self.running = wanted > 0
                helpers.ask(self, wanted)
            self._function(*self._arguments, 0, steps)
        finally:
            self.running = False

    def help(self, number: int) -> None:
        """Work on it beside the thread that runs it, until that has ended."""
        self._function(*self._arguments, number, 0)


class Helper:
    """A thread that helps with steps. It sleeps in between.

    Attributes:
        program: which it works on; it leaves by itself soon after the program's last step.
        native_id: of the thread; 0: none could be started, and nobody helps.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.program: NumbaProgram | None = None
        self.queue: SimpleQueue[NumbaProgram] = SimpleQueue()
        self.native_id = affinity.start(self._serve, name=f"nnx-step-{number}")

    def ask(self, program: NumbaProgram) -> None:
        """Help with this program. If it is still there from the last call it stays."""
        if self.program is not program:
            self.program = program
            self.queue.put(program)

    def _serve(self) -> None:
        while True:
            program = self.queue.get()
            program.help(self.number)
            while program.running and self.program is program:  # it left just as the next call began
                program.help(self.number)
            if self.program is program:
                self.program = None
            del program


class Helpers:
    """The helpers of this process, started when first needed."""

    def __init__(self) -> None:
        self.all: list[Helper] = []
        self.lock = threading.RLock()  # a signal's handler may run a program while it is held

    def ask(self, program: NumbaProgram, count: int) -> None:
        """Send so many to a program, or those that there are."""
        if count < 1:
            return
        with self.lock:
            while len(self.all) < count and (helper := Helper(len(self.all) + 1)).native_id:
                self.all.append(helper)
        found = self.all[:count]
        affinity.keep_off_mine([helper.native_id for helper in found])
        for helper in found:
            helper.ask(program)


helpers = Helpers()


def _after_fork() -> None:
    """A forked process has none of its parent's threads."""
    global helpers
    helpers = Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def plain(a: Array) -> Array:
    """The numbers of a contiguous array as a flat one that compiled code takes without another variant of itself.

    A read-only array (a user's data set, say) would be another type; nothing writes to it all the same.
    """
    flat = a.reshape(-1)
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
