"""Profile of a compiled training step: the time of each of its phases on each thread, for `nnx bench --profile`.

The step is compiled again with a clock in it (nnx/kernels/cpu/jit/clock.py), which makes it up to a tenth slower. It is
measured in the calling process, without other libraries.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import nnx
from nnx.benchmark import units
from nnx.benchmark.libraries import Refused
from nnx.benchmark.libraries.nnx import stepping
from nnx.benchmark.workloads import Workload

WIDTH = 78  # columns of the bars: a table with two threads is no wider
SHOWN = 2  # threads that get a column of their own; of more, the first does, and the mean of all others
COLORS = ("blue", "cyan", "green", "magenta", "yellow", "red", "white")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Profile:
    """The times of a step's phases.

    Attributes:
        title: that of the workload. how: what runs. plain: us of a normal step. watched: us of a step with the clock.
        phases: their names, in the order of a step. us: [threads, phases], the times of a step with the clock.
    """

    title: str
    how: str
    plain: float
    watched: float
    phases: list[str]
    us: np.ndarray

    def as_data(self) -> dict[str, Any]:
        """Return the profile as data that JSON can hold."""
        threads = [dict(zip(self.phases, map(float, row), strict=True)) for row in self.us]
        return {"title": self.title, "how": self.how, "step_us": self.plain, "watched_us": self.watched} | {
            "threads_us": threads
        }


def of_step(workload: Workload, rounds: int, seconds: float) -> Profile:
    """Profile a training step on Numba; return the profile of the round with the median time.

    Args:
        rounds: their number. seconds: the length of each.

    Raises:
        Refused: this processor has no counter that programs may read, or the step is not replayed.
    """
    backend: Any = nnx.get_backend("numba")
    from nnx.kernels.cpu.jit import clock

    if not clock.counts():
        raise Refused(f"a profile reads the cycle counter of x86 processors, and this is {platform.machine()}")
    _, runner, run = stepping(workload.what, backend)
    turns = workload.what.turns
    steps = -(-max(1, round(seconds / (_timed(run, turns) / turns))) // turns) * turns
    plain = statistics.median(_timed(run, steps) for _ in range(rounds)) / steps
    cycles = runner.watch()[:, : clock.PHASES]
    run(turns)
    found: list[tuple[float, np.ndarray]] = []
    for _ in range(rounds):
        cycles[:] = 0
        took = _timed(run, steps) / steps
        found.append((took, cycles.copy()))
    took, counted = sorted(found, key=lambda each: each[0])[len(found) // 2]
    us = counted * (took * 1e6 / counted[0].sum())
    # A helper's clock stands still while it sleeps, and runs on between calls: either way it waits.
    us[:, clock.WAITING] += took * 1e6 - us.sum(axis=1)
    names = [clock.NAMES[phase] for phase in range(clock.PHASES)]
    return Profile(workload.title, runner.description, plain * 1e6, took * 1e6, names, us)


def _timed(run: Callable[[int], Any], steps: int) -> float:
    begin = time.perf_counter()
    run(steps)
    return time.perf_counter() - begin


def table(profile: Profile) -> RenderableType:
    """Return a profile for a terminal: a line for each phase, a bar for each thread."""
    rows, titles = [profile.us[0]], ["thread 1"]
    if len(profile.us) == SHOWN:
        rows, titles = list(profile.us), ["thread 1", "thread 2"]
    elif len(profile.us) > SHOWN:
        rows, titles = [profile.us[0], profile.us[1:].mean(axis=0)], ["thread 1", f"mean of {len(profile.us) - 1}"]
    whole = profile.watched
    lines = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    lines.add_column("", no_wrap=True)
    lines.add_column(Text(profile.title, style="bold cyan"), no_wrap=True, min_width=41)
    for title in titles:
        lines.add_column(title, justify="right", no_wrap=True, min_width=14)
    kept = [n for n, _ in enumerate(profile.phases) if any(row[n] > 0 for row in rows)]
    styles = {n: COLORS[place % len(COLORS)] for place, n in enumerate(kept)}
    for place, n in enumerate(kept):
        cells = [f"{units.duration(max(0.0, row[n]))} {units.share(row[n] / whole):>4}" for row in rows]
        lines.add_row(Text(LETTERS[place], style=styles[n]), Text(profile.phases[n]), *map(Text, cells))
    bars = [_bar([(LETTERS[place], styles[n], row[n] / whole) for place, n in enumerate(kept)]) for row in rows]
    told = f"{profile.how}\na step takes {units.duration(profile.plain)}, {units.duration(whole)} with the clock in it"
    return Group(lines, Text(), *bars, Text(told, style="dim"), Text())


def _bar(parts: list[tuple[str, str, float]]) -> Text:
    """Return a stacked bar: each part's letter as often as its share says."""
    bar, done = Text(no_wrap=True), 0.0
    for letter, color, share in parts:
        first, done = round(done * WIDTH), done + share
        bar.append(letter * (round(done * WIDTH) - first), style=f"{color} reverse")
    return bar
