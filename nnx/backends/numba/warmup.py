"""Ahead-of-time compiling: every kernel of the Numba backend now, so that no training has to wait: `nnx warmup`.

Each kernel is called once, in each number type, on operands of a few numbers; the code is kept on disk
(nnx/kernels/cpu/jit/cache.py). Numba compiles one function at a time in a process, so several processes go through the
kernels, each in its own order; what one has compiled, the others load.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import numpy as np

from nnx.backends import get_backend
from nnx.backends.threads import get_threads

Array = Any
Step = tuple[str, Callable[[], Any]]
DTYPES = ("float32", "float64")
PROCESSES = 4  # the most processes: each needs some 350 MB, and a second or two before it compiles anything


def warmup(progress: Callable[[int, int, str], None] | None = None, dtypes: tuple[str, ...] = DTYPES) -> int:
    """Compile all kernels, or load them from disk; return the number of calls.

    Args:
        progress: called before each with (number done, number of all, name of the next), and once at the end.
        dtypes: the number types to compile for.

    Raises:
        BackendUnavailable: there is no Numba here; the message says why and what to do.
    """
    processes = most_processes()
    with helpers(processes, dtypes):  # started first, so that they import Numba at the same time
        backend = get_backend("numba")
        from nnx.kernels.cpu.jit.cache import uncollected

        steps = _steps(backend, dtypes)
        with uncollected():
            for done, (name, call) in enumerate(order_of(steps, processes, 0)):
                if progress is not None:
                    progress(done, len(steps), name)
                call()
    if progress is not None:
        progress(len(steps), len(steps), "")
    return len(steps)


def export(folder: Path) -> int:
    """Copy compiled kernels and measured choices to a folder for an image's NUMBA_CACHE_DIR; return how many files.

    Raises:
        OSError: it cannot be written.
    """
    from numba.core.registry import cpu_target

    from nnx.kernels.cpu.jit.cache import ship

    return ship(folder, cpu_target.target_context.codegen().magic_tuple())


# ---- several processes -----------------------------------------------------------------------------------------------


def most_processes() -> int:
    """Return the number of processes to use; one if this program is not a Python interpreter that can be started."""
    alone = not sys.executable or getattr(sys, "frozen", False)
    return 1 if alone else min(get_threads(), PROCESSES)


def order_of(steps: Sequence[Step], processes: int, number: int) -> list[Step]:
    """Return all steps in the order for one of the processes.

    Processes work in pairs, which begin at the two ends of a section of the list and move towards each other. Once they
    have met, everything else in the section is on the disk.
    """
    stretches = (processes + 1) // 2
    first, last = (len(steps) * n // stretches for n in (number // 2, number // 2 + 1))
    forward = [*steps[first:], *steps[:first]]
    backward = [*reversed(steps[:last]), *reversed(steps[last:])]
    return backward if number % 2 else forward


@contextmanager
def helpers(processes: int, dtypes: Sequence[str]) -> Iterator[None]:
    """Start other processes that do the same steps in other orders; if one fails, this process does its steps."""
    commands = [
        [sys.executable, "-m", "nnx.backends.numba.warmup", str(processes), str(n), *dtypes]
        for n in range(1, processes)
    ]
    started: list[Popen[bytes]] = []
    try:
        with suppress(OSError):  # such as a limit of processes: then there are fewer helpers, or none
            started.extend(Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) for command in commands)
        yield
    finally:
        for helper in started:
            helper.kill()  # cache.prune removes a file that it was writing
        for helper in started:
            helper.wait()


def _help(processes: str, number: str, *dtypes: str) -> None:
    """Compile, as a helping process, until the process that started this one ends it."""
    from nnx.backends.numba.backend import create
    from nnx.kernels.cpu.jit.cache import uncollected, writable

    if writable() is None:  # without a cache on disk it cannot help
        return
    with uncollected():  # the backend is not probed here; the other process has done that
        for _, call in order_of(_steps(create(), dtypes), int(processes), int(number)):
            call()


# ---- the work --------------------------------------------------------------------------------------------------------


def _steps(backend: Any, dtypes: Sequence[str]) -> list[Step]:
    """Return one call for every kernel and number type.

    Steps that share most of their code are next to each other, so that each process compiles it once: first by number
    type, then by program. Every second type is in reverse order, so that a process that begins at the end has the large
    ones first.
    """
    calls = [[(f"{name} ({dtype})", call) for name, call in _calls(backend, dtype).items()] for dtype in dtypes]
    return [step for n, same in enumerate(calls) for step in (reversed(same) if n % 2 else same)]


def _calls(backend: Any, dtype: str) -> dict[str, Callable[[], Any]]:
    """Return one call for every kernel, by the name of its operation; those that take seconds come first and last."""
    from nnx.kernels.cpu.ops.optimizers import NUMBERS
    from nnx.kernels.cpu.program import compiled, inference, inference_called, inference_many, inference_scores
    from nnx.kernels.cpu.program.lanes_called import CALLED_IN_LANES
    from nnx.kernels.cpu.program.rows_called import CALLED_BY_ROWS
    from nnx.kernels.elementwise import number_of

    n, c = 3, 4
    x, y, gradient = (np.full((n, c), 0.25, dtype) for _ in range(3))
    w, b, dw, db = np.ones((c, c), dtype), np.ones((1, c), dtype), np.empty((c, c), dtype), np.empty((1, c), dtype)
    labels, losses, soft = np.zeros(n, np.int64), np.empty(n, dtype), np.full((n, c), 0.25, dtype)
    p, g, m, v, u = (np.ones(4, dtype) for _ in range(5))
    hyper, counters = np.array([0.1, 0.0, 0.9, 0.999, 1e-7, 0.0, 0.004]), np.zeros(3, np.int64)
    stats, history, order, pool = np.zeros(3), np.zeros((2, 3)), np.arange(n), backend.kernels.pool

    split = {
        f"training, on {backend.unit}": lambda: compiled.ready(dtype, "rows", unit=backend.unit),
        f"gemm, on {backend.unit}": lambda: backend.kernels.amx.ready(backend.unit),
    }
    functions = dict.fromkeys((*CALLED_BY_ROWS.values(), *CALLED_IN_LANES.values()))
    called = {f"training, {f.__name__}": partial(compiled.operation_at, f, dtype) for f in functions}
    called |= {f"training, {name}": partial(compiled.update_at, kind, dtype) for name, kind in NUMBERS.items()}

    return {
        "training, by rows": lambda: compiled.ready(dtype, "rows"),
        "training, in lanes": lambda: compiled.ready(dtype, "lanes"),
        **(split if backend.unit and dtype == "float32" else {}),
        **called,
        "prediction, functions": lambda: inference_called.function_at(number_of("tanh"), dtype),
        "prediction, layer_norm": lambda: inference_called.function_at(inference.LAYER_NORM, dtype),
        "prediction, fixed_norm": lambda: inference_called.function_at(inference.FIXED_NORM, dtype),
        "gemm": lambda: backend.kernels.gemm.ready(np.dtype(dtype)),
        "sgd": lambda: backend.sgd(p, g, m, hyper, counters),
        "adagrad": lambda: backend.adagrad(p, g, v, hyper, counters),
        "rmsprop": lambda: backend.rmsprop(p, g, v, hyper, counters),
        "adam": lambda: backend.adam(p, g, m, v, hyper, counters),
        "nadam": lambda: backend.nadam(p, g, m, v, hyper, counters),
        "amsgrad": lambda: backend.amsgrad(p, g, m, v, u, hyper, counters),
        "lion": lambda: backend.lion(p, g, m, hyper, counters),
        "dropout": lambda: backend.dropout(x, 0.5, 0, 0, counters, y),
        "regularize": lambda: backend.regularize(w, dw, 0.1, 0.1, np.empty(1)),
        "gather_rows": lambda: backend.gather_rows(x, order, counters, y),
        "gather_rows, labels": lambda: backend.gather_rows(labels, order, counters, labels.copy()),
        "end_step": lambda: backend.end_step(stats, np.zeros(1), history, counters, n),
        "waiting": lambda: pool.stay_awake(counters, 1, 1),
        "helping": lambda: pool.serve(pool.board, 1, order.copy(), counters, 1, 0),
        "finish": lambda: backend.kernels.elementwise.finish(y, b, backend.kernels.elementwise.NONE),
        "relu": lambda: backend.relu(x, y),
        "relu_backward": lambda: backend.relu_backward(x, gradient, y),
        "mean_squared_error": lambda: backend.mean_squared_error(x, soft, losses),
        "mean_squared_error_backward": lambda: backend.mean_squared_error_backward(x, soft, y),
        "sigmoid_cross_entropy": lambda: backend.sigmoid_cross_entropy(x, soft, losses, None, 0.0, y),
        "cross_entropy": lambda: backend.cross_entropy(soft, labels, losses),
        "cross_entropy, distributions": lambda: backend.cross_entropy(soft, soft, losses),
        "cross_entropy_backward": lambda: backend.cross_entropy_backward(soft, labels, y),
        "cross_entropy_backward, distributions": lambda: backend.cross_entropy_backward(soft, soft, y),
        "tally": lambda: backend.tally(losses, x, soft, "categorical", 0.0, stats),
        "tally, labels": lambda: backend.tally(losses, x, labels, "categorical", 0.0, stats),
        "weigh": lambda: backend.weigh(x, np.ones((n, 1), dtype), y),
        "softmax_jacobian": lambda: backend.softmax_jacobian(x),
        "softmax": lambda: backend.softmax(x, y),
        "softmax_cross_entropy": lambda: backend.softmax_cross_entropy(x, labels, losses, None, 0.0, y),
        "softmax_cross_entropy, distributions": lambda: backend.softmax_cross_entropy(x, soft, losses, None, 0.0, y),
        "dense": lambda: backend.dense(x, w, b, "relu", y),
        "dense_backward": lambda: backend.dense_backward(x, w, gradient, dw, db, y),
        "softmax_backward": lambda: backend.softmax_backward(x, gradient, y),
        "evaluation": lambda: inference_scores.code(dtype, labels=False),
        "evaluation, labels": lambda: inference_scores.code(dtype, labels=True),
        "prediction": lambda: inference.ready(dtype),
        "prediction of many rows": lambda: inference_many.ready(dtype),
    }


if __name__ == "__main__":
    _help(*sys.argv[1:])
