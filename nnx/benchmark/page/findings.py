"""Findings of a report: each workload's figures, fastest first, and from which size on one player beats another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnx.benchmark.libraries import is_other_library
from nnx.benchmark.workloads import SUITES


@dataclass(frozen=True)
class Figure:
    """What one player needed for a workload, in us; or why there is no such time.

    Attributes:
        key: where it is in the table. css: the class that gives it its colour. entry: what the report says of it.
        library: whether it is of another library.
    """

    key: str
    player: str
    ours: bool
    device: str
    css: str
    entry: Mapping[str, Any]
    library: bool = False

    @property
    def refused(self) -> str:
        """Why it was not measured; empty when it was."""
        return "" if self.entry.get("median_us") else str(self.entry.get("refused") or "not measured")

    @property
    def median(self) -> float:
        """The time to go by."""
        return float(self.entry["median_us"])

    @property
    def low(self) -> float:
        """A quarter of the rounds were faster."""
        return float(self.entry.get("low_us") or self.median)

    @property
    def high(self) -> float:
        """A quarter of the rounds were slower."""
        return float(self.entry.get("high_us") or self.median)


@dataclass(frozen=True)
class Work:
    """A workload and everybody's figures, the fastest first and those refused last."""

    suite: str
    title: str
    rows: int
    flops: float
    bytes: float
    figures: Sequence[Figure]

    @property
    def measured(self) -> list[Figure]:
        """The figures that are times."""
        return [figure for figure in self.figures if not figure.refused]

    @property
    def ours(self) -> list[Figure]:
        """Those of nnx."""
        return [figure for figure in self.measured if figure.ours]

    @property
    def others(self) -> list[Figure]:
        """Those that are not nnx."""
        return [figure for figure in self.measured if not figure.ours]

    @property
    def libraries(self) -> list[Figure]:
        """Those of other libraries: not the notes, which are the book's own NumPy."""
        return [figure for figure in self.measured if figure.library]

    def of(self, player: str) -> Figure | None:
        """Return a player's time, if it has one."""
        return next((figure for figure in self.measured if figure.player == player), None)


def works(data: dict[str, Any]) -> list[Work]:
    """Return a report's workloads, suite by suite."""
    known = data.get("players", {})
    found = []
    for number, row in enumerate(data.get("workloads", [])):
        figures = []
        for place, (name, entry) in enumerate(row.get("results", {}).items()):
            player = known.get(name, {})
            ours = bool(player.get("ours"))
            figures.append(
                Figure(
                    f"{number}-{place}",
                    name,
                    ours,
                    player.get("device", "cpu"),
                    _css(name, ours),
                    entry,
                    is_other_library(player),
                )
            )
        figures.sort(key=lambda figure: float("inf") if figure.refused else figure.median)
        flops, moved = (float(row.get(name) or 0.0) for name in ("flops", "bytes"))
        found.append(Work(row.get("suite", ""), row.get("title", "?"), row.get("rows") or 1, flops, moved, figures))
    order = list(SUITES)
    return sorted(found, key=lambda work: order.index(work.suite) if work.suite in order else len(order))


def _css(name: str, ours: bool) -> str:
    """Return the class of a player: each backend of nnx has a colour, all others share one."""
    if not ours:
        return "peer"
    backend = re.sub(r"\W.*", "", name.removeprefix("nnx ")).lower()
    return (backend if backend in ("numba", "numpy", "cupy") else "custom") + (" single" if "1 thread" in name else "")


def pays_from(challenger: Mapping[int, Figure], holder: Mapping[int, Figure]) -> int | None:
    """Return the least size at which a challenger is faster beyond the spread, and at every larger size faster too."""
    sizes = sorted(challenger.keys() & holder.keys())
    for place, size in enumerate(sizes):
        clearly = challenger[size].high < holder[size].low
        if clearly and all(challenger[more].median < holder[more].median for more in sizes[place + 1 :]):
            return size
    return None


def winners(work: Work) -> list[Figure]:
    """Return the fastest of nnx, and those that cannot be told from it."""
    return [figure for figure in work.ours if same(figure, work.ours[0])]


def same(a: Figure, b: Figure) -> bool:
    """Tell whether the middle halves of two players' rounds overlap: then neither is the faster."""
    return a.low <= b.high and b.low <= a.high
