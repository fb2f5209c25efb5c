"""Thread pool of the kernels: a few workers take parts of one large operation, and work on recorded steps.

Kernels release the interpreter's lock, so Python's own threads run them side by side. Against Numba's parallel regions
that costs some 10 us instead of 1 (omp; workqueue 69) for each operation, and buys that every kernel is compiled once,
not twice; that it does not matter which threading layer Numba finds; that any number of Python threads may call kernels
at once, which ends the process with workqueue; and that a fork does no harm, which ends it with GNU's omp. It pays for
operations from 200 us on. A kernel that hands out its parts itself, in compiled code, needs 1 us too: see team.py. So
does a recorded step, for as long as helpers are with it: see program/schedule.py.

BLAS has threads of its own. No part of a job calls it, so the two never compete for the same cores.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.simd import OPTIONS
from nnx.kernels.cpu.threads import affinity
from nnx.kernels.cpu.threads.atomics import atomic_load, pause
from nnx.kernels.cpu.threads.team import BOARD, HELPERS, serve
from nnx.kernels.forking import in_forked

limit = 1  # the most threads that an operation may take, the caller's included; `set_limit` changes it
_just_now: Callable[[], int] | None = None  # how many at this moment, if that changes by itself
_found, _until = 1, 0.0  # what it returned, and until when that counts
SOON = 1e-3  # seconds: to ask takes 3 us, a tenth of the smallest operation that is shared
board = np.zeros(BOARD, np.int64)  # where kernels and workers meet: see team.py
board_at: int = board.ctypes.data  # where it lies, which is what kernels are given: an array adds 50 ns to a call
_nobody = np.zeros(1, np.int64)  # in place of what a waiting caller looks at
_rung = np.zeros(1, np.int64)  # how often there has been something to do
AWAKE = 1e-4  # seconds for which who waits looks out: sleeping and waking up takes some 50 us
TRIED = 200  # looks by which it is measured how many those are: 1 to 15 us
_small = 0.0  # when there was last less work than is worth waking workers, and they slept
_ready_for, _ready_until = 0, 0.0  # who has called workers, and until when nobody needs to look after them again


@njit(**OPTIONS)
def stay_awake(word, seen, looks):
    """Wait for another thread to change `word[0]`, for a while."""
    for _ in range(looks):
        if atomic_load(word, 0) != seen:
            return
        pause()


@cache
def looks_in(seconds: float, helping: bool = False) -> int:
    """Return how often who waits looks in so many seconds, on this processor: measured once, the best of three.

    Args:
        helping: whether it looks for a kernel's parts too, as in `serve`.
    """
    took, nowhere = [], np.zeros(BOARD, np.int64)
    nowhere[HELPERS] = 1
    for _ in range(3):
        begin = time.perf_counter()
        if helping:
            serve(nowhere, 1, np.zeros(1, np.int64), nowhere, 0, TRIED)
        else:
            stay_awake(nowhere, 0, TRIED)
        took.append(time.perf_counter() - begin)
    return max(TRIED, int(TRIED * seconds / max(min(took), 1e-9)))


def useful(work: float, worth: float) -> int:
    """Return how many threads so much work is worth, where `worth` is what two do as quickly as one.

    On t threads it takes work / t, and each of them but the first costs as much as makes two no quicker there, half of
    `worth`. The sum is least at the root of 2 work / worth. So a step takes as long on 64 cores as on 8, if 8 is best.
    """
    return 1 if work < worth else max(2, math.isqrt(int(2 * work / max(worth, 1.0))))


class Program(Protocol):
    """A recorded step that several threads may work on.

    Attributes:
        running: whether it is, and helpers are wanted.
    """

    running: bool

    def help(self, number: int) -> None:
        """Work on it as helper 1, 2 ..., beside the thread that runs it, until that has ended."""


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


class Helpers:
    """The helping threads of this process, started when first needed: each takes what comes next.

    Attributes:
        queue: what to call next, which returns what to set to 1 so that a caller goes on (see `serve`), or None, after
            which a helper sleeps at once. None in the queue is only to wake up, for a kernel that hands out its parts.
        threads: their native ids. asleep: numbers of those that wait for the queue; how many they are is what counts.
        watching: numbers of those that look out for kernels' parts.
        summoned: how often kernels that hand out their parts have been announced.
        assisted: which programs have which helpers, or will have.
    """

    def __init__(self) -> None:
        self.queue: SimpleQueue[Callable[[], np.ndarray | None] | None] = SimpleQueue()
        self.threads: list[int] = []
        self.asleep: list[int] = []
        self.watching: list[int] = []
        self.summoned = 0
        self.assisted: set[tuple[int, int]] = set()
        self._lock = threading.RLock()  # a signal's handler may call a kernel while it is held

    def gather(self, wanted: int, watching: bool = True) -> int:
        """Have so many threads, if they can be had, on other cores than this thread's; return how many there are.

        Args:
            watching: whether one that is started looks for kernels' parts first, as after a job.
        """
        if wanted < 1:
            return 0
        with self._lock:
            while len(self.threads) < wanted:
                number = len(self.threads) + 1
                native = affinity.start(self._serve, number, watching, name=f"nnx-{number}")
                if not native:
                    break
                self.threads.append(native)
            found = self.threads[:wanted]
        affinity.keep_off_mine(found)
        return len(found)

    def assist(self, program: Program, wanted: int) -> None:
        """Send so many helpers to a program that is run at once, or those that there are. Who is still there stays."""
        for number in range(1, self.gather(wanted, watching=False) + 1):
            key = id(program), number
            if key not in self.assisted:
                self.assisted.add(key)
                self.queue.put(partial(self._assist, program, number))
                _rung[0] += 1

    def _assist(self, program: Program, number: int) -> None:
        program.help(number)
        while program.running and self.queue.empty():  # it left just as the next run began, and nobody else waits
            program.help(number)
        self.assisted.discard((id(program), number))

    def _serve(self, number: int, watching: bool) -> None:
        over = _nobody if watching else None
        while True:
            summoned = self.summoned
            if over is not None:  # the next operation often comes at once
                seen, looks = int(_rung[0]), looks_in(AWAKE, helping=True) if self.queue.empty() else 0
                self.watching.append(number)
                serve(board, number, over, _rung, seen, looks)
                self.watching.pop()
            self.asleep.append(number)
            if over is not None and self.summoned != summoned:  # who came just now saw nobody to be woken up
                self.asleep.pop()
                over = _nobody
                continue
            work = self.queue.get()
            self.asleep.pop()
            over = work() if work else _nobody
            del work  # a program's arrays are large


helpers = Helpers()


def run(parts: Sequence[Callable[[], Any]]) -> None:
    """Call all parts, in any order, on up to `limit` threads; return when all are done. The caller works too."""
    if len(parts) == 1:
        parts[0]()
        return
    job = Job(parts)
    for _ in range(helpers.gather(min(limit, len(parts)) - 1)):
        helpers.queue.put(job.work)
    _rung[0] += 1
    if job.work() is _nobody:
        stay_awake(job.over, 0, looks_in(AWAKE))
    job.done.acquire()
    if job.error is not None:
        raise job.error


def summon(threads: int, work: float = math.inf, waking: float = 0.0) -> bool:
    """Have workers help a kernel that is called at once, by the board; return False if it had better work alone.

    Those who were called just before by the same thread, and are awake, only need to look at the board.

    Args:
        threads: how many it is worth, the caller's included. No more are woken up; who is awake helps too.
        work: how many ns it takes on one thread. waking: from where on that is worth waking up those who sleep.
    """
    if limit == 1:
        return False
    helpers.summoned += 1  # before it is seen who is awake
    known = threading.get_ident() == _ready_for and time.monotonic() < _ready_until
    if not known or len(helpers.watching) < (threads if threads < _found else _found) - 1:
        if not worth_help(work, waking):
            return False
        _call_workers(threads)
    return True


def _call_workers(threads: int) -> None:
    """Have as many workers as are wanted and may help now, and wake those who are missing."""
    global _ready_for, _ready_until
    most = lately()
    board[HELPERS] = most - 1
    missing = helpers.gather(min(threads, most) - 1) - len(helpers.watching)
    for _ in range(min(missing, len(helpers.asleep))):
        helpers.queue.put(None)
    _ready_for, _ready_until = threading.get_ident(), time.monotonic() + SOON


def worth_help(work: float, waking: float) -> bool:
    """Tell whether workers are to be called for so many ns of work on one thread.

    Those who sleep are not for less than `waking`, unless as much has come just before, and more may be to come, for
    which they stay awake.
    """
    global _small
    if limit == 1 or work >= waking or not helpers.asleep:
        return limit > 1
    last, _small = _small, time.monotonic()
    return _small - last < AWAKE


def split(length: int, threads: int, grain: int = 1) -> list[slice]:
    """Divide `length` rows among so many threads, or those that there may be.

    Args:
        grain: rows of each part but the last are a multiple of this.
    """
    parts = min(limit, threads, -(-length // grain))
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
    global limit, _just_now, _ready_until
    limit, _just_now, _ready_until = max(1, threads), just_now, 0.0
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


def _after_fork() -> None:
    """A forked process has none of its parent's threads, and perhaps a lock that one of them held."""
    global helpers
    helpers = Helpers()
    board[:] = 0
    set_limit(limit, _just_now)


in_forked(_after_fork)
