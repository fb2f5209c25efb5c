"""Calls of kernels: operands are offered to a kernel, in parts for several threads if they are large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from nnx.backends.numba.kernels import Kernels
from nnx.backends.numpy import NumpyBackend
from nnx.kernels.cpu.jit.signature import Unfit
from nnx.kernels.elementwise import KINDS, number_of

Array = Any
LEAST = 5e4  # ns; less work is on no machine worth a second thread that Python has to start
LITTLE = 2.5e3  # the same if compiled code distributes the parts; above this, what is worthwhile is measured
NUMBERS = {kind: number_of(kind) for kind in KINDS}
PLAIN = NumpyBackend()


class NumbaShared(NumpyBackend):
    """Base class of the Numba backend's operations: decides how many threads an operation gets."""

    def __init__(self) -> None:
        self.kernels = Kernels()
        from nnx.backends.numba import tuning  # here, because it imports Numba

        self._tuning = tuning
        self._pool = self.kernels.pool
        self._one_part = self._pool.board_at, 1  # what `_share` returns for one thread

    def _rows(self, kernel: Any, cost: float, arrays: tuple[Array, ...], *more: Any) -> bool:
        """Offer a kernel its operands, in parts for several threads if they are large.

        Args:
            cost: ns per element of the first array, on one thread.
            arrays: arrays that are divided by rows. One without rows stands for an omitted operand and is passed as it
                is. more: arguments that are the same for all parts.
        """
        first = arrays[0]
        if self._alone(first.size * cost):
            return offer(kernel, *arrays, *more)
        rows = len(first)
        if any(len(a) not in (rows, 0) for a in arrays) or overlap_in_part(arrays):
            return False
        parts = self._split(rows, first.size * cost)
        calls = [partial(offer, kernel, *(a[p] if len(a) else a for a in arrays), *more) for p in parts]
        return together(self._pool, calls)

    def _alone(self, work: float) -> bool:
        """Tell whether one thread does `work` ns of work."""
        return work < LEAST or self._pool.limit == 1 or work < self._tuning.current().choices.share

    def _split(self, length: int, work: float, grain: int = 1) -> list[slice]:
        """Divide rows among as many threads as `work` ns of work are worth: see `pool.split`."""
        threads = self._pool.useful(work, self._tuning.current().choices.share)
        parts: list[slice] = self._pool.split(length, threads, grain)
        return parts

    def _share(self, work: float) -> tuple[int, int]:
        """Return the board's address, for a kernel that distributes parts, and their number for `work` ns of work."""
        if work < LITTLE:
            return self._one_part
        pool, choices = self._pool, self._tuning.current().choices
        if work < choices.handed:
            return self._one_part
        limit = pool.limit
        threads = 2 if limit == 2 else min(pool.useful(work, choices.handed), limit)  # only needed for more
        if not pool.summon(threads, work, choices.woken):
            return self._one_part
        return pool.board_at, threads if work < choices.woken else 2 * threads  # drawing one takes about 0.1 us


def offer(kernel: Any, *operands: Any) -> bool:
    """Call a kernel; return False, with nothing done, if it does not take these operands."""
    try:
        done: bool = kernel(*operands)
    except Unfit:
        return False
    return done


def together(pool: Any, calls: Sequence[Callable[[], Any]]) -> bool:
    """Offer all parts of an operation to the kernel. They are of the same form, so it takes either all or none."""
    refused: list[bool] = []

    def part(call: Callable[[], bool]) -> None:
        if not call():
            refused.append(True)

    pool.run([partial(part, call) for call in calls])
    return not refused


def may_overlap(out: Array, *others: Array) -> bool:
    """Tell whether `out` may share memory with other arrays. Kernels check that too, but only for their parts."""
    return any(np.may_share_memory(out, other) for other in others)


def overlap_in_part(arrays: Sequence[Array]) -> bool:
    """Tell whether any two different arrays share memory."""
    places = [(a.__array_interface__["data"][0], a) for a in arrays]
    return any(may_overlap(a, b) for n, (at, a) in enumerate(places) for begin, b in places[:n] if at != begin)
