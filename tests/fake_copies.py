"""Pinned memory on the stand-in for CuPy, and the copies between it and the GPU, which are done as late as may be.

CUDA does them some time after they were asked for. So a copy here is done when something needs it: work on the same
bytes of the GPU, which an event must order after it, or the host, which waits. Whoever writes to pinned memory too
early changes what is copied, and whoever reads it too early reads what was there before.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

Span = tuple[int, int]  # where bytes begin and end
UP, DOWN = 1, 2  # as cudaMemcpyKind has them


def span(a: np.ndarray) -> Span:
    """Return where an array begins and ends."""
    begin = a.__array_interface__["data"][0]
    if a.flags.c_contiguous or not a.size:
        return begin, begin + a.nbytes
    return begin, begin + a.itemsize + sum((n - 1) * step for n, step in zip(a.shape, a.strides, strict=True))


def overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


class PinnedMemory(np.ndarray):
    """What cupy.cuda.alloc_pinned_memory gives: a buffer with an address."""

    ptr = property(lambda self: self.__array_interface__["data"][0])


@dataclass(frozen=True)
class Copy:
    """A copy that is not done yet: the `tick`th thing on its stream, between the GPU's memory and the host's."""

    stream: int
    tick: int
    span: Span
    host: Span
    do: Callable[[], None]


class Copies:
    """What is pinned, what is to be copied, and which work was last on each span of the GPU's memory."""

    def __init__(self) -> None:
        self.pinned: dict[int, tuple[int, weakref.ref[PinnedMemory]]] = {}
        self.pending: list[Copy] = []
        self.astray: list[Span] = []  # what was given back while something was still to be copied there
        self.touched: dict[tuple[int, Span], int] = {}

    def allocate(self, size: int) -> PinnedMemory:
        memory = PinnedMemory(size, np.uint8)  # which owns its bytes: a view would not be what arrays over it keep
        memory[:] = 0xA5
        weakref.finalize(memory, self.freed, span(memory))
        self.pinned[memory.ptr] = memory.ptr + size, weakref.ref(memory)
        return memory

    def bytes_at(self, address: int, size: int) -> np.ndarray:
        """Return pinned bytes; copies that are to go on by themselves take no others."""
        for begin, (end, memory) in self.pinned.items():
            if begin <= address and address + size <= end and memory() is not None:
                return as_bytes(address, size)
        raise AssertionError(f"{size} bytes of the host at {address:#x} are not pinned")

    def freed(self, room: Span) -> None:
        """Note that memory is given back, of the host or of the GPU."""
        self.astray += [room for copy in self.pending if overlap(copy.span, room) or overlap(copy.host, room)]

    def touch(self, stream: int, clock: Counter[int], spans: Iterable[Span]) -> None:
        """Note that work of a stream reads or writes these; do the copies that it comes after."""
        for each in spans:
            for copy in [c for c in self.pending if overlap(c.span, each)]:
                if clock[copy.stream] < copy.tick:
                    raise AssertionError(f"a race: stream {stream} works on what stream {copy.stream} copies")
                self.finish({copy.stream: copy.tick})
            self.touched[stream, each] = clock[stream]

    def queue(self, stream: int, clock: Counter[int], device: Span, host: np.ndarray, do: Callable[[], None]) -> None:
        """Take a copy on; what worked there, and what is to be copied there, must come before."""
        before = [*((s, tick) for (s, each), tick in self.touched.items() if overlap(each, device))]
        before += [(c.stream, c.tick) for c in self.pending if overlap(c.span, device)]
        for other, tick in before:
            if clock[other] < tick:
                raise AssertionError(f"a race: stream {stream} copies what stream {other} works on")
        self.pending.append(Copy(stream, clock[stream], device, span(host), do))

    def finish(self, seen: dict[int, int]) -> None:
        """Do all copies of each stream up to some of its work."""
        for copy in [c for c in self.pending if c.tick <= seen.get(c.stream, 0)]:
            self.pending.remove(copy)
            copy.do()
            self.touched[copy.stream, copy.span] = copy.tick


def as_bytes(address: int, size: int) -> np.ndarray:
    interface = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def transfer(to: Any, source: Any) -> Callable[[], None]:
    """Return what copies bytes."""

    def do() -> None:
        to[:] = source

    return do
