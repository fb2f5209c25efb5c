"""Facts about the machine that belong to every figure: processor, GPU, system, BLAS, threads, environment."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from nnx import __version__, doctor

PACKAGES = (
    "numpy", "numba", "llvmlite", "scipy", "cupy-cuda12x", "cupy-cuda13x", "torch", "jax", "jaxlib", "thinc",
    "scikit-learn",
)  # fmt: skip


def facts() -> dict[str, Any]:
    """Return processor, GPU, system, BLAS, threads and the environment variables that matter."""
    report = doctor.report()
    return {
        "cpu": report["cpu"],
        "clock_mhz": clock(),
        "gpu": report["gpu"]["devices"],
        "cuda": report["gpu"]["cuda"],
        "platform": platform.platform(),
        "blas": report["numpy"]["blas"],
        "threads": report["numpy"]["threads"],
        "environment": {name: value for name, value in report["environment"].items() if value and "/" not in value},
        "backends": {
            name: None if entry["works"] else f"{entry['reason']}. {entry['remedy']}"
            for name, entry in report["backends"].items()
        },
    }


def clock() -> dict[str, float] | None:
    """Return the lowest and highest present clock rates of the processors in MHz; None if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = [float(value) for value in re.findall(r"^cpu MHz\s*: ([\d.]+)", text, re.MULTILINE)]
    return {"least": min(found), "most": max(found)} if found else None


def versions() -> dict[str, str]:
    """Return the versions of all libraries that took part."""
    found = {"nnx": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
