"""Selection of the players: those that were asked for and work here, and for the others the reason why they don't."""

from __future__ import annotations

from collections.abc import Sequence

from nnx.backends import available, get_backend
from nnx.benchmark.libraries import GROUPS, ON_GPU, PEERS, SLOW, Player, installed, of_backend
from nnx.errors import BackendUnavailable, InputError

PEERS_EXTRA = 'pip install "nnx-backends[bench]"'
REMEDIES = {"torch": "pip install torch", "jax": "pip install jax"}  # large: no extra brings them


def select(
    backends: Sequence[str] | None, peers: Sequence[str] | None, threads: int, quick: bool
) -> tuple[list[Player], dict[str, str]]:
    """Return the players and, by name, why others are missing.

    Args:
        backends: names, such as "numba" or "cupy:1"; None: all that work.
        peers: groups of PEERS; None: all that are installed, but in a quick run none that are slow to prepare.

    Raises:
        InputError: a name is unknown. BackendUnavailable: none of the backends asked for works.
    """
    for peer in peers or ():
        if peer not in GROUPS:
            raise InputError(f"--peers: there is no {peer!r}; known are {', '.join(GROUPS)}, and none")
    players, absent, reasons = [], {}, []
    for name in backends or list(available()):
        try:
            get_backend(name)
            players += of_backend(name, threads)
        except BackendUnavailable as reason:
            absent[f"nnx {name}"] = f"{reason.reason}. {reason.remedy}"
            reasons.append(reason)
    if not players:
        raise reasons[0]
    on_gpu = any(player.device == "cuda" for player in players)
    for player in [*PEERS, *(ON_GPU if on_gpu else ())]:
        wanted = player.group in peers if peers is not None else True
        if not wanted:
            continue
        if not installed(player):
            absent[player.group] = f"not installed: {REMEDIES.get(player.group, PEERS_EXTRA)}"
        elif peers is None and quick and player.name in SLOW:
            absent[player.name] = "takes too long to get ready for a quick run; --peers has it"
        else:
            players.append(player)
    return players, absent
