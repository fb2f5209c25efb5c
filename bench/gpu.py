"""GPU stages, in two commands of under nine minutes each: `make gpu-check`, `make gpu-race`, or

    python bench/gpu.py [check | race] [--only STAGE ...] [--quick] [--results FOLDER]

The first proves, the second measures; without either word both are done. Each stage (gpu_stages.py) is a process of
its own with a time limit (gpu_process.py), so that whatever one of them does, even the first, the others still tell. It
needs the machine's own Python with CuPy, no network, and nothing of nnx installed; pytest, scikit-learn, PyTorch, JAX
and compute-sanitizer take part where they are there. Each command writes three files,
bench/results/<gpu>-<date>-<check or race>.{json,md,log}, anew after each stage (gpu_report.py). It exits with 1 if a
stage failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT), str(ROOT / "tests"), str(ROOT / "bench")]  # a plain checkout, not installed
sys.path[:0] = PATHS

import gpu_process  # noqa: E402
from gpu_report import Report  # noqa: E402
from gpu_stages import CHECK, HIDDEN, RACE, Skip  # noqa: E402

KINDS = {"check": CHECK, "race": RACE}
STAGES = CHECK | RACE
TOTAL = 510  # seconds for all stages of a command, within nine minutes


def serve(name: str, out: Path | None) -> None:
    """Run a stage in this process and save what it returns."""

    def save(data: object) -> None:
        gpu_process.save(out, "unfinished", data)

    try:
        data = (STAGES | HIDDEN)[name][0](save)
    except Skip as reason:
        gpu_process.save(out, "skipped", str(reason))
    else:
        gpu_process.save(out, "passed", data)


def run(name: str, seconds: float, log: Path) -> dict[str, Any]:
    """Run a stage in a process of its own; see `gpu_process.run`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])}
    return gpu_process.run(Path(__file__), name, seconds, log, environment)


def command(kind: str, only: list[str] | None, results: Path) -> bool:
    """Run the stages of "check" or "race"; tell whether all that ran passed."""
    import nnx

    begin, report = time.monotonic(), Report(kind, results, nnx.__version__)
    for name, (_, most) in KINDS[kind].items():
        if only is not None and name not in only:
            continue
        print(f"{kind}: {name} ...", flush=True)
        with report.log.open("a", encoding="utf-8") as log:
            log.write(f"\n==== {name} ====\n")
        left = TOTAL - (time.monotonic() - begin)
        result = {"state": "not run: no time was left", "data": None, "seconds": 0, "output": ""}
        if left > 5:
            try:
                result = run(name, min(most, left), report.log)
            except Exception as error:  # the machine's own: no room for a process, or on a disk
                result |= {"state": f"not run: {type(error).__name__}: {error}", "output": traceback.format_exc()}
        report.add(name, result)
        print(f"  {result['state']}, {result['seconds']} s", flush=True)
    print(f"\n{report.page.read_text(encoding='utf-8')}\n{report.page}")
    return report.passed


def kernel_cache() -> dict[str, str]:
    """Return where CuPy is to keep compiled kernels if it cannot where it would: every stage would fail of that."""
    folder = os.path.expanduser(os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache"))
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return {}
    except OSError:
        return {"CUPY_CACHE_DIR": tempfile.mkdtemp(prefix="nnx-gpu-kernels-")}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="check | race", choices=[*KINDS, []], default=[])
    parser.add_argument("--only", nargs="+", choices=STAGES)
    parser.add_argument("--quick", action="store_true", help="fewer races and rounds")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--stage", choices=STAGES | HIDDEN, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        serve(options.stage, options.out)
        return 0
    os.environ.update(kernel_cache())
    if options.quick:
        os.environ["BENCH_QUICK"] = "1"
    passed = [command(kind, options.only, options.results) for kind in options.kinds or KINDS]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
