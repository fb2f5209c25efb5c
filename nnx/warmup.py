"""Compile every kernel of the Numba backend now, so that no training has to wait for it: `nnx warmup`.

Each kernel is called once, in each number type, on operands of a few numbers; the code is kept on disk
(nnx/kernels/cpu/cache.py). A second call takes half a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnx.backends import get_backend

Array = Any
Step = tuple[str, Callable[[], Any]]


def warmup(
    progress: Callable[[int, int, str], None] | None = None, dtypes: tuple[str, ...] = ("float32", "float64")
) -> int:
    """Compile all kernels, or load them from disk; return how many calls that took.

    Args:
        progress: called before each with (how many are done, of how many, which is next), and once at the end.
        dtypes: the number types to compile for.

    Raises:
        BackendUnavailable: there is no Numba here; the message says why and what to do.
    """
    backend = get_backend("numba")
    steps = [step for dtype in dtypes for step in _steps(backend, dtype)]
    for done, (name, call) in enumerate(steps):
        if progress is not None:
            progress(done, len(steps), name)
        call()
    if progress is not None:
        progress(len(steps), len(steps), "")
    return len(steps)


def _steps(backend: Any, dtype: str) -> list[Step]:
    """One call for every kernel, and a small network's training and prediction, for the functions that run them."""
    n, c = 3, 4
    x, y, gradient = (np.full((n, c), 0.25, dtype) for _ in range(3))
    w, b, dw, db = np.ones((c, c), dtype), np.ones((1, c), dtype), np.empty((c, c), dtype), np.empty((1, c), dtype)
    labels, losses, soft = np.zeros(n, np.int64), np.empty(n, dtype), np.full((n, c), 0.25, dtype)
    p, g, m, v = (np.ones(4, dtype) for _ in range(4))
    hyper, counters = np.array([0.1, 0.0, 0.9, 0.999, 1e-7, 0.0]), np.zeros(3, np.int64)
    stats, history, order = np.zeros(3), np.zeros((2, 3)), np.arange(n)

    calls: dict[str, Callable[[], Any]] = {
        "gemm": lambda: backend.kernels.gemm.ready(np.dtype(dtype)),
        "dense": lambda: backend.dense(x, w, b, "relu", y),
        "finish": lambda: backend.kernels.activations.finish(y, b, 0),
        "dense_backward": lambda: backend.dense_backward(x, w, gradient, dw, db, y),
        "relu": lambda: backend.relu(x, y),
        "relu_backward": lambda: backend.relu_backward(x, gradient, y),
        "softmax": lambda: backend.softmax(x, y),
        "softmax_backward": lambda: backend.softmax_backward(x, gradient, y),
        "softmax_jacobian": lambda: backend.softmax_jacobian(x),
        "softmax_cross_entropy": lambda: backend.softmax_cross_entropy(x, labels, losses, None, 0.0, y),
        "softmax_cross_entropy, distributions": lambda: backend.softmax_cross_entropy(x, soft, losses, None, 0.0, y),
        "sigmoid_cross_entropy": lambda: backend.sigmoid_cross_entropy(x, soft, losses, None, 0.0, y),
        "cross_entropy": lambda: backend.cross_entropy(soft, labels, losses),
        "cross_entropy, distributions": lambda: backend.cross_entropy(soft, soft, losses),
        "cross_entropy_backward": lambda: backend.cross_entropy_backward(soft, labels, y),
        "cross_entropy_backward, distributions": lambda: backend.cross_entropy_backward(soft, soft, y),
        "binary_cross_entropy": lambda: backend.binary_cross_entropy(soft, soft, losses),
        "binary_cross_entropy_backward": lambda: backend.binary_cross_entropy_backward(soft, soft, y),
        "mean_squared_error": lambda: backend.mean_squared_error(x, soft, losses),
        "mean_squared_error_backward": lambda: backend.mean_squared_error_backward(x, soft, y),
        "gather_rows": lambda: backend.gather_rows(x, order, counters, y),
        "gather_rows, labels": lambda: backend.gather_rows(labels, order, counters, labels.copy()),
        "dropout": lambda: backend.dropout(x, 0.5, 0, 0, counters, y),
        "regularize": lambda: backend.regularize(w, dw, 0.1, 0.1, np.empty(1)),
        "tally": lambda: backend.tally(losses, x, soft, "categorical", 0.0, stats),
        "tally, labels": lambda: backend.tally(losses, x, labels, "categorical", 0.0, stats),
        "end_step": lambda: backend.end_step(stats, np.zeros(1), history, counters, n),
        "sgd": lambda: backend.sgd(p, g, m, hyper, counters),
        "adagrad": lambda: backend.adagrad(p, g, v, hyper, counters),
        "rmsprop": lambda: backend.rmsprop(p, g, v, hyper, counters),
        "adam": lambda: backend.adam(p, g, m, v, hyper, counters),
        "program": lambda: _train(dtype),
        "forward": lambda: _predict(dtype),
    }
    return [(f"{name} ({dtype})", call) for name, call in calls.items()]


def _train(dtype: str) -> None:
    """Train two tiny networks for a step: one narrow enough for samples to lie in the vector lanes, one not."""
    import nnx

    for width in (4, 300):
        model = nnx.Sequential(nnx.Dense(2, width), nnx.ReLU(), nnx.Dense(width, 3), backend="numba", dtype=dtype)
        model.compile(loss=nnx.SoftmaxCrossEntropy(), optimizer=nnx.Adam())
        model.fit(np.zeros((64, 2), dtype), np.zeros(64, np.int64), batch_size=32, verbose=0)


def _predict(dtype: str) -> None:
    """Predict one row with a tiny network."""
    import nnx

    nnx.Sequential(nnx.Dense(2, 3), backend="numba", dtype=dtype).predict(np.zeros((1, 2), dtype))
