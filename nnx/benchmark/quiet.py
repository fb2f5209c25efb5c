"""Load of the machine by other processes: a benchmark waits for a quiet moment, and reports how quiet it was."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
QUIET = 0.1  # share of the processors' time that others may take
GLANCE = 0.05  # seconds


@dataclass
class Times:
    """The times of all processors so far, in seconds of one: total, used by processes here, used by other machines."""

    total: float
    busy: float
    stolen: float

    def __sub__(self, earlier: Times) -> Times:
        return Times(self.total - earlier.total, self.busy - earlier.busy, self.stolen - earlier.stolen)


def now() -> Times | None:
    """Return the processors' times; None if the system doesn't give them in this form."""
    try:
        fields = STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        user, nice, system, idle, wait, irq, soft, steal = map(float, fields)
    except (OSError, ValueError):
        return None
    tick = os.sysconf("SC_CLK_TCK")
    busy = user + nice + system + irq + soft
    return Times((busy + idle + wait + steal) / tick, busy / tick, steal / tick)


class Watch:
    """Watches the load during a run.

    Attributes:
        waited: seconds spent waiting for a quiet moment.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self._glances: list[float] = []
        self._start = now()
        self._begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        """The number of seconds it has watched."""
        return time.perf_counter() - self._begin

    def wait(self, patience: float) -> float:
        """Wait until others don't use the processors, or for `patience` seconds; return the number of seconds.

        Call it while no player runs.
        """
        begin = time.perf_counter()
        while True:
            before = now()
            time.sleep(GLANCE)
            after = now()
            if before is None or after is None:
                return 0.0
            passed = after - before
            taken = (passed.busy + passed.stolen) / passed.total if passed.total else 0.0
            if taken <= QUIET or time.perf_counter() - begin > patience:
                break
        self._glances.append(taken)
        waited = max(0.0, time.perf_counter() - begin - GLANCE)
        self.waited += waited
        return waited

    def report(self) -> dict[str, float | None]:
        """Return how quiet it was: the load by others while no player ran, and what other machines took in all."""
        end = now()
        whole = end - self._start if end and self._start else None
        return {
            "waited_s": round(self.waited, 2),
            "others": round(sum(self._glances) / len(self._glances), 3) if self._glances else None,
            "stolen": round(whole.stolen / whole.total, 4) if whole and whole.total else None,
        }
