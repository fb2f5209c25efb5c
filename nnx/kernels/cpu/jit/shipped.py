"""Shipped kernels: compiled on one machine for an image that other machines run; read like any cache (cache.py).

They come with a file that says for which processor and versions they were compiled. If these differ here, none of the
kernels is found, and all are compiled anew; `misfit` says why.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence

import llvmlite
import numba
import numpy as np

ABOUT = "shipped.json"  # that file, beside the folder of entries
LARGEST = 1 << 16  # the most bytes of that file


def facts(machine: Sequence[object], stamp: str) -> dict[str, str]:
    """Return the facts that entries depend on: the machine as LLVM sees it (system, processor, features), versions."""
    system, processor, features = map(str, machine)
    return {
        "system": system, "processor": processor, "Python": platform.python_version(), "Numba": numba.__version__,
        "llvmlite": llvmlite.__version__, "NumPy": np.__version__,
        "nnx": str(getattr(sys.modules.get("nnx"), "__version__", "")), "features": features, "stamp": stamp,
    }  # fmt: skip


def misfit(content: bytes, here: dict[str, str]) -> str:
    """Return in words how shipped kernels differ from those needed here; "" if they do not.

    Args:
        content: that of the file ABOUT. here: the `facts` of this machine.
    """
    try:
        given = json.loads(content[:LARGEST])
        other = [name for name, value in here.items() if given[name] != value]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"its {ABOUT} is damaged"
    if not other:
        return ""
    if other[0] == "features":
        return "the processor has other features"
    if other[0] == "stamp":
        return "nnx's sources, the sizes of caches or Numba's settings are others"
    return f"{other[0]} is {here[other[0]]} here, and was {ascii(given[other[0]])[:60]} there"
