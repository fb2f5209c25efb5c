"""Diagnosis of training in several processes: which MPI, which launcher, whether they belong together, and NCCL."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

from nnx.distributed import mismatch
from nnx.distributed.launcher import found
from nnx.distributed.nccl import available

# Run in a process of its own without initialising MPI, which can be done only once in a process.
ASK = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
SECONDS = 20


def report() -> dict[str, Any]:
    """Return the facts about MPI, launcher and NCCL, as data that JSON can hold."""
    launcher = found()
    beside, path = Path(sys.executable).parent / "mpiexec", shutil.which("mpiexec")
    library, reason = _library()
    facts: dict[str, Any] = {
        "mpi4py": _version("mpi4py"), "library": library, "reason": reason,
        "mpiexec": str(beside) if beside.exists() else path, "on path": path,
        "launcher": None, "size": 1, "mismatch": None, "nccl": _nccl(),
    }  # fmt: skip
    if launcher is not None:
        facts["launcher"] = f"{launcher.name}, rank {launcher.rank} of {launcher.size}"
        if library is not None:
            from mpi4py import MPI

            facts["size"] = MPI.COMM_WORLD.size
            if launcher.size > 1 and facts["size"] == 1:
                facts["mismatch"] = mismatch(launcher, MPI.Get_library_version())
    return facts


def rows(facts: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return the report as rows: label, text, and whether it is as it should be."""
    mpi = facts["reason"] or f"{facts['library']}, by mpi4py {facts['mpi4py']}"
    other = facts["on path"] if facts["on path"] != facts["mpiexec"] else None
    launcher = facts["launcher"] or "none: this process was started by itself"
    told = [("mpi", mpi, True), ("launcher", launcher, True)]
    if facts["mpiexec"]:
        note = f"; another MPI's may be {other}, which is first on the path" if other else ""
        told.append(("mpiexec", f"{facts['mpiexec']}{note}", True))
    if facts["mismatch"]:
        told.append(("mismatch", facts["mismatch"], False))
    return [*told, ("nccl", facts["nccl"], True)]


def _library() -> tuple[str | None, str | None]:
    """Return which MPI library mpi4py finds, or None, and why it finds none, or None."""
    if util.find_spec("mpi4py") is None:
        return None, 'mpi4py is not installed: pip install "nnx-backends[mpi]"'
    try:
        done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"mpi4py could not be asked: {error}"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return None, f"mpi4py finds no MPI: {lines[-1]}"
    return " ".join(done.stdout.split()[:3]).strip("\0,"), None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _nccl() -> str:
    if util.find_spec("cupy") is None:
        return "none: CuPy is not installed"
    try:
        import cupy

        if not available(cupy):
            return "none: CuPy finds no NCCL, so sums between GPUs go through the host"
        number = int(cupy.cuda.nccl.get_version())
    except Exception as error:  # CuPy without a driver fails in many ways; the report on backends says how
        return f"unknown: {type(error).__name__}: {error}"
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
