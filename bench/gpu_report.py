"""GPU reports of `make gpu`: figures (.json), a page (.md), a log (.log) of each command, anew after each stage.

The figures are written first and as they are. Each part of the page is made by itself: one that fails says so there.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_facts import clocks, machine
from gpu_process import as_json


class Report:
    """What one command found.

    Args:
        kind: "check" or "race". folder: where its three files go.
    """

    def __init__(self, kind: str, folder: Path, nnx: str) -> None:
        facts = machine()
        self.data: dict[str, Any] = {
            "kind": kind, "device": facts["gpu"].get("name", "an unknown GPU"), "nnx": nnx, "machine": facts,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"), "stages": {},
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{slug(self.data['device'])}-{self.data['date']}-{kind}"
        self.log.write_text(f"make gpu-{kind}\n", encoding="utf-8")
        self.write()

    figures = property(lambda self: self._path.with_suffix(".json"))
    page = property(lambda self: self._path.with_suffix(".md"))
    log = property(lambda self: self._path.with_suffix(".log"))

    def add(self, stage: str, result: dict[str, Any]) -> None:
        """Take a stage's result, and write both files anew."""
        self.data["stages"][stage] = result | {"clocks": clocks()}
        self.write()

    def write(self) -> None:
        """Write the figures, then the page."""
        self.figures.write_text(as_json(self.data), encoding="utf-8")
        self.page.write_text(markdown(self.data), encoding="utf-8")

    @property
    def passed(self) -> bool:
        """Whether no stage failed."""
        return all(result["state"] in ("passed", "skipped") for result in self.data["stages"].values())


def markdown(data: dict[str, Any]) -> str:
    """Return the report as a page."""
    parts: list[tuple[str, Callable[[], list[str]]]] = [
        ("the head", lambda: head(data)),
        ("stages", lambda: table(data)),
    ]
    for name, make in TABLES.items():
        found = (data["stages"].get(name) or {}).get("data")
        if found:
            parts.append((name, lambda make=make, found=found: make(found)))  # type: ignore[misc]
    parts.append(("failures", lambda: failures(data)))
    return "\n".join(line for name, make in parts for line in [*safely(name, make), ""])


def safely(name: str, make: Callable[[], list[str]]) -> list[str]:
    """Return a part's lines, or in their place what went wrong while they were made."""
    try:
        return make()
    except Exception:
        return [f"**{name} could not be shown; its figures are in the .json file.**", *code(traceback.format_exc())]


def head(data: dict[str, Any]) -> list[str]:
    facts = data["machine"]
    gpu = ", ".join(f"{key}: {value}" for key, value in facts["gpu"].items())
    lines = [f"# nnx on {data['device']}, {data['date']}: {data['kind']}", "", f"nnx {data['nnx']}."]
    lines += [gpu + "." if gpu else "nvidia-smi did not answer.", ""]
    lines += [f"- {name} {version}" for name, version in facts["packages"].items()]
    lines += [f"- {name}={value}" for name, value in facts["settings"].items()]
    probed = (data["stages"].get("probe") or {}).get("data") or {}
    lines += [f"- {note}" for note in (probed.get("info") or {}).get("notes", ())]
    if data["stages"].get("probe", {}).get("state") != "passed":
        lines += ["", "The probe did not pass. What is installed:", ""]
        lines += code("\n".join([*facts["libraries"], *facts["devices"], facts["driver"], facts["nvidia-smi"]]))
    return lines


def table(data: dict[str, Any]) -> list[str]:
    lines = ["| stage | state | s | | clocks after it |", "|---|---|---|---|---|"]
    for name, result in data["stages"].items():
        clock = result.get("clocks", {}).get("clocks.sm", "")
        shown = safely(name, lambda name=name, result=result: [detail(name, result)])[0]  # type: ignore[misc]
        lines.append(f"| {name} | {result['state']} | {result['seconds']} | {shown} | {clock} |")
    return lines


def detail(name: str, result: dict[str, Any]) -> str:
    """Return what a row of the table says beside a stage's state."""
    data = result["data"]
    if result["state"] == "skipped":
        return str(data)
    if not isinstance(data, dict) or name in ("probe", *TABLES):
        return ""
    if "worst" in data:
        worst = max(data["worst"], key=data["worst"].get, default="")
        return f"largest error {data['worst'].get(worst, 0):.0%} of the tolerated ({worst})"
    return "; ".join(f"{key}: {value}" for key, value in data.items())[:200].replace("|", "/")


def failures(data: dict[str, Any]) -> list[str]:
    lines = []
    for name, result in data["stages"].items():
        if result["state"] not in ("passed", "skipped"):
            lines += ["", f"## {name}: {result['state']}", "", *code(result["output"][-2500:])]
    return lines


def code(text: str) -> list[str]:
    return ["```", *text.replace("```", "'''").splitlines(), "```"]


def slug(device: str) -> str:
    """Return a GPU's name as a file's: "NVIDIA H200" is nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "gpu"


# ---- tables of single stages -----------------------------------------------------------------------------------------


def persistent(found: Any) -> list[str]:
    import gpu_persistent

    return ["A step of a small network, the best of some rounds.", "", *gpu_persistent.markdown(found)]


def races(what: str) -> Callable[[Any], list[str]]:
    def make(found: Any) -> list[str]:
        import gpu_races

        words = f"{what}: median of alternating rounds, its multiple of nnx's, memory held."
        return [words, "", *gpu_races.markdown(found)]

    return make


def diagnostics(found: Any) -> list[str]:
    lines = ["| | |", "|---|---|"]
    for name, values in found.items():
        lines.append(f"| **{name}** | |")
        for key, value in values.items():
            if key != "graph":
                lines.append(f"| {key} | {str(value)[:300].replace('|', '/')} |")
    return lines


TABLES: dict[str, Callable[[Any], list[str]]] = {
    "diagnostics": diagnostics,
    "persistent": persistent,
    "steps": races("A step"),
    "predictions": races("A prediction, from NumPy to NumPy"),
}
