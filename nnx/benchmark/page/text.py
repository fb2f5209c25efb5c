"""Text of the page: what was measured on what, how far to trust it, and every figure in a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from nnx.benchmark.page import charts
from nnx.benchmark.page.charts import TIMES, duration, escape, times
from nnx.benchmark.page.findings import Figure, Work
from nnx.benchmark.units import count, share
from nnx.benchmark.verdict import is_busy, verdict

NOISY = 0.1  # spread that a figure may have
NOTHING = '<p class="lede">Nothing was measured.</p>'
PRECISIONS = {"tf32": "TF32", "bf16": "bf16", "bf16x3": "bf16x3"}  # of products, where they are not those of all else
COLUMNS = (
    "suite", "workload", "player", "median", "best", "spread", "rows/s", f"{TIMES} NumPy", f"{TIMES} other", "of limit",
    "runs as",
)  # fmt: skip


def header(data: dict[str, Any], found: Sequence[Work], networks: Sequence[Work]) -> str:
    """Return what stands at the top: the summary, the machine, and how to read it all."""
    machine, method, versions = (data.get(name, {}) for name in ("machine", "method", "versions"))
    cpu, clock = machine.get("cpu") or {}, machine.get("clock_mhz") or {}
    gpus = [gpu.get("name", gpu) if isinstance(gpu, dict) else gpu for gpu in machine.get("gpu") or []]
    numbers = method.get("dtype"), PRECISIONS.get(method.get("precision", ""))
    facts = [
        ("processor", processor(data)),
        ("cores", f"{cpu['usable']} usable of {cpu['cores']}" if {"usable", "cores"} <= cpu.keys() else ""),
        ("threads each", method.get("threads")),
        ("clock now", f"{charts.significant(clock['most'] / 1e3)} GHz" if clock.get("most") else ""),
        ("GPU", ", ".join(map(str, gpus)) or "none"),
        ("nnx", versions.get("nnx")),
        ("Python", versions.get("python")),
        ("measured", _extent(found)),
        ("numbers", ", products in ".join(filter(None, numbers))),
    ]
    return (
        f'<header><p class="kicker">nnx bench · {escape(_date(data.get("started", "")))}</p>'
        f"<h1>How fast nnx is here</h1>{_lede(data, networks) or NOTHING * (not found)}{_list(facts, 'facts')}"
        f'<div class="notes"><p><b>How to read it.</b> A time is the median of the rounds; whiskers span the middle '
        "half of them, <i>spread</i> is half of that, <i>best</i> is the fastest moment of all. All players ran in one "
        "interleaved run, so the ratios can be trusted further than the times.</p>"
        f"<p><b>How far to trust it.</b> {escape(' '.join(_cautions(data, found)))}</p></div></header>"
    )


def _lede(data: dict[str, Any], networks: Sequence[Work]) -> str:
    """Return the verdict, with nnx's players in bold."""
    said = verdict(data, networks, lambda name: f"<b>{escape(name)}</b>", times)
    return said and f'<p class="lede">{said}</p>'


def _extent(found: Sequence[Work]) -> str:
    works, players = len(found), len({figure.player for work in found for figure in work.figures})
    return f"{works} workload{'s' * (works != 1)}, {players} player{'s' * (players != 1)}"


def processor(data: dict[str, Any]) -> str:
    """Return what the processor is called."""
    machine = data.get("machine", {})
    return str((machine.get("cpu") or {}).get("model") or machine.get("platform") or "an unknown processor")


def _date(started: str) -> str:
    try:
        return f"{datetime.fromisoformat(started):%d %B %Y, %H:%M} UTC".lstrip("0")
    except ValueError:
        return started


def _cautions(data: dict[str, Any], found: Sequence[Work]) -> list[str]:
    """Return what a reader must know before believing a figure."""
    cautions, method, quiet = [], data.get("method", {}), data.get("quiet", {})
    if data.get("quick"):
        rounds = method.get("rounds", "few")
        cautions.append(f"This was a quick run, {rounds} short rounds each: good for factors, not for percents.")
    others, stolen = quiet.get("others"), quiet.get("stolen")
    if others is None:
        cautions.append("Whether other programs were busy meanwhile is not known.")
    else:
        state = "quiet" if not is_busy(data) else "not quiet: believe the best times rather than the medians"
        cautions.append(f"The machine was {state}; other programs took {share(others)} of it between the measurements.")
    cautions.append(
        "What other virtual machines took from it is not known."
        if stolen is None
        else f"Other virtual machines took {share(stolen)} of its time."
    )
    figures = [figure for work in found for figure in work.measured]
    wide = sum(figure.entry.get("spread", 0.0) > NOISY for figure in figures)
    if figures:
        cautions.append(f"{wide or 'None'} of {len(figures)} times spread by more than {share(NOISY)}.")
    return cautions


def _list(items: Iterable[tuple[object, object]], css: str) -> str:
    """Return terms and what is to be said of each; what says nothing is left out."""
    rows = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in items if text)
    return f'<dl class="{css}">{rows}</dl>' if rows else ""


# ---- the table, and the method ---------------------------------------------------------------------------------------


def table(found: Sequence[Work]) -> str:
    """Return every figure, a row each."""
    head = "".join(f'<th scope="col">{column}</th>' for column in COLUMNS)
    rows = "".join(_row(work, figure) for work in found for figure in work.figures)
    return (
        f"<p>{TIMES} other is against the best other library, of limit the share of what the machine can do.</p>"
        '<label class="filter" hidden>Show only <input type="search" placeholder="numba, adam, predict …"></label>'
        '<div class="scroll" role="region" aria-labelledby="table-title" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(work: Work, figure: Figure) -> str:
    """Return a row; HTML lets cells and rows end by themselves, which a thousand of them are better for."""
    entry = figure.entry
    cells = [work.suite, work.title, figure.player]
    if figure.refused:
        cells += [""] * 7 + [f"refused: {figure.refused}"]
    else:
        forms = {
            "median_us": duration, "best_us": duration, "spread": share, "rows_per_s": count,
            "x_numpy": times, "x_peer": times, "of_limit": share,
        }  # fmt: skip
        cells += ["" if entry.get(name) is None else form(entry[name]) for name, form in forms.items()]
        cells.append(entry.get("how") or "")
    css = f' class="{figure.css}"' if figure.ours else ""
    return f'<tr id="r{figure.key}"{css}>' + "".join(f"<td>{escape(cell)}" for cell in cells) + "\n"


def method(data: dict[str, Any]) -> str:
    """Return how it was measured, who is missing, and on which system."""
    method, machine = data.get("method", {}), data.get("machine", {})
    rounds, seconds = method.get("rounds"), method.get("seconds")
    text = (
        "<p>Every player runs in a process of its own and stands still while another is measured. What it computes is "
        "checked first; a wrong result has no time. Then all take turns, round by round, each round beginning with "
        "another one"
    )
    if rounds and seconds:
        text += f": {rounds} rounds of {duration(seconds * 1e6)} for each player and workload"
    waited = (data.get("quiet") or {}).get("waited_s")
    text += f". The whole took {charts.significant(data['seconds'])} s" if data.get("seconds") else ""
    text += f", of which {charts.significant(waited)} s were spent waiting for others to be quiet" if waited else ""
    environment = " ".join(f"{name}={value}" for name, value in (machine.get("environment") or {}).items())
    blas = machine.get("blas") or {}
    system = [
        ("system", machine.get("platform")),
        ("BLAS", " ".join(str(blas[name]) for name in ("name", "version") if blas.get(name))),
        ("CUDA", machine.get("cuda")),
        ("environment", environment),
    ]
    absent = _list(data.get("absent", {}).items(), "terms")
    return (
        f"{text}.</p>"
        + (f"<h3>Did not take part</h3>{absent}" if absent else "")
        + f"<h3>The system</h3>{_list(system, 'terms')}"
        + f"<h3>Versions</h3>{_list(data.get('versions', {}).items(), 'versions')}"
    )
