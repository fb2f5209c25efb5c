"""Barriers of the persistent kernel: before which of its operations the threads must wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnx.backends.cupy.programs.shared_memory import Operand
from nnx.kernels.cuda import program_table as t


@dataclass(eq=False)
class Operation:
    """An operation that becomes a row of the table: its numbers by name, and the operands that it reads and writes."""

    op: str
    reads: dict[str, Operand]
    writes: dict[str, Operand]
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def operands(self) -> Iterator[Operand]:
        """All operands, read or written."""
        yield from self.reads.values()
        yield from self.writes.values()

    def row(self, barrier: bool) -> np.ndarray:
        """Return the row of the table; `barrier`: whether threads wait before it."""
        places = {name: operand.place for name, operand in (self.reads | self.writes).items()}
        return t.row(self.op, barrier=int(barrier), **self.numbers, **places)


def with_barriers(operations: list[Operation]) -> Iterator[np.ndarray]:
    """Yield the rows of operations. Threads wait before the first, and before each that uses what was written since."""
    read: list[Operand] = []
    written: list[Operand] = []
    for number, operation in enumerate(operations):
        reads, writes = list(operation.reads.values()), list(operation.writes.values())
        barrier = number == 0 or overlap(reads + writes, written) or overlap(writes, read)
        if barrier:
            read, written = [], []
        read, written = read + reads, written + writes
        yield operation.row(barrier)


def overlap(some: list[Operand], others: list[Operand]) -> bool:
    """Return whether any of some operands shares memory with any of the others."""
    return any(a.overlaps(b) for a in some for b in others)
