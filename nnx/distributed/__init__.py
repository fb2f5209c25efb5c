"""Data-parallel training: several processes, started by mpiexec, train one model, with the result of one process.

    comm = nnx.distributed.init()  # the one line that a script needs; then `mpiexec -n 4 python script.py`

Each process runs the whole script, with the same model and the same samples. In `fit` and `steps` it takes its share of
each batch (from files it reads only that share), and gradients are summed over all processes. Only rank 0 prints, draws
and writes files. docs/distributed.md describes the rest.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nnx.backends import threads
from nnx.backends.environment import flag
from nnx.distributed.communicator import Communicator
from nnx.distributed.launcher import Launcher, found
from nnx.errors import InputError, MissingExtra
from nnx.kernels.user_warnings import warn_once

__all__ = ["Communicator", "current", "init"]

STALL = "NNX_STALL"
SECONDS = 300.0  # a process waits so long for the others, unless another time is given
_current = Communicator()
_looked = False  # whether it has been determined if this process is one of several


def init(stall: float | None = None) -> Communicator:
    """From now on train together with the other processes that mpiexec started; return their communicator.

    If this process was started alone, it stays alone, so the same script runs either way. Calling it again has no
    effect.

    Args:
        stall: seconds for which a process waits for the others before the whole job is ended; None: NNX_STALL, or 300.

    Raises:
        MissingExtra: mpi4py is not installed.
        InputError: mpiexec and mpi4py belong to different MPI libraries, so the processes do not find each other.
    """
    global _current
    launcher = found()
    if launcher is None or launcher.size == 1 or _current.size > 1:
        return _current
    seconds = _seconds(stall)
    _take_gpu(launcher)
    try:
        from mpi4py import MPI
    except ImportError as error:
        if error.name not in ("mpi4py", None):
            raise
        raise MissingExtra("mpi4py", "mpi", f"training in {launcher.size} processes") from error
    if MPI.COMM_WORLD.size == 1:
        raise InputError(mismatch(launcher, MPI.Get_library_version()))
    from nnx.distributed.mpi import MpiCommunicator

    comm = MpiCommunicator(MPI, seconds)
    comm.end_on_exceptions()
    _share_cpus(comm)
    _current = comm
    return comm


def current() -> Communicator:
    """Return the communicator of the processes that train together; before `init`, that of a process alone."""
    return _current


def warn_of_copies() -> None:
    """Warn, once, if there are several processes but `init` was not called, so that each trains its own model."""
    global _looked
    if _looked or _current.size > 1:
        return
    _looked, launcher = True, found()
    if launcher is not None and launcher.size > 1 and not flag("NNX_ALONE"):
        warn_once(
            f"{launcher.name} started {launcher.size} processes, and each of them trains the whole model by itself; "
            "call nnx.distributed.init() first to train one together, or set NNX_ALONE=1 if that is meant",
            "several processes",
        )


def mismatch(launcher: Launcher, library: str) -> str:
    """Return the message on why processes do not find each other, and what to do."""
    beside = Path(sys.executable).parent / "mpiexec"
    use = f"{beside} belongs to it" if beside.exists() else "use the mpiexec of that library"
    return (
        f"{launcher.name} started {launcher.size} processes, but each finds itself alone: mpi4py uses "
        f"{' '.join(library.split()[:3])}, which that launcher does not belong to; {use}"
    )


def _seconds(given: float | None) -> float:
    text = os.environ.get(STALL, "").strip() if given is None else str(given)
    try:
        seconds = float(text) if text else SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"{STALL if given is None else 'init: stall'}={text}: expected seconds, above 0")
    return seconds


def _take_gpu(launcher: Launcher) -> None:
    """Make only one GPU visible to this process, by its local rank, before CUDA is initialised."""
    local = next((os.environ[name] for name in LOCAL_RANKS if name in os.environ), "")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        from nnx.backends.cupy import driver

        gpus = [str(number) for number in range(len(driver.ask().devices))]
    else:
        gpus = [name for name in visible.split(",") if name.strip()]
    if len(gpus) > 1:
        number = int(local) if local.isdecimal() else launcher.rank
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]


LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")


def _share_cpus(comm: Communicator) -> None:
    """Divide this machine's CPUs among its processes, unless a number of threads was set."""
    cpus = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset({-1})
    known = comm.gather((comm.hosts[comm.rank][0], cpus))
    sharing = known.count(known[comm.rank])
    if threads.wish() is None and sharing > 1:
        threads.set_threads(max(1, threads.get_threads() // sharing))
