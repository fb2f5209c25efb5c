"""Results of `nnx bench` on several processors, side by side, as the tables of docs/benchmarks.md.

`python bench/side_by_side.py` writes them anew from all files bench/results/<name>-<processor>.json; a test holds the
page to them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nnx.benchmark.libraries import is_other_library
from nnx.benchmark.report import read
from nnx.benchmark.units import duration

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS = ROOT / "docs/benchmarks.md", ROOT / "bench/results"
TABLES = {"steps": "steps", "predictions": "inference"}  # name of the file: suite
OURS, EAGER = "nnx numba", "torch eager"
PLACE = re.compile(r"(<!-- side by side: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


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


def page() -> str:
    """Return the page with its tables as the results say."""
    text = PAGE.read_text(encoding="utf-8")
    return PLACE.sub(lambda place: place[1] + table(place[2]) + place[3], text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
