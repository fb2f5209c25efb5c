"""Name of the processor: as the system tells it, and short enough for the name of a file."""

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
                break  # the first processor stands for all
            facts.setdefault(name.strip(), value.strip())
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    numbers = ", ".join(f"{name} {facts[name]}" for name in ("cpu family", "model", "stepping") if name in facts)
    return f"{facts['model name']} ({numbers})" if numbers else facts["model name"]


VECTORS = {  # what NumPy calls instructions: widest first
    "AVX512_SPR": "amx", "X86_V4": "avx512", "AVX512_SKX": "avx512", "AVX512F": "avx512", "X86_V3": "avx2",
    "AVX2": "avx2", "ASIMD": "neon", "NEON": "neon",
}  # fmt: skip


def short(simd: Iterable[str]) -> str:
    """Return the processor's name and its widest instructions, for the name of a file: epyc-7763-avx2.

    Args:
        simd: the instructions that it has, as NumPy calls them.
    """
    have = set(simd)
    return "-".join([slug(), *[name for known, name in VECTORS.items() if known in have][:1]])


def slug(name: str | None = None) -> str:
    """Return a processor's name in small letters, digits and hyphens, without what all have: epyc-7763, xeon, m2."""
    words = re.findall(r"[a-z0-9]+", FILLER.sub(" ", name or model()).lower())
    return "-".join(words)[:40] or platform.machine().lower() or "unknown"
