"""The name of the processor: in full, as the system gives it, and short, for names of files."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

FILLER = re.compile(r"\([^)]*\)|@.*|\b(cpu|processor|intel|amd|apple|with .*|\d+-core)\b", re.IGNORECASE)


@cache
def model() -> str:
    """Return the processor's name; on Linux with family, model and stepping, as virtual machines hide the name."""
    facts: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if not colon and facts:
                break  # all processors are alike
            facts.setdefault(name.strip(), value.strip())
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    numbers = ", ".join(f"{name} {facts[name]}" for name in ("cpu family", "model", "stepping") if name in facts)
    return f"{facts['model name']} ({numbers})" if numbers else facts["model name"]


VECTORS = {  # NumPy's names of vector instructions, the widest first
    "AVX512_SPR": "amx", "X86_V4": "avx512", "AVX512_SKX": "avx512", "AVX512F": "avx512", "X86_V3": "avx2",
    "AVX2": "avx2", "ASIMD": "neon", "NEON": "neon",
}  # fmt: skip


def short(simd: Iterable[str]) -> str:
    """Return the processor's name and its widest vector instructions, for the name of a file: epyc-7763-avx2.

    Args:
        simd: NumPy's names of the vector instructions that it has.
    """
    have = set(simd)
    return "-".join([slug(), *[name for known, name in VECTORS.items() if known in have][:1]])


def slug(name: str | None = None) -> str:
    """Return a processor's name in lower case without words that all names have, such as epyc-7763, xeon or m2."""
    words = re.findall(r"[a-z0-9]+", FILLER.sub(" ", name or model()).lower())
    return "-".join(words)[:40] or platform.machine().lower() or "unknown"
