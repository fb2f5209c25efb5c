"""Work scheduler of the compiled training step: its blocks and tasks, drawn by one or several threads.

Several threads may call `run_rows` or `run_lanes` at once with the same arguments but for `thread`: number 0 leads, the
others help. A region's blocks or tasks are drawn from one ticket, an atomic int64 that holds (phase, region, next
index); the leader waits for what was drawn, never for a helper that is late, so a helper that the operating system has
put aside costs nothing unless it holds a task. A region costs about 0.2 us (a parallel region of Numba's: 1.1 us by
OpenMP, 69 by its own work queue), and nothing is compiled twice.

Sums are made in an order that does not depend on who made the parts.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from typing import Any

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.clock import DISPATCH, LOSS, PANELS, SAMPLES, STEP, UPDATE, WAITING, mark, started
from nnx.kernels.cpu.jit.simd import OPTIONS, PART, flat, smaller, view
from nnx.kernels.cpu.program.parameters import begin_step, end_step
from nnx.kernels.cpu.program.table import (
    AT_REGION,
    BEGUN,
    BIAS,
    BLOCK,
    COLUMNS,
    COUNT,
    CROSS_ENTROPY,
    CROSS_ENTROPY_SOFT,
    DENSE_DW,
    DONE,
    EXPECTED,
    FINAL,
    FIRST,
    LANES_CROSS_ENTROPY,
    LANES_DB,
    LANES_DW,
    LAST,
    MOST_REGIONS,
    ONCE,
    OP,
    OPTIMIZER,
    PHASE,
    REGIONS,
    ROWS,
    SCATTER,
    SPLIT_ACROSS,
    SPLIT_PANELS,
    STEPS_LEFT,
    STOP,
    TASKS,
    TASKS_ONCE,
    TICKET,
)
from nnx.kernels.cpu.program.table import PANELS as PACKED
from nnx.kernels.cpu.program.table import PANELS_ACROSS as PACKED_ACROSS
from nnx.kernels.cpu.threads.atomics import (
    PATIENCE,
    atomic_load,
    atomic_store,
    finish_one,
    pause,
    replace_if,
    yield_core,
)

LINGER = 20  # times that a helper lets others go first before it leaves: the next call often comes at once
INDEX, REGION_BITS = (1 << 24) - 1, 24
PHASE_BITS, PHASES = 32, (1 << 31) - 1


@njit(**PART)
def draw(table, sync):
    """Take the next block or task of the region at hand: the ticket, or 0 if there is none (regions count from 1)."""
    while True:
        ticket = atomic_load(sync, TICKET)
        region = (ticket >> REGION_BITS) & MOST_REGIONS
        if region == 0 or (ticket & INDEX) >= table[region * COLUMNS + COUNT]:
            return 0
        if replace_if(sync, TICKET, ticket, ticket + 1):
            return ticket


@njit(**PART)
def region_of(ticket):
    """The region that a ticket belongs to."""
    return (ticket >> REGION_BITS) & MOST_REGIONS


@njit(**PART)
def open_region(table, sync, region):
    """Let blocks or tasks of a region be drawn; 0 means that there is nothing to do. The leader does this."""
    phase = (atomic_load(sync, PHASE) + 1) & PHASES
    atomic_store(sync, PHASE, phase)
    if region > 0:
        sync[EXPECTED] += table[region * COLUMNS + COUNT]
    atomic_store(sync, TICKET, (phase << PHASE_BITS) | (region << REGION_BITS))


@njit(**PART)
def begin_call(header, table, sync, thread, steps):
    """Set out for `steps` steps: the first region to open is that after the last one of a step that never was.

    Nothing is left to draw: a process that was forked off in the middle of a call has its ticket, and none of those who
    would have done the rest. With -1 steps, the one that the last call stopped in goes on.
    """
    if thread == 0:
        open_region(table, sync, 0)
        atomic_store(sync, DONE, 0)
        sync[EXPECTED] = 0
        if steps >= 0:
            sync[AT_REGION], sync[STEPS_LEFT], sync[BEGUN] = header[REGIONS], steps, 0


@njit(**PART)
def advance(header, table, memory, hyper, counters, stats, penalties, history, numbers, sync):
    """Open the next region, of the next step if need be; tell whether there is one before the call ends.

    All that was drawn is done.
    """
    region = sync[AT_REGION] + 1
    if region > header[REGIONS]:
        if sync[BEGUN]:
            end_step(header, memory, counters, stats, penalties, history, numbers)
            sync[STEPS_LEFT] -= 1
        if sync[STEPS_LEFT] <= 0:
            open_region(table, sync, 0)
            return False
        begin_step(header[OPTIMIZER], hyper, counters, numbers)
        numbers[FINAL] = 1.0 if sync[STEPS_LEFT] == 1 else 0.0
        region = 1
        while sync[BEGUN] and (table[region * COLUMNS + OP] == ONCE or table[region * COLUMNS + OP] == TASKS_ONCE):
            region += 1
        sync[BEGUN] = 1
    sync[AT_REGION] = region
    if table[region * COLUMNS + OP] == STOP:
        open_region(table, sync, 0)
        return False
    open_region(table, sync, region)
    return True


@njit(**PART)
def next_ticket(header, table, memory, hyper, counters, stats, penalties, history, numbers, sync, thread, clock):
    """Wait for the next block or task, and take it; 0 at the end. The leader moves the step on meanwhile."""
    looks = rests = 0
    while True:
        ticket = draw(table, sync)
        if ticket != 0:
            mark(clock, DISPATCH)
            return ticket
        mark(clock, WAITING)
        if thread == 0 and atomic_load(sync, DONE) == sync[EXPECTED]:
            if not advance(header, table, memory, hyper, counters, stats, penalties, history, numbers, sync):
                return 0
            mark(clock, STEP)
            continue
        looks += 1
        pause()
        if looks > PATIENCE:
            looks = 0
            yield_core()
            if thread > 0 and region_of(atomic_load(sync, TICKET)) == 0:
                rests += 1
                if rests > LINGER:
                    return 0


@njit(**PART)
def extent(header, table, ticket):
    """What a ticket stands for: (first operation, the one after the last, first sample, samples)."""
    place, index = view(table, region_of(ticket) * COLUMNS, COLUMNS), ticket & INDEX
    if place[OP] >= TASKS:
        return place[FIRST] + index, place[FIRST] + index + 1, 0, header[ROWS]
    r0 = index * place[BLOCK]
    return place[FIRST], place[LAST], r0, smaller(place[BLOCK], header[ROWS] - r0)


@njit(**PART)
def phase_of(op):
    """What the time is charged to that an operation took; products have charged theirs themselves."""
    if CROSS_ENTROPY <= op <= CROSS_ENTROPY_SOFT or op == LANES_CROSS_ENTROPY:
        return LOSS
    if PACKED <= op <= PACKED_ACROSS or SPLIT_PANELS <= op <= SPLIT_ACROSS:
        return PANELS
    return UPDATE if LANES_DW <= op <= LANES_DB or BIAS <= op <= SCATTER or op == DENSE_DW else SAMPLES


def make_run(operation: Any) -> Any:
    """The function that replays steps whose table `operation` carries out; see compiled.py for its arguments."""

    @njit(**OPTIONS)
    def run(
        table,
        work,
        arena,
        inputs,
        targets,
        weights,
        more,
        labels,
        order,
        hyper,
        counters,
        stats,
        penalties,
        history,
        numbers,
        sync,
        thread,
        steps,
        clocks,
    ):
        """Run `steps` steps as the leader (thread 0), or help one that does; to a STOP, and with -1 on from there."""
        # Spans: nobody counts references from here on.
        memory = (flat(work), flat(arena), flat(inputs), flat(targets), flat(weights), flat(more))
        table, labels, order, counters, sync = flat(table), flat(labels), flat(order), flat(counters), flat(sync)
        hyper, stats, penalties = flat(hyper), flat(stats), flat(penalties)
        history, numbers = flat(history), flat(numbers)
        header, clock = view(table, 0, COLUMNS), started(clocks, thread)
        begin_call(header, table, sync, thread, steps)
        while True:
            ticket = next_ticket(
                header, table, memory, hyper, counters, stats, penalties, history, numbers, sync, thread, clock
            )  # fmt: skip
            if ticket == 0:
                return
            first, last, r0, rows = extent(header, table, ticket)
            for o in range(first, last):
                t = view(table, o * COLUMNS, COLUMNS)
                operation(t, header, memory, labels, order, hyper, counters, numbers, r0, rows, thread, clock)
                mark(clock, phase_of(t[OP]))
            finish_one(sync, DONE)

    return run
