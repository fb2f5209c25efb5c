# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""A dense layer by NumPy's own OpenBLAS, called from compiled code: `y = activation(x @ w + b)` in one call.

Floor: 2 N I O FLOP, or, for one row, the bytes of w. From Python the product alone costs a call of 0.5 us, bias and
activation two more; here all is one call of 0.5 us. The library is bound by name, so that compiled code holds
no address and can be kept on disk. Where it is not found (a NumPy built another way, as for Apple's Accelerate),
`available()` is False, and the backend calls `numpy.matmul` and then `finish`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import types
from numba.extending import overload

from nnx.kernels.cpu.jit.behaved import apart, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import INLINED, OPTIONS
from nnx.kernels.cpu.ops.elementwise import finish

ROW_MAJOR, PLAIN, TRANSPOSED = np.int32(101), np.int32(111), np.int32(112)
LIBRARIES = (  # NumPy's wheels for Linux and Windows, for macOS
    "numpy.libs/libscipy_openblas64_*",
    "numpy/.dylibs/libscipy_openblas64_*",
)


@cache
def available() -> bool:
    """Find the library and bind its functions; tell whether that worked."""
    site = Path(np.__file__).parent.parent
    for pattern in LIBRARIES:
        for file in site.glob(pattern):
            try:
                library = ctypes.CDLL(str(file))
                for letter in "sd":
                    for name in ("gemm", "gemv"):
                        function = getattr(library, f"scipy_cblas_{letter}{name}64_")
                        address = ctypes.cast(function, ctypes.c_void_p).value
                        assert address is not None
                        llvm.add_symbol(f"nnx_cblas_{letter}{name}", address)
            except (OSError, AttributeError):
                continue
            return True
    return False


def _external(letter: str, name: str) -> Any:
    e, i, f = types.int32, types.int64, types.float32 if letter == "s" else types.float64
    p = types.CPointer(f)
    if name == "gemm":  # order, transpose a, b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc
        signature = types.void(e, e, e, i, i, i, f, p, i, p, i, f, p, i)
    else:  # order, transpose a, m, n, alpha, a, lda, x, incx, beta, y, incy
        signature = types.void(e, e, i, i, f, p, i, p, i, f, p, i)
    return types.ExternalFunction(f"nnx_cblas_{letter}{name}", signature)


sgemm, dgemm, sgemv, dgemv = (_external(*name) for name in (("s", "gemm"), ("d", "gemm"), ("s", "gemv"), ("d", "gemv")))


def multiply(a, b, c):
    """c = a @ b inside kernels, for C-contiguous matrices. Only where `available()`."""
    np.matmul(a, b, out=c)


@overload(multiply, jit_options=INLINED)
def _multiply(a, b, c):
    single = c.dtype == types.float32
    gemm, gemv, number = (sgemm, sgemv, np.float32) if single else (dgemm, dgemv, np.float64)

    def body(a, b, c):
        (m, k), n = a.shape, b.shape[1]
        if m == 1:
            gemv(ROW_MAJOR, TRANSPOSED, k, n, number(1), b.ctypes, n, a.ctypes, 1, number(0), c.ctypes, 1)
        else:
            gemm(
                ROW_MAJOR, PLAIN, PLAIN, m, n, k, number(1), a.ctypes, k, b.ctypes, n, number(0), c.ctypes, n
            )  # fmt: skip

    return body


@takes("mmmm")
@njit(**OPTIONS)
def dense(x, w, b, y, kind):
    """y = activation(x @ w + b); `kind` is of a function without a parameter, or NONE."""
    (n, inputs), (depth, outputs) = x.shape, w.shape
    if depth != inputs or b.shape != (1, outputs) or y.shape != (n, outputs) or not x.size * w.size:
        return False
    if not behaved(x, w, b, y) or not apart(y, x, w, b):
        return False
    multiply(x, w, y)
    finish(y, b, kind)
    return True
