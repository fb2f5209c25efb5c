"""Limits of the machine, measured when needed: rate of multiply-adds, bandwidth of each memory level, time of a call.

No training step can be faster than its multiply-adds at the first rate, nor than its bytes at the second: that is its
floor on the roofline. Data that fits in a cache moves faster, so the second rate depends on the size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from nnx.benchmark.libraries import Player

SIDES = (512, 1024, 2048)  # of square matrices
SIZES = tuple(2**power for power in range(15, 28, 2))  # bytes of two arrays: 32 KiB to 128 MiB
SHARED = 2**20  # smaller arrays are in the caches of one core
Limits = dict[str, Any]


def of_this(player: Player, seconds: float) -> Limits:
    """Return the limits of a player's device: {"gflops", "bandwidth": [[bytes, GB/s], ...], "call_us"}.

    Args:
        seconds: to spend on each figure, on the host.
    """
    if player.device == "cuda":
        return _of_gpu(player.how)
    threads = int(os.environ.get("NNX_THREADS", "1"))
    return {"gflops": _gflops(seconds), "bandwidth": _bandwidth(threads, seconds), "call_us": _call_us(seconds)}


def higher(some: Limits, others: Limits) -> Limits:
    """Return the better of two measurements of one device, since each can only be too low."""
    bandwidth = [
        [size, max(rate, other)]
        for (size, rate), (_, other) in zip(some["bandwidth"], others["bandwidth"], strict=True)
    ]
    return {
        "gflops": max(some["gflops"], others["gflops"]),
        "bandwidth": bandwidth,
        "call_us": min(some["call_us"], others["call_us"]),
    }


def rate_at(limits: Limits, resident: float) -> float:
    """Return the bandwidth for `resident` bytes of data in GB/s, interpolated between the measured sizes."""
    sizes, rates = zip(*limits["bandwidth"], strict=True)
    return float(np.interp(np.log(max(resident, 1.0)), np.log(sizes), rates))


def floor_us(limits: Limits, flops: float, moved: float, resident: float) -> float:
    """Return the least possible time in us for some operations and moved bytes; `resident` bytes are touched in all."""
    return float(max(flops / limits["gflops"] / 1e3, moved / rate_at(limits, resident) / 1e3))


# ---- processors ------------------------------------------------------------------------------------------------------


def _gflops(seconds: float) -> float:
    """Return the best rate of a float32 product of square matrices, by BLAS and, if available, by nnx's own kernels."""
    best = 0.0
    products: list[Callable[..., Any]] = [lambda a, b, c: np.matmul(a, b, out=c)]
    try:
        import nnx

        numba = nnx.get_backend("numba")
        products.append(lambda a, b, c: numba.dense(a, b, np.zeros((1, b.shape[1]), np.float32), None, c))
    except Exception:
        pass
    for side in SIDES:
        a, b, c = (np.ones((side, side), np.float32) for _ in range(3))
        for product in products:
            best = max(best, 2 * side**3 / _best(partial(product, a, b, c), seconds) / 1e9)
    return best


def _bandwidth(threads: int, seconds: float) -> list[list[float]]:
    """Return [bytes of both arrays, GB/s] of a += b, on all threads: two numbers read and one written for each."""
    found = []
    with ThreadPoolExecutor(threads) as pool:
        for size in SIZES:
            numbers = size // 8 // threads
            if size < SHARED:
                rate = threads * _cached(numbers, seconds)
            else:
                parts = [[np.ones(numbers, np.float32), np.zeros(numbers, np.float32)] for _ in range(threads)]
                rate = 12 * numbers * threads / _best(partial(_all, pool, parts), seconds)
            found.append([float(size), rate / 1e9])
    rates = np.maximum.accumulate([rate for _, rate in found][::-1])[::-1]  # smaller data is never slower
    return [[size, round(float(rate), 1)] for (size, _), rate in zip(found, rates, strict=True)]


def _cached(numbers: int, seconds: float) -> float:
    """Return bytes per second in one core's caches, from the difference of two times, since a call is slow there."""

    def took(count: int) -> float:
        pair = [np.ones(count, np.float32), np.zeros(count, np.float32)]
        return _best(lambda: _add(pair, 200), seconds) / 200

    longer = took(numbers) - took(numbers // 2)
    return 6 * numbers / longer if longer > 0 else 12 * numbers / took(numbers)


def _all(pool: ThreadPoolExecutor, parts: list[list[np.ndarray]]) -> None:
    list(pool.map(_add, parts))


def _add(pair: Sequence[np.ndarray], times: int = 1) -> None:
    a, b = pair
    for _ in range(times):
        np.add(a, b, out=a)


def _call_us(seconds: float) -> float:
    """Return the time of a call that does nothing."""
    a = np.zeros(1, np.float32)

    def many() -> None:
        for _ in range(1000):
            np.add(a, a, out=a)

    return _best(many, seconds) * 1e3


def _best(call: Callable[[], Any], seconds: float) -> float:
    """Return the least time of a call, in seconds."""
    call()
    best: float = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return float(best)


# ---- GPUs ------------------------------------------------------------------------------------------------------------


def _of_gpu(name: str) -> Limits:
    import nnx

    backend: Any = nnx.get_backend(name)
    cupy = backend.cupy

    def best(call: Callable[[], Any], times: int = 10) -> float:
        call()
        found: list[float] = []
        for _ in range(5):
            with backend.timer() as timer:
                for _ in range(times):
                    call()
            found.append(timer.seconds / times)
        return min(found)

    with backend.active():
        rates = []
        for side in (2048, 4096, 8192):
            a, b, c = (cupy.ones((side, side), cupy.float32) for _ in range(3))
            rates.append(2 * side**3 / best(partial(cupy.matmul, a, b, out=c)) / 1e9)
        bandwidth = []
        for size in (2**22, 2**24, 2**26, 2**28, 2**30):
            a, b = (cupy.ones(size // 8, cupy.float32) for _ in range(2))
            bandwidth.append([float(size), 1.5 * size / best(partial(cupy.add, a, b, out=a)) / 1e9])
        one = cupy.ones(1, cupy.float32)
        call = best(partial(cupy.add, one, one, out=one), 1000)
    return {"gflops": max(rates), "bandwidth": bandwidth, "call_us": call * 1e6}
