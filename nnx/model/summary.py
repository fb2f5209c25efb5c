"""Summary of a model: layers, shapes, parameters, and which kernels and programs run them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from nnx.backends.printable import printable
from nnx.backends.recorder import AS_WRITTEN, Program
from nnx.layers import Layer
from nnx.layers.blocks import Block
from nnx.model.inference import plain_stages, stages_of
from nnx.model.network import Network
from nnx.settings import written

WIDTH = 80  # columns
NARROWEST = 20  # columns that a layer's text gets at least, however wide the other columns are
TITLES = ("layer", "", "outputs", "parameters", "kernel")


def summarize(model: Network, training: Iterable[str], kernels: Mapping[str, str], fused: Sequence[Layer] = ()) -> str:
    """Return the summary as text.

    Args:
        model: the network. training: sentences on how it is trained.
        kernels: the kernel of each operation in training where it is not the backend's usual one: see `Program`.
        fused: layers that are computed together with the loss in training.
    """
    rows = [TITLES]
    width = None
    total = kept = 0
    for number, layer in enumerate(model.layers):
        shown = rows_of(str(number), layer, width, model, kernels)
        if layer in fused:
            shown[0] = (*shown[0][:-1], "fused into the loss")
        rows += shown
        width = layer.output_width(width)
        total += sum(map(math.prod, layer.shapes.values()))
        kept += sum(math.prod(layer.shapes[name]) for name, trained in layer.trained().items() if not trained)
    some = f", {kept:,} of them not trained" if kept else ""
    sentences = [f"{total:,} parameters{some}, {model.dtype}; backend {model.backend.name} ({model.resolution.reason})"]
    if model.backend.precision != "full" and model.dtype == "float32":
        sentences.append(f"large products round what they multiply: precision={model.backend.precision!r}")
    sentences += [f"predictions: {predictions_of(model)}", *training]
    lines = [*table(rows), "", *(line for sentence in sentences for line in folded(sentence))]
    return printable("\n".join(lines), keep="\n")


def rows_of(
    number: str, layer: Layer, width: int | None, model: Network, kernels: Mapping[str, str], depth: int = 0
) -> list[tuple[str, str, str, str, str]]:
    """Return a layer's row of the table, and, indented, those of the layers inside it."""
    count, outputs = sum(map(math.prod, layer.shapes.values())), layer.output_width(width)
    name = type(layer).__name__ if isinstance(layer, Block) else str(layer)
    name += ", not trained" if count and not any(layer.trained().values()) else ""
    shown = " " * 2 * depth + printable(name, keep="\n")
    sizes = "any" if outputs is None else str(outputs), f"{count:,}" if count else ""
    rows: list[tuple[str, str, str, str, str]] = [(number, shown, *sizes, kernel_of(layer, model, kernels))]
    inside = iter(layer.inner if isinstance(layer, Block) else ())
    for path in layer.paths if isinstance(layer, Block) else ():
        within = width
        for part in path:
            rows += rows_of(f"{number}.{next(inside)}", part, within, model, kernels, depth + 1)
            within = part.output_width(within)
    return rows


def predictions_of(model: Network) -> str:
    """Return a sentence on how the model predicts, or will predict, if it has not yet."""
    if model._inference is None:  # making it may take time for compiling
        stages = stages_of(model.layers)
        apart = Program.description if plain_stages(stages) is None else model.backend.planned_prediction()
        return f"none yet; planned: {AS_WRITTEN if stages is None else apart}"
    return model._inference.description


def kernel_of(layer: Layer, model: Network, kernels: Mapping[str, str]) -> str:
    """Return the name of the kernel of a layer's forward pass, as far as it is known."""
    operation = getattr(layer, "operation", None)
    if written(layer, "forward"):
        return "its own forward()"
    known = kernels.get(operation or "") or kernels.get(type(layer).__name__)  # a formula has its class's name
    return "" if operation is None else known or model.backend.implementation(operation)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose first row holds the titles; a long text of a layer takes several lines."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    others = sum(widths) - widths[1] + 2 * (len(widths) - 1)
    widths[1] = min(widths[1], max(NARROWEST, WIDTH - others))
    lines = []
    for number, layer, outputs, parameters, kernel in rows:
        further = " " * (len(layer) - len(layer.lstrip(" ")))
        wrapped = textwrap.wrap(layer, widths[1], subsequent_indent=further, break_on_hyphens=False)
        first, *more = wrapped or [""]
        cells = f"{number:<{widths[0]}}", f"{first:<{widths[1]}}", f"{outputs:>{widths[2]}}"
        lines.append("  ".join([*cells, f"{parameters:>{widths[3]}}", kernel]).rstrip())
        lines += [" " * (widths[0] + 2) + text for text in more]
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]


def folded(text: str) -> list[str]:
    """Return a sentence wrapped into lines, all but the first indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
