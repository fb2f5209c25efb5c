"""The page of `nnx bench`: whole, safe, and saying what the figures say. Nothing is measured here."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("rich")
from rich.console import Console

from nnx.benchmark import page, table, verdict
from nnx.benchmark.page import charts, findings
from nnx.benchmark.page.text import COLUMNS
from nnx.benchmark.report import read as read_report

RESULTS = Path(__file__).resolve().parent.parent / "bench/results"

HOSTILE = '<script>alert("1")</script>&'
PLAYERS = {
    "nnx numba": ("nnx", "cpu", True),
    "nnx numba, 1 thread": ("nnx", "cpu", True),
    "nnx numpy": ("nnx", "cpu", True),
    "nnx cupy": ("nnx", "cuda", True),
    "notes": ("notes", "cpu", False),
    "torch eager": ("torch", "cpu", False),
}
TITLES = {
    "ops": "dense, 300 x 2 x 64",
    "softmax": "softmax backward, 300 x 3",
    "steps": "step, 300 x 2-64-3, adam",
    "inference": "predict, 1 x 2-64-3",
    "transfers": "1 x 784 to device",
    "start": "import",
}


def figures(us: float, **more: Any) -> dict[str, Any]:
    told = {"median_us": us, "low_us": us * 0.99, "high_us": us * 1.01, "best_us": us * 0.98, "spread": 0.01}
    return told | {"how": "program", "rows_per_s": 1e6, "x_numpy": 2.0, "x_peer": 3.0, "of_limit": 0.4} | more


def workload(suite: str, title: str, rows: int = 300, **results: Any) -> dict[str, Any]:
    times = {
        name.replace("_", " "): figures(told) if isinstance(told, float) else told for name, told in results.items()
    }
    return {"suite": suite, "title": title, "rows": rows, "flops": 5e5, "bytes": 1e4, "results": times}


def batch(rows: int, one: float, several: float, gpu: float | None = None) -> dict[str, Any]:
    row = workload("batch", f"step, {rows} x 2-64-3, adam", rows, nnx_numba=several)
    row["results"]["nnx numba, 1 thread"] = figures(one)
    if gpu is not None:
        row["results"]["nnx cupy"] = figures(gpu)
    return row


def report(*workloads: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "format": "nnx-bench/1",
        "started": "2026-11-22T22:37:12+00:00",
        "seconds": 60.0,
        "quick": True,
        "machine": {"cpu": {"model": "A Processor", "usable": 2, "cores": 4}, "platform": "Linux", "gpu": []},
        "versions": {"nnx": "1.2.3", "python": "3.11.7"},
        "method": {"rounds": 7, "seconds": 0.03, "threads": 2, "dtype": "float32"},
        "quiet": {"waited_s": 1.0, "others": 0.02, "stolen": None},
        "limits": {"cpu": {"gflops": 186.0, "bandwidth": [[2.0**15, 400.0], [2.0**27, 36.0]], "call_us": 1.0}},
        "players": {
            name: dict(zip(("group", "device", "ours"), those, strict=True)) for name, those in PLAYERS.items()
        },
        "absent": {"jax": "not installed"},
        "workloads": list(workloads),
    } | more


def full() -> dict[str, Any]:
    rows = [
        workload(suite, title, nnx_numba=10.0, nnx_numpy=80.0, notes=400.0, torch_eager={"refused": "it is wrong"})
        for suite, title in TITLES.items()
    ]
    return report(*rows, *(batch(rows, 2.0 * rows + 5, rows + 30.0, rows / 8 + 200) for rows in (1, 16, 256, 4096)))


class Reader(HTMLParser):
    """Reads a document as a browser does, and objects to what is not closed."""

    VOID = ("meta", "link", "input", "br", "rect", "circle", "path", "polyline")
    OPTIONAL = ("td", "tr")

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute of {tag} is given twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID + self.OPTIONAL:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.OPTIONAL:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def read(data: dict[str, Any]) -> Reader:
    reader = Reader(page.render(data))
    assert reader.open == []
    return reader


def words(data: dict[str, Any]) -> str:
    return " ".join(" ".join(read(data).text).split()).replace(charts.TIMES, "x")


# ---- the document ----------------------------------------------------------------------------------------------------


def test_every_svg_is_well_formed_and_every_identifier_is_unique() -> None:
    document = page.render(full())
    drawings = re.findall(r"<svg.*?</svg>", document, re.DOTALL)
    assert len(drawings) > 30
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    identifiers = [attributes["id"] for _, attributes in read(full()).tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_nothing_comes_from_outside() -> None:
    document = page.render(full())
    assert "default-src 'none'" in document
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", document.replace("http://www.w3.org/2000/svg", ""))
    assert not any({"src", "srcset", "data"} & attributes.keys() for _, attributes in read(full()).tags)


def test_a_large_report_is_no_large_file() -> None:
    names = ["nnx numba", "nnx numpy", "nnx cupy", *(f"another library {number}" for number in range(9))]
    rows = [workload("ops", f"operation {number}, 1024 x 1024") for number in range(80)]
    for row in rows:
        row["results"] = {name: figures(10.0 + place, how="numba:gemm/blas") for place, name in enumerate(names)}
    assert len(page.render(report(*rows)).encode()) < 500_000


def test_links_lead_somewhere_and_every_mark_has_its_row_in_the_table() -> None:
    tags = read(full()).tags
    identifiers = {attributes.get("id") for _, attributes in tags}
    assert {str(attributes["href"])[1:] for tag, attributes in tags if tag == "a"} <= identifiers
    marks = {f"r{attributes['data-r']}" for _, attributes in tags if "data-r" in attributes}
    assert marks
    assert marks <= identifiers


def test_all_workloads_players_and_reasons_are_told() -> None:
    told = words(full())
    for text in (*TITLES.values(), *PLAYERS, "it is wrong", "jax", "not installed", "A Processor", "1.2.3"):
        assert text in told


def test_each_row_of_the_table_is_whole() -> None:
    rows = page.render(full()).split("<tbody>")[1].split("</tbody>")[0].split("<tr")[1:]
    assert len(rows) == 4 * len(TITLES) + 3 * 4
    assert {row.count("<td") for row in rows} == {len(COLUMNS)}


def test_what_others_call_themselves_is_text() -> None:
    data = full()
    data["players"][HOSTILE] = {"group": HOSTILE, "device": "cpu", "ours": True}
    for row in data["workloads"]:
        row["title"] += HOSTILE
        row["results"][HOSTILE] = figures(3.0, how=HOSTILE)
        row["results"]["notes"] = {"refused": HOSTILE}
    data["absent"][HOSTILE] = HOSTILE
    data["versions"][HOSTILE] = HOSTILE
    data["machine"] |= {"platform": HOSTILE, "gpu": [HOSTILE], "environment": {HOSTILE: HOSTILE}, "cuda": HOSTILE}
    data["machine"]["cpu"]["model"] = data["started"] = data["method"]["dtype"] = HOSTILE
    data["limits"][HOSTILE] = data["limits"]["cpu"]
    reader = read(data)
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert HOSTILE in "".join(reader.text)


@pytest.mark.parametrize(
    "data",
    [
        {"format": "nnx-bench/1"},
        report(),
        report(players={}, machine={}, versions={}, method={}, quiet={}, limits={}, absent={}),
        report(workload("steps", TITLES["steps"])),
        report(workload("steps", TITLES["steps"], nnx_numba=5.0)),
        report(workload("inference", TITLES["inference"], torch_eager=5.0)),
        report(workload("batch", "something else", 1, nnx_numba=5.0)),
        report(workload("a new suite", "what", nnx_numba=5.0)),
        report(workload("start", "import", nnx_numba={"refused": "no"})),
        report(*(workload(suite, title, nnx_numpy={"refused": "no"}) for suite, title in TITLES.items())),
        report(workload("ops", "dense", nnx_numba={"median_us": 5.0}), limits={"cpu": {"gflops": 9.0}}),
    ],
)
def test_a_page_can_do_without_what_is_missing(data: dict[str, Any]) -> None:
    told = words(data)
    assert "nan" not in told.split()
    for row in data.get("workloads", []):
        for name in row["results"]:
            assert row["title"] in told
            assert name in told


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_the_summary_counts_winners_and_compares_with_the_best_other() -> None:
    one = report(workload("steps", TITLES["steps"], nnx_numba=10.0, nnx_numpy=80.0, torch_eager=50.0, notes=70.0))
    assert "nnx numba is the fastest of nnx in the one case" in words(one)
    assert "ahead in 1: 5.0x its speed" in words(one)
    other = workload("steps", "step, 8192 x 784-10, adam", nnx_numba=99.0, nnx_numpy=80.0, torch_eager=40.0)
    both = report(*one["workloads"], other)
    assert "ahead in 1, behind in 1: 0.50x to 5.0x its speed" in words(both)


def test_a_verdict_in_one_line_says_first_that_the_machine_was_busy() -> None:
    one = report(workload("steps", TITLES["steps"], nnx_numba=10.0, nnx_numpy=80.0, torch_eager=50.0, notes=15.0))
    assert verdict.line(one, findings.works(one)) == "nnx numba: 5.00x the best other library's speed; ahead 1"
    assert "5.0x its speed" in words(one)  # not the notes' 1.5
    alone = report(workload("steps", TITLES["steps"], nnx_numba=10.0, nnx_numpy=80.0, notes=15.0))
    assert verdict.line(alone, findings.works(alone)) == (
        "nnx numba is the fastest of nnx in 1 of 1; no other library was measured"
    )
    one["quiet"] = {"waited_s": 0.0, "others": 0.45, "stolen": 0.2}
    said = "BUSY MACHINE (other programs took 45% and other machines took 20%: ratios hold, times less so). nnx numba"
    assert verdict.line(one, findings.works(one)).startswith(said)
    assert said in words(one)


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("file", sorted(RESULTS.glob("st*-epyc-avx2.json")), ids=lambda file: file.stem)
def test_columns_of_a_terminal_are_not_cut(file: Path, width: int) -> None:
    data, console = read_report(file), Console(width=width, color_system=None)
    for row in data["workloads"]:
        with console.capture() as shown:
            console.print(table.workload(row, data, console))
        assert max(map(len, shown.get().splitlines())) <= width
        for text in (row["title"], " median ", " x NumPy ", " x others"):
            assert text in shown.get()


def test_two_whose_rounds_overlap_share_the_first_place() -> None:
    data = report(workload("steps", TITLES["steps"], nnx_numba=100.0, nnx_numpy=101.0, torch_eager=99.5))
    assert "nnx numba or nnx numpy is the fastest" in words(data)
    assert "level in 1" in words(data)


@pytest.mark.parametrize(
    ("one", "several", "expected"),
    [
        ((5, 20, 80, 320), (9, 22, 60, 170), 64),  # from there on
        ((5, 20, 80, 320), (9, 22, 85, 330), None),  # never
        ((5, 20, 80, 320), (3, 10, 40, 160), 1),  # always
        ((5, 20, 80, 320), (9, 15, 90, 170), 256),  # not for good before
        ((5, 20, 80, 320), (9, 20, 79.9, 170), 256),  # within the spread is not faster
    ],
)
def test_what_pays_is_found_where_it_was_planted(
    one: tuple[float, ...], several: tuple[float, ...], expected: int | None
) -> None:
    found = findings.works(
        report(*(batch(rows, float(a), float(b)) for rows, a, b in zip((1, 16, 64, 256), one, several, strict=True)))
    )
    by_size = [
        {work.rows: figure for work in found if (figure := work.of(name))}
        for name in ("nnx numba", "nnx numba, 1 thread")
    ]
    assert findings.pays_from(*by_size) == expected


def test_the_page_says_from_where_threads_and_gpus_pay() -> None:
    told = words(full())
    assert "nnx numba: 2 threads pay from 256 rows on" in told
    assert "nnx cupy: the GPU pays from 256 rows on" in told
    never = words(report(*(batch(rows, 5.0, 9.0) for rows in (1, 16))))
    assert "nnx numba: 2 threads never pay, up to 16 rows (at best 0.56x)" in never
    assert "No GPU took part" in never


def test_trust_is_told_as_it_is() -> None:
    assert "quick run, 7 short rounds" in words(full())
    quiet = {"waited_s": 0.0, "others": 0.4, "stolen": 0.02}
    told = words(full() | {"quick": False, "quiet": quiet})
    assert "quick run" not in told
    assert "not quiet" in told
    assert "Other virtual machines took 2%" in told


# ---- drawing ---------------------------------------------------------------------------------------------------------


def widths(scale: charts.Scale, origin: float, values: list[float]) -> list[float]:
    drawn = [charts.bar(scale, origin, value, value, value) for value in values]
    return [float(each) for each in re.findall(r'class="bar" x="[\d.]+%" width="([\d.]+)%"', "".join(drawn))]


def test_bars_are_as_long_as_what_they_show() -> None:
    assert widths(charts.Scale(0, 10), 0, [1, 2, 5, 10]) == [10, 20, 50, 100]
    assert widths(charts.Scale(0.1, 10, log=True), 1, [0.1, 10, 10**0.5]) == [50, 50, 25]


def test_a_wide_range_makes_the_scale_logarithmic() -> None:
    rows: dict[str, Any] = {"nnx_numba": 10.0, "nnx_numpy": 20.0}
    assert "logarithmic" not in words(report(workload("ops", TITLES["ops"], **rows)))
    assert "logarithmic" in words(report(workload("ops", TITLES["ops"], **rows, notes=900.0)))


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[1.0], [0.003, 25.0], [0.9, 1.1], [1e-9, 1e9], [3.0, 3.0]])
def test_scales_hold_their_values_and_have_a_few_round_ticks(values: list[float], log: bool) -> None:
    scale = charts.fitted(values, log, 1.0)
    assert all(scale.low <= value <= scale.high for value in [*values, 1.0])
    ticks = scale.ticks(5)
    assert 1 <= len(ticks) <= 6
    assert ticks == sorted(ticks)
    for tick in filter(None, ticks):
        mantissa = tick / 10.0 ** math.floor(math.log10(tick) + 1e-9)
        assert mantissa == pytest.approx(round(mantissa, 1))


def test_names_at_the_ends_of_lines_keep_apart() -> None:
    same = [charts.Series(f"player {number}", "peer", [(1.0, 5.0, "0-0"), (64.0, 9.0, "0-1")]) for number in range(12)]
    drawn = charts.lines(same, [(64.0, "pays from 64")], width=340, label="lines")
    places = sorted(float(y) for y in re.findall(r'y="([\d.]+)">player', drawn))
    assert len(places) == 12
    assert min(b - a for a, b in pairwise(places)) >= 14
    assert places[-1] < float(ElementTree.fromstring(drawn).attrib["height"])


@pytest.mark.parametrize(
    ("us", "expected"),
    [(0.5, "500 ns"), (6.875, "6.88 µs"), (999.7, "1.00 ms"), (2806.2, "2.81 ms"), (2.05e6, "2.05 s")],
)
def test_durations_are_for_people(us: float, expected: str) -> None:
    assert charts.duration(us).replace("\u00a0", " ") == expected


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.0, "1.0"), (9.44, "9.4"), (24.8, "24.8"), (0.0031, "0.0031"), (1938.2, "1,940")]
)
def test_factors_are_for_people(factor: float, expected: str) -> None:
    assert charts.times(factor) == expected + charts.TIMES


def test_ticks_are_short() -> None:
    told = [charts.tick(value) for value in (0.1, 1.0, 16.0, 1024.0, 1e4, 1e5, 1e6, 2e9)]
    assert told == ["0.1", "1", "16", "1024", "10k", "100k", "1M", "2G"]
