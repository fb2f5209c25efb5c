"""Threads for the kernels: a few workers that take parts of one large operation.

Kernels release the interpreter's lock, so Python's own threads run them side by side. Against Numba's parallel regions
that costs some 10 us instead of 1 (omp; workqueue 69) for each operation, and buys that every kernel is compiled once,
not twice; that it does not matter which threading layer Numba finds; that any number of Python threads may call kernels
at once, which ends the process with workqueue; and that a fork does no harm, which ends it with GNU's omp. It pays for
operations from 200 us on. A kernel that hands out its parts itself, in compiled code, needs 1 us too: see team.py.

BLAS has threads of its own. No part of a job calls it, so the two never compete for the same cores.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import OPTIONS
from nnx.kernels.cpu.threads import affinity
from nnx.kernels.cpu.threads.atomics import atomic_load
from nnx.kernels.cpu.threads.team import BOARD, HELPERS, serve

limit = 1  # the most threads that an operation may take, the caller's included; `set_limit` changes it
_just_now: Callable[[], int] | None = None  # how many at this moment, if that changes by itself
_found, _until = 1, 0.0  # what it returned, and until when that counts
SOON = 1e-3  # seconds: to ask takes 3 us, a tenth of the smallest operation that is shared
board = np.zeros(BOARD, np.int64)  # where kernels and workers meet: see team.py
_queue: SimpleQueue[Job | None] = SimpleQueue()  # None: only to wake up
_asleep: list[int] = []  # numbers of workers that wait for it; how many they are is what counts
_nobody = np.zeros(1, np.int64)  # in place of what a waiting caller looks at
_workers: list[int] = []  # their native ids
_lock = threading.RLock()  # a signal's handler may call a kernel while it is held
_rung = np.zeros(1, np.int64)  # how many jobs there have been
AWAKE = 100_000  # looks, some 100 us


@njit(**OPTIONS)
def stay_awake(word, seen, looks):
    """Wait for another thread to change `word[0]`, for a while: sleeping and waking up takes some 50 us."""
    for _ in range(looks):
        if atomic_load(word, 0) != seen:
            return


class Job:
    """Parts of one operation. Whoever is free takes the next; the last one to finish wakes the caller."""

    def __init__(self, parts: Sequence[Callable[[], Any]]) -> None:
        self.parts = parts
        self.next = itertools.count()  # `next()` on it is one step for the interpreter: no two threads get the same
        self.left = itertools.count(len(parts) - 1, -1)
        self.over = np.zeros(1, np.int64)
        self.done = threading.Lock()
        self.done.acquire()
        self.error: BaseException | None = None

    def work(self) -> np.ndarray:
        """Take parts until none is left. Return what to set to 1 so that the caller goes on: see `serve`."""
        while (i := next(self.next)) < len(self.parts):
            try:
                self.parts[i]()
            except BaseException as error:  # handed to the caller
                self.error = error
            if next(self.left) == 0:
                self.done.release()
                return self.over
        return _nobody


def run(parts: Sequence[Callable[[], Any]]) -> None:
    """Call all parts, in any order, on up to `limit` threads; return when all are done. The caller works too."""
    if len(parts) == 1:
        parts[0]()
        return
    helpers = _gather(min(limit, len(parts)) - 1)
    job = Job(parts)
    for _ in range(helpers):
        _queue.put(job)
    _rung[0] += 1
    if job.work() is _nobody:
        stay_awake(job.over, 0, AWAKE)
    job.done.acquire()
    if job.error is not None:
        raise job.error


def summon() -> np.ndarray:
    """Wake the workers up for a kernel that is called at once; return the board by which they help it."""
    if limit > 1:
        helpers = board[HELPERS] = lately() - 1
        for _ in range(min(_gather(helpers), len(_asleep))):
            _queue.put(None)
    return board


def split(length: int, work: float, grain: int = 1) -> list[slice]:
    """Divide `length` rows among the threads; into one part if it is little work.

    Args:
        work: how much, in units of 100 us on one thread: fewer than two are not worth a second thread.
        grain: rows of each part but the last are a multiple of this.
    """
    parts = min(limit, int(work), -(-length // grain))
    if parts > 1:
        parts = min(parts, lately())
    if parts < 2:
        return [slice(0, length)]
    step = -(-length // (parts * grain)) * grain
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def set_limit(threads: int, just_now: Callable[[], int] | None = None) -> None:
    """Set the most threads that an operation may take.

    Args:
        just_now: returns how many it may take when it is called, where that may become fewer by itself.
    """
    global limit, _just_now
    limit, _just_now = max(1, threads), just_now
    allowed()
    board[HELPERS] = limit - 1
    affinity.allow_again()


def allowed() -> int:
    """Return how many threads an operation that begins now may take, the caller's included."""
    global _found, _until
    _found, _until = limit if _just_now is None else max(1, min(limit, _just_now())), time.monotonic() + SOON
    return _found


def lately() -> int:
    """Return the same as of a moment ago."""
    return _found if time.monotonic() < _until else allowed()


def _gather(wanted: int) -> int:
    """Have so many workers, if they can be had, on other cores than this thread's; return how many there are."""
    if wanted < 1:
        return 0
    with _lock:
        while len(_workers) < wanted:
            number = len(_workers) + 1
            worker = affinity.start(_serve, _queue, number, name=f"nnx-{number}")
            if not worker:
                break
            _workers.append(worker)
        helpers = _workers[:wanted]
    affinity.keep_off_mine(helpers)
    return len(helpers)


def _serve(queue: SimpleQueue[Job | None], number: int) -> None:
    over = _nobody
    while True:
        seen, looks = int(_rung[0]), AWAKE if queue.empty() else 0  # the next operation often comes at once
        serve(board, number, over, _rung, seen, looks)
        _asleep.append(number)
        job = queue.get()
        _asleep.pop()
        over = job.work() if job else _nobody


def _after_fork() -> None:
    """A forked process has none of its parent's threads, and perhaps a lock that one of them held."""
    global _queue, _asleep, _workers, _lock
    _queue, _asleep, _workers, _lock = SimpleQueue(), [], [], threading.RLock()
    board[:] = 0
    set_limit(limit, _just_now)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
