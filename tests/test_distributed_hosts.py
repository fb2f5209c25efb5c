"""Training on two machines, which are two network namespaces of this one: all that they share is a link."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks

import nnx

MPIEXEC = Path(sys.executable).parent / "mpiexec"
SECONDS = 600
ADDRESSES = "10.77.0.1", "10.77.0.2"

if util.find_spec("mpi4py") is None or not MPIEXEC.exists():
    pytest.skip('needs mpi4py and its mpiexec: pip install "nnx-backends[mpi]"', allow_module_level=True)


def run(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=SECONDS, check=False, **more)


@dataclass
class Hosts:
    """Two machines.

    Attributes:
        first, second: a process on each. folder: of the script by which the first starts processes on the second.
    """

    first: int
    second: int
    folder: Path

    def job(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program of ranks.py, a process on each machine."""
        other = self.folder / "other.sh"
        words = [MPIEXEC, "-launcher", "ssh", "-launcher-exec", other, "-iface", "eth0", "-hosts", ",".join(ADDRESSES)]
        line = shlex.join(map(str, [*words, "-n", 2, sys.executable, ranks.__file__, *arguments]))
        environment = {**os.environ, "UCX_NET_DEVICES": "eth0", "UCX_TLS": "tcp,self", "NNX_THREADS": "1", **variables}
        on_first = ["nsenter", "-n", "-u", "-t", self.first, "unshare", "--mount", "--ipc", "sh", "-c"]
        return run(*on_first, f"mount -t sysfs sysfs /sys; exec {line}", env=environment)

    def sent(self) -> int:
        """How many bytes the first machine has sent over the link."""
        counted = run("nsenter", "-n", "-t", self.first, "ip", "-s", "link", "show", "eth0").stdout.splitlines()
        return int(counted[-1].split()[0])


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two namespaces with a link between them; skipped where this process may not make them."""
    sleepers = [
        subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-c", f"hostname {name} && echo ready && exec sleep {SECONDS}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for name in ("nnx-a", "nnx-b")
    ]  # fmt: skip
    try:
        if any(sleeper.stdout is None or sleeper.stdout.readline() != b"ready\n" for sleeper in sleepers):
            pytest.skip("may not make network namespaces: needs CAP_SYS_ADMIN")
        first, second = (sleeper.pid for sleeper in sleepers)
        made = run("ip", "link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second)
        for pid, address in zip((first, second), ADDRESSES, strict=True):
            on = f"ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip link set lo up"
            made = made if made.returncode else run("nsenter", "-n", "-t", pid, "sh", "-c", on)
        made = made if made.returncode else run("unshare", "--net", "--mount", "mount", "-t", "sysfs", "sysfs", "/sys")
        if made.returncode:
            pytest.skip(f"may not make a link between network namespaces: {made.stderr.strip()}")
        up = "until ip link show eth0 | grep -q 'state UP'; do sleep 0.05; done"
        for pid in (first, second):  # it takes a moment, in which MPI finds no network
            run("nsenter", "-n", "-t", pid, "sh", "-c", up)
        script = tmp_path / "other.sh"
        inside = "unshare --mount --ipc --pid --fork --mount-proc --kill-child"
        script.write_text(
            '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nshift\n'  # options, and the address
            f'exec nsenter -n -u -t {second} {inside} sh -c "mount -t sysfs sysfs /sys; exec $*"\n'
        )
        script.chmod(0o755)
        yield Hosts(first, second, tmp_path)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.communicate()


def test_two_machines_train_as_one_process_does_and_end_when_their_link_goes(hosts: Hosts, tmp_path: Path):
    out, folder, before = tmp_path / "out.npz", tmp_path / "samples", hosts.sent()
    ranks.write(folder)
    done = hosts.job("agree", out, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    alone = ranks.trainings(str(folder))
    with np.load(out) as found:
        for name, wanted in alone.items():
            if name.startswith("exact"):
                assert np.array_equal(found[name], wanted), name
            else:
                np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-12, err_msg=name)
    gradients = ranks.network().flat.size * 8
    assert hosts.sent() - before > 500 * gradients  # nothing went by shared memory

    path = tmp_path / "m.safetensors"
    done = hosts.job("fail", "link", path, NNX_STALL="2")
    assert done.returncode != 0
    assert "on nnx-b) does not answer: stopped, or its machine or link is gone" in done.stderr
    assert nnx.load(path, backend="numpy").epochs_done == ranks.STEP
