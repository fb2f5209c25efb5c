# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""relu, sigmoid and tanh, element by element, and their gradients in terms of their own output.

Floor: 8 bytes an element (12 for a gradient) in float32 at the speed of whichever memory holds them. In the
second-level cache relu and the gradients are at it; sigmoid takes about 0.4 ns an element, tanh 0.5, with AVX-512
(NumPy 1.5 and 2).

`forward` in place is `activate`: for two arrays that overlap, LLVM's own check at run time would choose a scalar loop,
right but several times slower. (A gradient written over one of its operands takes that loop.)
"""

from __future__ import annotations

from nnx.kernels.cpu.jit.behaved import apart, apart_or_same, behaved
from nnx.kernels.cpu.jit.cache import njit
from nnx.kernels.cpu.jit.signature import takes
from nnx.kernels.cpu.jit.simd import OPTIONS, flat, row
from nnx.kernels.cpu.ops.math import exp, tanh

LINEAR, RELU, SIGMOID, TANH = range(4)
KINDS = {None: LINEAR, "relu": RELU, "sigmoid": SIGMOID, "tanh": TANH}


@takes("m")
@njit(**OPTIONS)
def activate(y, kind):
    """Pass an array through one of the functions, in place."""
    if not behaved(y):
        return False
    a = flat(y)
    zero = y.dtype.type(0)
    one = y.dtype.type(1)
    if kind == RELU:
        for j in range(a.size):
            x = a[j]  # loaded once and always, or a branch remains, mispredicted on every batch that is new
            a[j] = zero if x < zero else x
    elif kind == SIGMOID:
        for j in range(a.size):
            x = a[j]
            e = exp(-abs(x))
            a[j] = (one if x >= zero else e) / (one + e)
    elif kind == TANH:
        for j in range(a.size):
            a[j] = tanh(a[j])
    return True


@takes("mm")
@njit(**OPTIONS)
def finish(y, b, kind):
    """y = f(y + b), the biases b [1, O] added to each row: what is left of a dense layer after BLAS."""
    n, outputs = y.shape
    if not behaved(y, b) or b.shape != (1, outputs) or not apart(y, b):
        return False
    bias, zero = flat(b), y.dtype.type(0)
    for i in range(n):
        out = row(y, i)
        if kind == RELU:
            for j in range(outputs):
                v = out[j] + bias[j]
                out[j] = zero if v < zero else v
        else:
            for j in range(outputs):
                out[j] += bias[j]
    if kind > RELU:
        activate(y, kind)
    return True


@takes("mm")
@njit(**OPTIONS)
def forward(x, y, kind):
    """y = f(x)."""
    if not behaved(x, y) or x.shape != y.shape or not x.size or not apart_or_same(y, x):
        return False
    if x.ctypes.data == y.ctypes.data:
        activate(y, kind)
        return True
    a, b = flat(x), flat(y)
    zero = y.dtype.type(0)
    one = y.dtype.type(1)
    if kind == RELU:
        for j in range(a.size):
            v = a[j]
            b[j] = zero if v < zero else v
    elif kind == SIGMOID:
        for j in range(a.size):
            v = a[j]
            e = exp(-abs(v))
            b[j] = (one if v >= zero else e) / (one + e)
    elif kind == TANH:
        for j in range(a.size):
            b[j] = tanh(a[j])
    return True


@takes("mmm")
@njit(**OPTIONS)
def backward(y, dy, dx, kind):
    """dx = dy * f'(x), where y = f(x)."""
    if not behaved(y, dy, dx) or y.shape != dy.shape or y.shape != dx.shape or not y.size:
        return False
    if not apart_or_same(dx, y, dy):
        return False
    a, g, out = flat(y), flat(dy), flat(dx)
    zero = y.dtype.type(0)
    one = y.dtype.type(1)
    if kind == RELU:
        for j in range(a.size):
            v, slope = g[j], a[j]
            out[j] = v if slope > zero else zero
    elif kind == SIGMOID:
        for j in range(a.size):
            v = a[j]
            out[j] = g[j] * (v * (one - v))
    elif kind == TANH:
        for j in range(a.size):
            v = a[j]
            out[j] = g[j] * (one - v * v)
    return True
