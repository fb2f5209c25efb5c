"""Buffers of a recorded step: which value is in which buffer, call after call."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnx.backends.addresses import Array, address, same
from nnx.backends.dataflow.nodes import Node, Step, Value
from nnx.backends.errors import NotReplayable
from nnx.backends.recorder import Call


class Buffers:
    """The state while the calls of a step are read one after the other; results go to `step`.

    Attributes:
        step: the step as read so far. call: the call that is being read.
        current: the value that is in each buffer now, by its address. shapes: the shapes of the arrays there.
        behind: the number of nodes when gradients were last touched, or when the host last had something to do.
    """

    call: Call

    def __init__(self, step: Step) -> None:
        self.step = step
        self.dtype = np.dtype(step.dtype)
        self.current: dict[int, Value] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.behind = 0

    def floats(self, a: Array) -> None:
        """Refuse an array that the compiled step cannot read."""
        if a.dtype != self.dtype:  # not by its name, which is the same in the other byte order
            raise NotReplayable(f"{self.call.name}: an operand is {a.dtype}, the parameters are {self.step.dtype}")
        if not a.flags.c_contiguous:
            raise NotReplayable(f"{self.call.name}: an operand {a.shape} is not contiguous")

    def read(self, a: Array) -> Value:
        """The value that is in a buffer now."""
        self.floats(a)
        if a.shape[0] != self.step.rows or a.ndim > 2:
            raise NotReplayable(f"{self.call.name}: an operand has shape {a.shape}, the step has {self.step.rows} rows")
        place = address(a)  # asked for once: NumPy takes a microsecond
        value = self.current.get(place)
        if value is None:
            value = self.current[place] = Value(1 if a.ndim == 1 else a.shape[1], a)
            self.shapes[place] = a.shape
        if self.shapes[place] != a.shape:
            raise NotReplayable(f"{self.call.name} reads {a.shape} of a buffer that holds {self.shapes[place]}")
        return value

    def write(self, a: Array) -> Value:
        """A new value in a buffer."""
        self.floats(a)
        if a.shape[0] != self.step.rows or a.ndim > 2:
            raise NotReplayable(f"{self.call.name} writes {a.shape}; the step has {self.step.rows} rows")
        place = address(a)
        value = self.current[place] = Value(1 if a.ndim == 1 else a.shape[1])
        self.shapes[place] = a.shape
        return value

    def add(self, op: str, x: Value, *args: Any, **kwargs: Any) -> Node:
        """Note an operation."""
        node = Node(op, x, *args, **kwargs)
        self.step.nodes.append(node)
        return node

    def touch_gradients(self) -> None:
        """Note that gradients are computed or read at this point."""
        self.behind = len(self.step.nodes)

    def elementwise(
        self, kind: str, x: Array, y: Array | None, out: Array, constants: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """Note an operation that works on each number separately."""
        reads = self.read(x), None if y is None else self.read(y)
        self.add("elementwise", *reads, self.write(out), kind=kind, constants=constants)

    def target(self, a: Array) -> Value:
        """The value of a target: labels as numbers of the step's type, or a matrix."""
        if a.dtype.kind == "f":
            return self.read(a)
        place = address(a)
        if place not in self.current:
            self.current[place] = self.labels(a, None)
        return self.current[place]

    def labels(self, source: Array, order: Array | None) -> Value:
        """Class numbers from an int64 array, in a given order or that of the array."""
        if source.dtype != np.int64 or source.ndim != 1 or not source.flags.c_contiguous:
            raise NotReplayable(f"{self.call.name}: targets are {source.dtype} {source.shape}, expected int64 [N]")
        if self.step.labels is not None and not same(self.step.labels, source):
            raise NotReplayable(f"{self.call.name}: the step reads a second array of labels")
        self.step.labels = source
        value = Value(1)
        self.add("labels", value, None, value, ordered=order is not None, once=order is None)
        return value

    def count(self, counters: Array) -> None:
        """Refuse counters that are not the step's."""
        if not same(self.step.counters, counters):
            raise NotReplayable(f"{self.call.name} counts by other counters than the step's")
