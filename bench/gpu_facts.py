"""The machine that figures come from: its GPU, the libraries and settings that matter, as far as they can be told."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from gpu_process import answer

PACKAGES = (
    "numpy", "cupy-cuda12x", "cupy-cuda13x", "cuda-pathfinder", "numba", "torch", "jax", "jaxlib", "pytest",
    "hypothesis",
)  # fmt: skip
SETTINGS = ("NNX_", "CUPY_", "CUDA_", "CUBLAS", "NVIDIA_", "LD_LIBRARY_PATH")
LIBRARIES = ("libcuda.so*", "libnvrtc.so*", "libcublas.so*", "libcublasLt.so*", "libcudart.so*")
FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/local/cuda/lib64", "/usr/local/nvidia/lib64")
ASKED = 8  # seconds that nvidia-smi may take
CLOCKS = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw")


def machine() -> dict[str, Any]:
    """Return what stands beside figures, as far as it can be had where nothing of CUDA works."""
    return {
        "gpu": clocks(),
        "nvidia-smi": answer(["nvidia-smi"], ASKED)[1][-4000:],
        "packages": {name: found for name in PACKAGES if (found := package(name))},
        "libraries": libraries(),
        "settings": {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)},
        "python": f"{platform.python_version()}, {sys.executable}",
        "platform": platform.platform(),
        "devices": sorted(str(path) for path in Path("/dev").glob("nvidia*")),
        "driver": text_of(Path("/proc/driver/nvidia/version")),
    }


def clocks() -> dict[str, str]:
    """Return what nvidia-smi says of the first GPU now."""
    code, text = answer(["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader"], ASKED)
    values = text.splitlines()[0].split(", ") if code == 0 and text.strip() else []
    return dict(zip(CLOCKS, values, strict=False))


def package(name: str) -> str | None:
    """Return a distribution's version and folder."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    return f"{found.version}, {found.locate_file('')}"


def libraries() -> list[str]:
    """Return CUDA's libraries in packages and in the usual folders, each with what it is a link to."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in FOLDERS]
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        folders += Path(folder).glob("*/lib")
    found = {path for folder in folders for pattern in LIBRARIES for path in folder.glob(pattern)}
    return [f"{path} -> {path.resolve().name}" for path in sorted(found)]


def text_of(path: Path) -> str:
    """Return a file's text, or why it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        return str(error)
