"""Benchmark fixtures: the suite's option, its players, and the table of throughputs under pytest-benchmark's own."""

import pytest

from nnx.backends import available
from nnx.backends.threads import get_threads
from nnx.benchmark import units
from nnx.benchmark.libraries import PEERS, of_backend

PLAYERS = {player.name: player for name in available() for player in of_backend(name, 1)}
PLAYERS["notes"] = next(player for player in PEERS if player.name == "notes")
THROUGHPUT = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="every workload and size, not the most telling alone")


def pytest_configure(config):
    config.stash[THROUGHPUT] = {}


@pytest.fixture(params=PLAYERS)
def player(request):
    works = available().get(request.param.removeprefix("nnx "), True)
    if not works:
        pytest.skip(str(works))
    return PLAYERS[request.param]


@pytest.fixture
def throughput(request, player):
    """Notes how many rows a second a player does in a workload."""

    def note(workload, seconds):
        table = request.config.stash[THROUGHPUT]
        table.setdefault(workload.title, {})[player.name] = workload.rows / seconds

    return note


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    table = config.stash[THROUGHPUT]
    if not table:
        return
    names = [name for name in PLAYERS if any(name in row for row in table.values())]
    terminalreporter.section(f"rows a second, at best, on {get_threads()} threads; ratio to nnx on NumPy")
    widths = [max(map(len, table)), *(max(len(name), 18) for name in names)]
    terminalreporter.write_line("  ".join(text.ljust(width) for text, width in zip(["", *names], widths, strict=True)))
    for title, row in table.items():
        base = row.get("nnx numpy")
        cells = [
            f"{units.count(row[name])} ({units.times(row[name] / base)})" if name in row and base else "-"
            for name in names
        ]
        line = "  ".join(text.ljust(width) for text, width in zip([title, *cells], widths, strict=True))
        terminalreporter.write_line(line.rstrip())
