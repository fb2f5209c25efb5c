"""Whole training steps, and predictions, on a GPU: nnx against PyTorch and JAX. `make gpu` runs it, or by itself:

    python bench/gpu_peers.py [--races NAME ...] [--peers NAME ...] [--rounds 7] [--json FILE]

As in peers.py, each peer is a process of its own with the same weights and batches, all of them first show that they
compute the same losses, and rounds alternate between them. A chunk of steps ends with the GPU's having done them. Races
are in full float32, which PyTorch, JAX and nnx are all told, and the two large ones in TF32 too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
from gpu_predict import PREDICT, jax_predict, nnx_predict, torch_predict
from peers import NETWORKS
from race import CHECKED, Peer, Run, chunk, measure

ROOT = Path(__file__).resolve().parent.parent
NETWORKS["8192x784-512-512-10"] = (8192, (784, 512, 512, 10), "adam", 4)
RACES: dict[str, tuple[str, bool]] = {  # name: network, whether in TF32
    "300x2-64-3": ("300x2-64-3", False),
    "128x784-512-512-10": ("128x784-512-512-10", False),
    "8192x784-512-512-10": ("8192x784-512-512-10", False),
    "8192x784-512-512-10 tf32": ("8192x784-512-512-10", True),
    "512x2048-2048-2048-1000": ("512x2048-2048-2048-1000", False),
    "512x2048-2048-2048-1000 tf32": ("512x2048-2048-2048-1000", True),
}
PREDICTIONS: dict[str, tuple[str, bool]] = {f"predict {case}": (case, False) for case in PREDICT}
PEERS: dict[str, Callable[[str], Run]] = {
    "nnx cupy": lambda name: nnx_predict(name) if name in PREDICT else peers.nnx_peer(name, "cupy", 0),
    "nnx cupy, graph": lambda name: peers.nnx_peer(name, "cupy", 0),  # where "nnx cupy" may be the persistent kernel
    "torch eager": lambda name: torch_peer(name, False),
    "torch.compile": lambda name: torch_peer(name, True),
    "torch.compile reduce-overhead": lambda name: torch_peer(name, True, mode="reduce-overhead"),
    "jax jit": lambda name: jax_peer(name, False),
    "jax scan": lambda name: jax_peer(name, True),
}
PERSISTENT = ("300x2-64-3",)  # races in which a step may be the persistent kernel
DEVICES = {"torch": os.environ.get("BENCH_TORCH", "cuda"), "jax": os.environ.get("BENCH_JAX", "cuda")}
LOSSES = {False: 2e-3, True: 2e-2}  # relative difference that losses may have, without and with TF32
PATIENCE = 150.0  # seconds that a peer may take to be ready, which is compiling


def torch_peer(name: str, compiled: bool, **options: Any) -> Run:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = tf32()
    if name in PREDICT:
        return torch_predict(name, DEVICES["torch"], compiled, **options)
    return peers.torch_peer(name, compiled, torch.get_num_threads(), DEVICES["torch"], **options)


def jax_peer(name: str, scanned: bool) -> Run:
    if name not in PREDICT:
        return peers.jax_peer(name, scanned, 0, DEVICES["jax"])
    if scanned:
        raise ValueError("is for steps alone")
    return jax_predict(name, DEVICES["jax"])


def tf32() -> bool:
    return os.environ.get("NNX_PRECISION") == "tf32"


def peak_bytes(peer: str) -> int | None:
    """Return the most memory that a peer has held on the GPU: what its pool took."""
    if peer.startswith("nnx"):
        import nnx

        return nnx.memory("cupy").held
    if peer.startswith("torch"):
        import torch

        return int(torch.cuda.max_memory_reserved()) if DEVICES["torch"] == "cuda" else None
    import jax

    figures = jax.devices()[0].memory_stats() or {}
    return figures.get("peak_bytes_in_use")


# ---- a peer's process ------------------------------------------------------------------------------------------------


def serve(peer: str) -> None:
    """Answer JSON lines, as race.serve does, and {"peak": true} with bytes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run: Run | None = None
    steps = 1
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if "prepare" in order:
                begin = time.perf_counter()
                run = PEERS[peer](order["prepare"])
                reply: dict[str, Any] = {"losses": run(CHECKED), "ready": time.perf_counter() - begin}
                reply["way"] = getattr(run, "way", None)
                steps = chunk(run)
            elif "peak" in order:
                reply = {"peak": peak_bytes(peer)}
            else:
                assert run is not None
                reply = {"times": measure(run, steps, order["run"])}
        except BaseException as error:
            reply = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


class GpuPeer(Peer):
    """A peer's process, seen from here. It is told to get ready at once, so that all of them do so together."""

    def __init__(self, name: str, network: str, in_tf32: bool) -> None:
        precision = "tensorfloat32" if in_tf32 else "highest"  # JAX's own choice would be TF32
        environment = {
            **os.environ, "NNX_PRECISION": "tf32" if in_tf32 else "full", "JAX_DEFAULT_MATMUL_PRECISION": precision,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1",
            "NNX_PERSISTENT": "0" if name.endswith("graph") else os.environ.get("NNX_PERSISTENT", ""),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prepare": network}) + "\n")
        self.process.stdin.flush()

    def ready(self, until: float) -> dict[str, Any]:
        """Wait for the answer to being told to get ready."""
        import select

        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
            return {"error": "not ready in time"}
        return dict(json.loads(self.process.stdout.readline() or '{"error": "the process ended"}'))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# ---- the race --------------------------------------------------------------------------------------------------------


def race(name: str, names: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Run one network on every peer; return each one's figures, or what went wrong with it."""
    network, in_tf32 = (RACES | PREDICTIONS)[name]
    names = [peer for peer in names if not peer.endswith("graph") or name in PERSISTENT]
    running = [GpuPeer(peer, network, in_tf32) for peer in names]
    results: dict[str, Any] = {}
    until = time.monotonic() + PATIENCE
    try:
        for peer in running:
            results[peer.name] = peer.ready(until)
        check_losses(results, LOSSES[in_tf32])
        running = drop_failed(running, results)
        times: dict[str, list[list[float]]] = {peer.name: [] for peer in running}
        for _ in range(rounds):
            for peer in running:
                reply = peer.ask(run=seconds)
                times[peer.name] += [reply["times"]] if "times" in reply else []
                results[peer.name] |= {"error": reply["error"]} if "error" in reply else {}
            running = drop_failed(running, results)
        for peer in running:
            figures = times[peer.name]
            results[peer.name] |= {
                "median_us": statistics.median(statistics.median(t) for t in figures) * 1e6,
                "best_us": min(map(min, figures)) * 1e6,
                "peak_bytes": peer.ask(peak=True).get("peak"),
            }
    finally:
        for peer in running:
            peer.close()
    return results


def check_losses(results: dict[str, Any], tolerance: float) -> None:
    """Mark each peer whose losses are not those of the first that has any: its time would be that of something else."""
    wanted = next((result["losses"] for result in results.values() if "losses" in result), None)
    for result in results.values():
        if "losses" in result and not np.allclose(result["losses"], wanted, rtol=tolerance):
            result["error"] = f"its losses are {result['losses']}, those of others {wanted}"


def drop_failed(running: list[GpuPeer], results: dict[str, Any]) -> list[GpuPeer]:
    for peer in running:
        if "error" in results[peer.name]:
            peer.process.kill()
            peer.close()
    return [peer for peer in running if "error" not in results[peer.name]]


def markdown(races: dict[str, Any]) -> list[str]:
    """Return a table: the median time of a step or a call, and by how many times nnx is ahead of each."""
    lines = ["| step | " + " | ".join(PEERS) + " |", "|---" * (len(PEERS) + 1) + "|"]
    for name, results in races.items():
        ours = results.get("nnx cupy", {}).get("median_us")
        cells = [cell(results.get(peer, {}), ours) for peer in PEERS]
        what = name if name in PREDICTIONS else f"{name}, {NETWORKS[RACES[name][0]][2]}"
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return lines


def cell(result: dict[str, Any], ours: float | None) -> str:
    if "median_us" not in result:
        return result.get("error", "not run")[:60].replace("|", "/")
    ratio = f", {result['median_us'] / ours:.2f}x" if ours else ""
    memory = f", {result['peak_bytes'] / 2**20:.0f} MiB" if result.get("peak_bytes") else ""
    way = f", {result['way']}" if result.get("way") else ""
    return f"{result['median_us']:.1f} us{ratio}{memory}{way}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = RACES | PREDICTIONS
    parser.add_argument("--races", nargs="+", default=list(everything), choices=everything)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.25, help="of each peer in each round")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    races: dict[str, Any] = {}
    for name in options.races:
        races[name] = race(name, options.peers, options.rounds, options.seconds)
        print("\n".join(markdown({name: races[name]})[2:]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(races, indent=1) + "\n")


if __name__ == "__main__":
    main()
