"""Timing of ways to do something: they take turns, in rounds, so that what else the machine does meets all of them.

What counts is the best round of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from nnx.kernels.cpu.threads.pool import AWAKE

ROUNDS = 7
CHUNK = 2e-3  # seconds that each way runs in a round
PAUSE = 3 * AWAKE  # seconds after which helping threads sleep
Timed = Callable[[int], float | None]  # does something so often, and may say how many seconds of that count


def repeat(call: Callable[[], Any]) -> Timed:
    """Return what makes a call so often as it is told."""

    def run(count: int) -> None:
        for _ in range(count):
            call()

    return run


def after_a_pause(call: Callable[[], Any]) -> Timed:
    """Return what makes a call so often as it is told, each when helping threads sleep, and says how long they took."""

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
    """Return how long `one` takes, over `other`: the best of each, for other programs make both only slower."""
    first, second = nanoseconds((one, other))
    return first / second


def nanoseconds(runs: Sequence[Timed]) -> list[float]:
    """Return how long each way takes, the best of all rounds, in which they take turns."""
    counts = [times(run) for run in runs]
    took = [[seconds(run, count) / count for run, count in zip(runs, counts, strict=True)] for _ in range(ROUNDS)]
    return [1e9 * min(rounds) for rounds in zip(*took, strict=True)]


def times(run: Timed) -> int:
    """Return how often something can be done in a round, once it is warm."""
    seconds(run, 1)
    return max(1, int(CHUNK / max(min(seconds(run, 1) for _ in range(3)), 1e-7)))


def seconds(run: Timed, count: int) -> float:
    """Return how long it takes to do something so often."""
    begin = time.perf_counter()
    told = run(count)
    return time.perf_counter() - begin if told is None else told
