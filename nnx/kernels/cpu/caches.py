"""Cache sizes of this machine's processor, from which block sizes and thresholds derive.

Linux tells them in /sys, macOS by `sysctl`; where neither does (Windows, some containers and virtual machines) they are
taken to be those of a small core, for which blocks fit everywhere. Sizes are of one core: of a cache that cores share,
the share of each. The first processor stands for all, so that a process finds the same wherever it runs.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

KIB = 1 << 10
FIRST = Path("/sys/devices/system/cpu/cpu0")
UNITS = {"K": KIB, "M": KIB**2, "G": KIB**3}


class Caches(NamedTuple):
    """Bytes that one core has of each level of cache.

    Attributes:
        l1: for data, first level. l2: second level. l3: third level; where there is none, what there is of the second.
    """

    l1: int
    l2: int
    l3: int


SMALL = Caches(32 * KIB, 256 * KIB, 1024 * KIB)


@cache
def caches() -> Caches:
    """Return the sizes of this machine's caches, as found first."""
    found = from_sysctl() if sys.platform == "darwin" else from_sys(FIRST)
    return sensible(found)


def sensible(found: dict[int, int]) -> Caches:
    """Return the sizes for each level found; those of a small core for a level that is not told, or can't be so."""
    l1, l2, l3 = (found.get(level, 0) for level in (1, 2, 3))
    l1 = l1 if 8 * KIB <= l1 <= KIB**2 else SMALL.l1
    l2 = l2 if l1 < l2 <= 1024 * KIB**2 else max(SMALL.l2, 2 * l1)
    if not found:
        return Caches(l1, l2, SMALL.l3)
    return Caches(l1, l2, max(l3, l2))


def from_sys(processor: Path) -> dict[int, int]:
    """Read a processor's caches from its folder in Linux's /sys: bytes of one core, by level."""
    found = {}
    with suppress(OSError, ValueError, IndexError, KeyError):
        threads = max(1, count(text(processor / "topology" / "thread_siblings_list")))
        for folder in sorted((processor / "cache").glob("index[0-9]*")):
            if text(folder / "type") == "Instruction":
                continue
            size = text(folder / "size")
            whole = int(size[:-1]) * UNITS[size[-1]] if size[-1] in UNITS else int(size)
            cores = max(1, count(text(folder / "shared_cpu_list")) // threads)
            found[int(text(folder / "level"))] = whole // cores
    return found


def from_sysctl() -> dict[int, int]:
    """Ask macOS: bytes of one core, by level; of Apple's own processors those of a fast one, which has no third."""
    fast = sysctl("hw.perflevel0.l2cachesize") > 0
    here = "hw.perflevel0." if fast else "hw."
    cores = {2: sysctl(f"{here}cpusperl2") if fast else 1, 3: sysctl("hw.physicalcpu")}
    names = {1: "l1dcachesize", 2: "l2cachesize", 3: "l3cachesize"}
    found = {level: sysctl(f"{here}{name}") // max(1, cores.get(level, 1)) for level, name in names.items()}
    return {level: size for level, size in found.items() if size}


def sysctl(name: str) -> int:
    """Return one of macOS's numbers; 0 where it has none of that name."""
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    with suppress(OSError, AttributeError):
        ask = ctypes.CDLL(None).sysctlbyname
        if ask(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
            return value.value  # the machine is little-endian: four bytes will do as well as eight
    return 0


def text(file: Path) -> str:
    """Return what one of the system's small files says."""
    return file.read_text(encoding="ascii").strip()


def count(processors: str) -> int:
    """Count a list such as 0-3,8."""
    ends = [part.partition("-") for part in processors.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)
