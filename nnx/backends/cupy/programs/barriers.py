"""Barriers of the persistent kernel: its operations, and before which of them its threads must wait for one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnx.backends.cupy.programs.shared_memory import Operand
from nnx.kernels.cuda import program_table as t


@dataclass(eq=False)
class Operation:
    """One row to be: its numbers by name, and its operands, those that it reads and those that it writes."""

    op: str
    reads: dict[str, Operand]
    writes: dict[str, Operand]
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def operands(self) -> Iterator[Operand]:
        """All of them."""
        yield from self.reads.values()
        yield from self.writes.values()

    def row(self, barrier: bool) -> np.ndarray:
        """Return it as the kernel reads it."""
        places = {name: operand.place for name, operand in (self.reads | self.writes).items()}
        return t.row(self.op, barrier=int(barrier), **self.numbers, **places)


def with_barriers(operations: list[Operation]) -> Iterator[np.ndarray]:
    """Yield their rows. The first waits for all threads, and each that touches what others since then have written."""
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
    """Tell whether any of some operands shares memory with any of others."""
    return any(a.overlaps(b) for a in some for b in others)
