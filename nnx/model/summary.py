"""`Sequential.summary`: layers, shapes, parameters, and how they run."""

from __future__ import annotations

from collections.abc import Iterable

from nnx.backends.printable import printable
from nnx.model.network import Network


def summarize(model: Network, training: Iterable[str] = ()) -> str:
    """Return the table as text; `training` are lines on how the model is trained."""
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
    lines += training
    return printable("\n".join(lines), keep="\n")
