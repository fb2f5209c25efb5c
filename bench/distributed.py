"""Data-parallel training's cost: what sums and steps take here, against the cost model.

    mpiexec -n 2 python bench/distributed.py

Prints, on rank 0, the link's latency and bandwidth, fitted to sums of several sizes, mpi4py's own time for 10 MB beside
nnx's, a step's time alone and together, and together with all gradients in one sum, after all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np

import nnx
from nnx.distributed.communicator import Communicator
from nnx.distributed.cost import Link, Work
from nnx.distributed.shares import Shares
from nnx.training import shared

SIZES = (8, 1 << 10, 1 << 14, 1 << 18, 1 << 20, 10 << 20)  # bytes
ROUNDS = 15


def median(comm: Communicator, work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median time of some work that all processes begin together, on the slowest of them."""
    for _ in range(5):
        work()
    times = []
    for _ in range(rounds):
        comm.barrier()
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return max(comm.gather(statistics.median(times)))


def fitted(comm: Communicator, times: dict[int, float]) -> Link:
    """The link whose sums of the smallest and of the largest size take as long."""
    small, large = min(times), max(times)
    rounds = 2 * int(np.ceil(np.log2(comm.size)))
    share = 2 * (comm.size - 1) / comm.size
    return Link(times[small] / rounds, share * large / max(times[large] - times[small], 1e-9))


def stepping(backend: str, width: int, rows: int) -> tuple[nnx.Sequential, np.ndarray, np.ndarray]:
    """A network, and a batch."""
    layers = nnx.Dense(256, width), nnx.ReLU(), nnx.Dense(width, width), nnx.ReLU(), nnx.Dense(width, 10), nnx.Softmax()
    model = nnx.Sequential(*layers, backend=backend).compile(nnx.CategoricalCrossEntropy(), nnx.Adam(0.001))
    rng = np.random.default_rng(0)
    return model, rng.standard_normal((rows, 256), np.float32), rng.integers(0, 10, rows)


def seconds(model: nnx.Sequential, x: np.ndarray, y: np.ndarray, shares: Shares | None, comm: Communicator) -> float:
    """A step's time, with the batch divided or not."""
    return median(comm, partial(running(model, x, y, shares), 5)) / 5


def running(model: nnx.Sequential, x: np.ndarray, y: np.ndarray, shares: Shares | None) -> Callable[[int], object]:
    """What runs some steps, with the batch divided or not."""
    trainer = model._trainable("steps")
    trainer.shares = shares
    feed, runner = trainer.staged(x, model._targets(y, x, "steps"))
    return partial(trainer.run_all, feed, runner)


def ahead(comm: Communicator, backend: str, width: int, rows: int) -> tuple[float, float]:
    """A step's time with sums begun as gradients are ready, and with one sum behind all: medians of turns."""
    steps, alike = [], [stepping(backend, width, rows) for _ in range(2)]
    for least, made in zip((shared.worth_sending, lambda: 1 << 62), alike, strict=True):
        with patch.object(shared, "worth_sending", least):
            steps.append(running(*made, Shares(comm, comm.size)))
    turns = [[median(comm, partial(step, 3), 3) / 3 for step in steps] for _ in range(ROUNDS)]
    begun, behind = (statistics.median(column) for column in zip(*turns, strict=True))
    return begun, behind


def main() -> None:
    """Measure, and tell."""
    comm = nnx.distributed.init()
    nnx.set_threads(1)
    alone, link = Communicator(), Link(1e-6, 1e10)
    lines = [f"{comm.size} processes, {comm.description}"]
    if comm.size > 1:
        from mpi4py import MPI

        sums = {size: np.zeros(size // 4, np.float32) for size in SIZES}
        times = {size: median(comm, partial(comm.allreduce, a)) for size, a in sums.items()}
        a = sums[SIZES[-1]]
        both = [partial(comm.allreduce, a), partial(MPI.COMM_WORLD.Allreduce, MPI.IN_PLACE, a)]
        turns = [[median(comm, work, 3) for work in both] for _ in range(ROUNDS)]
        ours, plain = (statistics.median(column) for column in zip(*turns, strict=True))
        link = fitted(comm, times)
        lines += [f"sum of {size:>9,} bytes: {took * 1e6:9.1f} us" for size, took in times.items()]
        lines += [f"mpi4py's own of 10 MB:  {plain * 1e6:9.1f} us; nnx's is {ours / plain:.2f} times that"]
        lines += [f"latency {link.latency * 1e6:.2f} us, bandwidth {link.bandwidth / 1e9:.2f} GB/s"]
    for backend, width, rows in (("numba", 64, 512), ("numba", 512, 512), ("numba", 1024, 2048)):
        model, x, y = stepping(backend, width, rows)
        few = stepping(backend, width, rows // 8)
        halves = Shares(alone, 1)  # not divided, in two halves: what the others' share costs does not come into it
        whole, eighth = seconds(model, x, y, halves, comm), seconds(*few, halves, comm)
        together, one_sum = ahead(comm, backend, width, rows) if comm.size > 1 else (whole, whole)
        samples = (whole - eighth) * 8 / 7
        work = Work(samples, max(whole - samples, 0.0), 4.0 * model.flat.size)
        predicted = work.on(comm.size, link)
        lines.append(
            f"{rows} x 256-{width}-{width}-10 ({work.bytes_ / 1e6:.2f} MB): whole {whole * 1e3:.3f} ms, of which fixed "
            f"{work.fixed * 1e3:.3f}; together {together * 1e3:.3f} ms, with one sum {one_sum * 1e3:.3f}, predicted "
            f"{predicted * 1e3:.3f}; efficiency "
            f"{whole / comm.size / together:.2f}, predicted {work.efficiency(comm.size, link):.2f}"
        )
    if comm.leads:
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
