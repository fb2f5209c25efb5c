"""Blocks of layers and embeddings: reads their calls in a recorded step."""

# ruff: noqa: D102 - what an operation does is described once, where it is declared

from __future__ import annotations

from nnx.backends.addresses import Array, address
from nnx.backends.dataflow.buffers import Buffers
from nnx.backends.dataflow.nodes import Scatter, Value
from nnx.backends.errors import NotReplayable


class BlockCalls(Buffers):
    """Reads the calls of layers that hold layers, and of embeddings."""

    def on_add(self, x: Array, y: Array, out: Array) -> None:
        self.elementwise("add", x, y, out)

    def on_put_columns(self, x: Array, first: int, y: Array) -> None:
        source = self.read(x)
        self.add("columns", source, None, self.part_of(y, first), details=(0, first, source.width))

    def on_take_columns(self, x: Array, first: int, count: int, out: Array) -> None:
        source = self.read(x)
        self.add("columns", source, None, self.write(out), details=(first, 0, count))

    def on_embed(self, x: Array, w: Array, column: int, first: int, y: Array) -> None:
        self.floats(w)
        self.add("embed", self.read(x), None, self.part_of(y, first), details=(column, first), table=w)

    def on_embed_gradients(self, x: Array, dy: Array, dw: Array, column: int, first: int) -> None:
        self.floats(dw)
        self.step.scatters.append(Scatter(self.read(x), self.read(dy), dw, column, first))
        self.touch_gradients()

    def part_of(self, y: Array, first: int) -> Value:
        """A new value in a buffer in which some columns are written. After the first ones it keeps those before."""
        before = self.current.get(address(y))
        value = self.write(y)
        if first:
            if before is None or before.width != value.width:
                raise NotReplayable(f"{self.call.name}: nothing stands in the columns before number {first}")
            read = [value for node in self.step.nodes for value in node.reads]
            read += [value for each in self.step.by_parameter for value in (each.x, each.d)]
            if any(before is value for value in (*read, *(one.d for one in self.step.sums))):
                raise NotReplayable(f"{self.call.name} writes columns of what was read before")
            value.source = before
        return value
