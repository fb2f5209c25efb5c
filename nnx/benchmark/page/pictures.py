"""Figures of the page: which backend for which network, from where on what pays, and how near the machine's limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from nnx.benchmark.page import charts
from nnx.benchmark.page.charts import TIMES, Scale, duration, escape, tick, times
from nnx.benchmark.page.findings import Figure, Work, pays_from, winners
from nnx.benchmark.units import share

NUMPY = "nnx numpy"  # what speed is told against
HUGE = 6.0  # times between the slowest and the fastest, from which a scale is logarithmic
SHAPES = {"steps": "square", "inference": "triangle"}  # on the roofline; all else is a circle


def networks(networks: Sequence[Work]) -> str:
    """Return, for each network, everybody's speed on one line, and who should be taken."""
    raced = [work for work in networks if work.ours]
    if not raced:
        return ""
    scale = _speeds(raced)
    drawn = [_network(work, scale) for work in raced]
    return (
        f"<p>Speed against {NUMPY}: further right is faster. Coloured dots are nnx, grey ones other libraries; "
        "a network is its widths, with the samples of one call before them.</p>"
        f'<div class="networks" {charts.origin(scale, 1.0)}>'
        '<div class="row head" aria-hidden="true"><span>network</span><span></span>'
        "<span>take</span><span>against the next of nnx</span><span>against the best other library</span></div>"
        f'{"".join(drawn)}<div class="row"><span></span>{charts.axis(scale, _factor)}</div></div>'
    )


def _network(work: Work, scale: Scale) -> str:
    best, base = work.ours[0], _base(work).median
    placed = [(base / f.median, f.css, f.key) for f in [*reversed(work.others), *reversed(work.ours)]]
    rest = [figure for figure in work.ours if figure not in winners(work)]
    names = " or ".join(f'<b class="{figure.css}">{escape(figure.player)}</b>' for figure in winners(work))
    return (
        f'<div class="row"><span class="name">{escape(work.title)}</span>{charts.dots(scale, placed)}'
        f"<span>{names} {duration(best.median)}</span>"
        f"<span>{_against(best, rest)}</span><span>{_against(best, work.libraries)}</span></div>"
    )


def _against(best: Figure, rest: Sequence[Figure]) -> str:
    if not rest:
        return '<i class="none">none</i>'
    return f"<b>{times(rest[0].median / best.median)}</b> {escape(rest[0].player)}"


# ---- from where it pays ----------------------------------------------------------------------------------------------


def batches(data: dict[str, Any], found: Sequence[Work]) -> str:
    """Return each network's throughput by batch size, and from which on threads and GPUs pay."""
    networks: dict[str, list[Work]] = {}
    for work in sorted((work for work in found if work.measured), key=lambda work: work.rows):
        matched = re.fullmatch(r"step, \d+ x (.+)", work.title)
        networks.setdefault(matched[1] if matched else work.title, []).append(work)
    threads = data.get("method", {}).get("threads", 2)
    drawn = "".join(_batch(network, some, threads) for network, some in networks.items())
    return f'<div class="pair">{drawn}</div>' if drawn else ""


def _batch(network: str, found: Sequence[Work], threads: int) -> str:
    """Return a network's throughput against the batch size, and what pays from where."""
    names = dict.fromkeys(figure.player for work in found for figure in reversed(work.measured))
    series = []
    for name in sorted(names, key=lambda name: any(f.player == name and f.ours for w in found for f in w.figures)):
        own = [(work.rows, figure) for work in found if (figure := work.of(name))]
        points = [(float(rows), rows / figure.median * 1e6, figure.key) for rows, figure in own]
        series.append(charts.Series(name, own[0][1].css, points))
    verdicts = list(_verdicts(found, threads))
    marks = [(float(size), short) for size, short, _ in verdicts if size]
    caption = "".join(f"<p>{escape(text)}</p>" for _, _, text in verdicts)
    plot = _both(partial(charts.lines, series, marks, label=f"Rows a second by batch size, {network}"), 540, 340)
    return f"<figure><figcaption><h3>{escape(network)}</h3>{caption}</figcaption>{plot}</figure>"


def _verdicts(found: Sequence[Work], threads: int) -> Iterable[tuple[int | None, str, str]]:
    """Return from which batch size more threads and GPUs pay, in few words and in a sentence."""
    ours = {figure.player: figure for work in found for figure in work.ours}

    def by_size(player: str) -> dict[int, Figure]:
        return {work.rows: figure for work in found if (figure := work.of(player))}

    pairs = [(f"{threads} threads", name, by_size(f"{name}, 1 thread")) for name in ours if f"{name}, 1 thread" in ours]
    on_cpu = {work.rows: own[0] for work in found if (own := [f for f in work.ours if f.device == "cpu"])}
    pairs += [("the GPU", name, on_cpu) for name, figure in ours.items() if figure.device != "cpu" and on_cpu]
    for what, name, holder in pairs:
        challenger = by_size(name)
        both = sorted(challenger.keys() & holder.keys())
        if not both:
            continue
        size, most = pays_from(challenger, holder), both[-1]
        pay = "pays" if what == "the GPU" else "pay"
        gain = max(holder[rows].median / challenger[rows].median for rows in both)
        if size is None:
            yield None, "", f"{name}: {what} never {pay}, up to {most} rows (at best {times(gain)})."
        else:
            rows = "every batch size" if size == both[0] else f"{size} rows on"
            preposition = "at" if size == both[0] else "from"
            yield size, f"{what} {pay} from {size}", f"{name}: {what} {pay} {preposition} {rows}, up to {times(gain)}."
    if not any(what != "the GPU" for what, _, _ in pairs):
        yield None, "", "One thread and several were not compared."
    if not any(figure.device != "cpu" for figure in ours.values()):
        yield None, "", "No GPU took part."


def _both(draw: Callable[..., str], wide: int, narrow: int) -> str:
    """Return a plot twice: the style sheet shows the one that fits."""
    return f'<div class="wide">{draw(width=wide)}</div><div class="narrow">{draw(width=narrow)}</div>'


# ---- what the machine can do -----------------------------------------------------------------------------------------


def rooflines(data: dict[str, Any], found: Sequence[Work]) -> str:
    """Return each device's roofline."""
    return "".join(
        _roofline(device, limits, found) for device, limits in data.get("limits", {}).items() if limits.get("gflops")
    )


def _roofline(device: str, limits: Mapping[str, Any], found: Sequence[Work]) -> str:
    """Return a device's roofs and what nnx reaches below them."""
    points, shown = [], []
    for work in (work for work in found if work.flops and work.bytes and work.suite != "batch"):
        ours = [figure for figure in work.ours if figure.device == device]
        shown += ours
        for figure in reversed(ours):
            named = figure is ours[0] and work.suite in SHAPES
            label = re.sub(r"^(step|predict|evaluate), ", "", work.title) if named else ""
            reached, shape = work.flops / figure.median / 1e3, SHAPES.get(work.suite, "circle")
            points.append(charts.Point(work.flops / work.bytes, reached, figure.css, figure.key, shape, label))
    if not points:
        return ""
    peak, roofs = float(limits["gflops"]), _roofs(limits.get("bandwidth") or [])
    plot = _both(partial(charts.roofline, points, roofs, peak, label=f"Roofline of the {device}"), 1040, 340)
    return (
        f"<figure><figcaption><h3>Roofline, {escape(device)}</h3><p>Left, a workload waits for memory (one line for "
        "each level that was measured); right, for arithmetic. Far below both, it waits for neither: that is the cost "
        "of a call.</p>"
        f"{_legend(shown)}</figcaption>{plot}"
        f'<p class="aside">Measured roofs: arithmetic: {charts.significant(peak)} GFLOP/s; '
        f"{'; '.join(map(escape, roofs))}.</p></figure>"
    )


def _roofs(bandwidth: Sequence[Sequence[float]]) -> list[charts.Roof]:
    """Return the levels of memory: sizes at about the same rate are one, named by the largest."""
    levels: list[tuple[float, float]] = []  # size, rate
    for size, rate in sorted(map(tuple, bandwidth)):
        if levels and rate > 0.75 * levels[-1][1]:
            levels[-1] = (size, levels[-1][1])
        else:
            levels.append((size, rate))
    last = levels[-1][0] if levels else 0.0
    return [charts.Roof(rate, "memory" if size == last else f"to {charts.memory(size)}") for size, rate in levels]


def _legend(figures: Iterable[Figure]) -> str:
    """Return which colour is whose, and which shape is what."""
    looks = {figure.player: figure.css for figure in sorted(figures, key=lambda figure: figure.player)}
    players = "".join(f'<li><i class="swatch {css}"></i>{escape(name)}</li>' for name, css in looks.items())
    return f'<ul class="legend">{players}<li>■ training step</li><li>▲ prediction</li><li>● operation</li></ul>'


def shares(found: Sequence[Work]) -> str:
    """Return how near to the floor nnx's best comes in each workload, and the best other library."""
    rows = [(work, own) for work in found if work.suite != "batch" and (own := [f for f in work.ours if _share(f)])]
    if not rows:
        return ""
    scale = charts.fitted(
        [_share(figure) for work, _ in rows for figure in work.measured if _share(figure)], False, 1.0
    )
    drawn = "".join(_share_row(work, own[0], scale) for work, own in rows)
    above = any(_share(figure) > 1 for work, _ in rows for figure in work.measured)
    return (
        "<figure><figcaption><h3>Share of the limit</h3><p>The least time the roofs allow, as a share of the time it "
        "took: 100% could not be faster. That is the line; grey is the best other library."
        + " Above 100%, the limit was measured too low." * above
        + f'</p></figcaption><ul class="shares" {charts.origin(scale, 1.0)}>{drawn}</ul></figure>'
    )


def _share(figure: Figure) -> float:
    return float(figure.entry.get("of_limit") or 0.0)


def _share_row(work: Work, own: Figure, scale: Scale) -> str:
    peers = [figure for figure in work.libraries if _share(figure)][:1]
    placed = [(_share(figure), figure.css, figure.key) for figure in [*peers, own]]
    return (
        f'<li><span class="name">{escape(work.title)}</span>{charts.dots(scale, placed)}'
        f'<b class="{own.css}">{escape(share(_share(own)))}</b></li>'
    )


# ---- suite by suite --------------------------------------------------------------------------------------------------


def ratios(found: Sequence[Work]) -> str:
    """Return a suite's speeds against NumPy's, all on one scale."""
    raced = [work for work in found if work.figures]
    if not raced:
        return ""
    scale = _speeds(raced)
    cards = "".join(_ratio_card(work, scale) for work in raced)
    how = "; the scale is logarithmic" if scale.log else ""
    caption = f"Speed against {NUMPY}, the line at 1{TIMES}: right of it is faster{how}."
    return f'<p>{caption}</p><div class="cards">{cards}</div>'


def _speeds(found: Sequence[Work]) -> Scale:
    """Return one scale for the speeds of all these workloads, so that the eye can compare them."""
    speeds = [_base(work).median / figure.median for work in found for figure in work.measured] or [1.0]
    return charts.fitted(speeds, max(speeds) / min(speeds) > HUGE, 1.0)


def _base(work: Work) -> Figure:
    """Return whom speeds are told against: NumPy; where it has no time, the slowest of nnx, or of all."""
    return work.of(NUMPY) or [*work.others, *work.ours][-1]


def _factor(value: float) -> str:
    return f"{tick(value)}{TIMES}"


def _ratio_card(work: Work, scale: Scale) -> str:
    base = _base(work) if work.measured else None
    note = "" if not base or base.player == NUMPY else f"1{TIMES} is {base.player}"

    def speed(us: float) -> float:
        return base.median / us if base else 1.0

    return _card(work, scale, 1.0 if scale.log else 0.0, speed, lambda us: times(speed(us)), _factor, note)


def starts(found: Sequence[Work]) -> str:
    """Return the seconds until a new process can be used."""
    raced = [work for work in found if work.figures]
    if not raced:
        return ""

    def seconds(us: float) -> float:
        return us / 1e6

    scale = charts.fitted([seconds(figure.high) for work in raced for figure in work.measured] or [1.0], False, 0.0)
    cards = "".join(_card(work, scale, 0.0, seconds, lambda us: "", lambda value: f"{tick(value)} s") for work in raced)
    return f'<p>Seconds in a fresh process: shorter is better.</p><div class="cards">{cards}</div>'


def _card(
    work: Work,
    scale: Scale,
    start: float,
    value: Callable[[float], float],
    note: Callable[[float], str],
    form: Callable[[float], str],
    remark: str = "",
) -> str:
    """Return a workload's bars.

    Args:
        start: where on the scale they begin. value: what a time is drawn as. note: what is written beside it, too.
        form: how ticks are written. remark: beside the title.
    """
    rows = []
    for figure in work.figures:
        name = f"<span>{escape(figure.player)}</span>"
        if figure.refused:
            content = f'{name}<em class="refused">refused: {escape(figure.refused)}</em>'
        else:
            drawn = charts.bar(scale, start, *map(value, (figure.median, figure.low, figure.high)))
            content = f"{name}{drawn}<b>{duration(figure.median)}</b><i>{note(figure.median)}</i>"
        rows.append(f'<li class="{figure.css}" data-r="{figure.key}">{content}</li>')
    foot = f'<li class="foot" aria-hidden="true"><span></span>{charts.axis(scale, form)}</li>' if work.measured else ""
    remark = f"<small>{escape(remark)}</small>" if remark else ""
    title = f"<figcaption>{escape(work.title)}{remark}</figcaption>"
    return f'<figure class="card">{title}<ul {charts.origin(scale, start)}>{"".join(rows)}{foot}</ul></figure>'
