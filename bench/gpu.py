"""Everything that needs a GPU, in one run of under ten minutes: `make gpu`, or

    python bench/gpu.py [--only STAGE ...] [--quick] [--results FOLDER]

Each stage is a process of its own with a time limit, so that whatever one of them does, the others still tell. It needs
the machine's own Python with CuPy, and nothing of nnx installed; pytest, PyTorch, JAX and compute-sanitizer take part
where they are there. The report goes to bench/results/<gpu>-<date>.{json,md}, anew after each stage. Without a GPU it
says why, writes nothing and exits with 2; it exits with 1 if a stage failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATHS = [str(ROOT), str(ROOT / "tests"), str(ROOT / "bench")]  # a plain checkout, not installed
sys.path[:0] = PATHS

TOTAL = 570  # seconds for all stages
PACKAGES = ("numpy", "cupy-cuda12x", "cupy-cuda13x", "torch", "jax", "jaxlib", "pytest", "numba")
Save = Callable[[Any], None]


class Skip(Exception):
    """A stage cannot run here; the text says why."""


# ---- stages: each returns what JSON can hold, and may save what it has so far ----------------------------------------


def probe(save: Save) -> Any:
    """Is there a GPU that works; which; and how long do all kernels take to compile (from CuPy's cache, to load)."""
    import nnx
    from nnx.kernels.cuda import KERNELS

    backend: Any = nnx.get_backend("cupy")
    begin = time.perf_counter()
    for dtype in ("float32", "float64"):
        for name in KERNELS:
            backend._launch._load(name, dtype)
    seconds = time.perf_counter() - begin
    return {
        "info": asdict(backend.info()),
        "memory": asdict(backend.memory()),
        "kernels": len(KERNELS),
        "load": seconds,
    }


def conformance(save: Save) -> Any:
    """The suite that every backend must pass, in float32 and float64."""
    import nnx
    from nnx.testing import check_backend

    report = check_backend(nnx.get_backend("cupy"))
    return {"report": str(report), "worst": report.worst}


def kernels(save: Save) -> Any:
    """Every kernel in every way that it can be launched, against float64 NumPy; `program` by whole trainings."""
    import cuda_proofs
    import gpu_persistent
    from gpu_kernels import DeviceRun

    import nnx
    from nnx.testing.cases import CASES, Maker
    from nnx.testing.compare import CLASS, DTYPES, compare

    backend: Any = nnx.get_backend("cupy")
    worst: dict[str, float] = {}
    launched: set[str] = set()
    for operation, proof in cuda_proofs.PROOFS.items():
        for dtype in DTYPES:
            run = DeviceRun(backend, dtype)
            for case in CASES[operation](Maker(dtype)):
                operands = case.operands | ({"rows": case.out[0]} if operation == "gather_rows" and case.out else {})
                for written in proof.run(run, operands):
                    for name, got in written.items():
                        what = f"{operation}, {case.name}, {dtype}: {name}"
                        error = compare(got, case.wanted[name], CLASS[operation], dtype, what)
                        worst[operation] = max(worst.get(operation, 0.0), error)
                run.check_guards(f"{operation}, {case.name}, {dtype}")
            launched |= run.kernels
        save({"worst": worst, "kernels": sorted(launched)})
    cuda_proofs.prove_bfloat16(run := DeviceRun(backend, "float32"))
    launched |= run.kernels
    worst["program"] = gpu_persistent.check(backend)
    return {"worst": worst, "kernels": sorted(launched | {"program"})}


def persistent(save: Save) -> Any:
    """Steps of small networks by the persistent kernel and by CUDA graphs."""
    import gpu_persistent

    import nnx

    return gpu_persistent.sweep(nnx.get_backend("cupy"))


def precision(save: Save) -> Any:
    """The stated errors of TF32 and bf16, and the accuracy on digits."""
    import gpu_checks

    return gpu_checks.precision(save)


def streaming(save: Save) -> Any:
    """Training on data that is streamed to the GPU, against data that is there."""
    import gpu_checks

    return gpu_checks.streaming(save)


def steps(save: Save) -> Any:
    """Training steps of nnx, PyTorch and JAX, in turns."""
    import gpu_races

    return gpu_races.race(gpu_races.steps(), save, os.environ.get("BENCH_QUICK") == "1")


def predictions(save: Save) -> Any:
    """Predictions of nnx, PyTorch and JAX, in turns: one row and many."""
    import gpu_races

    return gpu_races.race(gpu_races.predictions(), save, os.environ.get("BENCH_QUICK") == "1")


def tests(save: Save) -> Any:
    """The tests of the CuPy backend, on the GPU instead of the stand-in."""
    from importlib.util import find_spec

    missing = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if missing:
        raise Skip(f"{' and '.join(missing)} not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "-k", "gpu"]
    files = "tests/test_cupy.py", "tests/test_cupy_graph.py", "tests/test_cupy_forward.py"
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-6000:], done.stderr[-2000:])
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}: {last_line(done.stdout)}")
    return {"summary": last_line(done.stdout)}


def sanitizer(save: Save) -> Any:
    """compute-sanitizer over every operation: accesses out of bounds, races in shared memory, barriers."""
    program = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
    )
    if program is None:
        raise Skip("compute-sanitizer is not installed")
    found: dict[str, str] = {}
    for tool in ("memcheck", "racecheck", "synccheck"):
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, "--stage", "operations"]
        done = subprocess.run(command, capture_output=True, text=True)
        text = done.stdout + done.stderr
        print(tool, text[-3000:], flush=True)
        if "Device not supported" in text or "not supported on this" in text:
            raise Skip(f"compute-sanitizer refuses this device: {last_line(text)}")
        found[tool] = last_line(text)
        save(found)
        if done.returncode:
            raise RuntimeError(f"{tool} ended with {done.returncode}: {found[tool]}")
    return found


def operations(save: Save) -> Any:
    """Each operation once or twice, with an allocation of its own for each array, so that overruns show."""
    import cupy
    import gpu_persistent
    from cupy_calls import large, plain_calls

    import nnx

    cupy.cuda.set_allocator(None)
    backend: Any = nnx.get_backend("cupy")
    for _, call in plain_calls(backend):
        call()
    large(backend)
    gpu_persistent.check(backend, ("two dropouts", "l1 and l2", "binary logits"))
    backend.synchronize()
    return {}


# name: what, and for how many seconds at most. The order is that of the report.
STAGES: dict[str, tuple[Callable[[Save], Any], int]] = {
    "probe": (probe, 90),
    "conformance": (conformance, 90),
    "kernels": (kernels, 90),
    "persistent": (persistent, 60),
    "tests": (tests, 120),
    "precision": (precision, 60),
    "streaming": (streaming, 60),
    "steps": (steps, 270),
    "predictions": (predictions, 120),
    "sanitizer": (sanitizer, 120),
}
HIDDEN = {"operations": (operations, 120)}


# ---- running one -----------------------------------------------------------------------------------------------------


def serve(name: str, out: Path | None) -> None:
    """Run a stage in this process and write what it returns."""

    def save(data: Any, state: str = "unfinished") -> None:
        if out is not None:
            out.write_text(json.dumps({"state": state, "data": data}, default=str), encoding="utf-8")

    try:
        save((STAGES | HIDDEN)[name][0](save), "passed")
    except Skip as reason:
        save(str(reason), "skipped")


def run(name: str, seconds: float) -> dict[str, Any]:
    """Run a stage in a process of its own; return its state, data, time, and the end of what it printed."""
    folder = Path(tempfile.mkdtemp(prefix="nnx-gpu-"))
    out, log = folder / "out.json", folder / "log.txt"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])}
    begin = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, __file__, "--stage", name, "--out", str(out)],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment,
            start_new_session=True,  # so that what it started ends with it
        )  # fmt: skip
        try:
            code: int | None = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    result: dict[str, Any] = {"state": "failed", "data": None}
    if out.exists():
        result = json.loads(out.read_text(encoding="utf-8"))
    if result["state"] == "unfinished" or code != 0:
        result["state"] = f"stopped after {seconds:.0f} s" if code is None else "failed"
    result["seconds"] = round(time.monotonic() - begin, 1)
    result["output"] = log.read_text(encoding="utf-8", errors="replace")[-4000:]
    shutil.rmtree(folder, ignore_errors=True)
    return result


# ---- the report ------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Return what stands beside figures: GPU, driver, clocks, versions, settings."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    settings = {name: value for name, value in os.environ.items() if name.startswith(("NNX_", "CUPY_", "CUDA_VIS"))}
    return {"gpu": clocks(), "versions": versions, "settings": settings, "platform": platform.platform()}


def clocks() -> dict[str, str]:
    """Return what nvidia-smi says of the first GPU now."""
    fields = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw")
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = done.stdout.splitlines()[0].split(", ") if done.returncode == 0 and done.stdout.strip() else []
    return dict(zip(fields, values, strict=False))


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a page."""
    gpu = report["machine"]["gpu"]
    stages = report["stages"]
    lines = [f"# nnx on {report['device']}, {report['date']}", ""]
    lines += [f"nnx {report['nnx']}; " + ", ".join(f"{k} {v}" for k, v in report["machine"]["versions"].items()) + "."]
    lines += [", ".join(f"{k}: {v}" for k, v in gpu.items()) + "." if gpu else "nvidia-smi did not answer."]
    if report["machine"]["settings"]:
        lines += ["Set: " + ", ".join(f"{k}={v}" for k, v in report["machine"]["settings"].items()) + "."]
    notes = ((stages.get("probe", {}).get("data") or {}).get("info") or {}).get("notes", ())
    lines += ["", *(f"- {note}" for note in notes), "", "| stage | state | s | |", "|---|---|---|---|"]
    lines += [f"| {name} | {r['state']} | {r['seconds']} | {detail(name, r)} |" for name, r in stages.items()]
    if stages.get("persistent", {}).get("data"):
        import gpu_persistent

        lines += ["", "A step of a small network, the best of some rounds.", ""]
        lines += gpu_persistent.markdown(stages["persistent"]["data"])
    for name, what in (("steps", "A step"), ("predictions", "A prediction, from NumPy to NumPy")):
        if stages.get(name, {}).get("data"):
            import gpu_races

            lines += ["", f"{what}: median of alternating rounds, its multiple of nnx's, memory held.", ""]
            lines += gpu_races.markdown(stages[name]["data"])
            lines += ["", f"Clocks after it: {report.get(f'clocks after {name}', {})}."]
    for name, r in stages.items():
        if r["state"] not in ("passed", "skipped"):
            lines += ["", f"## {name}: {r['state']}", "", "```", r["output"][-2500:], "```"]
    return "\n".join(lines) + "\n"


def detail(name: str, result: dict[str, Any]) -> str:
    """Return what a row of the table says beside a stage's state."""
    data = result["data"]
    if result["state"] == "skipped":
        return str(data)
    if not isinstance(data, dict) or name in ("probe", "persistent", "steps", "predictions"):
        return ""
    if "worst" in data:
        worst = max(data["worst"], key=data["worst"].get, default="")
        return f"largest error {data['worst'].get(worst, 0):.0%} of the tolerated ({worst})"
    return "; ".join(f"{key}: {value}" for key, value in data.items())[:200].replace("|", "/")


def write(report: dict[str, Any], folder: Path) -> Path:
    """Write the report's two files; return the readable one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(report['device'])}-{report['date']}"
    path.with_suffix(".json").write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
    page = path.with_suffix(".md")
    page.write_text(markdown(report), encoding="utf-8")
    return page


def slug(device: str) -> str:
    """Return a GPU's name as a file's: "cuda:0 (NVIDIA H200)" is nvidia-h200."""
    inside = re.search(r"\((.*)\)", device)
    return re.sub(r"[^a-z0-9]+", "-", (inside[1] if inside else device).lower()).strip("-") or "gpu"


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing was printed")[:200]


# ---- all of it -------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--quick", action="store_true", help="fewer races and rounds")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--stage", choices=STAGES | HIDDEN, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        serve(options.stage, options.out)
        return 0
    if options.quick:
        os.environ["BENCH_QUICK"] = "1"
    begin = time.monotonic()
    print("probe ...", flush=True)
    first = run("probe", STAGES["probe"][1])
    if first["state"] != "passed":
        print(f"make gpu: nothing ran, and nothing was written. {why_not(first)}")
        return 2
    import nnx

    device = first["data"]["info"]["device"]
    report: dict[str, Any] = {
        "device": device, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "nnx": nnx.__version__,
        "machine": machine(), "stages": {"probe": first},
    }  # fmt: skip
    page = write(report, options.results)
    for name in [stage for stage in options.only if stage != "probe"]:
        print(f"{name} ...", flush=True)
        left = TOTAL - (time.monotonic() - begin)
        result = run(name, min(STAGES[name][1], left)) if left > 5 else {
            "state": "not run: no time was left", "data": None, "seconds": 0, "output": "",
        }  # fmt: skip
        report["stages"][name] = result
        if name in ("steps", "predictions"):
            report[f"clocks after {name}"] = clocks()
        page = write(report, options.results)
        print(f"  {result['state']}, {result['seconds']} s  {detail(name, result)}", flush=True)
    print(f"\n{page.read_text(encoding='utf-8')}\n{page}")
    return 0 if all(r["state"] in ("passed", "skipped") for r in report["stages"].values()) else 1


def why_not(first: dict[str, Any]) -> str:
    """Return why there is no GPU to run on, as nnx says it."""
    from nnx.backends import available

    found = available()["cupy"]
    return first["output"][-1500:] if found is True else f"{found.reason}. {found.remedy}"  # type: ignore[union-attr]


if __name__ == "__main__":
    sys.exit(main())
