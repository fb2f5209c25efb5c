"""cuBLASLt by ctypes: the large matrix products of a step that is captured as a CUDA graph, and those in TF32 and bf16.

CuPy multiplies through a cuBLAS handle, whose stream cannot be set while a stream is captured. cuBLASLt takes stream
and workspace as arguments of each call, and types and precision with each product. Descriptors and an algorithm are
prepared before the capture, once for each kind of product: a `Plan`.

cuBLASLt stores matrices by columns, nnx by rows. Read by columns, a matrix stored by rows is its transpose. So C = A B
is computed as C' = B' A': cuBLASLt's A is our B, its m is our n, and a bias for each of our columns is one for each of
its rows.
"""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from ctypes import byref, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any
from zlib import crc32

Array = Any
WORKSPACE = 32 << 20  # the most bytes of an algorithm's workspace: NVIDIA's advice for larger GPUs
WORD = 16  # the alignment, in bytes, of a bias that an epilogue reads or writes
ALIGNED = 256  # the largest alignment, in bytes, that cuBLASLt distinguishes, and its default assumption

# From cublasLt.h, cublas_api.h and library_types.h.
NONE, BIAS, RELU_BIAS, BIAS_GRADIENT = 1, 4, 6, 256  # epilogues; the last sums cuBLASLt's A along the inner dimension
TRANSPOSE_A, TRANSPOSE_B, EPILOGUE, BIAS_POINTER = 3, 4, 7, 8  # attributes of a product
MAX_WORKSPACE, ALIGNMENTS = 1, (5, 6, 7, 8)  # attributes of a preference; the alignments of A, B, C and D
REAL_TYPES = {"float32": 0, "float64": 1}
BFLOAT16 = 14
COMPUTE_TYPES = {("float32", "full"): 68, ("float32", "tf32"): 77, ("float32", "bf16"): 68, ("float64", "full"): 70}
ENDINGS = {NONE: "as it is", BIAS: "with bias", RELU_BIAS: "with bias and ReLU", BIAS_GRADIENT: "with column sums"}
SCALES = {"float32": c_float, "float64": c_double}
STATUS = {1: "not initialized", 3: "no memory", 7: "invalid value", 8: "wrong GPU", 13: "execution failed",
          14: "internal error", 15: "not supported"}  # fmt: skip

HANDLE = c_void_p
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasLtCreate": (c_void_p,),
    "cublasLtMatmulDescCreate": (c_void_p, c_int, c_int),
    "cublasLtMatmulDescSetAttribute": (HANDLE, c_int, c_void_p, c_size_t),
    "cublasLtMatmulDescDestroy": (HANDLE,),
    "cublasLtMatrixLayoutCreate": (c_void_p, c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutDestroy": (HANDLE,),
    "cublasLtMatmulPreferenceCreate": (c_void_p,),
    "cublasLtMatmulPreferenceSetAttribute": (HANDLE, c_int, c_void_p, c_size_t),
    "cublasLtMatmulPreferenceDestroy": (HANDLE,),
    # handle, product, layouts of A, B, C and D, preference, how many answers at most, answers, how many there are
    "cublasLtMatmulAlgoGetHeuristic": (*(HANDLE,) * 7, c_int, c_void_p, c_void_p),
    # handle, product, alpha, A and layout, B and layout, beta, C and layout, D and layout, algorithm, workspace, its
    # size, stream
    "cublasLtMatmul": (*(c_void_p,) * 14, c_size_t, c_void_p),
}


VERSION = "cublasLtGetVersion"  # the only function that returns no status


class LtError(RuntimeError):
    """CuBLASLt is missing, or cannot do what was asked; the message says why."""


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t, an opaque structure."""

    _fields_ = [("data", c_uint64 * 8)]


class HeuristicResult(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t: an algorithm and the workspace it needs."""

    _fields_ = [
        ("algorithm", Algorithm), ("workspace", c_size_t), ("state", c_int), ("waves", c_float), ("rest", c_int * 4),
    ]  # fmt: skip


def load(cupy: Any) -> Any:
    """Return the library of CuPy's CUDA version, from CuPy's packages or from the toolkit.

    Raises:
        LtError: it was not found.
    """
    try:
        from cuda import pathfinder

        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path)
    except Exception:  # no such package, or it finds nothing; versions raise different errors
        pass
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    names = f"libcublasLt.so.{major}", f"cublasLt64_{major}.dll"
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise LtError(f"cuBLASLt of CUDA {major} is missing ({names[0]}): pip install nvidia-cublas, or the CUDA toolkit")


class Lt:
    """The library with a handle for the current GPU. Its functions are called by name.

    Args:
        library: the result of `load`.

    Attributes:
        version: the library's version, as its own number.

    Raises:
        LtError: it lacks a function, or creates no handle.
    """

    def __init__(self, library: Any) -> None:
        self._functions = {}
        for name in (*SIGNATURES, VERSION):
            if getattr(library, name, None) is None:
                raise LtError(f"this cuBLASLt has no {name}: expected that of CUDA 12 or newer")
        for name, types in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, c_int
            self._functions[name] = function
        version = getattr(library, VERSION)
        version.argtypes, version.restype = (), c_size_t
        self.version = int(version())
        self.handle = self.create("cublasLtCreate")  # never destroyed: running work may still need it

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function; raise LtError if its status is not 0."""
        status = self._functions[name](*arguments)
        if status:
            raise LtError(f"{name}: {STATUS.get(status, 'failed')} (status {status})")

    def create(self, name: str, *arguments: Any) -> c_void_p:
        """Call a function that creates an object; return its handle."""
        handle = c_void_p()
        self(name, byref(handle), *arguments)
        return handle

    def set(self, function: str, handle: c_void_p, attribute: int, value: Any) -> None:
        """Set an attribute of an object to a ctypes number."""
        self(function, handle, attribute, byref(value), ctypes.sizeof(value))


@dataclass(frozen=True)
class Product:
    """A kind of product: c [m, n] = op(a) [m, k] @ op(b) [k, n], followed by an epilogue.

    Attributes:
        a_transposed, b_transposed: whether a is stored as [k, m], b as [n, k].
        dtype: of c, and, except for bf16, of a and b. precision: "full", "tf32", or "bf16": then a and b have 16 bits.
        epilogue: NONE, BIAS, RELU_BIAS, or BIAS_GRADIENT, which writes the column sums of b to the bias.
        alignments: of a, b and c, in bytes: see `alignment`.
    """

    m: int
    n: int
    k: int
    a_transposed: int
    b_transposed: int
    dtype: str
    precision: str
    epilogue: int
    alignments: tuple[int, int, int]

    def __str__(self) -> str:
        """Return all attributes as text, for messages and for files."""
        ways = "nt"[self.a_transposed] + "nt"[self.b_transposed]
        aligned = ", ".join(map(str, self.alignments))
        return (
            f"[{self.m}, {self.k}] @ [{self.k}, {self.n}] {ways} {ENDINGS[self.epilogue]}, {self.dtype} "
            f"{self.precision}, aligned to {aligned}"
        )


def alignment(address: int) -> int:
    """Return the largest power of two, up to ALIGNED, that divides an address; views may begin anywhere."""
    return min(ALIGNED, address & -address) or ALIGNED


class Plan:
    """Descriptors and algorithm for a kind of product. It is made before a capture; `run` may be captured.

    Args:
        lt: the library. product: the kind. most: how many algorithms to ask for.

    Attributes:
        proposals: the available algorithms, beginning with the one that cuBLASLt expects to be fastest.
        workspace: how many bytes `run` needs.

    Raises:
        LtError: there is no algorithm for it.
    """

    def __init__(self, lt: Lt, product: Product, most: int = 1) -> None:
        self._lt, self.product = lt, product
        self._made = ExitStack()
        try:
            self._describe()
            self.proposals = self._propose(most)
            self.take(0)
        except BaseException:
            self.close()
            raise
        scale = SCALES[product.dtype]
        self._one, self._zero = scale(1), scale(0)

    def _describe(self) -> None:
        it = self.product
        real = REAL_TYPES[it.dtype]
        factor = BFLOAT16 if it.precision == "bf16" else real
        self._matmul = self._make("cublasLtMatmulDesc", COMPUTE_TYPES[it.dtype, it.precision], real)
        for attribute, value in (
            (TRANSPOSE_A, c_int32(it.b_transposed)),
            (TRANSPOSE_B, c_int32(it.a_transposed)),
            (EPILOGUE, c_uint32(it.epilogue)),
        ):
            self._lt.set("cublasLtMatmulDescSetAttribute", self._matmul, attribute, value)
        if it.epilogue != NONE:  # not used before `run`, but its alignment decides which algorithms are possible
            self._lt.set("cublasLtMatmulDescSetAttribute", self._matmul, BIAS_POINTER, c_uint64(WORD))
        self._a = self._layout(factor, it.m, it.k, it.a_transposed)
        self._b = self._layout(factor, it.k, it.n, it.b_transposed)
        self._c = self._layout(real, it.m, it.n, 0)

    def _layout(self, kind: int, rows: int, columns: int, transposed: int) -> c_void_p:
        """Return the layout of one of nnx's matrices, whose rows are columns to cuBLASLt."""
        if transposed:
            rows, columns = columns, rows
        return self._make("cublasLtMatrixLayout", kind, columns, rows, columns)

    def take(self, place: int) -> None:
        """Set which of the proposals `run` uses from now on; at first it is number 0."""
        self._found = self.proposals[place]
        self.workspace = int(self._found.workspace)

    def fingerprints(self) -> list[int]:
        """Return numbers that identify the proposals; they are valid for one version of cuBLASLt."""
        return [crc32(bytes(one.algorithm)) for one in self.proposals]

    def _propose(self, most: int) -> list[HeuristicResult]:
        preference = self._make("cublasLtMatmulPreference")
        a, b, c = self.product.alignments
        wishes = [(MAX_WORKSPACE, c_uint64(WORKSPACE))]
        wishes += [(wish, c_uint32(bytes_)) for wish, bytes_ in zip(ALIGNMENTS, (b, a, c, c), strict=True)]  # type: ignore[misc]
        for wish, value in wishes:
            self._lt.set("cublasLtMatmulPreferenceSetAttribute", preference, wish, value)
        found, count = (HeuristicResult * most)(), c_int(0)
        layouts = self._b, self._a, self._c, self._c
        self._lt(
            "cublasLtMatmulAlgoGetHeuristic", self._lt.handle, self._matmul, *layouts, preference, most, byref(found),
            byref(count),
        )  # fmt: skip
        able = [one for one in found[: count.value] if not one.state and one.workspace <= WORKSPACE]
        if not able:
            raise LtError(f"cuBLASLt knows no way to do {self.product}")
        return able

    def _make(self, what: str, *arguments: Any) -> c_void_p:
        handle = self._lt.create(f"{what}Create", *arguments)
        self._made.callback(self._lt, f"{what}Destroy", handle)
        return handle

    def run(self, a: int, b: int, c: int, bias: int, workspace: int, stream: int) -> None:
        """Queue the product on a stream.

        Args:
            a, b, c, bias, workspace: addresses on the GPU; bias is used if the epilogue reads or writes one.
            stream: the stream's handle.

        Raises:
            LtError: it could not be queued.
        """
        if self.product.epilogue != NONE:
            self._lt.set("cublasLtMatmulDescSetAttribute", self._matmul, BIAS_POINTER, c_uint64(bias))
        self._lt(
            "cublasLtMatmul", self._lt.handle, self._matmul, byref(self._one), b, self._b, a, self._a,
            byref(self._zero), c, self._c, c, self._c, byref(self._found.algorithm), workspace, self.workspace, stream,
        )  # fmt: skip

    def close(self) -> None:
        """Destroy the descriptors, which queued or captured work does not need any more."""
        self._made.close()
