"""Pictures of a training and of what came of it. They need matplotlib, which is imported when one is drawn.

    from nnx import plots

    figure = plots.compose("Digits", "98.1 % right", history, plots.images(x, wanted, probabilities, (8, 8)))
    plots.save(figure, "digits.png")

A panel is a function that draws into a part of a figure: `images`, `boundary`, `regression`, `confusion` and `bars`
each return one. Nothing global is changed, and no window is opened. Colours are those of Okabe and Ito (2008), which
remain apart for the colour-blind.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nnx.backends.printable import printable
from nnx.errors import MissingExtra
from nnx.files import as_path, write_atomically

BLUE, ORANGE, GREEN, PINK, SKY, YELLOW, RED, BLACK = COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00", "#000000",
)  # fmt: skip
INK, GREY = "#222222", "#6b6b6b"
MARKERS = "os^DvPX*"
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
MOST_NAMES = 24  # of classes along an axis
SIDE = 4.4  # how much wider a figure with a third part is

Figure = Any
Panel = Callable[[Any], None]  # draws into a (sub)figure
History = Mapping[str, Sequence[float]]


def compose(
    title: str, subtitle: str, history: History, panel: Panel | None = None, *, side: Panel | None = None,
    held_out: str = "test", kept: int | None = None,
) -> Figure:  # fmt: skip
    """Return a figure: the training's curves on the left, what came of it on the right.

    Args:
        title: in large letters. subtitle: under it.
        history: what `fit` returned; or a mapping that also names the epochs, as "epoch".
        panel: what stands on the right; None gives the curves the whole width. side: more of it, in a wider figure.
        held_out: what the quantities that begin with "val_" were measured on.
        kept: the epoch whose parameters are the network, counted from 1; None: the last.
    """
    figure = _figure(WIDTH if panel is None or side is None else WIDTH + SIDE)
    with _style():
        figure.text(0.016, 0.968, printable(title), fontsize=17, fontweight="bold", va="top", parse_math=False)
        figure.text(0.016, 0.9, printable(subtitle), fontsize=10.5, color=GREY, va="top", parse_math=False)
        figure.get_layout_engine().set(rect=(0.008, 0.01, 0.984, 0.845), wspace=0.06, hspace=0.04)
        panels = [draw for draw in (panel, side) if draw is not None]
        ratios = (0.88, 1, 1.88 * SIDE / WIDTH)[: len(panels) + 1]
        parts = figure.subfigures(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
        _curves(parts[0], history, held_out, kept)
        for draw, part in zip(panels, parts[1:], strict=True):
            draw(part)
    return figure


def learning_rates(found: Any) -> Figure:
    """Return a figure of what `nnx.find_learning_rate` found: losses over rates, and the rate that it suggests."""
    figure = _figure(WIDTH * 0.6)
    with _style():
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
    """Write a figure whole or not at all, as the kind of picture that the name ends in.

    Raises:
        OSError: it cannot be written.
    """
    path, data = as_path("plots.save", path), io.BytesIO()
    with _style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # a name in a script without a font
        figure.savefig(data, format=path.suffix.lstrip(".").lower() or "png", dpi=DPI, facecolor="white")
    write_atomically(path, data.getbuffer())


# ---- the training ----------------------------------------------------------------------------------------------------


def _curves(part: Any, history: History, held_out: str, kept: int | None) -> None:
    """Draw the loss, and the accuracy where there is one, of training and what was held out; mark the epoch kept."""
    epochs = history.get("epoch") or range(1, len(history["loss"]) + 1)
    names = [name for name in ("accuracy", "loss") if name in history]
    for number, (axes, name) in enumerate(zip(_column(part, len(names)), names, strict=True)):
        axes.set_title(name.capitalize())
        # Without penalties where they are known apart: the test's loss has none either.
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
    """Return limits that show where the curves end up, and not much of how bad they began."""
    low = float(np.percentile(values, 4))
    low = max(0.0, np.floor((low - 0.02) * 20) / 20)
    return low, 1.0 + 0.03 * (1 - low)


def _draw_lines(
    axes: Any, epochs: Any, lines: list[tuple[str, Any, str]], written: Callable[[float], str], least: float
) -> None:
    """Draw lines, each named with its last value at its end, `least` apart: no legend to look up."""
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
    if 1000 <= abs(value) < 1e12:  # where people would not use an exponent
        return f"{value:,.0f}"
    return f"{value:.3f}" if 0.1 <= abs(value) < 10 else f"{value:.3g}"


def _height(axes: Any, value: float) -> float:
    """Return how high a value stands in its axes, from 0 to 1."""
    axes.get_ylim()  # settles the limits, which are found out no earlier than needed
    point = axes.transData.transform((1.0, value))
    return float(np.clip(axes.transAxes.inverted().transform(point)[1], 0.0, 1.0))


def _apart(heights: list[float], least: float) -> list[float]:
    """Move two labels apart where they would overlap."""
    if len(heights) < 2 or abs(heights[0] - heights[1]) >= least:
        return heights
    middle = min(1 - least / 2, max(least / 2, sum(heights) / 2))
    up = least / 2 if heights[0] >= heights[1] else -least / 2
    return [middle + up, middle - up]


# ---- pictures --------------------------------------------------------------------------------------------------------


def images(
    x: np.ndarray, wanted: np.ndarray, probabilities: np.ndarray, shape: tuple[int, int], names: Sequence[str] = (),
    rows: int = 4, columns: int = 6, seed: int = 0,
) -> Panel:  # fmt: skip
    """Return a panel of pictures with what the network takes them for, mistakes first.

    Args:
        x: pictures [N, height * width], 0 (paper) to 1 (ink). wanted: classes [N].
        probabilities: what the network says, [N, C]. shape: height and width. names: of the classes; else numbers.
        rows, columns: of the grid. Up to half of it shows mistakes, the surest ones. seed: of the choice of the others.
    """
    names = [printable(name) for name in names] or [str(i) for i in range(probabilities.shape[1])]
    guess, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(guess != wanted)
    some = wrong[np.argsort(-sure[wrong], kind="stable")][: rows * columns // 2]
    right = np.random.RandomState(seed).permutation(np.flatnonzero(guess == wanted))[: rows * columns - len(some)]

    def draw(part: Any) -> None:
        told = "all" if len(some) == len(wrong) else f"the {len(some)} surest of"
        heading = f"{told} {len(wrong):,} mistakes, then right answers" if len(wrong) else "no mistakes"
        part.suptitle(f"Test samples: {heading}", x=0.02, ha="left", fontsize=11, fontweight="bold")
        gap = " " if max(map(len, names)) < 3 else "\n"
        grid = part.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.axis("off")
        for axes, i in zip(grid, [*some, *right], strict=False):
            axes.axis("on")
            good = guess[i] == wanted[i]
            _picture(axes, x[i].reshape(shape), GREEN if good else RED)
            verdict = names[guess[i]] if good else f"{names[wanted[i]]}{gap}read as {names[guess[i]]}"
            axes.set_xlabel(
                f"{verdict}\n{sure[i]:.0%} sure", parse_math=False, color=INK if good else RED,
                fontsize=8.5 if gap == " " else 7.8, fontweight="normal" if good else "bold", labelpad=3,
            )  # fmt: skip

    return draw


def _picture(axes: Any, picture: np.ndarray, colour: str) -> None:
    axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=1.2 if colour == GREEN else 2.4)


# ---- classes in the plane --------------------------------------------------------------------------------------------


def boundary(
    predict: Callable[[np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray, x_test: np.ndarray | None = None,
    y_test: np.ndarray | None = None, names: Sequence[str] = (), columns: Sequence[str] = (), resolution: int = 300,
) -> Panel:  # fmt: skip
    """Return a panel of a plane, shaded by class and by how sure the network is, with the samples on it.

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
        alike = 0.67 < (right - left) / (top - bottom) < 1.5  # then one unit is as long both ways
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
    """Return a colour for each class: Okabe and Ito's, or, for more than they have, steps along viridis."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    from matplotlib import colormaps, colors

    return [colors.to_hex(colormaps["viridis"](i / (count - 1))) for i in range(count)]


def _shade(shares: np.ndarray, colours: Sequence[str]) -> np.ndarray:
    """Mix the classes' colours by their probabilities, pale where the network is in doubt: [H, W, 3]."""
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


# ---- numbers ---------------------------------------------------------------------------------------------------------


def regression(predicted: np.ndarray, wanted: np.ndarray, name: str = "") -> Panel:
    """Return a panel of predicted against true numbers, [N] or [N, 1] each, and of what is left under it.

    On the line the network is right. What is left, true minus predicted, shows what it has not learned where it has a
    shape: a bow, or a spread that grows.
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
            axis.set_major_formatter(_plain)
        under.xaxis.get_major_locator().set_params(nbins=6)

    return draw


def _plain(value: float, _: Any = None) -> str:
    """Write a tick of an axis without an exponent where people would not use one."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.6g}"


def bars(
    names: Sequence[str], values: Sequence[float], spreads: Sequence[float], title: str, label: str, most: int = 12
) -> Panel:
    """Return a panel of the first `most` of some values as bars, each with the spread of what it is the mean of."""
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
        axes.xaxis.set_major_formatter(_plain)
        axes.xaxis.get_major_locator().set_params(nbins=5)
        axes.set_xlabel(label)

    return draw


def confusion(guess: np.ndarray, wanted: np.ndarray, names: Sequence[str]) -> Panel:
    """Return a panel that counts, for each true class, what it was taken for. guess, wanted: classes [N]."""
    count = len(names)
    table = np.zeros((count, count), dtype=np.int64)
    np.add.at(table, (np.asarray(wanted), np.asarray(guess)), 1)

    def draw(part: Any) -> None:
        axes = part.subplots()
        axes.set_title("Test samples: what each class was taken for")
        shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        shown = map(printable, names)
        short = [name if len(name) <= 14 else f"{name[:13]}..." for name in shown]
        if count <= 16:
            for (row, column), number in np.ndenumerate(table):
                colour = "white" if shares[row, column] > 0.6 else (INK if row == column else RED)
                if number:
                    axes.text(
                        column, row, f"{number:,}", ha="center", va="center", color=colour,
                        fontweight="bold" if row == column else "normal", fontsize=11 if count <= 8 else 8,
                    )  # fmt: skip
        some = slice(None, None, -(-count // MOST_NAMES))
        axes.set_xticks(
            range(count)[some], short[some], rotation=0 if count <= 5 else 45, ha="center" if count <= 5 else "right"
        )
        axes.set_yticks(range(count)[some], short[some])
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_parse_math(False)
        axes.tick_params(length=0)
        axes.set(xlabel="predicted", ylabel="true")

    return draw


# ---- matplotlib ------------------------------------------------------------------------------------------------------


def _figure(width: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as MatplotlibFigure
    except Exception as error:
        raise MissingExtra("matplotlib", "plots", "drawing", error) from error
    figure = MatplotlibFigure(figsize=(width, HEIGHT), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _style() -> Any:
    """Use our style inside a `with` block, and matplotlib's own defaults for the rest, whatever the user's are."""
    import matplotlib as mpl

    style: Any = {name: value for name, value in mpl.rcParamsDefault.items() if "backend" not in name}
    style.update(STYLE)
    return mpl.rc_context(style)
