"""Memory figures: used, held and free, the same for a GPU's pool and for a process on the CPU."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nnx.backends.errors import InputError

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Memory:
    """Figures in bytes; None for those that are not known.

    Attributes:
        device: the device whose memory it is.
        used: by existing arrays; on the CPU, by the whole process.
        held: reserved by this process on the device; what is held but not used is ready for the next array.
        free, total: of the device, for all processes.
        limit: the most that may be held, if a limit is set.
    """

    device: str
    used: int | None = None
    held: int | None = None
    free: int | None = None
    total: int | None = None
    limit: int | None = None

    def __str__(self) -> str:
        parts = [f"{readable(self.used)} used", f"{readable(self.held)} held"]
        if self.limit is not None:
            parts.append(f"limit {readable(self.limit)}")
        return f"{self.device}: {', '.join(parts)}; {readable(self.free)} of {readable(self.total)} free"


def readable(count: int | None) -> str:
    """Return a number of bytes as text, such as "1.5 GiB"."""
    if count is None:
        return "unknown"
    amount, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def parse_limit(given: Any, total: int, what: str) -> int | None:
    """Return a limit in bytes, None for no limit.

    Args:
        given: bytes, or text such as "8 GB", "7.5GiB" or "50%" of `total`; None, "" and 0 mean no limit.

    Raises:
        InputError: it is something else.
    """
    text = "" if given is None else str(given).strip().lower()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b|%|)", text)
    if text in ("", "0"):
        return None
    if found is None or found[2] not in (*UNITS, "%") or isinstance(given, bool):
        raise InputError(f'{what}={given!r}: expected bytes, or text such as "8 GB", "7.5 GiB" or "50%"')
    amount, unit = float(found[1]), found[2]
    count = int(amount * total / 100) if unit == "%" else int(amount * UNITS[unit])
    if count == 0 or (unit == "%" and amount > 100):
        raise InputError(f"{what}={given!r}: expected more than 0, and at most 100%")
    return count


def of_process(device: str) -> Memory:
    """Return the memory figures of this process and its machine."""
    used = _number("/proc/self/status", "VmRSS")
    return Memory(device, used, used, _number("/proc/meminfo", "MemAvailable"), physical())


def _number(path: str, name: str) -> int | None:
    """Return a line "name: 123 kB" of one of Linux's tables, in bytes."""
    try:
        lines = Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


@cache
def physical() -> int | None:
    """Return how much memory the machine has; None if that is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows lacks the function, other systems some names
        return None
