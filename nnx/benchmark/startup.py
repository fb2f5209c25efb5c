"""Startup time: the time to import nnx, to the first training steps (compiled before or not), and to those of the next.

Each figure is that of a whole process, either with the caches of daily use, or with empty ones in a temporary folder;
or that of a second network in such a process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict

from nnx.benchmark.libraries import Player
from nnx.benchmark.processes import ROOT, environment
from nnx.benchmark.workloads import Workload

IMPORTS = {"nnx": "nnx", "notes": "numpy", "torch": "torch", "jax": "jax, jax.numpy",
           "sklearn": "sklearn.neural_network", "thinc": "thinc.api"}  # fmt: skip
# The time of imports that only the benchmark needs is measured and subtracted.
FIRST_STEP = """
import {package}, json, sys, time
begin = time.perf_counter()
from nnx.benchmark.libraries import Player
from nnx.benchmark.workloads import every
player, workload = Player(**json.loads(sys.argv[1])), next(w for w in every() if w.kind == "step")
print(time.perf_counter() - begin)
player.prepare(workload)
"""
NEXT_STEP = f"""{FIRST_STEP}
begin = time.perf_counter()
player.prepare(workload)
print(time.perf_counter() - begin)
"""
CACHES = ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUPY_CACHE_DIR", "TRITON_CACHE_DIR")


def seconds(workload: Workload, player: Player, threads: int) -> float:
    """Run a process and return how long it took, or the part of the time that is asked for.

    Raises:
        RuntimeError: it failed; the message has the end of its output.
    """
    package = IMPORTS[player.module]
    importing, warm = workload.kind == "start import", workload.kind == "start next step"
    steps = (NEXT_STEP if warm else FIRST_STEP).format(package="nnx" if player.ours else "numpy")
    script = f"import {package}" if importing else steps
    with tempfile.TemporaryDirectory() as folder:
        given = environment(player, player.threads or threads)
        if workload.kind == "start cold first step":
            given |= dict.fromkeys(CACHES, folder)
        command = [sys.executable, "-c", script, json.dumps(asdict(player))]
        begin = time.perf_counter()
        done = subprocess.run(command, env=given, capture_output=True, text=True, cwd=ROOT, check=False)
        took = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.split())[-300:])
    if warm:
        return float(done.stdout.split()[-1])
    return took if importing else took - float(done.stdout.split()[0])
