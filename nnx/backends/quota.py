"""The CPU quota of a container: how much CPU time Linux's control groups (cgroups) allow it, in CPUs.

A process belongs to one group in each hierarchy of groups; all groups above that one limit it too. Version 2 of cgroups
has one hierarchy, with quota and period in the file `cpu.max`; version 1 has a hierarchy for CPU time, with a file for
each of the two. Both versions may be mounted.
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
    """Return how many CPUs' time this process may take, rounded up; None: there is no quota. It is read once."""
    return find()


def find(process: Path = OWN) -> int | None:
    """Return the quota of a process, rounded up to whole CPUs, given its folder in /proc; None: there is none."""
    found = [_limit(folder) for group in _groups(process) for folder in group]
    return min((math.ceil(limit) for limit in found if limit is not None), default=None)


def _groups(process: Path) -> Iterator[list[Path]]:
    """Yield the folders of a group and of those above it, as far as they are mounted, for each hierarchy."""
    mounts = [line.split() for line in _read(process / "mountinfo").splitlines()]
    for line in _read(process / "cgroup").splitlines():
        number, controllers, path = (line.split(":", 2) + 3 * [""])[:3]  # lines of another form are skipped
        for root, top, *_, kind, _source, options in mounts and (mount[3:] for mount in mounts if len(mount) > 8):
            version_2 = number == "0" and kind == "cgroup2"
            version_1 = kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options.split(",")
            if version_1 or version_2:
                yield _upwards(Path(top.replace("\\040", " ")), PurePosixPath(path), root)


def _upwards(top: Path, path: PurePosixPath, root: str) -> list[Path]:
    """Return the folder of the group at `path`, then those above it; `top` is the folder where `root` is mounted."""
    inside = path.relative_to(root) if path.is_relative_to(root) and ".." not in path.parts else PurePosixPath()
    return [top / inside, *(top / above for above in inside.parents)]


def _limit(folder: Path) -> float | None:
    """Return the quota of one group in CPUs; None where it has none."""
    with suppress(ValueError, IndexError, ZeroDivisionError):  # "max" means no limit
        texts = _read(folder / "cpu.max").split()
        if not texts:
            texts = [_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        amount = int(texts[0]) / int(texts[1])
        return amount if amount > 0 else None  # -1, in version 1, means no limit
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
