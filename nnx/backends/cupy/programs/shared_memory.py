"""Allocation of shared memory for the persistent kernel: where each buffer is placed, and when it is live."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nnx.kernels.cuda.program_table import NOWHERE

ALIGNMENT = 128  # sizes of buffers are multiples of so many bytes: a line of shared memory
ALWAYS = 1 << 30  # a time later than all operations


@dataclass(eq=False)
class Buffer:
    """A buffer that operations read and write.

    Attributes:
        size: in bytes. begin: the place of its first byte, once it has one.
        first, last: its live range: the first and the last operation that needs it.
    """

    size: int
    begin: int = NOWHERE
    first: int = ALWAYS
    last: int = -1

    def used(self, when: int) -> None:
        """Extend the live range to an operation that uses the buffer."""
        self.first, self.last = min(self.first, when), max(self.last, when)

    def interferes(self, other: Buffer) -> bool:
        """Return whether both buffers are live at the same time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Operand:
    """Part of a buffer: `size` bytes from byte `offset` on."""

    buffer: Buffer
    offset: int
    size: int

    @property
    def place(self) -> int:
        """The place of its first byte."""
        return self.buffer.begin + self.offset

    def overlaps(self, other: Operand) -> bool:
        """Return whether both operands share a byte."""
        return self.place < other.place + other.size and other.place < self.place + self.size


def place_buffers(buffers: Iterable[Buffer], begin: int, capacity: int, allocate: Callable[[int], int]) -> None:
    """Give each buffer a place: in shared memory from `begin` to `capacity`, else in memory from `allocate`.

    Buffers get unused memory as long as there is any, because memory that is used twice in a step costs a barrier.
    """
    inside: list[Buffer] = []
    for buffer in buffers:
        size = round_up(buffer.size)
        others = [other for other in inside if buffer.interferes(other)]
        fresh = max((end(other) for other in inside), default=begin)
        buffer.begin = fresh if fresh + size <= capacity else first_fit(others, size, begin)
        if buffer.begin + size <= capacity:
            inside.append(buffer)
        else:
            buffer.begin = allocate(size)


def first_fit(others: list[Buffer], size: int, begin: int) -> int:
    """Return the first place from `begin` on where `size` bytes overlap none of the others."""
    for other in sorted(others, key=lambda other: other.begin):
        if begin + size <= other.begin:
            break
        begin = max(begin, end(other))
    return begin


def end(buffer: Buffer) -> int:
    """Return where the next buffer may begin."""
    return buffer.begin + round_up(buffer.size)


def round_up(size: int) -> int:
    """Return `size` rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT
