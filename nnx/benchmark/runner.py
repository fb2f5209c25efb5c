"""Benchmark runner: each player has its own process, is validated first, and then measured in alternating rounds.

A `Runner` makes one pass. Another pass has new processes, because the addresses of a process's memory, which are a
matter of chance, make some calls faster or slower.

Other work of the machine affects all players in the same way, because each is only measured for a moment, in an order
that rotates from round to round, while the others are suspended. Before each round the runner waits for a quiet moment.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnx.benchmark import check, quiet, startup
from nnx.benchmark.figures import of_rounds
from nnx.benchmark.libraries import Player
from nnx.benchmark.processes import Process
from nnx.benchmark.workloads import Workload

Progress = Callable[[str], None]
Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """How long and how often is measured.

    Attributes:
        passes: how often everything is done, each time by new processes. rounds: their number in a pass.
        seconds: the time of each player in each round.
        chunk: seconds that are timed together: short enough to fall between other processes' work, and long enough for
            the clock.
        patience: seconds that a workload may wait for quiet in all.
        ready: seconds that players may take to prepare for a workload.
        threads: those of each player. precision: that of large products: "full", "tf32", "bf16", "bf16x3".
    """

    rounds: int
    seconds: float
    chunk: float
    patience: float
    ready: float = 600.0
    passes: int = 1
    threads: int = 1
    precision: str = "full"


FULL = Method(passes=3, rounds=4, seconds=0.15, chunk=0.005, patience=5.0)
QUICK = Method(passes=2, rounds=3, seconds=0.02, chunk=0.003, patience=0.5)


class Runner:
    """Holds the players' processes while workloads are measured; a context manager, which ends them.

    Args:
        progress: called with a text that says what is being done. watch: measures the machine's load; None: a new one.
    """

    def __init__(
        self,
        players: Sequence[Player],
        method: Method,
        progress: Progress = lambda text: None,
        watch: quiet.Watch | None = None,
    ) -> None:
        self.method, self.progress, self.watch = method, progress, watch or quiet.Watch()
        self.processes = [Process(player, method.threads, method.precision) for player in players]
        for process in self.processes:
            process.send(hello=True)
        for process in self.processes:  # not before it has arranged to end with this process
            process.answer()
            process.pause()
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes:
            process.close()
        self._folder.cleanup()

    def limits(self) -> dict[str, Any]:
        """Return the limits of each device."""
        found: dict[str, Any] = {}
        for process in self.processes:
            device = process.player.device
            if device not in found and (device == "cpu" or process.player.ours):
                self.progress(f"what the {device} can do at most")
                reply = self._alone(process, limits=self.method.seconds)
                if "refused" not in reply:
                    found[device] = reply
        return found

    def measure(self, workload: Workload) -> Results:
        """Return each player's results of one pass, or why it has none, by name."""
        if workload.suite == "start":
            return self._starts(workload)
        results, ready = self._prepared(workload)
        chunks: dict[str, list[list[float]]] = {process.player.name: [] for process in ready}
        patience = self.method.patience
        for number in range(self.method.rounds):
            patience -= self.watch.wait(patience)
            self.progress(f"{workload.title}: round {number + 1} of {self.method.rounds}")
            for process in _turned(ready, number):
                reply = self._alone(process, measure=self.method.seconds)
                if "times" in reply:
                    chunks[process.player.name].append(reply["times"])
                else:
                    results[process.player.name] |= reply
        for name, times in chunks.items():
            results[name]["passes"] = [of_rounds(times)]
        for process in ready:
            if process.player.device == "cuda":
                results[process.player.name] |= self._alone(process, held=True)
        return results

    def _prepared(self, workload: Workload) -> tuple[Results, list[Process]]:
        """Prepare all players and check their results; return what is known of each, and those to be measured."""
        results: Results = {}
        ready: list[Process] = []
        self.processes = [process.fresh() for process in self.processes]
        taking_part = [p for p in self.processes if not p.player.suites or workload.suite in p.player.suites]
        until = time.perf_counter() + self.method.ready
        for process in taking_part:  # all at once: nothing is measured yet
            process.go_on()
            process.send(prepare=workload.name, results=str(self._file(process)))
        wanted = check.reference(workload) if taking_part else {}
        for process in taking_part:
            name = process.player.name
            ready_for = f"{workload.title}: {name} gets ready"
            compiles = "; kernels are compiled at their first use here, once" if process.player.how == "numba" else ""
            self.progress(ready_for)

            def waiting(seconds: float, said: str = ready_for, why: str = compiles) -> None:
                self.progress(f"{said}, {seconds:.0f} s{why}")

            reply = process.answer(max(0.0, until - time.perf_counter()), waiting)
            process.pause()
            if "absent" not in reply:
                results[name] = reply | self._fault(workload, process, wanted) if "refused" not in reply else reply
        for process in taking_part:
            name = process.player.name
            if name in results and "refused" not in results[name]:
                results[name] |= self._alone(process, calibrate=self.method.chunk)
                ready += [process] if "refused" not in results[name] else []
        return results, ready

    def _file(self, process: Process) -> Path:
        """Return the file for a player's results."""
        return Path(self._folder.name) / f"{self.processes.index(process)}.npz"

    def _fault(self, workload: Workload, process: Process, wanted: dict[str, Any]) -> dict[str, str]:
        """Return what is wrong with a player's results, in the form of an answer."""
        with np.load(self._file(process)) as got:
            slack = check.SLACK[self.method.precision] * (1.0 if process.player.ours else check.OTHERS)
            fault = check.fault(workload, dict(got), wanted, slack)
        return {"refused": f"wrong: {fault}"} if fault else {}

    def _alone(self, process: Process, **order: Any) -> dict[str, Any]:
        """Let a player do something while all others are suspended."""
        process.go_on()
        reply = process.ask(**order)
        process.pause()
        return reply

    def _starts(self, workload: Workload) -> Results:
        results: Results = {}
        for player in (process.player for process in self.processes):
            if player.suites and "start" not in player.suites:
                continue
            self.progress(f"{workload.title}: {player.name}")
            self.watch.wait(self.method.patience)
            try:
                took = startup.seconds(workload, player, self.method.threads)
                known = {"how": "", "ready_s": 0.0, "calls": 1, "seconds": took}
                results[player.name] = {**known, "passes": [of_rounds([[took]])]}
            except RuntimeError as error:
                results[player.name] = {"refused": str(error)}
        return results


def _turned(processes: Sequence[Process], number: int) -> list[Process]:
    """Return the players in the order of a round; each is first in one of the rounds."""
    first = number % len(processes) if processes else 0
    return [*processes[first:], *processes[:first]]
