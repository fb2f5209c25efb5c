"""Timing of several ways to do the same: they take turns, in rounds, so that other programs disturb all of them alike.

The best round of each counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from nnx.kernels.cpu.threads.pool import AWAKE

ROUNDS = 7
CHUNK = 2e-3  # seconds that each way runs in a round
PAUSE = 3 * AWAKE  # seconds after which helping threads sleep
Timed = Callable[[int], float | None]  # does something n times, and may return how many of the seconds count


def repeat(call: Callable[[], Any]) -> Timed:
    """Return a function of n that makes a call n times."""

    def run(count: int) -> None:
        for _ in range(count):
            call()

    return run


def after_a_pause(call: Callable[[], Any]) -> Timed:
    """Return a function of n that makes a call n times, each after helping threads fell asleep; it returns the time."""

    def run(count: int) -> float:
        took = 0.0
        for _ in range(count):
            until = time.perf_counter() + PAUSE
            while time.perf_counter() < until:
                pass
            begin = time.perf_counter()
            call()
            took += time.perf_counter() - begin
        return took

    return run


def quotient(one: Timed, other: Timed) -> float:
    """Return the time of `one` divided by that of `other`, the best of each: disturbances only make them slower."""
    first, second = nanoseconds((one, other))
    return first / second


def nanoseconds(runs: Sequence[Timed]) -> list[float]:
    """Return the time of each way in ns: the best of all rounds, in which they take turns."""
    counts = [times(run) for run in runs]
    took = [[seconds(run, count) / count for run, count in zip(runs, counts, strict=True)] for _ in range(ROUNDS)]
    return [1e9 * min(rounds) for rounds in zip(*took, strict=True)]


def times(run: Timed) -> int:
    """Return how often something can be done in a round, after a first time to warm up."""
    seconds(run, 1)
    return max(1, int(CHUNK / max(min(seconds(run, 1) for _ in range(3)), 1e-7)))


def seconds(run: Timed, count: int) -> float:
    """Return how many seconds it takes to do something `count` times."""
    begin = time.perf_counter()
    told = run(count)
    return time.perf_counter() - begin if told is None else told
