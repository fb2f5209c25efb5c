"""Figures: puts the curves of a training and its result together, and writes them to a file."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any

import numpy as np

from nnx.backends.printable import printable
from nnx.files import as_path, write_atomically
from nnx.plots.curves import curves
from nnx.plots.style import BLUE, DPI, GREY, ORANGE, SKY, WIDTH, Figure, History, Panel, new_figure, own_style

SIDE = 4.4  # how much wider a figure with a third part is


def compose(
    title: str, subtitle: str, history: History, panel: Panel | None = None, *, side: Panel | None = None,
    held_out: str = "test", kept: int | None = None,
) -> Figure:  # fmt: skip
    """Return a figure with the training's curves on the left and its result on the right.

    Args:
        title: in large letters. subtitle: under it.
        history: what `fit` returned, or a mapping that also has the numbers of the epochs, as "epoch".
        panel: drawn on the right; with None the curves have the whole width. side: another panel, in a wider figure.
        held_out: the name of the samples on which the quantities that begin with "val_" were measured.
        kept: the epoch whose parameters the network has, counted from 1; None: the last.
    """
    figure = new_figure(WIDTH if panel is None or side is None else WIDTH + SIDE)
    with own_style():
        figure.text(0.016, 0.968, printable(title), fontsize=17, fontweight="bold", va="top", parse_math=False)
        figure.text(0.016, 0.9, printable(subtitle), fontsize=10.5, color=GREY, va="top", parse_math=False)
        figure.get_layout_engine().set(rect=(0.008, 0.01, 0.984, 0.845), wspace=0.06, hspace=0.04)
        panels = [draw for draw in (panel, side) if draw is not None]
        ratios = (0.88, 1, 1.88 * SIDE / WIDTH)[: len(panels) + 1]
        parts = figure.subfigures(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
        curves(parts[0], history, held_out, kept)
        for draw, part in zip(panels, parts[1:], strict=True):
            draw(part)
    return figure


def learning_rates(found: Any) -> Figure:
    """Return a figure of the result of `nnx.find_learning_rate`: losses over rates, and the suggested rate."""
    figure = new_figure(WIDTH * 0.6)
    with own_style():
        axes = figure.subplots()
        axes.set_title("Loss after steps of growing rates")
        axes.plot(found.rates, found.losses, color=SKY, linewidth=0.8, label="each step's")
        axes.plot(found.rates, found.smoothed, color=BLUE, linewidth=2, label="mean")
        shown = found.smoothed[np.isfinite(found.smoothed)]
        low, high = float(shown.min()), float(max(shown[0], np.quantile(shown, 0.9)))
        axes.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low) or 1.0)
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        if found.suggestion is not None:
            axes.axvline(found.suggestion, color=ORANGE, linestyle="--", label=f"suggested: {found.suggestion:.2g}")
        axes.legend(frameon=False)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure, in the format that the name's ending says. If that fails, an older file stays as it was.

    Raises:
        OSError: it cannot be written.
    """
    path, data = as_path("plots.save", path), io.BytesIO()
    with own_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # a name in a script without a font
        figure.savefig(data, format=path.suffix.lstrip(".").lower() or "png", dpi=DPI, facecolor="white")
    write_atomically(path, data.getbuffer())
