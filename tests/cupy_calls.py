"""Calls of the CuPy backend's operations, for its tests and for compute-sanitizer (bench/gpu.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnx.backends import Backend
from nnx.backends.operation_table import OPERATIONS
from nnx.testing.cases import CASES, Maker
from nnx.testing.optimizers import OPTIMIZERS

Array = Any


def of(backend: Backend, *arrays: Any) -> list[Array]:
    """Arrays of the backend, types kept."""
    return [backend.asarray(np.asarray(a), np.asarray(a).dtype.name) for a in arrays]


def plain_calls(backend: Backend) -> Iterator[tuple[str, Any]]:
    """Each operation's largest case in float32, contiguous and with `out`, and each optimizer."""
    for operation, make in CASES.items():
        case = max(make(Maker("float32")), key=lambda c: next(iter(c.operands.values())).size)
        operands = {
            name: of(backend, value)[0] if isinstance(value, np.ndarray) else value
            for name, value in case.operands.items()
        }
        if case.out is not None:
            operands["out"] = backend.empty(case.out, "float32")
        yield operation, lambda op=operation, given=operands: getattr(backend, op)(**given)
    for optimizer, (hyper, *_) in OPTIMIZERS.items():
        flat = [backend.zeros(640) for name in "pgmvu" if name in OPERATIONS[optimizer].reads]
        given = [*flat, *of(backend, np.array(hyper, float), np.zeros(3, int))]
        yield optimizer, lambda op=optimizer, given=given: getattr(backend, op)(*given)


def large(backend: Backend, dtype: str = "float64") -> None:
    """Shapes that the conformance suite leaves out: long rows, many rows, wide sums."""
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(3, 1500)), random.integers(0, 1500, 3)
    soft = np.eye(1500)[labels]
    a, t, s = of(backend, x, labels, soft)
    backend.softmax_backward(backend.softmax(a), a)
    gamma = of(backend, np.ones((1, 1500)))[0]
    normalized, scales = backend.empty((3, 1500), "float64"), backend.empty(3, "float64")
    backend.layer_norm(a, gamma, gamma, 1e-5, normalized, scales)
    backend.layer_norm_backward(normalized, scales, gamma, a)
    losses = backend.empty(3, "float64")
    for target in (t, s):
        backend.softmax_cross_entropy(a, target, losses)
    many, targets = of(backend, random.normal(size=(5000, 4)), random.integers(0, 4, 5000))
    stats, penalty = backend.zeros(3, "float64"), backend.zeros(1, "float64")
    backend.tally(many[:, 0], many, targets, "categorical", 0.0, stats)
    backend.regularize(many, backend.zeros((5000, 4), "float64"), 0.1, 0.1, penalty)
    backend.dense_gradients(many, many, backend.empty((4, 4), "float64"), backend.empty((1, 4), "float64"))
    x, w, b = (random.normal(size=shape).astype(dtype) for shape in ((300, 200), (200, 100), (1, 100)))
    backend.dense(*of(backend, x, w, b), "tanh")
