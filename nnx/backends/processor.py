"""Name of the processor: as the system tells it, and short enough for the name of a file."""

from __future__ import annotations

import platform
import re
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


def slug(name: str | None = None) -> str:
    """Return a processor's name in small letters, digits and hyphens, without what all have: epyc-7763, xeon, m2."""
    words = re.findall(r"[a-z0-9]+", FILLER.sub(" ", name or model()).lower())
    return "-".join(words)[:40] or platform.machine().lower() or "unknown"
