"""Tables of a report for a terminal: one for each suite, one line for each player."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from nnx.backends.printable import printable
from nnx.benchmark import units
from nnx.benchmark.compare import Comparison
from nnx.benchmark.page.findings import works
from nnx.benchmark.verdict import is_busy, line
from nnx.benchmark.workloads import SUITES

BAR = 12  # characters of the longest bar
TITLE = 38  # least width of the first column, so that the columns of all tables are aligned
WIDE = 126  # columns of a terminal from which on there are bars, and what ran
MIDDLE = 96  # from which on there are throughput and share of the limit


def heading(data: dict[str, Any]) -> Text:
    """Return the description of the machine."""
    cpu, method = data["machine"]["cpu"], data["method"]
    lines = [f"{cpu['model']}, {method['threads']} of {cpu['usable']} cores, float32"]
    lines += [f"{gpu}" for gpu in data["machine"]["gpu"]]
    for device, found in data["limits"].items():
        near, far = found["bandwidth"][0][1], found["bandwidth"][-1][1]
        lines.append(f"{device} at most: {found['gflops']:.0f} GFLOP/s, {near:.0f} GB/s in cache, {far:.0f} in memory")
    lines += [f"without {name}: {reason}" for name, reason in data["absent"].items()]
    return _text("\n".join(lines), style="dim")


def workload(row: dict[str, Any], data: dict[str, Any], console: Console) -> RenderableType:
    """Return a workload's table."""
    wide, brief = console.width >= WIDE, console.width < MIDDLE or row["suite"] == "start"
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    title, above = _text(row["title"], style="bold cyan"), len(row["title"]) > TITLE  # its figures would be pushed out
    table.add_column(_text("") if above else title, min_width=TITLE, no_wrap=True)
    for name in ("median", "+-", "x NumPy", "x others", *(() if brief else ("rows/s", "limit"))):
        table.add_column(name, justify="right", no_wrap=True, min_width=max(7, len(name)))
    if wide:
        table.add_column("", no_wrap=True, min_width=BAR)
        table.add_column("runs as", no_wrap=True, style="dim")
    measured = {name: result for name, result in row["results"].items() if "median_us" in result}
    slowest = max((result["median_us"] for result in measured.values()), default=1.0)
    for name, result in measured.items():
        ours = data["players"][name]["ours"]
        bar = _bar(result["median_us"] / slowest, console)
        how = result["how"].partition(":")[2] or result["how"]
        pictured = [_text(bar, style="green" if ours else "blue"), _text(how)] if wide else []
        table.add_row(_text(name), *_cells(result, brief), *pictured, style="bold" if ours else "")
    refused = [
        _text(f"{name}: no figure: {result['refused']}", style="bold red")
        for name, result in row["results"].items()
        if name not in measured
    ]
    floors = ", ".join(f"{units.duration(us)} on {device}" for device, us in row["floor_us"].items())
    return Group(
        *([title] if above else []),
        table,
        *refused,
        *([_text(f"at least {floors}", style="dim")] if floors else []),
        _text(""),
    )


def _cells(result: dict[str, Any], brief: bool) -> list[str]:
    cells = [units.duration(result["median_us"]), units.share(result["spread"])]
    cells += [units.times(result[key]) if result[key] else "" for key in ("x_numpy", "x_peer")]
    if brief:
        return cells
    return [*cells, units.count(result["rows_per_s"]), units.share(result["of_limit"]) if result["of_limit"] else ""]


def _bar(share: float, console: Console) -> str:
    return ("#" if console.options.ascii_only else "\u2501") * max(1, round(BAR * share))


def suite_title(suite: str) -> Text:
    """Return a suite's heading."""
    return _text(f"\n{suite}: {SUITES[suite]}\n", style="bold")


def footer(data: dict[str, Any]) -> Text:
    """Return the notes on the whole run: how to read it, how quiet it was, and last the verdict."""
    quiet = data["quiet"]
    text = _text(
        "\nmedian: of rounds in which all players take turns; +-: half the span of their middle half, as a share.\n",
        style="dim",
    )
    text.append("x NumPy, x others: how many times faster than nnx on NumPy, and than the best other library. ")
    text.append("notes: the book's own NumPy. " if "notes" in data["players"] else "")
    text.append("at least: the time at the hardware's limit; limit: that as a share of the median.\n")
    others, stolen = quiet["others"], quiet["stolen"]
    if others is not None:
        busy = is_busy(data)
        load = f"others took {units.share(others)} of the processors' time"
        load += f", and other machines {units.share(stolen)}" if stolen else ""
        text.append(
            f"{'The machine was busy' if busy else 'The machine was quiet'}: {load}",
            style="bold yellow" if busy else "",
        )
        text.append("; ratios hold, times less so." if busy else ".", style="")
        text.append(f" {data['seconds']:.0f} s in all.")
    said = line(data, [work for work in works(data) if work.suite in ("steps", "inference")])
    text.append(f"\n\n{printable(said)}" if said else "", style="bold")
    return text


def comparison(found: Comparison) -> RenderableType:
    """Return the table of changes between two reports."""
    parts: list[RenderableType] = [_text(f"! {warning}", style="yellow") for warning in found.warnings]
    if found.drift != 1:
        drift = f"{abs(found.drift - 1):.0%} {'slower' if found.drift > 1 else 'faster'}"
        parts.append(_text(f"all that is not nnx was {drift} the second time: taken off below", style="dim"))
    changed = [change for change in found.changes if change.verdict != "same"]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name, justify in (
        ("workload", "left"),
        ("player", "left"),
        ("before", "right"),
        ("after", "right"),
        ("change", "right"),
        ("noise", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for change in sorted(changed, key=lambda change: -change.ratio):
        style = "bold red" if change.verdict == "slower" else "green"
        text = f"{change.ratio - 1:+.0%} {change.verdict}"
        table.add_row(
            _text(change.workload), _text(change.player), units.duration(change.before), units.duration(change.after),
            _text(text, style=style), f"+-{change.noise:.0%}",
        )  # fmt: skip
    parts += [table] if changed else []
    parts += [
        _text(f"{title}: {name} has no figure any more: {why}", style="bold red") for title, name, why in found.lost
    ]
    same = len(found.changes) - len(changed)
    parts.append(_text(f"{same} of {len(found.changes)} figures are the same, as far as two runs can tell", "dim"))
    return Group(*parts)


def _text(content: object, style: str = "") -> Text:
    """Return text without control characters for the terminal, and without markup."""
    return Text(printable(content, keep="\n"), style=style)
