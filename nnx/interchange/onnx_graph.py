"""Graphs of ONNX files: the only input, the only numeric output, and the nodes that lead from one to the other."""

from __future__ import annotations

import math
from typing import Any

from nnx.interchange.onnx_file import FLOATS, OnnxFile


class OnnxGraph:
    """The part of a file's graph that computes its numeric output.

    Attributes:
        input, output: their names. nodes: the nodes that the output depends on, in order.
        last_use: for each name, the number of the last node that reads it. For the output, it is the number of nodes.
        width, axes: how many features a row has in all, and how many axes the input has; None if the file doesn't say.
    """

    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        given = [entry for entry in file.graph.input if entry.name not in file.constants]
        if len(given) != 1:
            names = ", ".join(entry.name for entry in given) or "none"
            raise file.error(f"the graph has {len(given)} inputs ({names}), expected one: rows of features")
        self.input: str = given[0].name
        self.width, self.axes = _declared(given[0])
        self.output = self._numeric_output()
        self.nodes = self._needed()
        self.last_use = {name: i for i, node in enumerate(self.nodes) for name in node.input}
        self.last_use[self.output] = len(self.nodes)

    def _needed(self) -> list[Any]:
        """Return the nodes that the output depends on, in order."""
        made: dict[str, int] = {}
        for i, node in enumerate(self.file.graph.node):
            for name in filter(None, node.output):
                if name in made or name in self.file.constants or name == self.input:
                    raise self.file.node_error(node, f"its output {name!r} exists already: the graph is damaged")
                made[name] = i
        pending, needed = [self.output], set()
        while pending:
            name = pending.pop()
            if name in made and made[name] not in needed:
                needed.add(made[name])
                pending += filter(None, self.file.graph.node[made[name]].input)
        return [self.file.graph.node[i] for i in sorted(needed)]

    def _numeric_output(self) -> str:
        """Return the name of the output that holds floats. Classifiers also have an output of labels."""
        outputs = list(self.file.graph.output)
        if len(outputs) > 1:
            outputs = [
                entry for entry in outputs
                if self.file.scalar_type(entry.type.tensor_type.elem_type) in FLOATS
                or entry.type.WhichOneof("value") == "sequence_type"  # of ZipMap
            ]  # fmt: skip
        if len(outputs) != 1:
            names = ", ".join(entry.name for entry in self.file.graph.output) or "none"
            raise self.file.error(
                f"the graph's outputs are {names}; expected one of numbers, and at most labels beside"
            )
        return str(outputs[0].name)


def _declared(entry: Any) -> tuple[int | None, int | None]:
    """Return how many features a row of an input has, and how many axes it has; None where the file doesn't say."""
    dims = entry.type.tensor_type.shape.dim
    sides = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in dims[1:]]
    return math.prod(sides) if sides and min(sides) > 0 else None, len(dims) or None
