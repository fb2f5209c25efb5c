"""Choices of cuBLASLt's algorithms, kept in a file: for each product, the proposal that was fastest when timed.

Algorithms sum in different orders, and which one is faster may be a matter of chance. So that a program gives the same
bits in every run on a machine, a choice is made only once: it takes effect when it has been written to the file, and if
that is not possible, no choice is made. A choice is a line, appended at once. Of two lines for the same product the
first counts, so that processes which time it at the same moment agree. Damaged lines, and those of other machines, are
ignored.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path

MOST = 1 << 20  # bytes of the file, some thousand choices; nothing is read from or added to a larger one
SHOWN = 16  # `info()` shows so many of the last choices


@dataclass(frozen=True)
class Choice:
    """The choice for a product.

    Attributes:
        taken: the index of a proposal; the number of all proposals stands for another way, a plain product and column
            sums by nnx's own kernel.
        algorithm: the fingerprint of that proposal.
        seconds: its time. first: the time of the first proposal; None if that failed.
    """

    taken: int
    algorithm: int
    seconds: float
    first: float | None

    def words(self, product: str, of: int) -> str:
        """Return it in words."""
        taken = "a plain product and nnx's column sums" if self.taken == of else f"number {self.taken + 1}"
        first = "failed" if self.first is None else f"takes {self.first * 1e6:.1f}"
        return f"{product}: {taken} of cuBLASLt's {of}, {self.seconds * 1e6:.1f} us; its first {first}"


class Choices:
    """The choices for one kind of GPU, driver and cuBLASLt.

    Args:
        machine: GPU, driver and cuBLASLt in words; choices are valid only for these.
        folder: the folder of the file; None: nothing is kept on disk.

    Attributes:
        reason: why no choice can be kept, or None.
    """

    def __init__(self, machine: str, folder: Path | None) -> None:
        self.machine = machine
        self.file = (folder or Path()) / f"nnx-products-{zlib.crc32(machine.encode()):08x}.jsonl"
        self.reason = None if folder else "CuPy keeps compiled kernels in memory alone"
        self._kept: dict[tuple[str, int], Choice] | None = None
        self._used: dict[tuple[str, int], Choice] = {}
        self._process = os.getpid()

    def get(self, product: str, of: int) -> Choice | None:
        """Return the choice for a product with so many proposals; None if there is none."""
        kept = self._kept
        if kept is None:
            kept = self._kept = self._read()
        found = kept.get((product, of))
        if found is not None:
            self._used[product, of] = found
        return found

    def ready(self) -> bool:
        """Return whether a choice could be kept now; `reason` says why not. A forked child has no GPU to time on."""
        if self.reason is None and os.getpid() == self._process:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._append(b"")
            except OSError as error:
                self.reason = f"{error.strerror or error}: {self.file}"
        return self.reason is None and os.getpid() == self._process

    def keep(self, product: str, of: int, choice: Choice) -> Choice | None:
        """Keep a choice; return the valid one, which may be another process's. None: it could not be kept."""
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
        """Return in words where choices are kept, and those used in this process, at most so many."""
        if self.reason is not None:
            rule = f"those that it names first but where one is kept, because no choice can be kept ({self.reason})"
        else:
            rule = f"the fastest that it names, timed once and kept in {self.file}; NNX_TUNE=off for its first"
        lines = [choice.words(*key) for key, choice in list(self._used.items())]
        more = [f"and {len(lines) - most} products before"] if len(lines) > most else []
        return [f"cuBLASLt's algorithms in graphs: {rule}", *lines[-most:], *more]

    def _append(self, line: bytes) -> None:
        """Write to the end of the file, creating it if need be.

        Raises:
            OSError: it cannot be written, is not a regular file, or is full.
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
        """Return the file's choices for this machine; none if it cannot be read."""
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
            except (ValueError, TypeError, OverflowError, RecursionError):  # an incomplete line, or of another kind
                continue
        return found
