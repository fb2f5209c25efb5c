"""`nnx bench`: which backend, how fast, how near the limit, against whom."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from nnx.backends.precision import check_precision
from nnx.checks import integer
from nnx.cli import outputs
from nnx.cli.console import best_effort
from nnx.cli.errors import Failed, note, writing
from nnx.errors import InputError
from nnx.kernels.compiling import heard_by, once

FILE = 140  # columns of a table that is written to a file
MINUTE = 60.0
ENOUGH = 3  # workloads after which the remaining time can be estimated
WHAT, HOW, OUTPUT = "What is measured", "How", "What comes out"


def bench(
    backends: Annotated[
        str | None, typer.Option(help="numpy,numba,cupy: some of them. Default: all that work.", rich_help_panel=WHAT)
    ] = None,
    peers: Annotated[
        str | None,
        typer.Option(
            help='notes,torch,jax,thinc,sklearn: some of them, or "none". Default: all installed.', rich_help_panel=WHAT
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="ops,softmax,steps,inference,batch,data,many,transfers,start: some of them. Default: all.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The most telling ones, in about a minute.", rich_help_panel=HOW)
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="Of each player. Default: NNX_THREADS, or all cores.", rich_help_panel=HOW)
    ] = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="Only what each phase of Numba's training steps takes, by thread.", rich_help_panel=WHAT
        ),
    ] = False,
    rounds: Annotated[int | None, typer.Option(help="In which all players take turns.", rich_help_panel=HOW)] = None,
    as_json: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write all figures here; in a folder, into <suite>-<processor>.json.", rich_help_panel=OUTPUT
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures here.", rich_help_panel=OUTPUT)] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="Measure nothing; tell what changed between two reports, OLD.json NEW.json.", rich_help_panel=OUTPUT
        ),
    ] = None,
) -> None:
    """Measure the backends against each other, the book's own NumPy code, and other libraries.

    Each result is first compared with NumPy's in float64; a wrong one, or one from another backend, gets no figure.
    """
    if compare is not None:
        raise typer.Exit(_compare(*compare))
    from nnx.benchmark.runner import FULL, QUICK
    from nnx.benchmark.selection import select
    from nnx.benchmark.workloads import chosen

    if profile:
        _only_what_a_profile_takes(backends=backends, peers=peers, html=html)
        suite = suite or "steps"
    suites = _suites(suite)
    as_json = _named(as_json, suites, quick)
    outputs.check("--json", as_json)
    outputs.check("--html", html)
    if as_json is not None and html is not None and as_json.resolve() == html.resolve():
        raise InputError(f"--json and --html are both {html}: name two files")
    precision = check_precision(os.environ.get("NNX_PRECISION") or "full", "NNX_PRECISION")
    method = replace(QUICK if quick else FULL, threads=_threads(threads), precision=precision)
    if rounds is not None:
        method = replace(method, rounds=integer(rounds, "--rounds"))
    if profile:
        _profile([w for w in chosen(suites, quick) if w.kind == "step"], method, as_json)
        return
    workloads = chosen(suites, quick)
    others = [] if peers == "none" else _names("--peers", peers)
    with heard_by(once(note)):
        players, absent = select(_names("--backends", backends), others, method.threads, quick)
    _run(players, absent, method, workloads, quick, as_json, html)


def _run(
    players: Any, absent: Any, method: Any, workloads: Any, quick: bool, as_json: Path | None, html: Path | None
) -> None:
    """Measure, and show each workload when its last pass is done; results so far are written even after Ctrl-C."""
    from nnx.benchmark import quiet, table
    from nnx.benchmark.report import Report
    from nnx.benchmark.runner import Runner

    console = _console(as_json is None and html is None)
    report, watch = Report(players, absent, method, quick), quiet.Watch()
    suite, last = "", method.passes - 1
    left, taken = method.passes * len(workloads), list[float]()  # workloads to measure, and seconds that each took
    with _status(console) as status:
        try:
            for number in range(method.passes):

                def progress(text: str, number: int = number) -> None:
                    status(f"pass {number + 1} of {method.passes}: {text}")

                with Runner(players, method, progress, watch) as runner:
                    report.set_limits(runner.limits())
                    if number == 0:
                        console.print(table.heading(report.data))
                    for workload in workloads:
                        begin = time.perf_counter()
                        row = report.add(workload, runner.measure(workload))
                        taken.append(time.perf_counter() - begin)
                        left -= 1
                        if quick and len(taken) == ENOUGH:
                            _tell_how_long(watch.seconds + median(taken) * left)
                        if number < last or not row["results"]:
                            continue
                        if workload.suite != suite:
                            suite = workload.suite
                            console.print(table.suite_title(suite))
                        console.print(table.workload(row, report.data, console))
        finally:
            report.finish(watch.seconds, watch.report())
            _write(report, as_json, html)
    console.print(table.footer(report.data))
    if not report.measured:
        raise Failed("nothing could be measured: each line above says why")


def _tell_how_long(seconds: float) -> None:
    """Say how long a quick run will take, if that is more than the promised minute."""
    if seconds > MINUTE:
        note(f"this takes longer than a minute here: about {round(seconds / MINUTE, 1):g} minutes")


def _only_what_a_profile_takes(backends: str | None, peers: str | None, html: Path | None) -> None:
    """Refuse options that do not apply to a profile."""
    if backends not in (None, "numba"):
        raise InputError(f"--backends {backends!r}: --profile is of Numba's steps, which alone are compiled as a whole")
    if peers not in (None, "none"):
        raise InputError(f"--peers {peers!r}: --profile looks into nnx alone; leave it out")
    if html is not None:
        raise InputError(f"--html {html}: --profile has no page; --json writes its figures")


def _profile(workloads: list[Any], method: Any, as_json: Path | None) -> None:
    """Show how long the phases of training steps take."""
    from nnx.backends.threads import set_threads
    from nnx.benchmark import machine, profile
    from nnx.benchmark.libraries import Refused
    from nnx.files import write_atomically

    if not workloads:
        raise InputError("--profile: these suites have no training steps; take steps or batch")
    set_threads(method.threads)
    console = _console(as_json is None)
    found = []
    model = machine.facts()["cpu"]["model"]
    console.print(Text(f"{model}, threads: {method.threads}, float32\n", style="dim"))
    with _status(console) as status:
        for workload in workloads:
            status(workload.title)
            try:
                found.append(profile.of_step(workload, method.passes * method.rounds, method.seconds))
            except Refused as reason:
                raise Failed(str(reason)) from reason
            console.print(profile.table(found[-1]))
    if as_json is not None:
        with writing(as_json):
            write_atomically(as_json, json.dumps([each.as_data() for each in found], indent=1).encode())


def _write(report: Any, as_json: Path | None, html: Path | None) -> None:
    """Write the files that were asked for, each whole or not at all."""
    from nnx.benchmark import page
    from nnx.files import write_atomically

    for path, make in ((as_json, report.as_json), (html, lambda: page.render(report.data))):
        if path is not None and report.measured:
            with writing(path):
                write_atomically(path, make().encode())


def _compare(old: Path, new: Path) -> int:
    """Print what changed between two reports; return 1 if anything became slower, or has lost its figure."""
    from nnx.benchmark import table
    from nnx.benchmark.compare import compare
    from nnx.benchmark.report import read

    found = compare(read(old), read(new))
    _console().print(table.comparison(found))
    return int(bool(found.lost) or any(change.verdict == "slower" for change in found.changes))


def _console(needed: bool = True) -> Console:
    """Return a console on stdout, as wide as the terminal, or, if it is none, as wide as a table needs.

    Args:
        needed: whether to end with an error if stdout cannot be written; else the output is dropped.
    """
    console = Console(highlight=False, emoji=False, markup=False) if needed else best_effort(sys.stdout)
    if not console.is_terminal:
        console.width = FILE
    return console


@contextmanager
def _status(console: Console) -> Iterator[Callable[[str], None]]:
    """Return a context whose function shows on a terminal what is being done."""
    if not console.is_terminal:
        console = best_effort(sys.stderr)
    with Live(Text(""), console=console, auto_refresh=False, transient=True) as live:
        yield lambda text: live.update(Text(text), refresh=True)


def _names(option: str, text: str | None) -> list[str] | None:
    """Return the names in a comma-separated list, without duplicates; None if none is given."""
    if text is None:
        return None
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise InputError(f"{option} {text!r}: names none")
    return names


def _suites(text: str | None) -> list[str]:
    from nnx.benchmark.workloads import SUITES

    names = _names("--suite", text)
    for name in names or ():
        if name not in SUITES:
            raise InputError(f"--suite: there is no {name!r}; known are {', '.join(SUITES)}")
    return names or list(SUITES)


def _named(path: Path | None, suites: list[str], quick: bool) -> Path | None:
    """Return the path of a report; in a folder, the file is named after its suites and this machine's processor."""
    if path is None or not path.is_dir():
        return path
    from nnx.backends import processor
    from nnx.benchmark.workloads import SUITES
    from nnx.doctor import simd

    what = "quick" if quick else "all" if suites == list(SUITES) else "-".join(suites)
    return path / f"{what}-{processor.short(simd())}.json"


def _threads(given: int | None) -> int:
    """Return how many threads each contestant gets: by default as many as nnx itself would use."""
    from nnx.backends.threads import get_threads

    return integer(given, "--threads") if given is not None else get_threads()
