"""NVRTC, the compiler that CuPy uses, makes machine code of every kernel, and no kernel spills registers to memory.

It needs no GPU and no driver: only the wheel nvidia-cuda-nvrtc, called by ctypes, with the options that CuPy adds.
`pytest -s` prints the registers.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from machine_code import disassembled, nvdisasm, streaming_loops

from nnx.kernels.cuda import FILES, KERNELS, options, source
from nnx.kernels.cuda.sources import FOLDER

# Turing, Ampere (A100, RTX 30), Hopper, Blackwell (B200, RTX 50). Ada (sm_89) has the machine code of the RTX 30, as a
# test below holds. Doubles are the same units in all but few.
ARCHITECTURES = {"float32": ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")}
ARCHITECTURES["float64"] = ("sm_75", "sm_90", "sm_120")
PAIRS = [(dtype, architecture) for dtype, some in ARCHITECTURES.items() for architecture in some]
CUPY_ADDS = ("-ftz=true", "--device-as-default-execution-space")  # beside the architecture and folders of headers
# Bytes: the number of the step, say, which is read once an operation, on GPUs that have next to no units for doubles.
SPILLS = {("program", "float64", "sm_120"): 48}
MOST_REGISTERS = 128  # of a thread: two blocks of 256 threads then run on a multiprocessor at the same time
# Scales, rates, penalties, tallies, means, normal numbers, gradients of codes.
COMPUTES_IN_DOUBLE = (
    "clip.cu", "columns.cu", "losses.cu", "noise.cu", "norm.cu", "optimizers.cu", "program.cu", "regularize.cu",
    "step.cu",
)  # fmt: skip


@functools.cache
def nvrtc() -> ctypes.CDLL:
    """Load the library from its wheel (nvidia/cu13/lib or nvidia/cuda_nvrtc/lib)."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec is not None else None
    found = [path for folder in folders or () for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    if not found:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    return ctypes.CDLL(str(found[0]))


@functools.cache
def architectures() -> set[str]:
    """Return what this NVRTC compiles for."""
    count = ctypes.c_int()
    assert not nvrtc().nvrtcGetNumSupportedArchs(ctypes.byref(count))
    found = (ctypes.c_int * count.value)()
    assert not nvrtc().nvrtcGetSupportedArchs(found)
    return {f"sm_{number}" for number in found}


@dataclass(frozen=True)
class Compiled:
    """What the compiler says of one kernel: registers of a thread, bytes spilled, bytes of shared memory."""

    registers: int
    spilled: int
    stack: int
    shared: int


@functools.cache
def compile_text(text: str, name: str, arguments: tuple[str, ...]) -> tuple[int, str, bytes]:
    """Return NVRTC's status, its log, and the machine code, or for a virtual architecture the assembly."""
    library, program = nvrtc(), ctypes.c_void_p()
    assert not library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
    given = (ctypes.c_char_p * len(arguments))(*[argument.encode() for argument in arguments])
    status = library.nvrtcCompileProgram(program, len(arguments), given)
    log = _result(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program).decode().rstrip("\0")
    kind = "PTX" if any("compute_" in argument for argument in arguments) else "CUBIN"
    size_of, get = getattr(library, f"nvrtcGet{kind}Size"), getattr(library, f"nvrtcGet{kind}")
    code = b"" if status else _result(size_of, get, program)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log, code


def _result(size_of: ctypes._CFuncPtr, get: ctypes._CFuncPtr, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    assert not size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    assert not get(program, buffer)
    return buffer.raw


def compiled(log: str) -> dict[str, Compiled]:
    """Read what `-Xptxas -v` says of each kernel."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        name = part.partition("'")[0]

        def number(pattern: str, part: str = part) -> int:
            match = re.search(pattern, part)
            return int(match[1]) if match else 0

        spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
        found[name] = Compiled(
            number(r"Used (\d+) registers"), spilled, number(r"(\d+) bytes stack frame"), number(r"(\d+) bytes smem")
        )
    return found


def machine_code(file: str, dtype: str, architecture: str) -> tuple[str, bytes]:
    """Return the compiler's log and the machine code of a file, as CuPy would have it."""
    if architecture not in architectures():
        pytest.skip(f"this NVRTC knows no {architecture}")
    arguments = (*options(dtype), *CUPY_ADDS, f"--gpu-architecture={architecture}", "--ptxas-options=-v")
    status, log, code = compile_text(source(file), file, arguments)
    assert status == 0, log
    assert code[:4] == b"\x7fELF"
    return log, code


@pytest.mark.parametrize(("dtype", "architecture"), PAIRS)
@pytest.mark.parametrize("file", FILES)
def test_every_kernel_compiles_and_spills_nothing(file: str, architecture: str, dtype: str):
    log, _ = machine_code(file, dtype, architecture)
    found = compiled(log)
    assert found.keys() == {kernel.name for kernel in KERNELS.values() if kernel.file == file}, log
    table = "\n".join(f"{architecture} {dtype} {name}: {kernel}" for name, kernel in found.items())
    print(f"\n{table}")
    for name, kernel in found.items():
        assert 0 < kernel.registers <= MOST_REGISTERS, table
        assert kernel.spilled <= SPILLS.get((name, dtype, architecture), 0), table
        assert kernel.shared <= 48 << 10, table


@pytest.mark.skipif(nvdisasm() is None, reason="pip install nvidia-cuda-nvdisasm")
def test_ada_has_the_machine_code_of_ampere():
    """All files were compared once, and are the same; one is compared every time."""
    names = ("sm_80", "sm_86", "sm_89")
    first, ampere, ada = (disassembled(machine_code("softmax.cu", "float32", name)[1]) for name in names)
    assert ampere == ada
    assert first != ampere  # a difference would be seen


def test_cupy_adds_these_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Those that it gives to NVRTC for a `RawModule`, without its folders of headers, which no kernel includes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core = pytest.importorskip("cupy._core.core")
        compiler = pytest.importorskip("cupy.cuda.compiler")
    given: list[tuple[str, ...]] = []

    def compiles(self: Any, options: tuple[str, ...] = (), log_stream: Any = None) -> tuple[bytes, None]:
        if not self.src:  # to learn the compiler's version
            return b"", None
        given.append(options)
        raise InterruptedError

    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiler._NVRTCProgram, "compile", compiles)
    monkeypatch.setattr(compiler, "_get_arch", lambda: "90")
    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda arch=None: ("-arch=sm_90", "cubin"))
    text, ours = source("softmax.cu"), options("float32")
    with pytest.raises(InterruptedError):
        core.compile_with_cache(text, ours, prepend_cupy_headers=False, backend="nvrtc")  # as RawModule does
    added = [option for option in given[0] if not option.startswith("-I") and option not in ours]
    assert sorted(added) == sorted([*CUPY_ADDS, "-arch=sm_90"])


def test_an_error_names_its_place():
    """The header stands inside the text, and lines are counted as in the file all the same."""
    lines = (FOLDER / "softmax.cu").read_text(encoding="utf-8").count("\n")
    status, log, _ = compile_text(f"{source('softmax.cu')}mistake;\n", "softmax.cu", options("float32"))
    assert status
    assert f"softmax.cu({lines + 1}): error" in log


@functools.cache
def ptx(file: str, dtype: str) -> str:
    """Return a file's assembly, as of Hopper."""
    arguments = (*options(dtype), *CUPY_ADDS, "--gpu-architecture=compute_90")
    return compile_text(source(file), file, arguments)[2].decode()


@pytest.mark.parametrize("file", [file for file in FILES if file not in COMPUTES_IN_DOUBLE])
def test_float_kernels_compute_in_float(file: str):
    """A constant written 0.5 instead of (REAL)0.5 would turn a kernel into one of doubles, half as fast or worse."""
    found = {line.strip() for line in ptx(file, "float32").splitlines() if ".f64" in line}
    assert not found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "file", ["activations.cu", "clip.cu", "dense.cu", "dropout.cu", "optimizers.cu", "regularize.cu"]
)
def test_memory_is_accessed_16_bytes_at_a_time(file: str, dtype: str):
    width = "v4.f32" if dtype == "float32" else "v2.f64"
    text = ptx(file, dtype)
    bits = width.replace("f", "b")  # newer compilers move bits
    for access in ("ld.global", "st.global"):
        assert re.search(rf"{access}(\.nc)?\.({width}|{bits})", text), access


# ---- column sums: machine code ---------------------------------------------------------------------------------------

needs_nvdisasm = pytest.mark.skipif(nvdisasm() is None, reason="pip install nvidia-cuda-nvdisasm")
IN_FLIGHT = 4  # loads: memory answers after some 500 clocks, and each more under way saves that once


@needs_nvdisasm
@pytest.mark.parametrize("kernel", ["column_sums", "relu_backward_column_sums"])
@pytest.mark.parametrize(("dtype", "architecture"), PAIRS)
def test_column_sums_read_rows_ahead(architecture: str, dtype: str, kernel: str):
    """Each loop that streams has several loads on their way; one of the two has them 16 bytes wide, stores too."""
    lines = disassembled(machine_code("dense.cu", dtype, architecture)[1])[kernel]
    loops = streaming_loops(lines)
    assert sorted(max(loop.widths) for loop in loops) == [32 if dtype == "float32" else 64, 128]
    for loop in loops:
        assert len(set(loop.widths)) == 1
        assert loop.in_flight() >= IN_FLIGHT, "\n".join(loop.lines)
    wide = next(loop for loop in loops if max(loop.widths) == 128)
    stores = [line for line in wide.lines if "STG" in line]
    assert all("STG.E.128" in line for line in stores)
    assert bool(stores) == kernel.startswith("relu")
    assert not [line for line in lines if "LDL" in line or "STL" in line], "local memory"


@needs_nvdisasm
@pytest.mark.parametrize("architecture", ["sm_80", "sm_120"])
def test_a_loop_that_waits_for_every_row_would_be_seen(architecture: str):
    """The check itself is checked: the loops as they once were, of which the second's store may alias its loads."""
    text = """
    extern "C" __global__ void plain(const float* x, float* sums, long long rows, long long columns) {
      float total = 0;
      for (long long row = threadIdx.y; row < rows; row += blockDim.y) total += x[row * columns + threadIdx.x];
      sums[threadIdx.x] = total;
    }
    extern "C" __global__ void masked(const float* y, const float* dy, float* dx, float* sums, long long rows,
                                      long long columns) {
      float total = 0;
      for (long long row = threadIdx.y; row < rows; row += blockDim.y) {
        long long i = row * columns + threadIdx.x;
        total += dx[i] = y[i] > 0 ? dy[i] : 0;
      }
      sums[threadIdx.x] = total;
    }"""
    status, log, code = compile_text(text, "before.cu", (*CUPY_ADDS, f"--gpu-architecture={architecture}"))
    assert status == 0, log
    for name, lines in disassembled(code).items():
        loops = streaming_loops(lines)
        assert loops, name
        assert min(loop.in_flight() for loop in loops) < IN_FLIGHT, name
        assert max(max(loop.widths) for loop in loops) == 32


def test_a_spill_would_be_seen():
    """The check itself is checked: a kernel that is allowed 16 registers and needs many more."""
    text = """extern "C" __global__ void greedy(float* x) {
      float held[64];
      #pragma unroll
      for (int i = 0; i < 64; i++) held[i] = x[i * 32 + threadIdx.x];
      __syncthreads();
      #pragma unroll
      for (int i = 0; i < 64; i++) x[i * 32 + threadIdx.x] = held[63 - i] * held[i];
    }"""
    arguments = ("--gpu-architecture=sm_90", "--ptxas-options=-v", "--maxrregcount=24")
    status, log, _ = compile_text(text, "greedy.cu", arguments)
    assert status == 0, log
    assert compiled(log)["greedy"].spilled > 0, log
