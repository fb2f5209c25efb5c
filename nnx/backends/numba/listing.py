"""Listing of a compiled step in words: which kernel does what, and the table that the compiled function interprets."""

from __future__ import annotations

from collections.abc import Mapping

from nnx.backends.addresses import Array
from nnx.backends.dataflow import Step
from nnx.kernels.cpu.program import table as t
from nnx.kernels.elementwise import number_of

REGIONS = {t.ONCE: "once", t.TASKS_ONCE: "once", t.BLOCKS: "block", t.TASKS: "task"}
OPERATIONS = {
    getattr(t, name): name
    for name in (
        "DENSE", "DENSE_DX", "DENSE_DW", "PANELS", "PANELS_ACROSS", "SPLIT_DENSE", "SPLIT_DX", "SPLIT_DW",
        "SPLIT_PANELS", "SPLIT_ACROSS", "GATHER", "DROPOUT", "SOFTMAX", "SOFTMAX_BACKWARD",
        "CROSS_ENTROPY", "CROSS_ENTROPY_SOFT", "ARGMAX", "ONE_HOT", "ROW_MEAN", "LANES_DENSE", "LANES_DX", "LANES_DW",
        "LANES_DB", "LANES_LOAD", "LANES_DROPOUT", "LANES_CROSS_ENTROPY", "LANES_MEAN", "LANES_CLEAR", "LABELS",
        "ELEMENTWISE", "BIAS", "PARAMETERS", "WEIGH", "LAYER_NORM", "LAYER_NORM_BACKWARD", "MOMENTS", "BATCH_NORM",
        "BATCH_NORM_BACKWARD", "MEANS", "SPREADS", "POOLED", "NOISE", "COLUMNS_OF", "EMBED", "SCATTER", "COLLECT",
        "MEASURE", "CLIPPED", "AVERAGE",
    )
}  # fmt: skip
WITH_RELU = (  # operations that can include ReLU, or its gradient
    t.DENSE, t.DENSE_DX, t.LANES_DENSE, t.LANES_DX, t.SPLIT_DENSE, t.SPLIT_DX,
)  # fmt: skip


def kernels_of(step: Step, family: str, product: str) -> dict[str, str]:
    """Return the kernel of each operation on samples, by the operation's name.

    Args:
        step: the data flow. family: "rows" or "lanes". product: the kernel for matrix products.
    """
    names = [node.kind or node.op for node in step.nodes if node.op != "stop"]
    kernels = {name: f"numba:{family}.{name}" for name in names}
    if any(node.relu and node.op == "dense" for node in step.nodes):
        kernels.setdefault("relu", f"fused into {product}")
    return kernels | {"dense": f"numba:{product}"}


def kinds_of(step: Step) -> dict[int, str]:
    """Return the names of nnx's elementwise functions in the step, by their numbers in the table."""
    return {number_of(node.kind): node.kind for node in step.nodes if node.kind and node.formula is None}


def listing(table: Array, kinds: Mapping[int, str]) -> str:
    """Return a step's table [rows, COLUMNS] in words: a line for each operation, in the order of the table.

    A line begins with when the operation is done: "once" in a call, or in each step for every "block" of samples, or as
    a "task" by itself. Then come its name, its widths (inputs -> outputs of a product, else numbers of a sample, or
    parameters), and the function that is applied to each number.
    """
    lines = []
    for region in table[1 : 1 + table[0][t.REGIONS]]:
        for number in range(region[t.FIRST], region[t.LAST]):
            row, begins = table[number], number == region[t.FIRST]
            widths = f"{row[t.K]} -> {row[t.N]}" if row[t.K] else str(row[t.N])
            place = REGIONS[int(region[t.OP])] if begins else ""
            kind = kinds[int(row[t.KIND])] if row[t.OP] == t.ELEMENTWISE else ""
            kind = "relu" if row[t.OP] in WITH_RELU and row[t.KIND] else kind
            lines.append(f"{place:<7}{OPERATIONS[int(row[t.OP])]:<20}{widths:<12}{kind}".rstrip())
    return "\n".join(lines)
