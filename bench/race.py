"""What every comparison with other libraries shares: a process for each peer, rounds that alternate, figures, a table.

A *case* is what is measured, such as a network; a *peer* a function of a case and a number of threads that prepares it
and returns a `Run`. A script names both in a `Race` and calls its `main`; the peers' processes run the same script.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CHECKED = 6  # calls whose results are compared
CHUNK = 0.005  # seconds that one measurement takes at least: short enough to fall between other processes' work
Run = Callable[[int], list[float]]  # do it so many times; after CHECKED of them return numbers to compare
Prepare = Callable[[str, int], Run]


@dataclass(frozen=True)
class Race:
    """What is measured, and who takes part.

    Attributes:
        script: the file that made this. title: of the table. what: is measured once, such as "step".
        option: what the cases are called on the command line. cases: name, and what the table calls it.
        peers: name, and what prepares it.
        ours: the peers that are nnx; the first of them is compared with the best of the others.
        rival: the peer that a second ratio is made with, or None. tolerance: relative, of the numbers compared.
    """

    script: str
    title: str
    what: str
    option: str
    cases: Mapping[str, str]
    peers: Mapping[str, Prepare]
    ours: Sequence[str]
    rival: str | None = "torch eager"
    tolerance: float = 2e-3

    def ratios(self, results: dict[str, Any], figure: str) -> tuple[float | None, float | None]:
        """How many times faster the first of ours is than the best other, and than the rival."""
        others = [result[figure] for name, result in results.items() if name not in self.ours]
        ours = results.get(self.ours[0], {}).get(figure)
        rival = results.get(self.rival or "", {}).get(figure)
        return (
            min(others) / ours if others and ours else None,
            rival / ours if rival and ours else None,
        )

    def run(self, case: str, names: Sequence[str], threads: int, rounds: int, seconds: float) -> dict[str, Any]:
        """Run one case on every peer; return the figures."""
        peers = [Peer(self.script, name, threads) for name in names]
        results: dict[str, Any] = {}
        try:
            running, wanted = [], None
            for peer in peers:
                reply = peer.ask(prepare=case)
                if "error" in reply:
                    print(f"  {peer.name}: {reply['error']}", flush=True)
                    continue
                wanted = wanted or reply["numbers"]
                if not np.allclose(reply["numbers"], wanted, rtol=self.tolerance, atol=self.tolerance * 1e-3):
                    raise SystemExit(f"{case}: {peer.name} has {reply['numbers']}, others {wanted}; no figures")
                results[peer.name] = {"ready_s": reply["ready"], "times": []}
                running.append(peer)
            for _ in range(rounds):
                for peer in running:
                    reply = peer.ask(run=seconds)
                    if "error" in reply:
                        raise SystemExit(f"{case}: {peer.name}: {reply['error']}")
                    results[peer.name]["times"].append(reply["times"])
        finally:
            for peer in peers:
                peer.close()
        for result in results.values():
            times = result.pop("times")
            result["best_us"] = min(map(min, times)) * 1e6
            result["median_us"] = statistics.median(statistics.median(t) for t in times) * 1e6
        return results

    def markdown(self, report: dict[str, Any]) -> str:
        """The report as a table."""
        known = [name for name in self.peers if any(name in results for results in report[self.option].values())]
        compared = ["x best peer", *([f"x {self.rival}"] if self.rival else [])]
        packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        text = [
            f"# {self.title}",
            "",
            f"{report['processor']}, {report['threads']} threads, float32; {packages}.",
            f"us a {self.what}: best (median) of {report['rounds']} alternating rounds.",
            "",
            f"| {self.what} | " + " | ".join(known + compared) + " |",
            "|---" * (len(known) + len(compared) + 1) + "|",
        ]
        for case, results in report[self.option].items():
            cells = [
                f"{results[name]['best_us']:.2f} ({results[name]['median_us']:.2f})" if name in results else ""
                for name in known
            ]
            pairs = zip(self.ratios(results, "best_us"), self.ratios(results, "median_us"), strict=True)
            shown = [f"{best:.2f} ({median:.2f})" if best and median else "" for best, median in pairs]
            cells += shown[: len(compared)]
            text.append(f"| {self.cases[case]} | " + " | ".join(cells) + " |")
        return "\n".join(text) + "\n"

    def main(self, description: str | None) -> None:
        """Read the command line, race, and write what was asked for."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--threads", type=int, default=2)
        parser.add_argument("--rounds", type=int, default=10)
        parser.add_argument("--seconds", type=float, default=0.3, help="of each peer in each round")
        parser.add_argument(f"--{self.option}", dest="cases", nargs="+", default=list(self.cases), choices=self.cases)
        parser.add_argument("--peers", nargs="+", default=list(self.peers), choices=self.peers)
        parser.add_argument("--json", type=Path)
        parser.add_argument("--markdown", type=Path)
        parser.add_argument("--serve", help=argparse.SUPPRESS)
        options = parser.parse_args()
        if options.serve:
            serve(self.peers[options.serve], options.threads)
            return
        report: dict[str, Any] = {
            "processor": processor(), "threads": options.threads, "rounds": options.rounds, "versions": versions(),
            self.option: {},
        }  # fmt: skip
        for case in options.cases:
            print(self.cases[case], flush=True)
            results = self.run(case, options.peers, options.threads, options.rounds, options.seconds)
            report[self.option][case] = results
            for name, result in results.items():
                print(f"  {name:26} {result['best_us']:10.2f} ({result['median_us']:.2f})", flush=True)
            best, median = (
                [None if ratio is None else round(ratio, 2) for ratio in self.ratios(results, figure)]
                for figure in ("best_us", "median_us")
            )
            print(f"  x best peer, x {self.rival}: best {best}, median {median}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1) + "\n")
            if options.markdown:
                options.markdown.write_text(self.markdown(report))


# ---- a peer's process ------------------------------------------------------------------------------------------------


def serve(prepare: Prepare, threads: int) -> None:
    """Answer JSON lines: {"prepare": case} with its numbers, {"run": seconds} with times of one go."""
    answers, run, steps = os.fdopen(os.dup(1), "w"), None, 1
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if "prepare" in order:
                begin = time.perf_counter()
                run = prepare(order["prepare"], threads)
                numbers = run(CHECKED)
                ready = time.perf_counter() - begin
                steps = chunk(run)
                reply: dict[str, Any] = {"numbers": numbers, "ready": ready}
            else:
                assert run is not None
                reply = {"times": measure(run, steps, order["run"])}
        except BaseException as error:
            reply = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def chunk(run: Run) -> int:
    """Find how many goes take CHUNK seconds, and warm up on the way."""
    steps = 24
    run(steps)
    begin = time.perf_counter()
    run(steps)
    step = (time.perf_counter() - begin) / steps
    steps = max(8, round(CHUNK / step) // 8 * 8)  # whole turns of the batches; never CHECKED
    run(steps)
    return steps


def measure(run: Run, steps: int, seconds: float) -> list[float]:
    """Time chunks of steps for so long; return each chunk's time of one."""
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 2:
        begin = time.perf_counter()
        run(steps)
        times.append((time.perf_counter() - begin) / steps)
    return times


class Peer:
    """A peer's process, seen from here."""

    def __init__(self, script: str, name: str, threads: int) -> None:
        count = str(threads)
        environment = {
            **os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count,
            "NNX_THREADS": count, "NUMBA_NUM_THREADS": count, "PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "cpu",
        }  # fmt: skip
        command = [sys.executable, script, "--serve", name, "--threads", count]
        if hasattr(os, "sched_getaffinity"):  # JAX takes as many threads as it sees processors
            cores = sorted(os.sched_getaffinity(0))[:threads]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )  # fmt: skip
        else:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
        self.name = name

    def ask(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            return dict(json.loads(self.process.stdout.readline() or '{"error": "the process ended"}'))
        except OSError as error:
            return {"error": str(error)}

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# ---- the machine -----------------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("nnx-backends", "numpy", "numba", "torch", "jax", "jaxlib"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        flags = next(line for line in lines if line.startswith("flags"))
        return name + next((f", {kind}" for kind in ("avx512f", "avx2") if f" {kind}" in flags), "")
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
