"""CUDA kernels run on NumPy arrays: a `.cu` file compiled by g++ with cuda_on_cpu.h, called as CuPy calls its own.

    kernel = CpuModule("softmax.cu", "float32").kernel("softmax_warp")
    kernel((1,), (256,), (x, y, np.int64(4), np.int64(10)))

Arguments are held to what a real launch would silently get wrong: arrays are C-contiguous and of the pointer's type,
numbers are NumPy scalars of the parameter's type (a Python float is passed as a double whatever the kernel expects).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnx.kernels.cuda import options, source

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
FLAGS = ["-std=c++17", "-O1", "-fno-strict-aliasing", "-fPIC", "-shared"]
WARNINGS = ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-attributes"]
ERRORS = {
    1: "barriers of a block and of a warp are waited at at the same time, each by some of the threads",
    2: "some threads returned before a __syncthreads() that others wait at",
    3: "more than 1024 threads in a block",
    4: "more than 227 KiB of dynamic shared memory",
    5: "a shuffle or __syncwarp() names lanes that have returned",
    6: "a thread met a __trap()",
}
TYPES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "long long": np.int64,
    "unsigned short": np.uint16,
    "unsigned int": np.uint32,
    "unsigned long long": np.uint64,
}
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\(([^)]*)\)')
# `extern __shared__` arrays are one place: g++ is told where it begins.
DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w ]+?)\s+(\w+)\[\];")

_one_at_a_time = threading.Lock()


def missing() -> str | None:
    """Return why kernels cannot be run here, or None."""
    if platform.machine() not in ("x86_64", "AMD64") or os.name != "posix":
        return f"cuda_on_cpu.h is written for x86-64 Linux, not {platform.system()} on {platform.machine()}"
    return None if shutil.which("g++") else "g++ is not installed"


def signatures(text: str) -> dict[str, str]:
    """Return the parameters of every kernel in a `.cu` text, with single spaces."""
    return {name: " ".join(parameters.split()) for name, parameters in KERNEL.findall(text)}


class CpuModule:
    """A compiled `.cu` file, like `cupy.RawModule`.

    Args:
        file: its name in nnx/kernels/cuda. dtype: "float32" or "float64", what REAL stands for.
        sanitize: "address" or "thread": compile with that sanitizer; the process must have been started with its
            library (`run_sanitized`).
        own: the header of a formula of the user's own.

    Attributes:
        seed: of the order in which threads and blocks run; 0 is one after the other.
    """

    def __init__(self, file: str, dtype: str, sanitize: str = "", own: str = "") -> None:
        self._load(source(file, own), options(dtype), (f"-fsanitize={sanitize}", "-g1") if sanitize else ())

    @classmethod
    def of_text(cls, text: str, options: Sequence[str] = (), flags: Sequence[str] = ()) -> CpuModule:
        """Compile a text, given NVRTC's options: those that define macros, and what g++ is told anyway.

        Raises:
            ValueError: there are others, which would change what the kernels compute.
        """
        module = cls.__new__(cls)
        module._load(text, options, flags)
        return module

    def _load(self, text: str, options: Sequence[str], flags: Sequence[str]) -> None:
        defines = [option for option in options if option not in FLAGS]
        unknown = [option for option in defines if not option.startswith("-D")]
        if unknown:
            raise ValueError(f"options {unknown} given, expected -D... or {FLAGS[0]}: others are not honoured here")
        self.real = next((option.removeprefix("-DREAL=") for option in defines if "-DREAL=" in option), "float")
        self.signatures, self.seed = signatures(text), 0
        self._library = ctypes.CDLL(str(build(text, (*defines, *flags))))
        self._kernels: dict[str, CpuKernel] = {}

    def kernel(self, name: str) -> CpuKernel:
        """Return a kernel by name."""
        if name not in self._kernels:
            self._kernels[name] = CpuKernel(self, name, getattr(self._library, f"launch_{name}"))
        return self._kernels[name]

    get_function = kernel

    def forget_threads(self) -> None:
        """Have the thread sanitizer forget the threads that ran these kernels: a megabyte each, kept for the next."""
        self._library.forget_threads()


class CpuKernel:
    """A kernel, called like CuPy's: `kernel(grid, block, arguments, shared_mem=0)`."""

    def __init__(self, module: CpuModule, name: str, function: Any) -> None:
        self.module, self.name, self._function = module, name, function
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_ulonglong]
        self.parameters = [text.strip() for text in module.signatures[name].split(",")]

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], *, shared_mem: int = 0) -> None:
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name}: {len(args)} arguments given, expected {self.parameters}")
        shape = np.array((*grid, 1, 1, 1)[:3] + (*block, 1, 1, 1)[:3])
        if not (shape > 0).all() or (shape[1:3] > 65535).any() or shape[0] >= 2**31:
            raise ValueError(
                f"{self.name}: a grid of {tuple(grid)} blocks of {tuple(block)} threads cannot be launched"
            )
        shape = shape.astype(np.uint32)
        kept = [self._argument(text, value) for text, value in zip(self.parameters, args, strict=True)]
        addresses = (ctypes.c_void_p * len(kept))(*[ctypes.addressof(value) for value in kept])
        with _one_at_a_time:
            error = self._function(shape.ctypes.data, shared_mem, addresses, self.module.seed)
        if error:
            raise RuntimeError(f"{self.name}: {ERRORS[error]}")

    def _argument(self, parameter: str, value: Any) -> Any:
        kind, _, name = parameter.removeprefix("const ").rpartition(" ")
        pointer = kind.endswith("*")
        wanted = np.dtype(TYPES[kind.rstrip("*").replace("REAL", self.module.real)])
        if pointer and isinstance(value, np.uintp) and value == 0:
            return ctypes.c_void_p(None)
        array = value if isinstance(value, np.ndarray) else None
        if pointer != (array is not None) or not isinstance(value, np.ndarray | np.generic):
            raise TypeError(f"{self.name}: {parameter}: {type(value).__name__} given, expected {wanted.name}")
        if value.dtype != wanted:
            raise TypeError(f"{self.name}: {parameter}: {value.dtype} given, expected {wanted.name}")
        if array is None:
            return ctypes.create_string_buffer(value.tobytes())
        if not array.flags.c_contiguous or not (parameter.startswith("const ") or array.flags.writeable):
            raise ValueError(f"{self.name}: {name} must be C-contiguous, and writable if it is written")
        return ctypes.c_void_p(array.ctypes.data)


@functools.cache
def contraction() -> tuple[str, ...]:
    """Return what makes one rounding of a product and a sum, as NVRTC does, where this CPU can."""
    facts = Path("/proc/cpuinfo")
    can = facts.exists() and " fma " in facts.read_text(encoding="utf-8", errors="replace")
    return ("-ffp-contract=fast", "-mfma", "-fexpensive-optimizations") if can else ("-ffp-contract=off",)


@functools.cache
def compiler() -> str:
    """Return g++'s version, which a compiled file depends on."""
    return subprocess.run(["g++", "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]


def build(text: str, flags: Iterable[str]) -> Path:
    """Compile a `.cu` text to a library in the temporary folder, unless it is there already."""
    starters = "".join(
        f'extern "C" int launch_{name}(const unsigned* shape, size_t shared, void** arguments, unsigned long long seed)'
        f" {{ return cpu::launch({name}, shape, shared, arguments, seed); }}\n"
        for name in signatures(text)
    )
    code = DYNAMIC_SHARED.sub(r"\1* \2 = reinterpret_cast<\1*>(cpu::dynamic_shared);", text) + starters
    command = ["g++", *FLAGS, *contraction(), *WARNINGS, *flags, "-include", str(HEADER), "-x", "c++", "-"]
    parts = [code, HEADER.read_text(encoding="utf-8"), " ".join(command), compiler()]
    folder = Path(tempfile.gettempdir()) / f"nnx-cuda-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    library = folder / f"{key[:20]}.so"
    import fcntl  # which Windows does not have

    with library.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a process that compiles the same is waited for
        if not library.exists():
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
                new = Path(file.name)
            done = subprocess.run([*command, "-o", str(new)], input=code, capture_output=True, text=True, check=False)
            if done.returncode:
                new.unlink()
                raise RuntimeError(f"g++ does not compile it:\n{done.stderr}")
            new.replace(library)
    return library


# ---- sanitizers ------------------------------------------------------------------------------------------------------

LIBRARIES = {"address": "libasan.so", "thread": "libtsan.so"}
SETTINGS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "TSAN_OPTIONS": "exitcode=66:report_signal_unsafe=0:history_size=7",
    "PYTHONMALLOC": "malloc",
    "OPENBLAS_NUM_THREADS": "1",
}


@functools.cache
def sanitizer(kind: str = "address") -> str | None:
    """Return a sanitizer's library, if g++ has it and a process starts with it."""
    command = ["g++", f"-print-file-name={LIBRARIES[kind]}"]
    path = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    if not (path.is_absolute() and path.exists()):
        return None
    library = os.path.realpath(path)
    return library if kind == "address" or _started("import numpy", kind, library).returncode == 0 else None


def run_sanitized(code: str, kind: str = "address") -> subprocess.CompletedProcess[str]:
    """Run Python code in a process where modules compiled with that sanitizer can be loaded."""
    return _started(code, kind, str(sanitizer(kind)))


def _started(code: str, kind: str, library: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parent), str(here)])
    environment = {**os.environ, **SETTINGS, "LD_PRELOAD": library, "PYTHONPATH": paths}
    # Where addresses are too random for its tables the thread sanitizer does not start.
    still = ["setarch", "-R"] if kind == "thread" and shutil.which("setarch") else []
    command = [*still, sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=3600)
