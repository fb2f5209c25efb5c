"""Allocation of shared memory for the persistent kernel: where in its block each buffer lies, and from when to when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nnx.kernels.cuda.program_table import NOWHERE

GRAIN = 128  # bytes that rooms are multiples of: a line of shared memory
ALWAYS = 1 << 30  # a time after all operations


@dataclass(eq=False)
class Room:
    """Bytes that operations read and write.

    Attributes:
        size: how many. begin: the place of the first, once there is one.
        first, last: the operations between which they are needed.
    """

    size: int
    begin: int = NOWHERE
    first: int = ALWAYS
    last: int = -1

    def used(self, when: int) -> None:
        """Note that an operation uses it."""
        self.first, self.last = min(self.first, when), max(self.last, when)

    def meets(self, other: Room) -> bool:
        """Tell whether both are needed at the same time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Operand:
    """Part of a room: `size` bytes from byte `offset` on."""

    room: Room
    offset: int
    size: int

    @property
    def place(self) -> int:
        """Its place."""
        return self.room.begin + self.offset

    def overlaps(self, other: Operand) -> bool:
        """Tell whether they share a byte."""
        return self.place < other.place + other.size and other.place < self.place + self.size


def furnish(rooms: Iterable[Room], begin: int, capacity: int, allocate: Callable[[int], int]) -> None:
    """Give each room a place: in shared memory from `begin` to `capacity`, else in what `allocate` gives.

    A room takes fresh memory while there is any, because memory that is used twice in a step costs a barrier.
    """
    inside: list[Room] = []
    for room in rooms:
        size = round_up(room.size)
        others = [other for other in inside if room.meets(other)]
        fresh = max((end(other) for other in inside), default=begin)
        room.begin = fresh if fresh + size <= capacity else gap(others, size, begin)
        if room.begin + size <= capacity:
            inside.append(room)
        else:
            room.begin = allocate(size)


def gap(others: list[Room], size: int, begin: int) -> int:
    """Return the first place from `begin` on where `size` bytes meet none of the others."""
    for other in sorted(others, key=lambda other: other.begin):
        if begin + size <= other.begin:
            break
        begin = max(begin, end(other))
    return begin


def end(room: Room) -> int:
    """Return where the next one may begin."""
    return room.begin + round_up(room.size)


def round_up(size: int) -> int:
    """Return the next multiple of GRAIN from `size` on."""
    return -(-size // GRAIN) * GRAIN
