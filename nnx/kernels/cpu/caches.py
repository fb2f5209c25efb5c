"""Cache sizes of this machine's processor, from which block sizes and thresholds are derived.

They are read from /sys on Linux, and by `sysctl` on macOS. If they are not known (Windows, some containers and virtual
machines), those of a small core are assumed, so that blocks fit everywhere. Sizes are those of one core; of a shared
cache, the core's share. The first processor stands for all, so that a process finds the same sizes wherever it runs.
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
    """The cache sizes of one core, in bytes.

    Attributes:
        l1: of the first level, for data. l2: of the second level. l3: of the third level; if there is none, l2.
    """

    l1: int
    l2: int
    l3: int


SMALL = Caches(32 * KIB, 256 * KIB, 1024 * KIB)


@cache
def caches() -> Caches:
    """Return the sizes of this machine's caches, which are read once."""
    found = from_sysctl() if sys.platform == "darwin" else from_sys(FIRST)
    return sensible(found)


def sensible(found: dict[int, int]) -> Caches:
    """Return the sizes found for each level; for a level without one, or an impossible one, that of a small core."""
    l1, l2, l3 = (found.get(level, 0) for level in (1, 2, 3))
    l1 = l1 if 8 * KIB <= l1 <= KIB**2 else SMALL.l1
    l2 = l2 if l1 < l2 <= 1024 * KIB**2 else max(SMALL.l2, 2 * l1)
    if not found:
        return Caches(l1, l2, SMALL.l3)
    return Caches(l1, l2, max(l3, l2))


def from_sys(processor: Path) -> dict[int, int]:
    """Return a processor's cache sizes from its folder in Linux's /sys: bytes of one core, by level."""
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
    """Return the cache sizes on macOS: bytes of one core, by level; for Apple's processors, of a fast core."""
    fast = sysctl("hw.perflevel0.l2cachesize") > 0
    here = "hw.perflevel0." if fast else "hw."
    cores = {2: sysctl(f"{here}cpusperl2") if fast else 1, 3: sysctl("hw.physicalcpu")}
    names = {1: "l1dcachesize", 2: "l2cachesize", 3: "l3cachesize"}
    found = {level: sysctl(f"{here}{name}") // max(1, cores.get(level, 1)) for level, name in names.items()}
    return {level: size for level, size in found.items() if size}


def sysctl(name: str) -> int:
    """Return one of macOS's system values; 0 if there is none of that name."""
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    with suppress(OSError, AttributeError):
        ask = ctypes.CDLL(None).sysctlbyname
        if ask(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
            return value.value  # right for values of four bytes too, since the machine is little-endian
    return 0


def text(file: Path) -> str:
    """Return the text in one of the system's small files."""
    return file.read_text(encoding="ascii").strip()


def count(processors: str) -> int:
    """Return how many processors a list such as 0-3,8 has."""
    ends = [part.partition("-") for part in processors.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)
