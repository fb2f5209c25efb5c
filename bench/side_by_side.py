"""Results of `nnx bench` on several processors, side by side; the README's table, and its picture.

`python bench/side_by_side.py` writes them anew, from files bench/results/<name>-<processor>.json: the tables of
docs/benchmarks.md from all of them, the README's table and docs/bench.png both from the training steps on README_CPU. A
test holds the pages to the files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nnx.benchmark.libraries import is_other_library
from nnx.benchmark.report import read
from nnx.benchmark.units import duration

ROOT = Path(__file__).resolve().parent.parent
PAGE, README, RESULTS = ROOT / "docs/benchmarks.md", ROOT / "README.md", ROOT / "bench/results"
PICTURE, README_CPU = ROOT / "docs/bench.png", "epyc-avx2"
TABLES = {"steps": "steps", "predictions": "inference"}  # name of the file: suite
OURS, EAGER = "nnx numba", "torch eager"
PLACE = re.compile(r"(<!-- (?:side by side|steps): ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
COLUMNS = {
    "nnx, Numba": OURS, "nnx, NumPy": "nnx numpy", "PyTorch": EAGER, "torch.compile": "torch.compile",
    "JAX jit": "jax jit", "JAX scan": "jax scan",
}  # fmt: skip
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#9aa0a6"  # Okabe and Ito's, as on the page of nnx bench


def reports(name: str) -> dict[str, dict[str, Any]]:
    """Return the reports of one name by processor."""
    return {file.stem.removeprefix(f"{name}-"): read(file) for file in sorted(RESULTS.glob(f"{name}-*.json"))}


def table(name: str) -> str:
    """Return a table: a line for each workload, and for each processor nnx's time, and how far behind others are."""
    found = reports(name)
    rows = [row for report in found.values() for row in report["workloads"] if row["suite"] == TABLES[name]]
    head = [cell for cpu in found for cell in (f"{cpu}: nnx, Numba", "x best other", "x PyTorch")]
    lines = [["workload", *head], ["---"] * (1 + len(head))]
    for title in dict.fromkeys(row["title"] for row in rows):
        lines += [[title, *(cell for report in found.values() for cell in cells(report, title))]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(report: dict[str, Any], title: str) -> list[str]:
    """Return what one report says about one workload: nothing where it was not measured."""
    results = next((row["results"] for row in report["workloads"] if row["title"] == title), {})
    medians = {name: result["median_us"] for name, result in results.items() if "median_us" in result}
    if OURS not in medians:
        return ["", "", ""]
    others = {name: median for name, median in medians.items() if is_other_library(report["players"][name])}
    best = min(others, key=others.__getitem__, default=None)
    nearest = f"{others[best] / medians[OURS]:.2f} ({best})" if best else ""
    eager = f"{others[EAGER] / medians[OURS]:.2f}" if EAGER in others else ""
    return [duration(medians[OURS]), nearest, eager]


def steps() -> dict[str, Any]:
    """Return the report of the README's table and picture."""
    return read(RESULTS / f"steps-{README_CPU}.json")


def steps_table() -> str:
    """Return the README's table: everybody's median, how that compares, and how near the hardware's limit it is."""
    report = steps()
    head = ["samples x layers, optimizer", *COLUMNS, "times the best other library", "share of the hardware's limit"]
    lines = [head, ["---"] * len(head)]
    for row in report["workloads"]:
        medians = {name: result["median_us"] for name, result in row["results"].items()}
        times = [duration(medians[name]) if name in medians else "" for name in COLUMNS.values()]
        _, nearest, _ = cells(report, row["title"])
        limit = f"{row['results'][OURS]['of_limit']:.0%}"
        lines.append([row["title"].removeprefix("step, "), *times, nearest.partition(" ")[0], limit])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def readme() -> str:
    """Return the README with its table as the results say."""
    text = README.read_text(encoding="utf-8")
    return PLACE.sub(lambda place: place[1] + steps_table() + place[3], text)


def draw() -> None:
    """Write the picture: speeds in multiples of nnx's on NumPy, of the same steps as the README's table."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter

    report = steps()
    rows = report["workloads"]
    figure, axes = pyplot.subplots(figsize=(9, 0.6 * len(rows) + 1.4), layout="constrained")
    for place, row in enumerate(rows):
        medians = {name: row["results"][name]["median_us"] for name in COLUMNS.values() if name in row["results"]}
        speeds = {name: medians["nnx numpy"] / median for name, median in medians.items()}
        axes.plot([min(speeds.values()), max(speeds.values())], [place, place], color="#dddddd", zorder=1)
        for name, speed in speeds.items():
            colour = ORANGE if name == OURS else BLUE if name == "nnx numpy" else GREY
            axes.scatter(speed, place, s=90 if name in (OURS, "nnx numpy") else 45, color=colour, zorder=2)
        best = max((name for name in speeds if is_other_library(report["players"][name])), key=speeds.__getitem__)
        axes.annotate(best, (speeds[best], place), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    for label, colour in (("nnx, Numba", ORANGE), ("nnx, NumPy", BLUE), ("other libraries; the best is named", GREY)):
        axes.scatter([], [], s=60, color=colour, label=label)
    axes.set(yticks=range(len(rows)), yticklabels=[row["title"].removeprefix("step, ") for row in rows], xscale="log")
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16])
    axes.set_xlabel(f"speed of a training step, nnx on NumPy = 1x ({report['machine']['cpu']['model']}, {README_CPU})")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    figure.savefig(PICTURE, dpi=120, facecolor="white", metadata={"Software": None})


def page() -> str:
    """Return the page with its tables as the results say."""
    text = PAGE.read_text(encoding="utf-8")
    return PLACE.sub(lambda place: place[1] + table(place[2]) + place[3], text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
    draw()
