"""Worker processes of the players: started in the same way, and suspended while others are measured."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from nnx.benchmark.libraries import Player

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NNX_THREADS", "NUMBA_NUM_THREADS")
# What it calls precisions.
JAX = {"full": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16", "bf16x3": "BF16_BF16_F32_X3"}
PATIENCE = 600.0  # seconds for any answer


class Process:
    """One player's process.

    Attributes:
        player: the player. log: the file of its printed output. failed: whether an answer was an error.
    """

    def __init__(self, player: Player, threads: int, precision: str = "full") -> None:
        self.player, self.log = player, _unnamed_file()
        self._given = threads, precision
        self.failed = False
        mine = player.threads or threads
        with _bound_to(mine if player.device == "cpu" else None):
            self.process = subprocess.Popen(
            [sys.executable, "-m", "nnx.benchmark.worker", json.dumps(asdict(player))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, encoding="utf-8",
            env=environment(player, mine, precision), start_new_session=True,
        )  # fmt: skip

    def ask(self, patience: float = PATIENCE, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer."""
        self.send(**order)
        return self.answer(patience)

    def send(self, **order: Any) -> None:
        """Give an order."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is gone, or closed: the answer will tell
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    def answer(
        self, patience: float = PATIENCE, waiting: Callable[[float], None] = lambda seconds: None
    ) -> dict[str, Any]:
        """Wait for the answer to the last order; an error is an answer too, "refused".

        Args:
            waiting: called once a second with the number of seconds waited so far.
        """
        reply = self._answer(patience, waiting)
        self.failed = self.failed or "refused" in reply
        return reply

    def fresh(self) -> Process:
        """Return this process, or a new one after an error, since a GPU does not recover within a process."""
        if not self.failed:
            return self
        self.close()
        return Process(self.player, *self._given)

    def _answer(self, patience: float, waiting: Callable[[float], None]) -> dict[str, Any]:
        assert self.process.stdout is not None
        begin = time.monotonic()
        try:
            while hasattr(select, "poll"):
                left = begin + patience - time.monotonic()
                if select.select([self.process.stdout], [], [], max(0.0, min(1.0, left)))[0]:
                    break
                if left <= 0:
                    self.close()
                    return {"refused": f"no answer within {patience:.0f} s"}
                waiting(time.monotonic() - begin)
            line = self.process.stdout.readline()
        except (OSError, ValueError) as error:
            return {"refused": f"its process is gone: {error}. {self.last_words()}"}
        return dict(json.loads(line)) if line else {"refused": f"its process ended. {self.last_words()}"}

    def pause(self) -> None:
        """Suspend the process, including threads that wait for work, so that it doesn't disturb others."""
        if sys.platform == "linux":  # elsewhere it would stay there, stopped, if this process were killed
            self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let the process run again."""
        if sys.platform == "linux":
            self._signal(signal.SIGCONT)

    def last_words(self) -> str:
        """Return the end of its printed output."""
        if self.log.closed:
            return ""
        self.log.seek(0)
        return " ".join(self.log.read().decode(errors="replace").split())[-300:]

    def close(self) -> None:
        """End the process."""
        self.go_on()
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):
            self.process.send_signal(number)


def _unnamed_file() -> IO[bytes]:
    return tempfile.TemporaryFile()


def environment(player: Player, threads: int, precision: str = "full") -> dict[str, str]:
    """Return environment variables that give every library the same number of threads and the same precision."""
    platform = {"JAX_PLATFORMS": "cpu"} if player.device == "cpu" else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {
        **os.environ, **dict.fromkeys(VARIABLES, str(threads)), **platform, "NNX_PRECISION": precision,
        "JAX_DEFAULT_MATMUL_PRECISION": JAX[precision],  # its own choice would be TF32
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        **player.environment,
    }  # fmt: skip


@contextlib.contextmanager
def _bound_to(threads: int | None) -> Iterator[None]:
    """Start processes within the block on this number of cores: JAX uses as many threads as it sees cores."""
    if threads is None or not hasattr(os, "sched_getaffinity"):
        yield
        return
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)
