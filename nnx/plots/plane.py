"""Boundaries between classes in the plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnx.backends.printable import printable
from nnx.plots.style import COLOURS, INK, Panel

MARKERS = "os^DvPX*"


def boundary(
    predict: Callable[[np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray, x_test: np.ndarray | None = None,
    y_test: np.ndarray | None = None, names: Sequence[str] = (), columns: Sequence[str] = (), resolution: int = 300,
) -> Panel:  # fmt: skip
    """Return a panel of a plane with the samples, coloured by the predicted class and by its probability.

    Args:
        predict: gives probabilities [N, C] for points [N, 2].
        x, y: training samples [N, 2] and classes [N], drawn as dots. x_test, y_test: test samples, drawn as rings.
        names: of the classes; else numbers. columns: of the two inputs. resolution: points along each axis.
    """

    def draw(part: Any) -> None:
        axes = part.subplots()
        axes.set_title("Decision boundary")
        both = x if x_test is None else np.concatenate([x, x_test])
        low, high = both.min(axis=0), both.max(axis=0)
        room = 0.06 * np.where(high > low, high - low, 1)
        (left, bottom), (right, top) = low - room, high + room
        across, up = np.linspace(left, right, resolution), np.linspace(bottom, top, resolution)
        points = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(np.float32)
        shares = np.asarray(predict(points)).reshape(resolution, resolution, -1)
        colours = class_colours(shares.shape[2])
        alike = 0.67 < (right - left) / (top - bottom) < 1.5  # then both axes have the same scale
        axes.imshow(
            _shade(shares, colours), extent=(left, right, bottom, top), origin="lower",
            aspect="equal" if alike else "auto", interpolation="bilinear", zorder=0,
        )  # fmt: skip
        for number in range(shares.shape[2]):
            lead = shares[..., number] - np.delete(shares, number, axis=2).max(axis=2)
            axes.contour(across, up, lead, levels=[0.0], colors="white", linewidths=1.2, zorder=1)
        _scatter(axes, x, y, colours, names, rings=False)
        if x_test is not None and y_test is not None:
            _scatter(axes, x_test, y_test, colours, (), rings=True)
        axes.set(xlim=(left, right), ylim=(bottom, top), anchor="W")
        axes.grid(False)
        for name, label in zip(map(printable, columns), (axes.set_xlabel, axes.set_ylabel), strict=False):
            label(name, parse_math=False)
        _legend(part, axes, x_test is not None)

    return draw


def class_colours(count: int) -> list[str]:
    """Return a colour for each class: those of Okabe and Ito or, if these are too few, steps along viridis."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    from matplotlib import colormaps, colors

    return [colors.to_hex(colormaps["viridis"](i / (count - 1))) for i in range(count)]


def _shade(shares: np.ndarray, colours: Sequence[str]) -> np.ndarray:
    """Mix the classes' colours by their probabilities, paler where the network is less sure: [H, W, 3]."""
    from matplotlib.colors import to_rgb

    palette = np.array([to_rgb(colour) for colour in colours])
    count = len(colours)
    certainty = (shares.max(axis=2, keepdims=True) - 1 / count) / (1 - 1 / count)
    strength = 0.1 + 0.38 * np.clip(certainty, 0, 1)
    shaded: np.ndarray = np.clip(1 - strength * (1 - shares @ palette), 0, 1)
    return shaded


def _scatter(
    axes: Any, x: np.ndarray, y: np.ndarray, colours: Sequence[str], names: Sequence[str], rings: bool
) -> None:
    names = [f" {name}" if name.startswith("_") else name for name in map(printable, names)]  # _ hides from a legend
    for number, colour in enumerate(colours):
        chosen = x[np.asarray(y).reshape(-1) == number]
        look: dict[str, Any] = (
            {"facecolors": "none", "edgecolors": _darker(colour), "linewidths": 1.1, "s": 18}
            if rings
            else {"color": colour, "edgecolors": "white", "linewidths": 0.6, "s": 30}
        )
        label = (names[number] if number < len(names) else str(number)) if not rings else None
        axes.scatter(
            chosen[:, 0], chosen[:, 1], marker=MARKERS[number % len(MARKERS)], zorder=2 if rings else 3, label=label,
            **look,
        )  # fmt: skip


def _darker(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return 0.6 * red, 0.6 * green, 0.6 * blue


def _legend(part: Any, axes: Any, tested: bool) -> None:
    if tested:
        axes.scatter([], [], s=18, facecolors="none", edgecolors=INK, linewidths=1.1, label="test samples (hollow)")
    legend = part.legend(loc="outside lower left", ncols=6, frameon=False, handletextpad=0.2, columnspacing=1.2)
    for text in legend.get_texts():
        text.set_parse_math(False)
