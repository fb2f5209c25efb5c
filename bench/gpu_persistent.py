"""The persistent kernel on a GPU: whether its steps are NumPy's, and from which size on a CUDA graph is faster.

`make gpu` runs both. The second is what MOST_WORK in nnx/backends/cupy/programs/persistent.py is to be set by.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from networks import NETS

import nnx

# Rows of a batch and widths, by growing work.
SIZES = (
    (300, (2, 16, 3)), (300, (2, 64, 3)), (64, (64, 32, 10)), (300, (2, 128, 3)), (128, (64, 32, 10)),
    (64, (32, 64, 64, 10)), (256, (64, 32, 10)),
)  # fmt: skip
TOLERANCE = {"float32": 1e-3, "float64": 1e-8}  # relative, of losses
ROUNDS, SECONDS = 5, 0.05


def check(backend: Any, names: Iterable[str] = NETS) -> float:
    """Train networks of the tests by the persistent kernel and by NumPy; return the largest error (1 is allowed)."""
    before, backend.persistent, worst, noted = backend.persistent, True, 0.0, set(backend.info().notes)
    try:
        for number, name in enumerate(names):
            net, dtype = NETS[name], ("float64", "float32")[number % 2]
            losses = []
            for where in (backend, "numpy"):
                model = net.model(dtype, where)
                model.fit(*net.samples(), epochs=2, batch_size=net.batch, verbose=0, **net.fit)
                losses.append(np.array(model.steps(*net.samples(), 40)))
            error = float(np.max(np.abs(losses[0] - losses[1]) / (TOLERANCE[dtype] * np.maximum(1, np.abs(losses[1])))))
            if not error <= 1:
                raise AssertionError(f"{name}, {dtype}: {error:.2f} times the tolerated error")
            worst = max(worst, error)
    finally:
        backend.persistent = before
    refused = [note for note in backend.info().notes if "no persistent kernel" in note and note not in noted]
    if refused:
        raise AssertionError("; ".join(refused))
    return worst


def sweep(backend: Any, rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[str, Any]:
    """Return for each size the time of a step in us, by the persistent kernel and by a CUDA graph, in turns."""
    results: dict[str, Any] = {}
    before = backend.persistent
    try:
        for rows, widths in SIZES:
            work = 3 * rows * sum(a * b for a, b in pairwise(widths))
            runs = {}
            for persistent in (True, False):
                backend.persistent = persistent
                run, way = stepper(backend, rows, widths)
                runs[way] = run
            name = f"{rows}x{'-'.join(map(str, widths))}"
            results[name] = {"multiply_adds": work, **measured(backend, runs, rounds, seconds)}
    finally:
        backend.persistent = before
    return results


def stepper(backend: Any, rows: int, widths: tuple[int, ...]) -> tuple[Any, str]:
    """Return a function that does so many steps without waiting for them, and in which way it does."""
    layers = [layer for a, b in pairwise(widths) for layer in (nnx.Dense(a, b), nnx.ReLU())]
    model = nnx.Sequential(*layers[:-1], nnx.Softmax(), backend=backend)
    model.compile(nnx.CategoricalCrossEntropy(), nnx.Adam(1e-3))
    random = np.random.default_rng(0)
    model.steps(random.normal(size=(rows, widths[0])), random.integers(0, widths[-1], rows), 100)
    ((_, program),) = model._trainer._staged.values()  # type: ignore[union-attr]
    return program.run, program.description  # type: ignore[union-attr]


def measured(backend: Any, runs: dict[str, Any], rounds: int, seconds: float) -> dict[str, float]:
    times: dict[str, list[float]] = {way: [] for way in runs}
    for _ in range(rounds):
        for way, run in runs.items():
            steps = 100 if not times[way] else max(1, int(seconds / (times[way][-1] * 1e-6)))
            with backend.timer() as timer:
                run(steps)
            times[way].append(timer.seconds / steps * 1e6)
    return {way: min(figures) for way, figures in times.items()}


def markdown(results: dict[str, Any]) -> list[str]:
    """Return a table of `sweep`."""
    lines = ["| step | multiply-adds | persistent kernel | CUDA graph |", "|---|---|---|---|"]
    for name, result in results.items():
        figures = [f"{result[way]:.1f} us" if way in result else "-" for way in ("persistent kernel", "CUDA graph")]
        lines.append(f"| {name} | {result['multiply_adds']:,} | {' | '.join(figures)} |")
    return lines
