"""`make test-cpus`: run what depends on rounding as other processors would compute it.

On an x86-64 machine each processor that this one can stand in for is a line: OpenBLAS is given its kernels, Numba its
vectors and caches, NumPy none of the instructions that it lacks. `python tests/cpus.py Haswell -k dense` runs one, with
arguments for pytest. The exit code is 1 where a processor's tests fail.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SSE = frozenset({"SSE", "SSE2", "SSE3", "SSSE3", "SSE41", "POPCNT", "SSE42", "X86_V2"})
AVX = SSE | {"AVX"}
AVX2 = AVX | {"F16C", "FMA3", "AVX2", "X86_V3"}
AVX512 = AVX2 | {"AVX512F", "AVX512CD", "AVX512_SKX", "X86_V4"}


@dataclass(frozen=True)
class Cpu:
    """A processor: what NumPy may use of it, one of which this machine must have, and how LLVM describes it."""

    numpy: frozenset[str]
    needs: frozenset[str]
    name: str
    features: str
    vector: int  # bytes
    caches: tuple[int, int, int]  # KiB of a core's, by level

    @property
    def numba(self) -> dict[str, str]:
        """The environment that makes Numba compile for it, and nnx believe in its caches."""
        names = {"NUMBA_CPU_NAME": self.name, "NUMBA_CPU_FEATURES": self.features}
        return {**names, PRETENDED: " ".join(map(str, self.caches))}


PRETENDED = "TEST_CACHES"


def pretend(sizes: str) -> None:
    """Let caches have these sizes, in KiB by level."""
    from nnx.kernels.cpu import caches

    found = {level: int(size) * caches.KIB for level, size in enumerate(sizes.split(), 1)}
    caches.from_sys = caches.from_sysctl = lambda *folder: found


if PRETENDED in os.environ:  # in a process that stands in for another processor, before kernels are imported
    pretend(os.environ[PRETENDED])


_V2, _V3 = "+sse4.2,+popcnt", "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt"
CPUS = {  # by the name that OpenBLAS has for its kernels
    # The first has the smallest caches that are believed, in place of 32, 256 and 2048 KiB: all is done in many blocks.
    "Nehalem": Cpu(SSE, frozenset({"SSE42", "X86_V2"}), "nehalem", _V2, 16, (8, 16, 16)),
    "Sandybridge": Cpu(AVX, frozenset({"AVX2", "X86_V3"}), "sandybridge", f"{_V2},+avx", 16, (32, 256, 2560)),
    "Haswell": Cpu(AVX2, frozenset({"AVX2", "X86_V3"}), "haswell", _V3, 32, (32, 256, 2048)),
    "Zen": Cpu(AVX2, frozenset({"AVX2", "X86_V3"}), "znver1", _V3, 32, (32, 512, 2048)),
    "SkylakeX": Cpu(
        AVX512, frozenset({"AVX512_SKX", "X86_V4"}), "skylake-avx512",
        f"{_V3},+avx512f,+avx512cd,+avx512bw,+avx512dq,+avx512vl", 64, (32, 1024, 1408),
    ),
}  # fmt: skip
MOST_WORKERS = 4  # for one of them: each imports and compiles for itself
TAKEN = """
import numpy, scipy.linalg, threadpoolctl
from nnx.kernels.cpu.matmul import register_tile
blas = {library["architecture"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}
print(*sorted(blas), register_tile.vector_bytes())
"""


def extensions() -> tuple[set[str], set[str]]:
    """Return the instructions that NumPy is built to need, and those that it uses because they are here."""
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return set(simd.get("baseline", ())), set(simd.get("found", ()))


def environment(name: str) -> dict[str, str]:
    """Return the environment in which a process computes as that processor does."""
    cpu, more = CPUS[name], {}
    if lacking := sorted(extensions()[1] - cpu.numpy):
        more["NPY_DISABLE_CPU_FEATURES"] = " ".join(lacking)
    return {**os.environ, "OPENBLAS_CORETYPE": name, **cpu.numba, **more}


def fuses_multiply_adds() -> bool:
    """Tell whether the processor can; elsewhere one kernel asks the C library for it and the other rounds twice."""
    from numba.core.registry import cpu_target

    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return "+fma" in features or platform.machine() in ("aarch64", "arm64")


def why_not(name: str) -> str | None:
    """Return why this machine cannot compute as that processor, or None."""
    if not CPUS[name].needs & set.union(*extensions()):
        return "this machine lacks its instructions"
    done = subprocess.run([sys.executable, "-c", TAKEN], env=environment(name), capture_output=True, text=True)
    if done.returncode > 0:  # Python's own exit: nothing that a processor does
        raise RuntimeError(f"{name}: what computes there cannot be asked:\n{done.stderr}")
    if done.returncode:
        return f"a process ends with {done.returncode} there"
    *taken, width = done.stdout.split()
    assert int(width) == CPUS[name].vector, f"{name}: Numba's vectors have {width} bytes"
    return None if taken == [name] else f"OpenBLAS takes other kernels for it ({', '.join(taken)})"


def tests_of(name: str, workers: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run what depends on rounding as that processor would, in so many processes."""
    here = Path(__file__).parent
    others = [path for path in sorted(here.glob("test_*.py")) if "mark.rounding" not in path.read_text("utf-8")]
    ignored = [f"--ignore={path}" for path in others]  # importing them would take longer than choosing none of theirs
    parallel = ["-n", str(workers), "--dist", "loadfile"] if workers > 1 else []
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-m", "rounding", "-p", "no:cacheprovider", *ignored, *parallel,
            *arguments,
        ],
        env=environment(name), cwd=here.parent, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run the tests for the processors named, or for all.

    Several at once, each in one process where there are no more cores than processors: two processes that shared one's
    tests would each compile most of its kernels.
    """
    names = [name for name in arguments if name in CPUS] or list(CPUS)
    more = [argument for argument in arguments if argument not in CPUS]
    here = []
    for name in names:
        if reason := why_not(name):
            print(f"{name:12} left out: {reason}", flush=True)
        else:
            here.append(name)
    if not here:
        print("none of them can be had on this machine: its own kernels are tested by `make test`")
        return 0
    cores, failed = os.cpu_count() or 1, 0
    with ThreadPoolExecutor(min(len(here), cores)) as pool:
        runs = pool.map(lambda name: tests_of(name, min(cores // len(here), MOST_WORKERS), more), here)
        for name, run in zip(here, runs, strict=True):
            lines = run.stdout.splitlines()
            if run.returncode:
                print(run.stdout)
            print(f"{name:12} vectors of {CPUS[name].vector} bytes: {lines[-1] if lines else 'no tests'}", flush=True)
            failed += bool(run.returncode)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
