"""Numbers: predicted numbers over true ones, and values as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnx.backends.printable import printable
from nnx.plots.style import BLUE, GREY, SKY, Panel, plain_tick


def regression(predicted: np.ndarray, wanted: np.ndarray, name: str = "") -> Panel:
    """Return a panel of predicted over true numbers, [N] or [N, 1] each, and of the residuals below it.

    On the line the network is right. If the residuals, true minus predicted, have a shape, such as a bow or a growing
    spread, there is something that the network has not learned.
    """
    predicted, wanted = np.asarray(predicted).reshape(-1), np.asarray(wanted).reshape(-1)
    name = printable(name)

    def draw(part: Any) -> None:
        above, under = part.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        above.set_title("Test samples: true against predicted (on the line: right)")
        low, high = min(predicted.min(), wanted.min()), max(predicted.max(), wanted.max())
        room = 0.05 * (high - low or 1)
        limits = (low - room, high + room)
        crowd = float(np.clip(12 / np.sqrt(len(wanted)), 0.15, 0.8))
        look: dict[str, Any] = {"s": 22, "color": BLUE, "alpha": crowd, "edgecolors": "white", "linewidths": 0.4}
        above.plot(limits, limits, color=GREY, linewidth=1.2, zorder=2)
        above.scatter(predicted, wanted, zorder=3, **look)
        under.axhline(0.0, color=GREY, linewidth=1.2, zorder=2)
        under.scatter(predicted, wanted - predicted, zorder=3, **look)
        above.set(xlim=limits, ylim=limits)
        above.set_ylabel(f"true {name}".strip(), parse_math=False)
        under.set_ylabel("true - predicted")
        under.set_xlabel(f"predicted {name}".strip(), parse_math=False)
        for axis in (above.xaxis, above.yaxis, under.yaxis):
            axis.set_major_formatter(plain_tick)
        under.xaxis.get_major_locator().set_params(nbins=6)

    return draw


def bars(
    names: Sequence[str], values: Sequence[float], spreads: Sequence[float], title: str, label: str, most: int = 12
) -> Panel:
    """Return a panel with bars for the first `most` values, which are means, each with its spread."""
    shown = [name if len(name) <= 18 else f"{name[:17]}..." for name in map(printable, names[:most])]

    def draw(part: Any) -> None:
        axes = part.subplots()
        more = f" (first {most} of {len(names)})" if len(names) > most else ""
        axes.set_title(title + more)
        axes.barh(
            range(len(shown)), values[:most], xerr=spreads[:most], height=0.65, color=SKY, ecolor=GREY,
            error_kw={"linewidth": 1.2},
        )  # fmt: skip
        axes.axvline(0.0, color=GREY, linewidth=0.8)
        axes.set_yticks(range(len(shown)), shown)
        axes.set_ylim(max(len(shown), 4) - 0.4, -0.6)
        for text in axes.get_yticklabels():
            text.set_parse_math(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(plain_tick)
        axes.xaxis.get_major_locator().set_params(nbins=5)
        axes.set_xlabel(label)

    return draw
