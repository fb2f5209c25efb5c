"""Fusion: finds operations that can work in place, or in the same pass as the product before them."""

from __future__ import annotations

from collections import Counter

from nnx.backends.dataflow.nodes import Node, Step

IN_PLACE = ("elementwise", "dropout", "weigh", "gaussian_noise")  # operations that can overwrite their input


def fuse(step: Step) -> None:
    """Let operations work in place, and fold ReLU or its gradient into the product before it.

    Both are done only if nothing else reads the value that is lost.
    """
    readers = count_readers(step)
    makers = {id(node.out): node for node in step.nodes if node.out is not None}
    for node in list(step.nodes):
        if node.op not in IN_PLACE or node.out is None:
            continue
        used_up = node.x if node.y is None or node.op == "weigh" else node.y
        if used_up.array is not None or readers[id(used_up)] > 1 or used_up.width != node.out.width:
            continue
        maker = makers.get(id(used_up))
        if maker is None or maker.op == "labels":
            continue
        node.out.source = used_up
        if fold(node, maker):
            makers[id(node.out)] = maker
            step.nodes.remove(node)


def count_readers(step: Step) -> Counter[int]:
    """How often each value is read, by its id."""
    values = [value for node in step.nodes for value in node.reads]
    values += [value for each in step.by_parameter for value in (each.x, each.d)]
    values += [one.d for one in step.sums]
    return Counter(id(value) for value in (*values, step.losses, step.hits))


def fold(node: Node, maker: Node) -> bool:
    """Fold a ReLU, or its gradient, into the product whose result it reads; return whether that is possible."""
    if node.op != "elementwise":
        return False
    if maker.op == "dense" and node.kind == "relu":
        maker.relu = True
        return True
    if maker.op == "dense_dx" and node.kind == "relu_backward" and not maker.relu:
        maker.y, maker.relu = node.x, True
        return True
    return False
