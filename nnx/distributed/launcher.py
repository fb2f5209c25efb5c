"""Launchers: which program started this process as one of several, recognised by its environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

# Each launcher, the variable with this process's number, and the variable with the number of processes.
KNOWN = (
    ("Open MPI's mpiexec", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPICH's mpiexec", "PMI_RANK", "PMI_SIZE"),
    ("MVAPICH's mpiexec", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM's srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # SLURM_NTASKS is set in a batch script too
)


@dataclass(frozen=True)
class Launcher:
    """The program that started this process.

    Attributes:
        name: of the program. rank: this process's number, from 0 on. size: how many processes there are.
    """

    name: str
    rank: int
    size: int


def found(environment: Mapping[str, str] = os.environ) -> Launcher | None:
    """Return the launcher of this process, or None if it was started alone."""
    for name, rank, size in KNOWN:
        here, all_of_them = environment.get(rank, ""), environment.get(size, "")
        if here.isdecimal() and all_of_them.isdecimal():
            return Launcher(name, int(here), int(all_of_them))
    return None
