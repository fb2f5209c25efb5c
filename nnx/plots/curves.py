"""Curves of a training: loss and accuracy, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nnx.plots.style import BLUE, GREY, RED, History


def curves(part: Any, history: History, held_out: str, kept: int | None) -> None:
    """Draw the loss, and the accuracy if there is one, for training and held-out samples; mark the epoch kept."""
    epochs = history.get("epoch") or range(1, len(history["loss"]) + 1)
    names = [name for name in ("accuracy", "loss") if name in history]
    for number, (axes, name) in enumerate(zip(_column(part, len(names)), names, strict=True)):
        axes.set_title(name.capitalize())
        # Without penalties if they are known separately, since the loss of the test has none either.
        learned = history["data_loss"] if name == "loss" and "data_loss" in history else history[name]
        lines = [("training", learned, BLUE)]
        if f"val_{name}" in history:
            lines.append((held_out, history[f"val_{name}"], RED))
        values = np.concatenate([np.asarray(line, float) for _, line, _ in lines])
        if name == "accuracy":
            axes.set_ylim(*_accuracy_range(values))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if value <= 1 else "")
        elif values.min() > 0 and values.max() > 20 * values.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        _draw_lines(axes, epochs, lines, "{:.1%}".format if name == "accuracy" else _three_digits, 0.055 * len(names))
        if kept is not None:
            axes.axvline(kept, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
            if number == len(names) - 1:  # the loss falls, so there is room above it
                right = kept > 0.6 * max(epochs)
                axes.annotate(
                    f"epoch {kept} is kept", (kept, 1.0), (-4 if right else 4, -2), xycoords=("data", "axes fraction"),
                    textcoords="offset points", color=GREY, va="top", ha="right" if right else "left", fontsize=8.5,
                )  # fmt: skip
        if number == len(names) - 1:
            axes.set_xlabel("epoch")
        else:
            axes.tick_params(labelbottom=False)


def _column(part: Any, count: int) -> list[Any]:
    return list(part.subplots(count, 1, sharex=True, squeeze=False)[:, 0])


def _accuracy_range(values: np.ndarray) -> tuple[float, float]:
    """Return limits that show where the curves end in detail, and leave out much of the bad beginning."""
    low = float(np.percentile(values, 4))
    low = max(0.0, np.floor((low - 0.02) * 20) / 20)
    return low, 1.0 + 0.03 * (1 - low)


def _draw_lines(
    axes: Any, epochs: Any, lines: list[tuple[str, Any, str]], written: Callable[[float], str], least: float
) -> None:
    """Draw lines. Each has its name and last value at its end instead of in a legend; labels are `least` apart."""
    last = max(epochs)
    axes.set_xlim(min(epochs) - 0.01 * last, max(last, min(epochs) + 1))
    axes.xaxis.get_major_locator().set_params(integer=True)
    for _, values, colour in lines:
        few, width = ("o" if len(values) <= 12 else None), (1.8 if len(values) <= 100 else 1.2)
        axes.plot(epochs, values, color=colour, marker=few, markersize=4, linewidth=width, zorder=3)
    ends = [_height(axes, values[-1]) for _, values, _ in lines]
    for (name, values, colour), height in zip(lines, _apart(ends, least), strict=True):
        axes.annotate(
            f"{name} {written(values[-1])}", (1.0, height), (6, 0), xycoords="axes fraction",
            textcoords="offset points", color=colour, va="center", fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def _three_digits(value: float) -> str:
    if 1000 <= abs(value) < 1e12:  # written without an exponent
        return f"{value:,.0f}"
    return f"{value:.3f}" if 0.1 <= abs(value) < 10 else f"{value:.3g}"


def _height(axes: Any, value: float) -> float:
    """Return how high a value stands in its axes, from 0 to 1."""
    axes.get_ylim()  # computes the limits, which matplotlib does no earlier than needed
    point = axes.transData.transform((1.0, value))
    return float(np.clip(axes.transAxes.inverted().transform(point)[1], 0.0, 1.0))


def _apart(heights: list[float], least: float) -> list[float]:
    """Move two labels apart where they would overlap."""
    if len(heights) < 2 or abs(heights[0] - heights[1]) >= least:
        return heights
    middle = min(1 - least / 2, max(least / 2, sum(heights) / 2))
    up = least / 2 if heights[0] >= heights[1] else -least / 2
    return [middle + up, middle - up]
