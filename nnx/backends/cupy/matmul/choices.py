"""Choices of cuBLASLt's algorithms, kept in a file: of a product's proposals the one that was fastest when timed.

Two algorithms add up in different orders, and which one is faster may be a matter of chance. So that the same program
gives the same bits each time that it runs on a machine, a choice is made once: it counts when it has been written, and
where none can be written none is made. A line is a choice and is appended at once; of two for the same product the
first counts, so that processes that time it at the same moment agree. Lines that are damaged, or of another machine,
count for nothing.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

MOST = 1 << 20  # bytes of the file, some thousand choices; in one that is larger no more are looked for or kept
SHOWN = 16  # choices in `info()`: the last ones


@dataclass(frozen=True)
class Choice:
    """A product's choice.

    Attributes:
        taken: the place of a proposal among those that there were; their number stands for none of them, but a plain
            product and column sums by a kernel of nnx's own.
        algorithm: the fingerprint of that proposal.
        seconds: what it took. first: what the first proposal took; None where that failed.
    """

    taken: int
    algorithm: int
    seconds: float
    first: float | None

    def words(self, product: str, of: int) -> str:
        """Return it for people."""
        taken = "a plain product and nnx's column sums" if self.taken == of else f"number {self.taken + 1}"
        first = "failed" if self.first is None else f"takes {self.first * 1e6:.1f}"
        return f"{product}: {taken} of cuBLASLt's {of}, {self.seconds * 1e6:.1f} us; its first {first}"


class Choices:
    """The choices for one kind of GPU, driver and cuBLASLt.

    Args:
        machine: these, in words: what a choice holds for.
        folder: where the file is or is to be; None: nothing is kept on disk.

    Attributes:
        reason: why none can be kept, or None.
    """

    def __init__(self, machine: str, folder: Path | None) -> None:
        self.machine = machine
        self.file = (folder or Path()) / f"nnx-products-{zlib.crc32(machine.encode()):08x}.jsonl"
        self.reason = None if folder else "CuPy keeps compiled kernels in memory alone"
        self._kept: dict[tuple[str, int], Choice] | None = None
        self._used: dict[tuple[str, int], Choice] = {}
        self._process = os.getpid()

    def get(self, product: str, of: int) -> Choice | None:
        """Return the choice that is kept for a product of which there are so many proposals; None if none is."""
        kept = self._kept
        if kept is None:
            kept = self._kept = self._read()
        found = kept.get((product, of))
        if found is not None:
            self._used[product, of] = found
        return found

    def ready(self) -> bool:
        """Tell whether a choice could be kept now; `reason` says why not. A forked child has no GPU to time on."""
        if self.reason is None and os.getpid() == self._process:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._append(b"")
            except OSError as error:
                self.reason = f"{error.strerror or error}: {self.file}"
        return self.reason is None and os.getpid() == self._process

    def keep(self, product: str, of: int, choice: Choice) -> Choice | None:
        """Keep a choice; return what counts, which another process may have been first with. None: it is not kept."""
        times = [None if time is None else round(time, 10) for time in (choice.seconds, choice.first)]
        try:
            self._append(
                f"\n{json.dumps([self.machine, product, of, choice.taken, choice.algorithm, *times])}\n".encode()
            )
        except OSError as error:
            self.reason = f"{error.strerror or error}: {self.file}"
        self._kept = None
        found = self.get(product, of)
        if found is None and self.reason is None:
            self.reason = f"what was written to it cannot be read again: {self.file}"
        return found

    def notes(self, most: int = SHOWN) -> list[str]:
        """Return in words what is kept where, and the choices that were asked for here, at most so many."""
        if self.reason is not None:
            rule = f"those that it names first but where one is kept, because no choice can be kept ({self.reason})"
        else:
            rule = f"the fastest that it names, timed once and kept in {self.file}; NNX_TUNE=off for its first"
        lines = [choice.words(*key) for key, choice in list(self._used.items())]
        more = [f"and {len(lines) - most} products before"] if len(lines) > most else []
        return [f"cuBLASLt's algorithms in graphs: {rule}", *lines[-most:], *more]

    def _append(self, line: bytes) -> None:
        """Write to the end of the file, which is made if need be.

        Raises:
            OSError: it cannot be written to, is no plain file, or is full.
        """
        if self.file.exists():
            found = self.file.stat()
            if not stat.S_ISREG(found.st_mode):
                raise OSError("something else than a file is in its place")
            if found.st_size > MOST:
                raise OSError(f"it holds more than {MOST:,} bytes, and can be removed")
        with self.file.open("ab", buffering=0) as file:
            file.write(line)

    def _read(self) -> dict[tuple[str, int], Choice]:
        """Return what the file has for this machine: nothing where it cannot be read."""
        try:
            if not self.file.is_file():
                return {}
            with self.file.open("rb") as file:
                lines = file.read(2 * MOST).split(b"\n")
        except OSError:
            return {}
        found: dict[tuple[str, int], Choice] = {}
        for line in lines:
            try:
                machine, product, of, taken, algorithm, seconds, first = json.loads(line)
                if machine == self.machine and 0 <= int(taken) <= int(of):
                    times = float(seconds), None if first is None else float(first)
                    choice = Choice(int(taken), int(algorithm), *times)
                    found.setdefault((str(product), int(of)), choice)
            except (ValueError, TypeError, OverflowError, RecursionError):  # half a line, or somebody else's
                continue
        return found
