"""Training steps and predictions on a GPU by nnx, PyTorch and JAX in turns, measured as `nnx bench` does.

`make gpu` runs it. All players get ready at once; one that takes too long for a workload is left out of it alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gpu_facts import clocks

from nnx.benchmark import units
from nnx.benchmark.libraries import ON_GPU, Player, installed
from nnx.benchmark.report import Report
from nnx.benchmark.runner import Method, Runner
from nnx.benchmark.workloads import Workload, every

Save = Callable[[Any], None]
METHOD = Method(rounds=7, seconds=0.25, chunk=0.02, patience=0.0, ready=150.0, threads=os.cpu_count() or 1)
OURS = Player("nnx cupy", "nnx", "cupy", "nnx", device="cuda")
# Where the first one may take the persistent kernel, this one does not.
GRAPH = replace(OURS, name="nnx cupy, graph", suites=("steps",), environment={"NNX_PERSISTENT": "0"})
PLAYERS: tuple[Player, ...] = (OURS, GRAPH, *ON_GPU)
PREDICTED = (1, 1024)  # rows
LARGE = ("8192 x 784", "512 x 2048")  # steps whose products are worth another precision
FIRST = ("128 x 784", "8192 x 784")  # what matters most, if time runs out
LEFT_OUT = ("128 x 64-", "1024 x 784")  # steps that take this long and say no more than their neighbours


def steps() -> dict[str, list[Workload]]:
    """Return the training steps to race, by precision."""
    some = [w for w in every() if w.suite == "steps" and not any(text in w.title for text in LEFT_OUT)]
    some.sort(key=lambda w: next((place for place, text in enumerate(FIRST) if f" {text}" in w.title), len(FIRST)))
    return {"full": some, "tf32": [w for w in some if any(text in w.title for text in LARGE)]}


def predictions() -> dict[str, list[Workload]]:
    """Return the predictions to race, by precision: of few rows and of many, since the time is short."""
    return {"full": [w for w in every() if w.suite == "inference" and w.rows in PREDICTED]}


def race(workloads: dict[str, list[Workload]], save: Save, quick: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Return each precision's rows of a report, saving them on the way.

    Raises:
        RuntimeError: nnx has no figure at all.
    """
    players = [player for player in PLAYERS if installed(player)]
    races: dict[str, list[dict[str, Any]]] = {}
    for precision, some in workloads.items():
        method = replace(METHOD, precision=precision, rounds=3 if quick else METHOD.rounds)
        report = Report(players, {}, method, quick)
        races[precision] = report.data["workloads"]
        with Runner(players, method) as running:
            for workload in some[: 2 if quick else None]:
                with sampled() as seen:
                    row = report.add(workload, running.measure(workload))
                row["clocks"] = seen
                save(races)
                print(markdown({precision: [row]})[-1], flush=True)
    ours = [row["results"].get(PLAYERS[0].name, {}) for rows in races.values() for row in rows]
    if not any("median_us" in result for result in ours):
        raise RuntimeError(f"nnx finished no race: {ours}")
    return races


@contextmanager
def sampled(every: float = 3.0) -> Iterator[list[str]]:
    """Note the GPU's clock every few seconds: figures of one that has slowed down are others."""
    seen: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every):
            seen.append(clocks().get("clocks.sm", "?"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def markdown(races: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return a table: the median time, by how many times nnx is ahead of each, the memory held, and what ran."""
    names = [p.name for p in PLAYERS if any(p.name in row["results"] for rows in races.values() for row in rows)]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for precision, rows in races.items():
        for row in rows:
            ours = row["results"].get(PLAYERS[0].name, {}).get("median_us")
            cells = [cell(row["results"].get(name, {}), ours) for name in names]
            lines.append(f"| {row['title']}{'' if precision == 'full' else f', {precision}'} | {' | '.join(cells)} |")
    return lines


def cell(result: dict[str, Any], ours: float | None) -> str:
    if "median_us" not in result:
        return result.get("refused", "")[:60].replace("|", "/")
    parts = [units.duration(result["median_us"])]
    parts += [units.times(result["median_us"] / ours)] if ours else []
    parts += [f"{result['held_bytes'] / 2**20:.0f} MiB"] if result.get("held_bytes") else []
    return ", ".join([*parts, *filter(None, [result["how"]])])
