"""CPU quota of a container: how much CPU time Linux's control groups let it have, in CPUs.

A process is in a group of each hierarchy, and every group above it limits it too. Version 2 has one hierarchy, and
quota and period in `cpu.max`; version 1 has one for CPU time, with a file for each. Both may be mounted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

OWN = Path("/proc/self")


@cache
def quota() -> int | None:
    """Return how many CPUs' time this process may take, rounded up, as found first; None: there is no quota."""
    return find()


def find(process: Path = OWN) -> int | None:
    """Look for the quota of a process, given its folder in /proc."""
    found = [_limit(folder) for group in _groups(process) for folder in group]
    return min((math.ceil(limit) for limit in found if limit is not None), default=None)


def _groups(process: Path) -> Iterator[list[Path]]:
    """Yield the folders of a group and of those above it, as far as they are mounted, for each hierarchy."""
    mounts = [line.split() for line in _read(process / "mountinfo").splitlines()]
    for line in _read(process / "cgroup").splitlines():
        number, controllers, path = (line.split(":", 2) + 3 * [""])[:3]  # what looks otherwise names no group
        for root, top, *_, kind, _source, options in mounts and (mount[3:] for mount in mounts if len(mount) > 8):
            version_2 = number == "0" and kind == "cgroup2"
            version_1 = kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options.split(",")
            if version_1 or version_2:
                yield _upwards(Path(top.replace("\\040", " ")), PurePosixPath(path), root)


def _upwards(top: Path, path: PurePosixPath, root: str) -> list[Path]:
    """Return the folder of the group at `path`, then those above it, where what is mounted at `top` is group `root`."""
    inside = path.relative_to(root) if path.is_relative_to(root) and ".." not in path.parts else PurePosixPath()
    return [top / inside, *(top / above for above in inside.parents)]


def _limit(folder: Path) -> float | None:
    """Return the quota of one group in CPUs; None where it has none."""
    with suppress(ValueError, IndexError, ZeroDivisionError):  # "max": as much as there is
        texts = _read(folder / "cpu.max").split()
        if not texts:
            texts = [_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        amount = int(texts[0]) / int(texts[1])
        return amount if amount > 0 else None  # -1, in version 1: as much as there is
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
