"""Thread pool of the kernels: a few workers take parts of one large operation, and work on recorded steps.

Kernels release the interpreter's lock, so Python's own threads run them side by side. Compared with Numba's parallel
regions this costs some 10 us for each operation, instead of 1 with OpenMP and 69 with its workqueue. In return every
kernel is compiled once, not twice; it does not matter which threading layer Numba finds; any number of Python threads
may call kernels at once, which kills the process with workqueue; and a fork does no harm, which kills it with GNU's
OpenMP. It pays for operations of 200 us and more. A kernel that divides its work itself, in compiled code, needs only
1 us: see team.py. So does a recorded step while it has helpers: see program/schedule.py.

BLAS has its own threads. No part of a job calls it, so the two never compete for the same cores.
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

limit = 1  # the most threads of an operation, the caller's included; set by `set_limit`
_just_now: Callable[[], int] | None = None  # returns a present limit that may be lower, if there can be one
_found, _until = 1, 0.0  # its last result, and until when that is valid
SOON = 1e-3  # seconds for which it is valid: calling it takes 3 us, a tenth of the smallest shared operation
board = np.zeros(BOARD, np.int64)  # by which kernels and workers communicate: see team.py
board_at: int = board.ctypes.data  # its address, which kernels get, since an array would add 50 ns to a call
_nobody = np.zeros(1, np.int64)  # in the place of a word that a caller waits for
_rung = np.zeros(1, np.int64)  # how often there has been work
AWAKE = 1e-4  # seconds for which a waiting thread stays awake: falling asleep and waking up takes some 50 us
TRIED = 200  # checks that are timed to find how many fit in AWAKE: 1 to 15 us
_small = 0.0  # when there was last too little work to wake sleeping workers
_ready_for, _ready_until = 0, 0.0  # the thread that called workers last, and until when they need no new check


@njit(**OPTIONS)
def stay_awake(word, seen, looks):
    """Wait, for at most `looks` checks, until another thread changes `word[0]` from `seen`."""
    for _ in range(looks):
        if atomic_load(word, 0) != seen:
            return
        pause()


@cache
def looks_in(seconds: float, helping: bool = False) -> int:
    """Return how many checks a waiting thread makes in so many seconds: measured once, the best of three.

    Args:
        seconds: the time. helping: whether it also checks for parts of a kernel, as in `serve`.
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
    """Return the best number of threads for an amount of work; for `worth`, two threads are as fast as one.

    On t threads the work takes work / t, and each thread but the first adds a cost of worth / 2, since two threads are
    not faster there. The sum is smallest at t = sqrt(2 work / worth). So a step takes as long on 64 cores as on 8, if 8
    is best.
    """
    return 1 if work < worth else max(2, math.isqrt(int(2 * work / max(worth, 1.0))))


class Program(Protocol):
    """A recorded step that several threads may work on.

    Attributes:
        running: whether it is running and helpers are wanted.
    """

    running: bool

    def help(self, number: int) -> None:
        """Work on it as helper 1, 2 ..., beside the thread that runs it, until that thread has ended its call."""


class Job:
    """The parts of an operation. A free thread takes the next one; the last thread to finish wakes the caller."""

    def __init__(self, parts: Sequence[Callable[[], Any]]) -> None:
        self.parts = parts
        self.next = itertools.count()  # its `next()` is atomic in the interpreter: no two threads get the same number
        self.left = itertools.count(len(parts) - 1, -1)
        self.over = np.zeros(1, np.int64)
        self.done = threading.Lock()
        self.done.acquire()
        self.error: BaseException | None = None

    def work(self) -> np.ndarray:
        """Take parts until none is left. Return the word to set to 1 so that the caller continues: see `serve`."""
        while (i := next(self.next)) < len(self.parts):
            try:
                self.parts[i]()
            except BaseException as error:  # raised again in the caller
                self.error = error
            if next(self.left) == 0:
                self.done.release()
                return self.over
        return _nobody


class Helpers:
    """The helping threads of this process, started when first needed.

    Attributes:
        queue: functions for helpers to call. Each returns the word to set to 1 so that its caller continues (see
            `serve`), or None, after which the helper sleeps at once. None in the queue just wakes a helper, for a
            kernel that divides its work itself.
        threads: their native ids. asleep: the numbers of those that wait for the queue; only the count matters.
        watching: the numbers of those that watch for parts of kernels.
        summoned: how often kernels that divide their work have been announced.
        assisted: which helpers work, or are going to work, on which program.
    """

    def __init__(self) -> None:
        self.queue: SimpleQueue[Callable[[], np.ndarray | None] | None] = SimpleQueue()
        self.threads: list[int] = []
        self.asleep: list[int] = []
        self.watching: list[int] = []
        self.summoned = 0
        self.assisted: set[tuple[int, int]] = set()
        self._lock = threading.RLock()  # reentrant, for a signal handler that calls a kernel while it is held

    def gather(self, wanted: int, watching: bool = True) -> int:
        """Provide `wanted` threads, as far as possible, on other cores than this one's; return how many there are.

        Args:
            wanted: the number. watching: whether new ones first watch for parts of kernels, as after a job.
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
        """Send helpers to a program that is about to run, at most `wanted`; those still with it stay."""
        for number in range(1, self.gather(wanted, watching=False) + 1):
            key = id(program), number
            if key not in self.assisted:
                self.assisted.add(key)
                self.queue.put(partial(self._assist, program, number))
                _rung[0] += 1

    def _assist(self, program: Program, number: int) -> None:
        program.help(number)
        while program.running and self.queue.empty():  # again if the next run began just as it left, and no work waits
            program.help(number)
        self.assisted.discard((id(program), number))

    def _serve(self, number: int, watching: bool) -> None:
        over = _nobody if watching else None
        while True:
            summoned = self.summoned
            if over is not None:  # stay awake, as the next operation often follows at once
                seen, looks = int(_rung[0]), looks_in(AWAKE, helping=True) if self.queue.empty() else 0
                self.watching.append(number)
                serve(board, number, over, _rung, seen, looks)
                self.watching.pop()
            self.asleep.append(number)
            if over is not None and self.summoned != summoned:  # a kernel announced just now found no one asleep
                self.asleep.pop()
                over = _nobody
                continue
            work = self.queue.get()
            self.asleep.pop()
            over = work() if work else _nobody
            del work  # so that it does not keep a program's large arrays


helpers = Helpers()


def run(parts: Sequence[Callable[[], Any]]) -> None:
    """Call all parts, in any order, on up to `limit` threads, the caller's included; return when all are done."""
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
    """Get workers to help, by the board, a kernel that is about to be called; False if it should work alone.

    Workers that the same thread called just before are still awake, and watch the board.

    Args:
        threads: the useful number, the caller's included. No more are woken, but all that are awake help.
        work: the ns that it takes on one thread. waking: sleeping workers are woken for so many ns or more.
    """
    if limit == 1:
        return False
    helpers.summoned += 1  # before looking who is awake
    known = threading.get_ident() == _ready_for and time.monotonic() < _ready_until
    if not known or len(helpers.watching) < (threads if threads < _found else _found) - 1:
        if not worth_help(work, waking):
            return False
        _call_workers(threads)
    return True


def _call_workers(threads: int) -> None:
    """Provide as many workers as are useful and allowed now, and wake those that sleep."""
    global _ready_for, _ready_until
    most = lately()
    board[HELPERS] = most - 1
    missing = helpers.gather(min(threads, most) - 1) - len(helpers.watching)
    for _ in range(min(missing, len(helpers.asleep))):
        helpers.queue.put(None)
    _ready_for, _ready_until = threading.get_ident(), time.monotonic() + SOON


def worth_help(work: float, waking: float) -> bool:
    """Return whether to call workers for so many ns of work on one thread.

    Sleeping workers are not woken for less than `waking`, unless there was as little work just before: then more may
    follow, for which they stay awake.
    """
    global _small
    if limit == 1 or work >= waking or not helpers.asleep:
        return limit > 1
    last, _small = _small, time.monotonic()
    return _small - last < AWAKE


def split(length: int, threads: int, grain: int = 1) -> list[slice]:
    """Divide `length` rows among `threads` threads, or as many as are allowed.

    Args:
        length, threads: numbers of rows and threads. grain: all parts but the last have a multiple of so many rows.
    """
    parts = min(limit, threads, -(-length // grain))
    if parts > 1:
        parts = min(parts, lately())
    if parts < 2:
        return [slice(0, length)]
    step = -(-length // (parts * grain)) * grain
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def set_limit(threads: int, just_now: Callable[[], int] | None = None) -> None:
    """Set the largest number of threads of an operation.

    Args:
        threads: the number. just_now: a function that returns a lower number if one applies at present.
    """
    global limit, _just_now, _ready_until
    limit, _just_now, _ready_until = max(1, threads), just_now, 0.0
    allowed()
    board[HELPERS] = limit - 1
    affinity.allow_again()


def allowed() -> int:
    """Return how many threads an operation that begins now may use, the caller's included."""
    global _found, _until
    _found, _until = limit if _just_now is None else max(1, min(limit, _just_now())), time.monotonic() + SOON
    return _found


def lately() -> int:
    """Return the same, perhaps as of a moment ago."""
    return _found if time.monotonic() < _until else allowed()


def _after_fork() -> None:
    """Start anew in a forked process, which has none of its parent's threads, and may have a lock that one held."""
    global helpers
    helpers = Helpers()
    board[:] = 0
    set_limit(limit, _just_now)


in_forked(_after_fork)
