"""Dense layers: forward pass, gradients and regularization, and the precision of their matrix products.

matmul/dispatch.py chooses the kernel or library for a product. Large products may round to TF32 or bf16
(nnx/backends/precision.py).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from nnx.backends.cupy.matmul.cublaslt_products import RoundedProducts
from nnx.backends.cupy.matmul.dispatch import CudaMatmul
from nnx.backends.cupy.operands import FLOAT64, writable
from nnx.backends.errors import InputError
from nnx.backends.precision import VARIABLE, check_precision, precision_of_environment
from nnx.backends.recorder import Call
from nnx.kernels import cuda as plans
from nnx.kernels.cuda import ACTIVATIONS

Array = Any
ROUNDED = {
    "full": "full float32",
    "tf32": "large ones round what they multiply to TF32, 11 bits",
    "bf16": "large ones round what they multiply to bf16, 8 bits",
}


class CudaDense(CudaMatmul):
    """The operations of dense layers.

    Args:
        precision: of large float32 products; None: that of NNX_PRECISION, else TF32 if CUPY_TF32=1 is set for CuPy,
            else "full". Models may ask for another one: see `Backend.with_precision`.
    """

    def __init__(self, cupy: Any, number: int = 0, gpu_memory_limit: Any = None, precision: str | None = None) -> None:
        super().__init__(cupy, number, gpu_memory_limit)
        self._set_precision(precision or precision_of_environment() or self._precision_of_cupy())

    # ---- precision ---------------------------------------------------------------------------------------------------

    def _with_precision(self, wanted: str) -> CudaDense:
        other = copy.copy(self)  # which shares arrays, kernels and scratch memory
        other._set_precision(wanted)
        return other

    def _set_precision(self, wanted: str) -> None:
        self.precision, self.products = check_precision(wanted, VARIABLE), None
        if wanted not in ROUNDED:
            raise InputError(f"precision={wanted!r} is for the CPU; on a GPU there are {', '.join(map(repr, ROUNDED))}")
        core = self.cupy._core
        if wanted == "full":
            with self.on_device():  # else CUPY_TF32=1 would apply, as to all of CuPy
                core.set_compute_type(np.dtype("float32"), core._routines_linalg.COMPUTE_TYPE_DEFAULT)
            return
        if self.capability < (8, 0):
            raise InputError(
                f"precision={wanted!r}: {self.device} has neither TF32 nor bf16; GPUs from compute capability 8.0 on do"
            )
        if isinstance(self.lt(), str) and self.gemm_rule != "own":
            raise InputError(f"precision={wanted!r} needs cuBLASLt, and {self.lt()}; precision='full' does without")
        self.products = RoundedProducts(self.lt())

    def _precision_of_cupy(self) -> str:
        """Return "tf32" if CuPy was asked for it and it is available, else "full"."""
        core = self.cupy._core
        with self.on_device():
            wanted = core.get_compute_type(np.dtype("float32")) == core._routines_linalg.COMPUTE_TYPE_TF32
        return "tf32" if wanted and self.capability >= (8, 0) and not isinstance(self.lt(), str) else "full"

    # ---- operations --------------------------------------------------------------------------------------------------

    def dense(self, x: Array, w: Array, b: Array, activation: str | None = None, out: Array | None = None) -> Array:
        kind = self._kind(x, w, b)
        fits = x.shape[1:] == w.shape[:1] and b.shape == (1, *w.shape[1:])
        if kind is None or not fits or activation not in ACTIVATIONS:  # one with a parameter is a separate kernel
            return super().dense(x, w, b, activation, out)
        y = self._output(out, (x.shape[0], w.shape[1]), x)
        self._product(kind, x, w, y, self._read(b), ACTIVATIONS[activation])
        return self._deliver(y, out)

    def dense_backward(self, x: Array, w: Array, dy: Array, dw: Array, db: Array, out: Array | None = None) -> Array:
        self.dense_gradients(x, dy, dw, db)
        return self._input_gradient(w, dy, out)

    def dense_dinputs(self, w: Array, dy: Array, out: Array | None = None) -> Array:
        return self._input_gradient(w, dy, out)

    def _input_gradient(self, w: Array, dy: Array, out: Array | None) -> Array:
        kind = self._kind(w, dy)
        if kind is None or dy.shape[1:] != w.shape[1:]:
            return self._deliver(self.cupy.matmul(dy, w.T), out)
        dx = self._output(out, (dy.shape[0], w.shape[0]), dy)
        self._product(kind, dy, w.T, dx)
        return self._deliver(dx, out)

    def dense_gradients(self, x: Array, dy: Array, dw: Array, db: Array) -> None:
        kind = self._kind(x, dy)
        if kind is None or x.shape[0] != dy.shape[0]:
            super().dense_gradients(x, dy, dw, db)
            return
        dy = self._read(dy)
        biases, weights = self._output(db, (1, dy.shape[1]), dy), self._output(dw, (x.shape[1], dy.shape[1]), dy)
        lt = None if self._is_small(x.size * dy.shape[1]) else self.products
        if lt is None or not lt.with_column_sums(self, kind, x.T, dy, weights, biases):
            self._product(kind, x.T, dy, weights)
            self._column_sums(kind, (dy,), dy.shape, biases)
        self._deliver(weights, dw)
        self._deliver(biases, db)

    def relu_and_dense_backward(self, y: Array, dy: Array, through: Array, dense: Call) -> None:
        """Do `relu_backward(y, dy, out=through)` and then the call `dense`, which reads `through`: for recorded steps.

        A single kernel reads `dy` for both ReLU's gradient and that of the biases.
        """
        x, dw, db = (dense.operands[name] for name in ("x", "dw", "db"))
        kind, biases = self._kind(y, dy, through, x, dw, db), (1, *through.shape[1:])
        flat = y.ndim == 2 and y.shape == dy.shape and all(a.flags.c_contiguous for a in (y, dy))
        if kind is None or not (flat and writable(through, y.shape, y.dtype) and writable(db, biases, y.dtype)):
            self.relu_backward(y, dy, through)
            getattr(self, dense.name)(*dense.operands.values())
            return
        self._column_sums(kind, (y, dy, through), through.shape, db, "relu_backward_column_sums")
        self._weight_gradient(kind, x, through, dw)
        if "out" in dense.operands:
            self._input_gradient(dense.operands["w"], through, dense.operands["out"])

    def _weight_gradient(self, kind: str, x: Array, dy: Array, dw: Array) -> None:
        weights = self._output(dw, (x.shape[1], dy.shape[1]), dy)
        self._product(kind, x.T, dy, weights)
        self._deliver(weights, dw)

    def regularize(self, w: Array, dw: Array, l1: float, l2: float, penalty: Array) -> None:
        kind = self._kind(w, dw)
        if kind is None or not (writable(dw, w.shape, w.dtype) and writable(penalty, (1,), FLOAT64)):
            super().regularize(w, dw, l1, l2, penalty)
            return
        first, *second = plans.regularize(w.size)
        blocks = first.grid[0]
        parts = self._scratch(blocks, "float64") if second else None
        self._launch(first, kind, self._read(w), dw, parts, penalty, w.size, l1, l2)
        for total in second:
            self._launch(total, kind, parts, penalty, blocks)
