"""The emulation of CUDA on the CPU sees the faults that it is there to see."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import CpuModule, contraction, missing, run_sanitized, sanitizer

from nnx.kernels.cuda import options

if missing() is not None:
    pytest.skip(str(missing()), allow_module_level=True)

FAULTS = """
extern "C" __global__ void some_threads(float* x) { if (threadIdx.x < 5) __syncthreads(); x[threadIdx.x] = 1; }

extern "C" __global__ void early_return(float* x, int n) {
  if (threadIdx.x >= n) return;
  __syncthreads();
  x[threadIdx.x] = 1;
}

extern "C" __global__ void mixed(float* x) {
  if (threadIdx.x < 40) __syncthreads(); else __syncwarp();
  x[threadIdx.x] = 1;
}

extern "C" __global__ void shuffle_of_the_returned(float* x) {
  if (threadIdx.x == 3) return;
  x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
}

extern "C" __global__ void trapped(float* x) {
  if (threadIdx.x == 40) __trap();
  x[threadIdx.x] = 1;
}

extern "C" __global__ void neighbours(float* x, int wait) {
  __shared__ float shared[64];
  shared[threadIdx.x] = threadIdx.x;
  if (wait) __syncthreads();
  x[threadIdx.x] = shared[(threadIdx.x + 1) % 64];
}

extern "C" __global__ void twice(float* x, int wait) {
  __shared__ float shared[64];
  for (int round = 0; round < 64; round++) {
    shared[threadIdx.x] = round;
    __syncthreads();
    x[threadIdx.x] += shared[(threadIdx.x + 32) % 64] == round;
    if (wait) __syncthreads();
  }
}

extern "C" __global__ void uninitialized(float* x) {
  __shared__ float shared[64];
  x[threadIdx.x] = shared[threadIdx.x];
}

extern "C" __global__ void dynamic(float* x) {
  extern __shared__ float shared[];
  shared[63 - threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = shared[threadIdx.x];
}

extern "C" __global__ void places(int* x, double scale) {
  int number = ((blockIdx.y * gridDim.x + blockIdx.x) * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  x[number] = (int)(scale * number) + __shfl_sync(0xffffffffu, (int)threadIdx.x, 1);
}
"""

NUMBERS = """
extern "C" __global__ void scaled(REAL* x, REAL by) { x[threadIdx.x] *= by; }
extern "C" __global__ void squared_less(REAL* x, const REAL* less) { x[0] = x[0] * x[0] - less[0]; }
"""


@functools.cache
def faults() -> CpuModule:
    return CpuModule.of_text(FAULTS)


def fault(name: str, *arguments: Any, threads: int = 64, **options: Any) -> None:
    faults().kernel(name)((1,), (threads,), arguments, **options)


@pytest.mark.parametrize(
    ("kernel", "arguments", "message"),
    [
        ("some_threads", (), "returned before a __syncthreads"),
        ("early_return", (np.int32(40),), "returned before a __syncthreads"),
        ("mixed", (), "of a block and of a warp"),
        ("shuffle_of_the_returned", (), "names lanes that have returned"),
    ],
)
def test_barriers_that_not_all_reach_are_reported(kernel: str, arguments: tuple[Any, ...], message: str):
    with pytest.raises(RuntimeError, match=message):
        fault(kernel, np.zeros(64, np.float32), *arguments)


def test_a_trap_is_reported_and_the_next_launch_is_a_new_one():
    x = np.zeros(64, np.float32)
    with pytest.raises(RuntimeError, match="a thread met a __trap"):
        fault("trapped", x)
    assert x[40] == 0
    fault("trapped", x, threads=40)
    assert x[:40].all()


def test_a_missing_barrier_shows():
    wanted = (np.arange(64) + 1) % 64
    for wait in (0, 1):
        x = np.zeros(64, np.float32)
        fault("neighbours", x, np.int32(wait))
        assert (x == wanted).all() == bool(wait)


def test_a_missing_barrier_before_writing_again_shows():
    """A warp that runs ahead writes over what another has yet to read."""
    for wait in (0, 1):
        x = np.zeros(64, np.float32)
        fault("twice", x, np.int32(wait))
        assert (x == 64).all() == bool(wait)


def test_shared_memory_is_nan_until_written():
    x = np.zeros(64, np.float32)
    fault("uninitialized", x)
    assert np.isnan(x).all()


def test_dynamic_shared_memory():
    x = np.arange(64, dtype=np.float32)
    fault("dynamic", x, shared_mem=256)
    assert x.tolist() == list(range(63, -1, -1))
    with pytest.raises(RuntimeError, match="227 KiB"):
        fault("dynamic", x, shared_mem=1 << 20)
    with pytest.raises(RuntimeError, match="1024 threads"):
        fault("dynamic", x, threads=2048)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_only_floats_below_the_normal_ones_are_flushed(dtype: str):
    """What is read and what is written, as -ftz=true does; and the host's own are left alone."""
    module = CpuModule.of_text(NUMBERS, options(dtype))
    small = np.finfo(dtype).tiny
    x = np.array([small / 4, small, -small, 4 * small], dtype)
    module.kernel("scaled")((1,), (4,), (x, np.dtype(dtype).type(0.5)))
    wanted = [0, 0, 0, 2 * small] if dtype == "float32" else [small / 8, small / 2, -small / 2, 2 * small]
    assert x.tolist() == np.array(wanted, dtype).tolist()
    assert np.array([small], dtype)[0] / 2 > 0


@pytest.mark.skipif("-mfma" not in contraction(), reason="this CPU rounds a product before it adds")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_product_and_a_sum_are_rounded_once(dtype: str):
    one, step = np.ones(1, dtype), np.finfo(dtype).eps
    x = one + step
    CpuModule.of_text(NUMBERS, options(dtype)).kernel("squared_less")((1,), (1,), (x, one + 2 * step))
    assert x[0] == step**2


@pytest.mark.parametrize("seed", [0, 9])
def test_threads_know_their_places(seed: int):
    x = np.zeros(6 * 64, np.int32)
    faults().seed = seed
    faults().kernel("places")((3, 2), (32, 2), (x, np.float64(2)))
    faults().seed = 0
    assert x.tolist() == [2 * i + 1 for i in range(x.size)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(9, np.int32), 2.0), "float given, expected float64"),
        ((np.zeros(9, np.int32), np.float32(2)), "float32 given, expected float64"),
        ((np.zeros(9, np.int64), np.float64(2)), "int64 given, expected int32"),
        ((9, np.float64(2)), "int given, expected int32"),
        ((np.zeros(18, np.int32)[::2], np.float64(2)), "must be C-contiguous"),
        ((np.zeros(9, np.int32),), "1 arguments given"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[Any, ...], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        fault("places", *arguments)


def test_a_grid_that_no_gpu_takes_is_refused():
    for grid in ((0,), (1, 65536), (2**31,)):
        with pytest.raises(ValueError, match="cannot be launched"):
            faults().kernel("places")(grid, (32,), (np.zeros(9, np.int32), np.float64(2)))


def test_what_does_not_compile_is_shown():
    """Atomic additions of floats among it: their order, and so their sum, is never the same."""
    with pytest.raises(RuntimeError, match="atomicAdd"):
        CpuModule.of_text('extern "C" __global__ void racing(float* x) { atomicAdd(x, 1.0f); }')


def test_the_thread_sanitizer_sees_lanes_that_nothing_orders():
    """Also where the emulation's own order happens to be right: lane 31 comes last, and reads what lane 0 wrote."""
    if sanitizer("thread") is None:
        pytest.skip("g++ has no thread sanitizer (libtsan), or it does not start")
    text = """extern "C" __global__ void last(float* x, int wait) {
      __shared__ float shared[1];
      if (threadIdx.x == 0) shared[0] = 7;
      if (wait) __syncwarp();
      if (threadIdx.x == 31) x[0] = shared[0];
    }"""
    done = run_sanitized(
        f"""
import sys
import numpy as np
from cuda_on_cpu import CpuModule
module = CpuModule.of_text({text!r}, (), ("-fsanitize=thread", "-g1"))
for wait in (1, 0):
    x = np.zeros(1, np.float32)
    module.kernel("last")((2,), (32,), (x, np.int32(wait)))
    sys.stderr.write(f"@@ {{wait}} {{x[0]}}")
""",
        "thread",
    )
    assert done.returncode == 66, done.stderr
    waited, _, raced = done.stderr.partition("@@ 1 7.0")
    assert "data race" not in waited
    assert raced.count("WARNING: ThreadSanitizer: data race") == 1
    assert "@@ 0 7.0" in raced


@pytest.mark.skipif(sanitizer() is None, reason="g++ has no address sanitizer (libasan)")
def test_the_sanitizer_sees_a_read_beyond_the_end():
    done = run_sanitized("""
import numpy as np
from cuda_on_cpu import CpuModule
text = 'extern "C" __global__ void beyond(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x + 1]; }'
module = CpuModule.of_text(text, (), ("-fsanitize=address",))
module.kernel("beyond")((1,), (64,), (np.ones(64, np.float32), np.ones(64, np.float32)))
""")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
