"""What every test may rely on: the same numbers on every run, whatever the caller's shell says."""

import os
import signal
import sys
from collections.abc import Iterator

# Who waits sleeps, and leaves the cores to other tests, here and in what tests start: OpenBLAS's threads would look for
# more work for some 25 ms after each product, and MPICH's processes for messages all the time, which took most of the
# time of these tests. OpenBLAS reads this when NumPy is imported, as the next line does.
os.environ |= {"OPENBLAS_THREAD_TIMEOUT": "4", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}
import cpus  # noqa: F401  (it lets caches have the sizes of those of another processor, in `make test-cpus`)

# Tests name the backend they mean, and their subprocesses inherit this. Matplotlib draws to files.
for name in [name for name in os.environ if name.startswith("NNX_")]:
    del os.environ[name]
os.environ["NNX_TUNE"] = "off"  # what `nnx warmup` measured on this machine counts for nothing
os.environ["MPLBACKEND"] = "Agg"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has jobs in the background ignore it

import pytest  # noqa: E402  (after the environment is clean)
from hypothesis import settings  # noqa: E402

# No deadline, since no test may depend on how fast the machine is. In CI the examples are the same each time.
settings.register_profile("nnx", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("nnx")


def pytest_runtest_setup() -> None:
    """Have each test lower its steps itself: some change numbers by which that is done."""
    structure = sys.modules.get("nnx.backends.numba.structure")
    if structure is not None:
        structure._templates.clear()


@pytest.fixture(autouse=True, scope="module")
def blas_threads() -> Iterator[None]:
    """Let BLAS take one thread, while nnx takes as many as ever: two processes whose products have two each take ten
    times as long on two cores. A file whose tests are about that has a fixture of this name that leaves it alone."""
    from nnx.backends.threads import blas_alone

    with blas_alone():
        yield


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let kernels take two threads, however many CPUs there are."""
    from nnx.kernels.cpu.threads import pool  # here, because it imports Numba

    before = pool.limit
    pool.set_limit(2)
    yield
    pool.set_limit(before)
