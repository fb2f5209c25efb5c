"""The stages of `make gpu`: what each does, and for how many seconds at most.

Each returns what JSON can hold, and saves what it has on the way. One that compares many things goes through all of
them, and then raises what failed: on a lent machine there may be no second run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Save = Callable[[Any], None]
Check = tuple[str, Callable[[], Any]]


class Skip(Exception):
    """A stage cannot run here; the text says why."""


def all_of(checks: Iterable[Check], found: dict[str, Any], save: Save) -> None:
    """Do each check, also after one that fails; print what failed, and save it in `found`.

    Raises:
        AssertionError: some did; the message names them.
    """
    failed: dict[str, str] = found.setdefault("failed", {})
    count = 0
    for what, check in checks:
        count += 1
        try:
            check()
        except Exception as error:
            print(f"---- {what}", flush=True)
            traceback.print_exc()
            failed[what] = f"{type(error).__name__}: {error}"[:400]
        save(found)
    if failed:
        raise AssertionError(f"{len(failed)} of {count} failed: {', '.join(failed)}")


# ---- what is there ---------------------------------------------------------------------------------------------------


def probe(save: Save) -> Any:
    """Is there a GPU that works; which; and how long does each kernel take to compile (from CuPy's cache, to load)."""
    from nnx.backends.cupy import driver

    found: dict[str, Any] = {"driver": asdict(driver.ask())}
    save(found)
    import nnx
    from nnx.kernels.cuda import KERNELS

    backend: Any = nnx.get_backend("cupy")
    found |= {"info": asdict(backend.info()), "memory": asdict(backend.memory()), "loaded": loaded(), "seconds": {}}
    begin = time.perf_counter()
    found["kernels"] = len(KERNELS)

    def load(name: str, dtype: str) -> None:
        start = time.perf_counter()
        backend._launch._load(name, dtype)
        found["seconds"][f"{name}, {dtype}"] = round(time.perf_counter() - start, 3)

    checks = [(f"{name}, {dtype}", lambda n=name, d=dtype: load(n, d)) for dtype in TYPES for name in KERNELS]
    all_of(checks, found, save)
    return found | {"load": time.perf_counter() - begin, "loaded": loaded()}


TYPES = ("float32", "float64")


def loaded() -> list[str]:
    """Return CUDA's libraries that this process has loaded, with their folders."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    return sorted(path for path in paths if any(part in path for part in ("libcu", "libnv", "nvidia", "cupy/")))


# ---- what is right ---------------------------------------------------------------------------------------------------


def conformance(save: Save) -> Any:
    """The suite that every backend must pass, in float32 and float64."""
    import numpy as np

    import nnx
    from nnx.testing import Report
    from nnx.testing.conformance import checks

    backend = nnx.get_backend("cupy")
    report = Report(backend.name)
    found: dict[str, Any] = {"worst": report.worst}
    with np.errstate(all="ignore"):
        all_of(checks(backend, report), found, save)
    return found | {"report": str(report)}


def kernels(save: Save) -> Any:
    """Every kernel in every way that it can be launched, against float64 NumPy; `program` by whole trainings."""
    import cuda_proofs
    import gpu_persistent
    from gpu_kernels import DeviceRun, prove

    import nnx

    backend: Any = nnx.get_backend("cupy")
    worst: dict[str, float] = {}
    launched: set[str] = set()
    found: dict[str, Any] = {"worst": worst, "kernels": []}

    def check(operation: str, dtype: str, how: dict[str, Any]) -> None:
        run = DeviceRun(backend, dtype, **how)
        worst[operation] = max(worst.get(operation, 0.0), prove(run, operation))
        note(run.kernels)

    def note(names: set[str]) -> None:
        launched.update(names)
        found["kernels"] = sorted(launched)

    def bits() -> None:
        cuda_proofs.prove_bfloat16(run := DeviceRun(backend, "float32"))
        note(run.kernels)

    def program(name: str) -> None:
        worst["program"] = max(worst.get("program", 0.0), gpu_persistent.check(backend, (name,)))
        note({"program"})

    checks: list[Check] = [
        (f"{operation}, {dtype}, {how or 'as planned'}", lambda o=operation, d=dtype, h=how: check(o, d, h))
        for how in ({}, {"crowded": True, "shift": 1})
        for operation in cuda_proofs.PROOFS
        for dtype in TYPES
    ]
    checks.append(("round_to_bfloat16", bits))
    checks += [(f"program, {name}", lambda n=name: program(n)) for name in gpu_persistent.NETS]
    all_of(checks, found, save)
    return found


def repeat(save: Save) -> Any:
    """The same 200 steps twenty times, in each way that they run: always the same bits."""
    import gpu_checks

    found: dict[str, Any] = {}
    all_of(gpu_checks.repeated(found), found, save)
    return found


def threads(save: Save) -> Any:
    """Threads that predict at once, with one model and with one each."""
    import gpu_checks

    return gpu_checks.threads()


def precision(save: Save) -> Any:
    """The stated errors of TF32 and bf16, and the accuracy on digits."""
    import gpu_checks

    found: dict[str, Any] = {}
    all_of(gpu_checks.precision(found), found, save)
    return found


def streaming(save: Save) -> Any:
    """Training on data that is streamed to the GPU, against data that is there."""
    import gpu_checks

    return gpu_checks.streaming(save)


def tests(save: Save) -> Any:
    """The tests of the CuPy backend, on the GPU instead of the stand-in."""
    missing = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if missing:
        raise Skip(f"{' and '.join(missing)} not installed")
    files = sorted(str(path) for path in (ROOT / "tests").glob("test_cupy*.py"))
    options = ["-q", "-W", "default", "-p", "no:cacheprovider", "-m", "gpu", "-rfE", "--tb=short"]
    code, lines = echoed([sys.executable, "-m", "pytest", *options, *files])
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    save({"failed": failed, "summary": last_line(lines)})
    if code:
        raise RuntimeError(f"pytest ended with {code}: {last_line(lines)}")
    return {"summary": last_line(lines)}


def sanitizer(save: Save) -> Any:
    """compute-sanitizer over every operation: accesses out of bounds, races in shared memory, barriers."""
    program = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
    )
    if program is None:
        raise Skip("compute-sanitizer is not installed")
    found: dict[str, Any] = {}

    def check(tool: str) -> None:
        script = str(ROOT / "bench" / "gpu.py")
        command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, script, "--stage", "operations"]
        code, lines = echoed(command)
        found[tool] = last_line(lines)
        if any("Device not supported" in line or "not supported on this" in line for line in lines):
            raise Skip(f"compute-sanitizer refuses this device: {found[tool]}")
        if code:
            raise RuntimeError(f"{tool} ended with {code}: {found[tool]}")

    try:
        all_of([(tool, lambda t=tool: check(t)) for tool in ("memcheck", "racecheck", "synccheck")], found, save)
    except AssertionError:
        if all(text.startswith("Skip") for text in found["failed"].values()):
            raise Skip(next(iter(found["failed"].values()))) from None
        raise
    return found


def diagnostics(save: Save) -> Any:
    """Ceilings, the nodes of steps, cuBLASLt's candidates: what guesses are to be set by."""
    import gpu_diagnostics

    import nnx

    found: dict[str, Any] = {}
    all_of(gpu_diagnostics.checks(nnx.get_backend("cupy"), found), found, save)
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


# ---- what is fast ----------------------------------------------------------------------------------------------------


def steps(save: Save) -> Any:
    """Training steps of nnx, PyTorch and JAX, in turns."""
    import gpu_races

    return gpu_races.race(gpu_races.steps(), save, os.environ.get("BENCH_QUICK") == "1")


def predictions(save: Save) -> Any:
    """Predictions of nnx, PyTorch and JAX, in turns: one row and many."""
    import gpu_races

    return gpu_races.race(gpu_races.predictions(), save, os.environ.get("BENCH_QUICK") == "1")


def persistent(save: Save) -> Any:
    """Steps of small networks by the persistent kernel and by CUDA graphs."""
    import gpu_persistent

    import nnx

    return gpu_persistent.sweep(nnx.get_backend("cupy"))


# ---- running programs ------------------------------------------------------------------------------------------------


def echoed(command: list[str]) -> tuple[int, list[str]]:
    """Return a program's exit status and lines, printed as they come: if this process is stopped, they stay."""
    lines = []
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return process.returncode, lines


def last_line(lines: list[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was printed")[:200]


# ---- which, in what order, and for how many seconds at most ----------------------------------------------------------

Stages = dict[str, tuple[Callable[[Save], Any], int]]
CHECK: Stages = {
    "probe": (probe, 90),
    "conformance": (conformance, 90),
    "kernels": (kernels, 120),
    "repeat": (repeat, 60),
    "threads": (threads, 30),
    "tests": (tests, 120),
    "precision": (precision, 60),
    "streaming": (streaming, 60),
    "diagnostics": (diagnostics, 90),
    "sanitizer": (sanitizer, 120),
}
RACE: Stages = {
    "probe": (probe, 90),
    "steps": (steps, 270),
    "predictions": (predictions, 120),
    "persistent": (persistent, 60),
}
HIDDEN: Stages = {"operations": (operations, 120)}
