"""Worker process of a player: answers orders, which are lines of JSON on stdin, by lines on stdout, until stdin ends.

- {"hello": true} returns an empty answer.
- {"prepare": name of a workload, "results": file} prepares the workload and writes its results; the answer is how it
  runs, and how long that took.
- {"calibrate": seconds} warms up, and finds how many calls take this time.
- {"measure": seconds} measures for this time; the answer is the time of one call, chunk by chunk.
- {"held": true} returns how many bytes of a GPU's memory the process uses.
- {"limits": seconds} measures the limits of the machine, spending this time on each figure.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nnx.benchmark import limits
from nnx.benchmark.libraries import Absent, Player, Ready, Refused
from nnx.benchmark.workloads import every

FEWEST = 2  # chunks of a measurement
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


class Worker:
    """Answers for one player."""

    def __init__(self, player: Player) -> None:
        self.player, self.workloads = player, {workload.name: workload for workload in every()}
        self.ready: Ready | None = None
        self.calls = 1

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked."""
        if "prepare" in order:
            return self._prepare(order["prepare"], Path(order["results"]))
        if "hello" in order:
            return {}
        if "limits" in order:
            return limits.of_this(self.player, order["limits"])
        if "held" in order:
            return {"held_bytes": self.player.held()}
        if "calibrate" in order:
            return self._calibrate(order["calibrate"])
        return {"times": self._measure(order["measure"])}

    def _prepare(self, name: str, file: Path) -> dict[str, Any]:
        self.ready = None  # frees the last workload's arrays before the next one's are made
        begin = time.perf_counter()
        self.ready = self.player.prepare(self.workloads[name])
        took = time.perf_counter() - begin
        given: dict[str, Any] = dict(self.ready.results)
        np.savez(file, **given)
        return {"how": self.ready.how, "ready_s": took}

    def _calibrate(self, seconds: float) -> dict[str, Any]:
        assert self.ready is not None
        turns = self.ready.turns
        self.calls = turns
        while (took := self._time(self.calls)) < seconds / 2:
            grown = min(10.0, 1.2 * seconds / max(took, 1e-7))
            self.calls = max(self.calls + turns, round(self.calls * grown / turns) * turns)
        per_call = min(self._time(self.calls) for _ in range(2)) / self.calls
        self.calls = max(1, round(seconds / per_call / turns)) * turns
        return {"calls": self.calls, "seconds": per_call * self.calls}

    def _measure(self, seconds: float) -> list[float]:
        """Return the seconds of one call, chunk by chunk."""
        self._time(self.ready.turns if self.ready else 1)  # other processes have left the caches cold
        times: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < FEWEST:
            times.append(self._time(self.calls) / self.calls)
        return times

    def _time(self, calls: int) -> float:
        assert self.ready is not None
        if self.ready.timed is not None:
            return self.ready.timed(calls)
        begin = time.perf_counter()
        self.ready.run(calls)
        return time.perf_counter() - begin


def serve(player: Player) -> None:
    """Answer until stdin ends."""
    worker = Worker(player)
    with _stdout_to_stderr() as answers:
        for line in sys.stdin:
            try:
                reply = worker.answer(json.loads(line))
            except Absent as reason:
                reply = {"absent": str(reason)}
            except Refused as reason:
                reply = {"refused": str(reason)}
            except Exception as error:  # other libraries may raise anything
                reply = {"refused": f"{type(error).__name__}: {error}"[:500]}
            answers.write(json.dumps(reply) + "\n")
            answers.flush()


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[Any]:
    """Keep stdout for answers, by sending everything that a library prints to stderr."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        yield answers


def end_with_parent() -> None:
    """On Linux, make the kernel end this process when its parent ends, as it may be suspended at that time."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    end_with_parent()
    serve(Player(**json.loads(sys.argv[1])))
