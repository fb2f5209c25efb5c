"""Charts as inline SVG, without a plotting library: numbers for people, scales with ticks, and what is drawn on them.

Two kinds of drawing. Strips (bars and dots) are as wide as their place, so their positions are in percent and their
text is HTML beside them. Plots (lines, roofline) have a size in pixels; the page holds a wide one and a narrow one.
Everything that comes from outside passes `escape` before it becomes part of a document.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nnx.backends.printable import printable
from nnx.benchmark import units

NICE = (1, 2, 5)
Box = tuple[float, float, float, float]  # left, top, right, bottom
TIMES = "\N{MULTIPLICATION SIGN}"
LARGE = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))
SEEN = 0.8  # percent: a bar of no length has a colour still
LETTER = 7.7  # pixels of one, at the plots' size of text: rather too wide than clipped
LINE = 15.0  # pixels from one line of text to the next
NAMES = 0.48  # of a plot's width, at most

# ---- numbers for people ----------------------------------------------------------------------------------------------


def escape(text: object) -> str:
    """Return text that is safe within HTML and within attributes."""
    return html.escape(printable(text, keep="\n"), quote=True)


def significant(value: float, digits: int = 3) -> str:
    """Return a number with so many digits that count, never as 1e+03."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "?"
    if value == 0:
        return "0"
    behind = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, behind):,.{max(0, behind)}f}"


def duration(us: float) -> str:
    """Return a time, given in us."""
    return units.duration(us).replace("us", "µs").replace(" ", "\u00a0")


def times(factor: float) -> str:
    """Return a factor with two digits that count."""
    return f"{significant(factor, 2 if factor < 10 else 3)}{TIMES}"


def tick(value: float) -> str:
    """Return a round number as an axis shows it: 0.1, 16, 10k, 1M."""
    size, unit = next((each for each in LARGE if value >= each[0]), (1.0, "")) if value >= 1e4 else (1.0, "")
    return f"{value / size:g}{unit}"


def memory(number: float) -> str:
    """Return a number of bytes."""
    size, unit = next((each for each in BYTES if number >= each[0]), (1.0, "B"))
    return f"{significant(number / size, 2)} {unit}"


# ---- scales ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` to places from `start` to `end`; equal factors to equal distances when `log`."""

    low: float
    high: float
    start: float = 0.0
    end: float = 100.0
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value; what lies outside is put at the edge."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values within, at most so many."""
        return _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(nice * power for nice in (*NICE, 10, 20) if (high - low) / (nice * power) < most)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, last + 1)
    within = [
        nice * 10.0**power for power in decades for nice in NICE if low * 0.999 <= nice * 10.0**power <= high * 1.001
    ]
    if len(within) <= most:
        return within
    step = 1
    while len(tens := [10.0**power for power in decades if power % step == 0 and low <= 10.0**power <= high]) > most:
        step += 1
    return tens


def fitted(values: Sequence[float], log: bool, holding: float) -> Scale:
    """Return a scale in percent that holds some values and one more, with round ends; a linear one begins at 0."""
    most, least = max([*values, holding]), min([*values, holding])
    if not log:
        return Scale(0.0, most * 1.02 or 1.0)
    return Scale(_rounded(least, down=True), _rounded(most * 1.001, down=False), log=True)


def _rounded(value: float, down: bool) -> float:
    """Return the nearest of 1, 2, 5, 10, 20, ... that is no more (or no less) than a value."""
    power = 10.0 ** math.floor(math.log10(value))
    nice = [number * power for number in (*NICE, 10)]
    return max(n for n in nice if n <= value * 1.0001) if down else min(n for n in nice if n >= value * 0.9999)


# ---- strips: as wide as their place ----------------------------------------------------------------------------------


def bar(scale: Scale, origin: float, value: float, low: float, high: float) -> str:
    """Return a bar from the origin to a value, with a whisker from low to high."""
    start, end = sorted((scale(origin), scale(value)))
    left, right = sorted((scale(low), scale(high)))
    wide = max(end - start, SEEN)
    return _strip(
        f'<rect class="bar" x="{start:.1f}%" width="{wide:.1f}%"/>'
        f'<rect class="whisker" x="{left:.1f}%" width="{right - left:.1f}%"/>'
    )


def dots(scale: Scale, values: Sequence[tuple[float, str, str]]) -> str:
    """Return dots on a line: (value, class, key) of each, the last on top."""
    places = [scale(value) for value, _, _ in values]
    drawn = "".join(
        f'<circle class="{escape(css)}" data-r="{key}" cx="{place:.1f}%" cy="50%"/>'
        for place, (_, css, key) in zip(places, values, strict=True)
    )
    thread = f'<rect class="thread" x="{min(places):.1f}%" width="{max(places) - min(places):.1f}%"/>'
    return _strip(thread + drawn)


def axis(scale: Scale, form: Callable[[float], str], most: int = 5) -> str:
    """Return the ticks below strips."""
    ticks = [f'<text x="{scale(at):.1f}%" y="70%">{escape(form(at))}</text>' for at in scale.ticks(most)]
    return _strip("".join(ticks), "axis")


def origin(scale: Scale, value: float) -> str:
    """Return the attribute of what holds strips that draws a line through all of them, at a value."""
    return f'style="--origin:{scale(value):.1f}%"'


def _strip(content: str, css: str = "strip") -> str:
    return f'<svg class="{css}" aria-hidden="true">{content}</svg>'


# ---- plots: of a size ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """A line: (x, y, key of its figure) of each point, by x."""

    name: str
    css: str
    points: Sequence[tuple[float, float, str]]


@dataclass(frozen=True)
class Point:
    """A figure on the roofline. label: written beside it where there is room."""

    x: float
    y: float
    css: str
    key: str
    shape: str = "circle"
    label: str = ""


@dataclass(frozen=True)
class Roof:
    """A level of memory: its bandwidth in GB/s."""

    rate: float
    name: str

    def __str__(self) -> str:
        return f"{self.name}: {significant(self.rate)} GB/s"


def lines(series: Sequence[Series], marks: Sequence[tuple[float, str]], width: int, label: str) -> str:
    """Return lines, log-log, each with its name at its end; marks: (x, text) of vertical lines worth a look."""
    names = [_short(each.name, round((width * NAMES - 16) / LETTER)) for each in series]
    room = 16 + LETTER * max(map(len, names))
    xs = sorted({x for each in series for x, _, _ in each.points})
    ys = [y for each in series for _, y, _ in each.points]
    top = 34 + LINE * len(marks)
    height = round(top + 60 + max(220, LINE * len(series)))
    x = Scale(xs[0] / 1.25, xs[-1] * 1.25, 46, width - room, log=True)
    y = Scale(_rounded(min(ys), down=True), _rounded(max(ys) * 1.001, down=False), height - 46, top, log=True)
    drawn = [_grid(x, y, _apart(xs, x, 34), "rows in a batch", "rows a second")]
    drawn += [_mark(x, y, at, text, number, width) for number, (at, text) in enumerate(marks)]
    places = _spread([y(each.points[-1][1]) for each in series], LINE, height - 46)
    for each, name, place in zip(series, names, places, strict=True):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b, _ in each.points)
        ends = x(each.points[-1][0]), y(each.points[-1][1])
        drawn.append(
            f'<g class="{escape(each.css)}"><polyline points="{path}"/>'
            f'<path class="leader" d="M{ends[0] + 5:.1f},{ends[1]:.1f}L{x.end + 6:.1f},{place:.1f}"/>'
            + "".join(f'<circle data-r="{key}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5"/>' for a, b, key in each.points)
            + f'<text x="{x.end + 9:.1f}" y="{place + 4:.1f}">{escape(name)}</text></g>'
        )
    return _svg(width, height, label, "".join(drawn))


def roofline(points: Sequence[Point], roofs: Sequence[Roof], peak: float, width: int, label: str) -> str:
    """Return GFLOP/s against flops a byte, log-log, below what memory and arithmetic allow."""
    height = min(480, round(width * 0.95))
    ridge = peak / min([roof.rate for roof in roofs] or [peak])
    xs = [point.x for point in points]
    x = Scale(min(xs) / 2, max(*xs, ridge) * 2.5, 50, width - 14, log=True)
    y = Scale(
        min(min(point.y for point in points) / 2, peak / 20),
        max(peak, *(p.y for p in points)) * 2,
        height - 46,
        14,
        log=True,
    )
    drawn = [_grid(x, y, x.ticks(8), "arithmetic intensity: flops a byte", "GFLOP/s")]
    taken = [(x(point.x) - 7, y(point.y) - 8, x(point.x) + 7, y(point.y) + 8) for point in points]
    shown = [roof for roof in roofs if peak / roof.rate > x.low * 1.5]
    for roof in sorted(shown, key=lambda roof: roof.rate):
        drawn += _diagonal(x, y, roof, peak, taken)
    taken += [box for roof in shown for box in _boxes(*_ends(x, y, roof, peak), 3)]
    drawn.append(
        f'<path class="roof" d="M{max(x.start, x(peak / max([r.rate for r in roofs] or [math.inf]))):.1f},{y(peak):.1f}'
        f'H{x.end:.1f}"/><text class="halo end" x="{x.end:.1f}" y="{y(peak) - 7:.1f}">'
        f"{significant(peak)} GFLOP/s: arithmetic</text>"
    )
    drawn += [_shape(point, x(point.x), y(point.y)) for point in points]
    drawn += _labels(points, x, y, taken)
    return _svg(width, height, label, "".join(drawn))


def _svg(width: int, height: int, label: str, content: str) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{content}</svg>'
    )


def _grid(x: Scale, y: Scale, ticks: Sequence[float], x_label: str, y_label: str) -> str:
    """Return the frame of a log-log plot: faint lines, what they mean, and what the axes are."""
    drawn = []
    for at in ticks:
        drawn.append(f'<path class="grid" d="M{x(at):.1f},{y.start:.1f}V{y.end:.1f}"/>')
        drawn.append(f'<text class="tick middle" x="{x(at):.1f}" y="{y.start + 18:.1f}">{tick(at)}</text>')
    for at in y.ticks():
        drawn.append(f'<path class="grid" d="M{x.start:.1f},{y(at):.1f}H{x.end:.1f}"/>')
        drawn.append(f'<text class="tick end" x="{x.start - 7:.1f}" y="{y(at) + 4:.1f}">{tick(at)}</text>')
    middle = (x.start + x.end) / 2
    drawn.append(f'<text class="title middle" x="{middle:.1f}" y="{y.start + 38:.1f}">{x_label}</text>')
    drawn.append(f'<text class="title" x="4" y="11">{y_label}</text>')
    return "".join(drawn)


def _mark(x: Scale, y: Scale, at: float, text: str, number: int, width: int) -> str:
    """Return a vertical line with a text above it, which turns to the side where there is room."""
    place, line = x(at), y.end - 14 - LINE * number
    side, shift = ("end", -5) if place + LETTER * len(text) > width else ("", 5)
    return (
        f'<path class="mark" d="M{place:.1f},{y.start:.1f}V{line - 10:.1f}"/>'
        f'<text class="mark halo {side}" x="{place + shift:.1f}" y="{line:.1f}">{escape(text)}</text>'
    )


def _ends(x: Scale, y: Scale, roof: Roof, peak: float) -> tuple[float, float, float, float]:
    """Return from where to where a level of memory is the limit: bandwidth times intensity, up to the peak."""
    begin, end = max(x.low, y.low / roof.rate), peak / roof.rate
    return x(begin), y(begin * roof.rate), x(end), y(peak)


def _boxes(x0: float, y0: float, x1: float, y1: float, half: float) -> list[Box]:
    """Return small boxes along a line, which together are the room that it takes."""
    steps = max(1, round(math.hypot(x1 - x0, y1 - y0) / 8))
    middles = [(x0 + (x1 - x0) * n / steps, y0 + (y1 - y0) * n / steps) for n in range(steps + 1)]
    return [(a - half, b - half, a + half, b + half) for a, b in middles]


def _diagonal(x: Scale, y: Scale, roof: Roof, peak: float, taken: list[Box]) -> list[str]:
    """Return the line of a level of memory; named above it, at the first place where there is room."""
    x0, y0, x1, y1 = _ends(x, y, roof, peak)
    drawn = [f'<path class="roof" d="M{x0:.1f},{y0:.1f}L{x1:.1f},{y1:.1f}"/>']
    slope, text = math.atan2(y1 - y0, x1 - x0), str(roof)
    cos, sin, long = math.cos(slope), math.sin(slope), LETTER * len(text)
    for start in range(10, round(math.hypot(x1 - x0, y1 - y0) - long), 10):
        left, top = x0 + cos * start + sin * 9, y0 + sin * start - cos * 9
        boxes = _boxes(left, top, left + cos * long, top + sin * long, 6)
        if not any(_touch(box, other) for box in boxes for other in taken):
            taken += boxes
            turn = f"translate({x0:.1f} {y0:.1f}) rotate({math.degrees(slope):.1f})"
            drawn.append(f'<text class="halo" transform="{turn}" x="{start}" y="-5">{escape(text)}</text>')
            break
    return drawn


def _shape(point: Point, x: float, y: float) -> str:
    """Return a marker: what kind of work is its shape, whose it is its colour."""
    attributes = f'class="point {escape(point.css)}" data-r="{point.key}"'
    if point.shape == "square":
        return f'<rect {attributes} x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>'
    if point.shape == "triangle":
        return f'<path {attributes} d="M{x:.1f},{y - 6.5:.1f}l6.5,11.5h-13z"/>'
    return f'<circle {attributes} cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def _labels(points: Sequence[Point], x: Scale, y: Scale, taken: list[Box]) -> list[str]:
    """Return the labels of points for which there is room: none covers another, nor a point."""
    drawn = []
    for point in (each for each in points if each.label):
        long, (px, py) = LETTER * len(point.label), (x(point.x), y(point.y))
        beside = ((px + 10, py), (px - 10 - long, py))
        below = (
            (px - long / 2, py + LINE),
            (px - long / 2, py - LINE),
            (px - long + 7, py + LINE),
            (px - 7, py + LINE),
        )
        for left, middle in (*beside, *below):
            box = (left, middle - 7, left + long, middle + 7)
            if x.start < box[0] and box[2] < x.end and not any(_touch(box, other) for other in taken):
                taken.append(box)
                drawn.append(f'<text class="halo" x="{left:.1f}" y="{middle + 4:.1f}">{escape(point.label)}</text>')
                break
    return drawn


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _spread(places: Sequence[float], gap: float, end: float) -> list[float]:
    """Move places apart until no two are nearer than a gap, in the order they have; the last no lower than the end."""
    moved = list(places)
    order = sorted(range(len(moved)), key=lambda index: moved[index])
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    limit = end
    for index in reversed(order):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved


def _apart(values: Sequence[float], scale: Scale, least: float) -> list[float]:
    """Return those values whose places are so far apart, from the first."""
    kept: list[float] = []
    for value in values:
        if not kept or scale(value) - scale(kept[-1]) >= least:
            kept.append(value)
    return kept


def _short(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
