"""Watchdog: a thread that ends the job if a process waits in vain for the others.

MPI waits for ever for a process that is gone, stopped, or busy with something else. So while this process waits, the
thread checks regularly: Is a process on this machine gone? Has one reported that it ended? Has the waiting taken too
long? If so, it asks the other processes by messages of its own, names those that are missing, and ends the job.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nnx.distributed import witness
from nnx.distributed.communicator import Communicator
from nnx.output import Output

LOOK = 0.25  # seconds between two checks
SURE = 1.0  # seconds that this process must have waited before one that ended or is gone counts as missing
ANSWER = 2.0  # seconds in which the others must answer; their watchdogs do, whatever the process is doing
FAILED = 75  # the exit code: EX_TEMPFAIL, since the job may be started again
ASK, WAITING, WORKING, ENDED = range(4)  # the kinds of messages
_EXIT = os._exit


class Watchdog:
    """Watches how long this process waits for the others.

    Args:
        comm: the processes. mpi: mpi4py.MPI. stall: seconds after which waiting counts as vain.

    Attributes:
        waiting: what this process is waiting for, or None. steps: the number of training steps done.
    """

    def __init__(self, comm: Communicator, mpi: Any, stall: float) -> None:
        self.waiting: str | None = None
        self.steps = 0
        self._comm, self._mpi, self._stall, self._pid = comm, mpi, stall, os.getpid()
        self._side = mpi.COMM_WORLD.Dup()
        self._sent: list[Any] = []
        self._ended: set[int] = set()
        self._answers: dict[int, tuple[int, int]] = {}  # by rank: what it is doing, and how many steps it has done
        self._talks = mpi.Query_thread() == mpi.THREAD_MULTIPLE
        self._over, self._lock = False, threading.Lock()
        self._witness: subprocess.Popen[bytes] | None = None
        self._witnesses: list[int | None] = [None] * comm.size
        self._look = min(LOOK, stall / 8)

    def begin(self) -> None:
        """Start the thread, which runs until the end of the process."""
        threading.Thread(target=self._watch, name="nnx watchdog", daemon=True).start()
        comm = self._comm
        if comm.local_rank == 0:
            self._witness = witness.start({comm.name(rank): comm.hosts[rank][1] for rank in comm.neighbours})
        self._witnesses = comm.gather(self._witness and self._witness.pid)
        atexit.register(self._leave)

    def end(self, code: int) -> NoReturn:
        """End all processes of the job."""
        for rank in self._comm.neighbours:
            if (pid := self._witnesses[rank]) is not None:  # it must not report what was reported already
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        sys.stdout.flush()
        sys.stderr.flush()
        threading.Timer(5.0, _EXIT, (code,)).start()  # in case MPI hangs
        self._mpi.COMM_WORLD.Abort(code)
        _EXIT(code)

    # ---- while others are waited for ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        waited, steps, last = 0.0, -1, time.monotonic()
        while not self._over:
            time.sleep(self._look)
            now = time.monotonic()
            # Time in which this process itself was stopped, as batch systems do with whole jobs, does not count.
            passed, last = min(now - last, 4 * self._look), now
            self._listen()
            if self.waiting is None or self.steps != steps:
                waited, steps = 0.0, self.steps
                continue
            waited += passed
            if waited > min(SURE, self._stall / 2):
                self._look_for_missing(waited)

    def _look_for_missing(self, waited: float) -> None:
        gone = [rank for rank in self._neighbours() if state(self._comm.hosts[rank][1]) in (None, "Z", "X")]
        if gone:
            self._fail(waited, f"{self._names(gone)} is gone: it was killed, or ended by os._exit")
        elif self._ended:
            self._fail(waited, f"{self._names(sorted(self._ended))} has ended its program")
        elif waited > self._stall:
            self._fail(waited, self._reasons())

    def _reasons(self) -> str:
        """Ask the others, and return in words which are missing, and why, as far as is known."""
        stopped = [rank for rank in self._neighbours() if state(self._comm.hosts[rank][1]) in ("T", "t")]
        silent, busy = self._silent_and_busy()
        silent = [rank for rank in silent if rank not in stopped]
        told = [f"{self._names(stopped)} is stopped"] if stopped else []
        told += [f"{self._names(silent)} does not answer: stopped, or its machine or link is gone"] if silent else []
        told += [f"{self._names(busy)} is still at something else"] if busy else []
        return "; ".join(told) or "all the others wait too, so they are not at the same call of nnx.distributed"

    def _silent_and_busy(self) -> tuple[list[int], list[int]]:
        others = [rank for rank in range(self._comm.size) if rank != self._comm.rank]
        if not self._talks:
            return [], []
        self._answers.clear()
        for rank in others:
            self._send(rank, ASK)
        end = time.monotonic() + ANSWER
        while time.monotonic() < end and len(self._answers) < len(others):
            time.sleep(self._look / 4)
            self._listen()
        behind = [rank for rank, (at, steps) in self._answers.items() if at == WORKING or steps < self.steps]
        return [rank for rank in others if rank not in self._answers], sorted(behind)

    def _fail(self, waited: float, why: str) -> NoReturn:
        comm = self._comm
        text = (
            f"nnx.distributed: {comm.name(comm.rank)} has waited {waited:.0f} s for {self.waiting or 'the others'}, "
            f"after step {self.steps}: {why}. The job is ended; what was saved is whole, and --resume goes on from it"
        )
        Output(sys.stderr).write(f"{text}\n")
        self.end(FAILED)

    def _neighbours(self) -> list[int]:
        """Return the other ranks of this machine."""
        return [rank for rank in self._comm.neighbours if rank != self._comm.rank]

    def _names(self, ranks: list[int]) -> str:
        return ", ".join(map(self._comm.name, ranks))

    # ---- messages ----------------------------------------------------------------------------------------------------

    def _send(self, rank: int, what: int) -> None:
        if self._talks:
            message = np.array([what, self.steps], np.int64)
            self._sent = [(request, kept) for request, kept in self._sent if not request.Test()]
            self._sent.append((self._side.Isend(message, rank), message))

    def _listen(self) -> None:
        """Receive the messages that have arrived, and answer them."""
        message, status = np.empty(2, np.int64), self._mpi.Status()
        while self._talks and not self._over:
            with self._lock:  # so that the thread that finds a message also receives it
                if not self._side.Iprobe(status=status):
                    return
                rank = status.Get_source()
                self._side.Recv(message, rank)
            if message[0] == ASK:
                self._send(rank, WORKING if self.waiting is None else WAITING)
            elif message[0] == ENDED:
                self._ended.add(rank)
            else:
                self._answers[rank] = int(message[0]), int(message[1])

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """At the end of the process, tell the others so, and wait until all have reached their ends."""
        if os.getpid() != self._pid:  # a forked process takes no part
            return
        together, begun, told, limit = self._side.Ibarrier(), time.monotonic(), False, self._stall
        while not together.Test():
            time.sleep(0.002)
            waited = time.monotonic() - begun
            if not told and waited > SURE / 2:
                told = True
                for rank in range(self._comm.size):
                    if rank != self._comm.rank:
                        self._send(rank, ENDED)
            if waited > limit:  # processes that answer may still be working, as rank 0 on a picture
                limit += self._stall
                silent, _ = self._silent_and_busy()
                if silent and not together.Test():
                    self.waiting = "the others to end"
                    self._fail(waited, self._reasons())
        self._over = True
        if self._witness is not None:
            self._witness.kill()
            self._witness.wait()


def state(pid: int) -> str | None:
    """Return the state of a process on this machine as the kernel's letter; None if it is gone, "?" if unknown."""
    if sys.platform != "linux":
        with suppress(PermissionError):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return None
        return "?"
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
