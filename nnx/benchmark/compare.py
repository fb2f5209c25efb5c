"""Comparison of two reports of one machine: what became slower or faster by more than chance.

The best time of each player is compared, because other work of the machine can only add to it; `doubt` says how well
the best time is known. If all other libraries in unchanged versions became slower, or all faster, the machine itself
has changed. This is subtracted first, and reported.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LEAST = 0.08  # smaller relative changes are not reported: memory is at other addresses in another process
SURE = 1.5  # a change must be the doubt times this
FEWEST = 3  # players needed to tell how the machine itself has changed
DRIFT = 0.03  # smaller changes of the machine are not subtracted


@dataclass(frozen=True)
class Change:
    """One player's best time in one workload, before and after, in us.

    Attributes:
        ratio: after / before, without the machine's own change. noise: by how much it might differ by chance.
    """

    workload: str
    player: str
    before: float
    after: float
    ratio: float
    noise: float

    @property
    def verdict(self) -> str:
        """The result: "slower", "faster" or "same"."""
        if self.ratio > 1 + self.noise:
            return "slower"
        return "faster" if self.ratio < 1 / (1 + self.noise) else "same"


@dataclass(frozen=True)
class Comparison:
    """Two reports, compared.

    Attributes:
        changes: those of everything in both reports. drift: how many times slower the machine itself was.
        lost: (workload, player) without a figure in the second report, and why. warnings: why the reports may not be
            comparable.
    """

    changes: list[Change]
    drift: float
    lost: list[tuple[str, str, str]]
    warnings: list[str]


def compare(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    """Compare two reports."""
    pairs = list(_pairs(old, new))
    drift = _drift(pairs, old, new)
    changes = [
        Change(
            title,
            name,
            before["best_us"],
            after["best_us"],
            after["best_us"] / before["best_us"] / drift,
            _noise(before, after),
        )
        for title, name, before, after in pairs
        if "best_us" in before and "best_us" in after
    ]
    lost = [
        (title, name, after.get("refused", "it was not measured"))
        for title, name, before, after in pairs
        if "best_us" in before and "best_us" not in after
    ]
    return Comparison(changes, drift, lost, list(_warnings(old, new)))


def _pairs(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Yield each player's results in each workload that both reports have."""
    earlier = {(row["suite"], row["title"]): row["results"] for row in old["workloads"]}
    for row in new["workloads"]:
        before = earlier.get((row["suite"], row["title"]), {})
        for name, result in row["results"].items():
            if name in before:
                yield row["title"], name, before[name], result


def _noise(before: dict[str, Any], after: dict[str, Any]) -> float:
    return max(LEAST, SURE * float(before["doubt"] + after["doubt"]))


def _drift(
    pairs: list[tuple[str, str, dict[str, Any], dict[str, Any]]], old: dict[str, Any], new: dict[str, Any]
) -> float:
    """Return how many times slower the machine was in the second run; 1 if that is unknown."""
    same = old["versions"].get("numpy") == new["versions"].get("numpy")
    moved = [
        math.log(after["best_us"] / before["best_us"])
        for _, name, before, after in pairs
        if not new["players"][name]["ours"] and same and "best_us" in before and "best_us" in after
    ]
    drift = math.exp(statistics.median(moved)) if len(moved) >= FEWEST else 1.0
    return drift if abs(drift - 1) > DRIFT else 1.0


def _warnings(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for what, before, after in (
        ("processors", old["machine"]["cpu"]["model"], new["machine"]["cpu"]["model"]),
        ("numbers of threads", old["method"]["threads"], new["method"]["threads"]),
        ("GPUs", old["machine"]["gpu"], new["machine"]["gpu"]),
    ):
        if before != after:
            yield f"the {what} differ: {before} before, {after} now"
    for name, version in new["versions"].items():
        if name != "nnx" and old["versions"].get(name, version) != version:
            yield f"{name} was {old['versions'][name]} and is {version}"
