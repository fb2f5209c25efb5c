"""Witness: a small process on each machine, outside the job, that reports which rank was killed from outside.

The job's own processes cannot, because the launcher kills them all within milliseconds, and itself names only a process
number. The witness runs this file by itself, without the package: `python witness.py "rank 0 of 2 (...)" PID ...`.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys

HOW = "is gone: it was killed from outside, as is done where memory runs out"
SO = "The job is ended; what was saved is whole, and --resume goes on from it"


def start(names: dict[str, int]) -> subprocess.Popen[bytes] | None:
    """Start the witness of some processes, given by name; return None if the system has no means for it."""
    if not hasattr(os, "pidfd_open"):
        return None
    arguments = [text for name, pid in names.items() for text in (name, str(pid))]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def watch(names: dict[str, int]) -> None:
    """Wait until the first process ends, and print its name."""
    by_handle = {os.pidfd_open(pid): name for name, pid in names.items()}
    poll = select.poll()
    for handle in by_handle:
        poll.register(handle, select.POLLIN)
    gone = [by_handle[handle] for handle, _ in poll.poll()]
    sys.stderr.write(f"nnx.distributed: {', '.join(gone)} {HOW}. {SO}\n")


if __name__ == "__main__":
    watch({name: int(pid) for name, pid in zip(sys.argv[1::2], sys.argv[2::2], strict=True)})
