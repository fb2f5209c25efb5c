"""`Sequential.summary`: layers, shapes, parameters, and how they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnx.backends.printable import printable

if TYPE_CHECKING:
    from nnx.model.sequential import Sequential


def summarize(model: Sequential) -> str:
    """Return the table as text."""
    rows = [("layer", "", "outputs", "parameters")]
    width = None
    total = 0
    for number, layer in enumerate(model.layers):
        width = layer.output_width(width)
        count = sum(rows_ * columns for rows_, columns in layer.shapes.values())
        total += count
        rows.append((str(number), str(layer), "any" if width is None else str(width), f"{count:,}" if count else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
    lines.insert(1, "-" * len(lines[0]))
    lines.append("")
    lines.append(f"{total:,} parameters, {model.dtype}; backend {model.backend.name} ({model.resolution.reason})")
    if model.backend.precision != "full" and model.dtype == "float32":
        lines.append(f"large products round what they multiply: precision={model.backend.precision!r}")
    if model.loss is not None:
        lines.append(f"{model.loss}, {model.optimizer}; {model.epochs_done} epochs done")
    if model.eager_reason is not None:
        lines.append(f"steps run eagerly, not replayed: {model.eager_reason}")
    if model.replay_reason is not None:
        lines.append(f"steps are replayed one operation at a time: {model.replay_reason}")
    return printable("\n".join(lines), keep="\n")
