"""Report of a run, as data: the figures of every player in every workload, also relative to others and to the limits.

`schema.json` describes its contents. Everything that shows results (the table, the page, comparisons) reads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from nnx.backends import get_backend
from nnx.benchmark import limits, machine, schema
from nnx.benchmark.figures import sum_up
from nnx.benchmark.libraries import Player, is_other_library
from nnx.benchmark.runner import Method, Results
from nnx.benchmark.workloads import Workload
from nnx.errors import FileFormatError
from nnx.files import existing_file, read_file

FORMAT = "nnx-bench/1"
MOST = 1 << 28  # bytes of a report: a hundred times as many as the largest has
SCHEMA = files("nnx.benchmark") / "schema.json"


class Report:
    """Collects the results of a run.

    Attributes:
        data: the report as data that JSON can hold.
    """

    def __init__(self, players: Sequence[Player], absent: dict[str, str], method: Method, quick: bool) -> None:
        self.data: dict[str, Any] = {
            "format": FORMAT,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "quick": quick,
            "machine": machine.facts(),
            "versions": machine.versions(),
            "method": asdict(method) | {"dtype": "float32"},
            "quiet": {"waited_s": 0.0, "others": None, "stolen": None},
            "limits": {},
            "players": {player.name: _described(player) for player in players},
            "absent": absent,
            "workloads": [],
        }

    def set_limits(self, found: dict[str, Any]) -> None:
        """Note the limits of each device, or higher ones than were known, and update what depends on them."""
        for device, those in found.items():
            known = self.data["limits"].get(device, those)
            self.data["limits"][device] = limits.higher(known, those)
        for row in self.data["workloads"]:
            self._value(row)

    def add(self, workload: Workload, results: Results) -> dict[str, Any]:
        """Add one pass's results for a workload to those of earlier passes; return the workload's whole entry."""
        row = next((row for row in self.data["workloads"] if _named(row) == workload.name), None)
        if row is None:
            row = {
                "suite": workload.suite,
                "size": workload.size,
                "title": workload.title,
                "rows": workload.rows,
                "flops": float(workload.flops),
                "bytes": float(workload.bytes),
                "resident": float(workload.resident),
                "floor_us": {},
                "results": {},
            }
            self.data["workloads"].append(row)
        for name, result in results.items():
            row["results"][name] = _joined(row["results"].get(name), result)
        self._value(row)
        return row

    def _value(self, row: dict[str, Any]) -> None:
        """Relate each figure to others: per second, to NumPy, to the best other library, and to the floor."""
        if row["bytes"]:
            row["floor_us"] = {
                device: limits.floor_us(found, row["flops"], row["bytes"], row["resident"])
                for device, found in self.data["limits"].items()
            }
        measured = {name: result for name, result in row["results"].items() if "median_us" in result}
        base = measured.get("nnx numpy", {}).get("median_us")
        others = [r["median_us"] for name, r in measured.items() if is_other_library(self.data["players"][name])]
        for name, result in measured.items():
            player = self.data["players"][name]
            floor = row["floor_us"].get(player["device"])
            time = result["median_us"]
            result["rows_per_s"] = row["rows"] / time * 1e6
            result["x_numpy"] = base / time if base else None
            result["x_peer"] = min(others) / time if others and player["ours"] else None
            result["of_limit"] = floor / time if floor else None

    def finish(self, seconds: float, quiet: dict[str, Any]) -> None:
        """Add what is only known at the end."""
        self.data |= {"seconds": round(seconds, 1), "quiet": quiet}

    @property
    def measured(self) -> int:
        """The number of figures."""
        return sum("median_us" in result for row in self.data["workloads"] for result in row["results"].values())

    def as_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.data, indent=1) + "\n"


def _named(row: dict[str, Any]) -> str:
    return f"{row['suite']}: {row['title']}"


def _joined(before: dict[str, Any] | None, result: dict[str, Any]) -> dict[str, Any]:
    """Return a player's figures from all passes so far; a player that was refused in any pass has none."""
    for refused in (before, result):
        if refused is not None and "refused" in refused:
            return {"refused": refused["refused"]}
    found = sum_up([*(before or {}).get("passes", []), *result["passes"]])
    return {**result, **asdict(found), "spread": found.spread}


def _described(player: Player) -> dict[str, Any]:
    notes = list(get_backend(player.how).info().notes) if player.ours else []
    return {"group": player.group, "device": player.device, "ours": player.ours, "notes": notes}


def read(file: Path) -> dict[str, Any]:
    """Read a report from a file.

    Raises:
        FileNotFoundError: there is no such file. FileFormatError: it isn't a report; the message says why.
    """
    kind = "a report that nnx bench --json wrote"
    file = existing_file("read", file, kind)
    try:
        data = json.loads(read_file(file, kind, MOST).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{file} is no report of nnx bench: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        given = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise FileFormatError(f"{file} is no report of this nnx bench: its format is {given!r}, expected {FORMAT!r}")
    if wrong := schema.fault(data, json.loads(SCHEMA.read_text(encoding="utf-8"))):
        raise FileFormatError(f"{file} is damaged, or not finished: {wrong}")
    if strangers := {name for row in data["workloads"] for name in row["results"]} - data["players"].keys():
        raise FileFormatError(f"{file} is damaged: {min(strangers)!r} has figures, but is none of its players")
    return data
