"""Optimizers: 200 steps, called the way training calls them, compared with their formulas in float64."""

from __future__ import annotations

import numpy as np

from nnx.backends import Backend
from nnx.backends.operation_table import OPERATIONS
from nnx.kernels.step_state import BETA_1, LEARNING_RATE
from nnx.testing.calls import Guarded
from nnx.testing.compare import Report, compare, unchanged
from nnx.testing.reference import optimizers
from nnx.testing.reference.results import Wanted

# Hyperparameters in the order of `hyper`: rate, decay, beta_1 (momentum, rho), beta_2 (whether it is Nesterov's),
# epsilon, weight decay, and Nadam's momentum decay.
OPTIMIZERS: dict[str, tuple[tuple[float, ...], ...]] = {
    "sgd": ((0.1, 0, 0, 0, 0, 0), (0.05, 1e-2, 0.9, 0, 0, 0), (0.05, 1e-2, 0.9, 1, 0, 0)),
    "adagrad": ((0.1, 0, 0, 0, 1e-7, 0), (0.05, 1e-2, 0, 0, 1e-3, 0)),
    "rmsprop": ((0.02, 0, 0.9, 0, 1e-7, 0), (0.01, 1e-2, 0.5, 0, 1e-3, 0)),
    "nadam": (
        (0.05, 0, 0.9, 0.999, 1e-7, 0, 4e-3),
        (0.02, 1e-2, 0.5, 0.9, 1e-3, 0.1, 0),
    ),
    "amsgrad": ((0.05, 0, 0.9, 0.999, 1e-7, 0), (0.02, 1e-2, 0.5, 0.9, 1e-3, 0.1)),
    "lion": ((0.01, 0, 0.9, 0.99, 0, 0), (0.02, 1e-2, 0.5, 0.9, 0, 0.1)),
    "accumulate": ((0.1, 0, 0, 0, 0, 0), (0.1, 0, 0, 0, 0, 0)),
    "adam": ((0.05, 0, 0.9, 0.999, 1e-7, 0), (0.02, 1e-2, 0.5, 0.9, 1e-3, 0), (0.05, 5e-7, 0.9, 0.999, 1e-7, 0.1)),
}
MOVED = ("p", "m", "v", "u")
RUNS = ((192, 200), (64 * 700, 3))  # size of the flat buffer, always a multiple of 64, and steps
PADDED = 40  # numbers at its end that belong to no parameter: they and their gradients are always 0


def check_optimizer(backend: Backend, operation: str, dtype: str, report: Report) -> None:
    """Check one optimizer; raise AssertionError if it differs from its formulas."""
    for hyper in OPTIMIZERS[operation]:
        for size, steps in RUNS:
            what = f"{backend.name}: {operation}, hyper={hyper}, {size} numbers, {steps} steps, {dtype}"
            report.add(operation, _run(backend, operation, np.array(hyper), size, steps, dtype, what))


def cancels(m: np.ndarray, g: np.ndarray, beta: float) -> np.ndarray:
    """Tell where a moment and a gradient cancel so nearly that rounding decides the sign of their mean."""
    kept, new = beta * m, (1 - beta) * g.astype(np.float64)
    return np.abs(kept + new) < 1e-3 * (np.abs(kept) + np.abs(new))


def _run(backend: Backend, operation: str, hyper: np.ndarray, size: int, steps: int, dtype: str, what: str) -> float:
    random = np.random.default_rng(size)
    live = np.arange(size) < size - PADDED
    scales = 10.0 ** random.integers(-12, 4, size) * live  # from vanishing to exploding gradients
    start = (random.normal(size=size) * live).astype(dtype)
    names = [name for name in MOVED if name in OPERATIONS[operation].writes]
    guarded = {name: Guarded(backend, start if name == "p" else np.zeros(size, dtype)) for name in names}
    p, *moments = (guarded[name].array for name in names)
    g, numbers, counters = (
        backend.zeros(size, dtype),
        backend.asarray(hyper.copy(), "float64"),
        backend.zeros(3, "int64"),
    )

    exact = {"p": start.astype(np.float64), "m": np.zeros(size), "v": np.zeros(size), "u": np.zeros(size)}
    way = {name: np.abs(values) for name, values in exact.items()}
    for step in range(steps):
        if step == steps // 2:  # as a schedule does: every step must read all of it again
            hyper = hyper * np.where(np.arange(len(hyper)) == LEARNING_RATE, 0.5, 1)
            numbers[...] = backend.asarray(hyper.copy(), "float64")
        given, count = (random.normal(size=size) * scales).astype(dtype), np.array([step, 5 * step, step])
        if operation == "lion":  # whose sign rounding must not decide
            given = np.where(cancels(exact["m"], given, hyper[BETA_1]), exact["m"], given).astype(dtype)
        g[...], counters[...] = backend.asarray(given.copy(), dtype), backend.asarray(count.copy(), "int64")
        getattr(backend, operation)(p, g, *moments, numbers, counters)

        before = {name: values.copy() for name, values in exact.items()}
        wide = given.astype(np.float64)
        optimizers.descend(operation, exact["p"], wide, exact["m"], exact["v"], hyper, step, exact["u"])
        for name, values in exact.items():
            way[name] += np.abs(values - before[name])

    for name, array, values in (("g", g, given), ("hyper", numbers, hyper), ("counters", counters, count)):
        assert unchanged(backend.to_numpy(array), values), f"{what}: changes {name}, which it may only read"
    got = {name: one.read(f"{what}: {name}") for name, one in guarded.items()}
    for name, values in got.items():
        assert not values[~live].any(), f"{what}: {name} is not 0 where it only pads the buffer"
    return max(compare(got[n], Wanted(exact[n], way[n]), "steps", dtype, f"{what}: {n}") for n in names)
