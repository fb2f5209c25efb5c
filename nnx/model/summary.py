"""Summary of a model: layers, shapes, parameters, and which kernels and programs run them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnx.backends.printable import printable
from nnx.model.validation import written

if TYPE_CHECKING:
    from nnx.layers import Layer
    from nnx.model.sequential import Sequential

WIDTH = 80  # columns
NARROWEST = 20  # columns that a layer's own text gets, however wide the others are
TITLES = ("layer", "", "outputs", "parameters", "kernel")


def summarize(model: Sequential) -> str:
    """Return the table as text."""
    rows = [TITLES]
    width = None
    total = 0
    for number, layer in enumerate(model.layers):
        width = layer.output_width(width)
        count = sum(rows_ * columns for rows_, columns in layer.shapes.values())
        total += count
        outputs = "any" if width is None else str(width)
        rows.append((str(number), str(layer), outputs, f"{count:,}" if count else "", kernel_of(model, layer)))
    lines = [*table(rows), ""]
    lines += folded(f"{total:,} parameters, {model.dtype}; backend {model.backend.name} ({model.resolution.reason})")
    if model.backend.precision != "full" and model.dtype == "float32":
        lines += folded(f"large products round what they multiply: precision={model.backend.precision!r}")
    if model.loss is not None:
        lines += folded(
            f"{model.loss}, {model.optimizer}; {model.epochs_done} epoch{'s' * (model.epochs_done != 1)} done"
        )
    lines += folded(f"training steps: {steps_of(model)}")
    lines += folded(f"predictions: {predictions_of(model)}")
    if model.eager_reason is not None:
        lines += folded(f"steps run eagerly, not replayed: {model.eager_reason}")
    if model.replay_reason is not None:
        lines += folded(f"steps are replayed one operation at a time: {model.replay_reason}")
    return printable("\n".join(lines), keep="\n")


def steps_of(model: Sequential) -> str:
    """Return how the last training steps ran; before the first, how they will."""
    trainer = model._trainer
    if trainer is None or trainer.ran is None:
        return f"none yet; planned: {model.backend.planned_step()}"
    return trainer.ran.description


def predictions_of(model: Sequential) -> str:
    """Return how the model predicts; before it first does, how it will."""
    if model._inference is None:  # making it may take a compiler's time
        return f"none yet; planned: {model.backend.planned_prediction()}"
    return model._inference.description


def kernel_of(model: Sequential, layer: Layer) -> str:
    """Return what runs a layer's forward pass in training, as far as it is known."""
    trainer, operation = model._trainer, getattr(layer, "operation", None)
    if written(layer, "forward"):
        return "its own forward()"
    if operation is None:
        return ""
    if trainer is not None and layer not in trainer.layers:
        return "fused into the loss"
    kernels = {} if trainer is None or trainer.ran is None else trainer.ran.kernels
    return kernels.get(operation) or model.backend.implementation(operation)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows in columns, the first of them as titles; a layer's own text goes on below where it is long."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    others = sum(widths) - widths[1] + 2 * (len(widths) - 1)
    widths[1] = min(widths[1], max(NARROWEST, WIDTH - others))
    lines = []
    for number, layer, outputs, parameters, kernel in rows:
        first, *more = textwrap.wrap(layer, widths[1], break_on_hyphens=False) or [""]
        cells = f"{number:<{widths[0]}}", f"{first:<{widths[1]}}", f"{outputs:>{widths[2]}}"
        lines.append("  ".join([*cells, f"{parameters:>{widths[3]}}", kernel]).rstrip())
        lines += [" " * (widths[0] + 2) + text for text in more]
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]


def folded(text: str) -> list[str]:
    """Return a sentence in lines, of which all but the first are indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
