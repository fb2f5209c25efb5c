"""Style of the figures: colours and sizes, and matplotlib figures that belong to no window."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nnx.errors import MissingExtra

BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, RED, BLACK = COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00", "#000000",
)  # fmt: skip
INK, GREY = "#222222", "#6b6b6b"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "svg.fonttype": "none",
}
WIDTH, HEIGHT, DPI = 12.0, 6.2, 150

Figure = Any
Panel = Callable[[Any], None]  # draws into a (sub)figure
History = Mapping[str, Sequence[float]]


def new_figure(width: float) -> Figure:
    """Return an empty figure that is not shown in a window."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as MatplotlibFigure
    except Exception as error:
        raise MissingExtra("matplotlib", "plots", "drawing", error) from error
    figure = MatplotlibFigure(figsize=(width, HEIGHT), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def own_style() -> Any:
    """Use our style inside a `with` block. Other settings are matplotlib's defaults and not the user's."""
    import matplotlib as mpl

    style: Any = {name: value for name, value in mpl.rcParamsDefault.items() if "backend" not in name}
    style.update(STYLE)
    return mpl.rc_context(style)


def plain_tick(value: float, _: Any = None) -> str:
    """Format a tick of an axis, without an exponent if the number is easy to read without one."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.6g}"
