"""Libraries that are measured: nnx's backends, the book's own NumPy, and others where they are installed.

Each module here has one function, `prepare(workload, how, device)`, which runs in a process of the player's own. It
returns a `Ready`, or raises `Absent` where there is nothing to measure, `Refused` where a figure would not be what it
says.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class Absent(Exception):
    """The player has no such thing; the message says why. No figure, and no fault."""


class Refused(Exception):
    """The player would run something else than its name says; the message says what."""


@dataclass
class Ready:
    """A workload, ready to be measured.

    Attributes:
        run: does it so many times; when it returns, it is done.
        results: what it gave at the first time, by name, before anything was measured.
        how: which implementation runs.
        turns: it is done in multiples of this, because so many inputs take turns.
        timed: does it so many times and returns the seconds by the device's own clock; None: the host's clock.
    """

    run: Callable[[int], Any]
    results: Mapping[str, np.ndarray]
    how: str = ""
    turns: int = 1
    timed: Callable[[int], float] | None = None


@dataclass(frozen=True)
class Player:
    """A library in one of its ways to run: what a report has one line for.

    Attributes:
        name: as the table shows it. module: in this folder. how: which of the module's ways.
        group: what it is called on the command line. package: what must be installed, if anything.
        device: "cpu" or "cuda". threads: how many it takes; None: as many as all others.
        suites: where it takes part; empty: everywhere. environment: variables that it alone is given.
    """

    name: str
    module: str
    how: str = ""
    group: str = ""
    package: str = ""
    device: str = "cpu"
    threads: int | None = None
    suites: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether it is nnx."""
        return self.module in ("nnx", "nnx_loop")

    def prepare(self, workload: Any) -> Ready:
        """Get a workload ready, in this process."""
        ready: Ready = self._module().prepare(workload, self.how, self.device)
        return ready

    def held(self) -> int | None:
        """Return how many bytes of the GPU's memory this process has taken; None where that is not known."""
        held: int | None = self._module().held() if self.device == "cuda" else None
        return held

    def _module(self) -> Any:
        return importlib.import_module(f"nnx.benchmark.libraries.{self.module}")


PEERS = (
    Player("notes", "notes", group="notes"),
    Player("torch eager", "torch", "eager", "torch", "torch"),
    Player("torch fused", "torch", "fused", "torch", "torch", suites=("steps", "batch")),
    Player("torch.compile", "torch", "compile", "torch", "torch"),
    Player("torch kernel", "torch", "kernel", "torch", "torch", suites=("softmax",)),
    Player("torch vmap", "torch", "vmap", "torch", "torch", suites=("many",)),
    Player("torch.compile vmap", "torch", "vmap compile", "torch", "torch", suites=("many",)),
    Player("jax jit", "jax", "jit", "jax", "jax"),
    Player("jax scan", "jax", "scan", "jax", "jax", suites=("steps",)),
    Player("jax vmap", "jax", "vmap", "jax", "jax", suites=("many",)),
    Player("jax vmap scan", "jax", "vmap scan", "jax", "jax", suites=("many",)),
    Player("thinc", "thinc", "", "thinc", "thinc", suites=("steps", "inference", "start")),
    Player("scikit-learn", "sklearn", "", "sklearn", "sklearn", suites=("steps", "inference", "start")),
)
ON_GPU = (
    Player("torch eager, GPU", "torch", "eager", "torch", "torch", "cuda"),
    Player("torch.compile, GPU", "torch", "compile", "torch", "torch", "cuda"),
    Player("torch reduce-overhead, GPU", "torch", "reduce-overhead", "torch", "torch", "cuda"),
    Player("jax jit, GPU", "jax", "jit", "jax", "jax", "cuda"),
    Player("jax scan, GPU", "jax", "scan", "jax", "jax", "cuda", suites=("steps",)),
)
NOTES = "notes"  # group of the book's own NumPy, which is nobody's library
GROUPS = tuple(dict.fromkeys(player.group for player in PEERS))
# Not for a quick run, unless asked for.
SLOW = ("torch.compile", "torch.compile vmap", "torch kernel", "thinc", "scikit-learn")


def of_backend(name: str, threads: int) -> list[Player]:
    """Return a backend as a player; of Numba's, a loop where networks are many, and one thread where batches grow."""
    device = "cuda" if name.partition(":")[0] == "cupy" else "cpu"
    players = [Player(f"nnx {name}", "nnx", name, "nnx", device=device)]
    if name == "numba":
        players.append(Player("nnx numba, loop", "nnx_loop", name, "nnx", suites=("many",)))
    if name == "numba" and threads > 1:
        players.append(Player("nnx numba, 1 thread", "nnx", name, "nnx", threads=1, suites=("batch",)))
    return players


def is_other_library(player: Mapping[str, Any]) -> bool:
    """Tell of a player, as a report describes it, whether it is a library other than nnx."""
    return not player.get("ours") and player.get("group") != NOTES


def installed(player: Player) -> bool:
    """Tell whether a player's package is there, without importing it."""
    return not player.package or importlib.util.find_spec(player.package) is not None


def taking_turns(call: Callable[..., Any], operands: Iterable[tuple[Any, ...]]) -> tuple[Callable[[int], None], int]:
    """Return what calls with one tuple of operands after the other, and how many there are."""
    some = list(operands)
    single = [each[0] for each in some] if all(len(each) == 1 for each in some) else None

    def run(times: int) -> None:
        for _ in range(times // len(some)):
            if single is not None:  # a call by a tuple takes 50 ns more
                for x in single:
                    call(x)
            else:
                for each in some:
                    call(*each)

    return run, len(some)


def repeated(call: Callable[[], Any]) -> Callable[[int], None]:
    """Return what calls so many times."""

    def run(times: int) -> None:
        for _ in range(times):
            call()

    return run
