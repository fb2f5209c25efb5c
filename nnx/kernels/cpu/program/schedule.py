"""Work scheduler of the compiled training step: one or several threads draw its blocks and tasks.

Several threads may call `run_rows` or `run_lanes` at once with the same arguments, except `thread`: number 0 leads, the
others help. A region's blocks or tasks are drawn from one ticket, an atomic int64 that holds (phase, region, next
index). The leader waits only for blocks and tasks that were drawn, and never for a helper that is late. So a helper
that the operating system has suspended costs nothing unless it holds a task. A region costs about 0.2 us (a parallel
region of Numba costs 1.1 us with OpenMP, and 69 us with its own work queue), and nothing is compiled twice.

The order of every sum is independent of which threads computed its parts.
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

LINGER = 20  # times that a helper yields to other threads before it leaves: the next call often follows at once
INDEX, REGION_BITS = (1 << 24) - 1, 24
PHASE_BITS, PHASES = 32, (1 << 31) - 1


@njit(**PART)
def draw(table, sync):
    """Draw the next block or task of the current region: a ticket, or 0 if none is left (regions count from 1)."""
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
    """Open a region, so that its blocks or tasks can be drawn; 0: there is nothing to do. For the leader only."""
    phase = (atomic_load(sync, PHASE) + 1) & PHASES
    atomic_store(sync, PHASE, phase)
    if region > 0:
        sync[EXPECTED] += table[region * COLUMNS + COUNT]
    atomic_store(sync, TICKET, (phase << PHASE_BITS) | (region << REGION_BITS))


@njit(**PART)
def begin_call(header, table, sync, thread, steps):
    """Prepare for `steps` steps, as if a step had just ended, so that the next region to open is the first.

    The ticket is reset, so that nothing is left to draw: a process that was forked during a call inherits its ticket,
    but not the threads that would have done the rest. With -1 steps, the step in which the last call stopped continues.
    """
    if thread == 0:
        open_region(table, sync, 0)
        atomic_store(sync, DONE, 0)
        sync[EXPECTED] = 0
        if steps >= 0:
            sync[AT_REGION], sync[STEPS_LEFT], sync[BEGUN] = header[REGIONS], steps, 0


@njit(**PART)
def advance(header, table, memory, hyper, counters, stats, penalties, history, numbers, sync):
    """Open the next region, if necessary the first of the next step; return whether there is one in this call.

    To be called when everything that was drawn is done.
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
    """Wait for the next block or task and draw it; 0 at the end. The leader opens the next regions meanwhile."""
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
    """The work that a ticket stands for: (first operation, the one after the last, first sample, samples)."""
    place, index = view(table, region_of(ticket) * COLUMNS, COLUMNS), ticket & INDEX
    if place[OP] >= TASKS:
        return place[FIRST] + index, place[FIRST] + index + 1, 0, header[ROWS]
    r0 = index * place[BLOCK]
    return place[FIRST], place[LAST], r0, smaller(place[BLOCK], header[ROWS] - r0)


@njit(**PART)
def phase_of(op):
    """The entry of the profile that an operation's time is added to; products do that for themselves."""
    if CROSS_ENTROPY <= op <= CROSS_ENTROPY_SOFT or op == LANES_CROSS_ENTROPY:
        return LOSS
    if PACKED <= op <= PACKED_ACROSS or SPLIT_PANELS <= op <= SPLIT_ACROSS:
        return PANELS
    return UPDATE if LANES_DW <= op <= LANES_DB or BIAS <= op <= SCATTER or op == DENSE_DW else SAMPLES


def make_run(operation: Any) -> Any:
    """Return the function that replays steps, with `operation` for the table's; compiled.py describes its arguments."""

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
        """Run `steps` steps as the leader (thread 0), or help; up to a STOP, and with -1 from there on."""
        # As spans, whose references are not counted.
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
