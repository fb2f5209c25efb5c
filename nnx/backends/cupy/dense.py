"""Dense layers on the GPU: matrix products by nnx's own kernel where they are small, by cuBLAS where they are large.

The large ones may round what they multiply (precision.py). Then, and in a captured step, they are cuBLASLt's.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from nnx.backends.cupy.matmul import cublaslt as cuda_lt
from nnx.backends.cupy.matmul.cublaslt import Lt, LtError
from nnx.backends.cupy.matmul.cublaslt_products import RoundedProducts
from nnx.backends.cupy.operands import FLOAT64, CudaOperands, writable
from nnx.backends.errors import InputError
from nnx.backends.precision import check_precision
from nnx.backends.recorder import Call
from nnx.kernels import cuda as plans
from nnx.kernels.cuda import ACTIVATIONS

if TYPE_CHECKING:
    from nnx.backends.cupy.matmul.cublaslt_products import LtProducts

Array = Any
GEMM_RULES = ("auto", "own", "blas")
SMALL = 1 << 20  # multiply-adds up to which a product is the own kernel's: one launch, bias and activation included
PRECISION = "NNX_PRECISION"
ROUNDED = {
    "full": "full float32",
    "tf32": "large ones round what they multiply to TF32, 11 bits",
    "bf16": "large ones round what they multiply to bf16, 8 bits",
}


class CudaDense(CudaOperands):
    """The operations of dense layers.

    Args:
        precision: of large float32 products; None: what NNX_PRECISION says, or TF32 where CUPY_TF32=1 asks CuPy for it,
            or "full". Models may ask for another: see `Backend.with_precision`.

    Attributes:
        gemm_rule: who multiplies: NNX_GEMM, or "auto".
        products: who does large products in cuBLAS's place (products.py), or None.
    """

    products: LtProducts | None = None

    def __init__(self, cupy: Any, number: int = 0, gpu_memory_limit: Any = None, precision: str | None = None) -> None:
        super().__init__(cupy, number, gpu_memory_limit)
        self.gemm_rule = os.environ.get("NNX_GEMM", "").strip().lower() or "auto"
        if self.gemm_rule not in GEMM_RULES:
            raise InputError(f"NNX_GEMM={self.gemm_rule!r}: expected one of {', '.join(GEMM_RULES)}")
        self._lt: Lt | str | None = None
        self._met: list[str] = []
        self._set_precision(precision or os.environ.get(PRECISION, "").strip().lower() or self._precision_of_cupy())

    def note(self, text: str) -> None:
        """Add to the notes of `info()` what a step, a prediction or a data set ran into."""
        if text not in self._met:
            self._met.append(text)

    # ---- precision ---------------------------------------------------------------------------------------------------

    def _with_precision(self, wanted: str) -> CudaDense:
        other = copy.copy(self)  # over the same arrays, kernels and scratch
        other._set_precision(wanted)
        return other

    def _set_precision(self, wanted: str) -> None:
        self.precision, self.products = check_precision(wanted, PRECISION), None
        core = self.cupy._core
        if wanted == "full":
            with self.elsewhere():  # CUPY_TF32=1 says otherwise, for all of CuPy
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
        """Return "tf32" where CuPy was asked for it and it can be had, else "full"."""
        core = self.cupy._core
        with self.elsewhere():
            wanted = core.get_compute_type(np.dtype("float32")) == core._routines_linalg.COMPUTE_TYPE_TF32
        return "tf32" if wanted and self.capability >= (8, 0) and not isinstance(self.lt(), str) else "full"

    # ---- products ----------------------------------------------------------------------------------------------------

    def lt(self) -> Lt | str:
        """Return cuBLASLt, which is loaded when it is first asked for, or why it is not there."""
        if self._lt is None:
            try:
                with self.elsewhere():
                    self._lt = Lt(cuda_lt.load(self.cupy))
            except LtError as error:
                self._lt = str(error)
        return self._lt

    def product_rule(self) -> str:
        """Return in words which of the two multiplies."""
        by_size = f"nnx's kernel up to {SMALL:,} multiply-adds, else cuBLAS"
        return {"own": "nnx's kernel", "blas": "cuBLAS"}.get(self.gemm_rule, by_size)

    def dense(self, x: Array, w: Array, b: Array, activation: str | None = None, out: Array | None = None) -> Array:
        kind = self._kind(x, w, b)
        fits = x.shape[1:] == w.shape[:1] and b.shape == (1, *w.shape[1:])
        if kind is None or not fits or activation not in ACTIVATIONS:  # one with a parameter is a kernel of its own
            return super().dense(x, w, b, activation, out)
        y = self._room(out, (x.shape[0], w.shape[1]), x)
        self._product(kind, x, w, y, self._read(b), ACTIVATIONS[activation])
        return self._deliver(y, out)

    def dense_backward(self, x: Array, w: Array, dy: Array, dw: Array, db: Array, out: Array | None = None) -> Array:
        self.dense_gradients(x, dy, dw, db)
        return self._input_gradient(w, dy, out)

    def _input_gradient(self, w: Array, dy: Array, out: Array | None) -> Array:
        kind = self._kind(w, dy)
        if kind is None or dy.shape[1:] != w.shape[1:]:
            return self._deliver(self.cupy.matmul(dy, w.T), out)
        dx = self._room(out, (dy.shape[0], w.shape[0]), dy)
        self._product(kind, dy, w.T, dx)
        return self._deliver(dx, out)

    def dense_gradients(self, x: Array, dy: Array, dw: Array, db: Array) -> None:
        kind = self._kind(x, dy)
        if kind is None or x.shape[0] != dy.shape[0]:
            super().dense_gradients(x, dy, dw, db)
            return
        dy = self._read(dy)
        biases, weights = self._room(db, (1, dy.shape[1]), dy), self._room(dw, (x.shape[1], dy.shape[1]), dy)
        lt = None if self._is_small(x.size * dy.shape[1]) else self.products
        if lt is None or not lt.with_column_sums(self, kind, x.T, dy, weights, biases):
            self._product(kind, x.T, dy, weights)
            self._column_sums(kind, (dy,), dy.shape, biases)
        self._deliver(weights, dw)
        self._deliver(biases, db)

    def relu_and_dense_backward(self, y: Array, dy: Array, through: Array, dense: Call) -> None:
        """Do `relu_backward(y, dy, out=through)` and then `dense`, which reads `through`: for recorded steps.

        One kernel goes through `dy` for both ReLU's gradient and that of the biases.
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
        weights = self._room(dw, (x.shape[1], dy.shape[1]), dy)
        self._product(kind, x.T, dy, weights)
        self._deliver(weights, dw)

    def _product(
        self, kind: str, a: Array, b: Array, c: Array, bias: Array | None = None, activation: int = ACTIVATIONS[None]
    ) -> None:
        """c = activation(a @ b + bias): in one kernel where it is small, else by cuBLAS and a kernel for the rest."""
        (m, n), k = c.shape, a.shape[1]
        if self._is_small(m * n * k):
            self.own_product(kind, a, b, c, bias, activation)
            return
        if self.products is not None:
            self.products(self, kind, a, b, c, bias, activation)
            return
        self.blas_product(kind, a, b, c, bias, activation)

    def _is_small(self, work: int) -> bool:
        """Tell whether nnx's kernel does a product of so many multiply-adds."""
        return self.gemm_rule == "own" or (self.gemm_rule == "auto" and work <= SMALL)

    def blas_product(self, kind: str, a: Array, b: Array, c: Array, bias: Array | None, activation: int) -> None:
        """c = activation(a @ b + bias), by cuBLAS through CuPy."""
        (m, n) = c.shape
        self.cupy.matmul(self.oriented(a)[0], self.oriented(b)[0], out=c)
        if bias is not None:
            self._launch(plans.bias_activation(m, n), kind, c, bias, m, n, activation)

    def own_product(self, kind: str, a: Array, b: Array, c: Array, bias: Array | None, activation: int) -> None:
        """c = activation(a @ b + bias), by nnx's kernel."""
        (m, n), k = c.shape, a.shape[1]
        (a, a_transposed), (b, b_transposed) = self.oriented(a), self.oriented(b)
        launch = plans.product(m, n, k)
        a, b = a.T if a_transposed else a, b.T if b_transposed else b
        slices = launch.grid[1]
        if slices == 1:
            self._launch(launch, kind, a, b, bias, c, m, n, k, a_transposed, b_transposed, activation)
            return
        shares = self._scratch(slices * m * n, kind)
        self._launch(launch, kind, a, b, None, shares, m, n, k, a_transposed, b_transposed, ACTIVATIONS[None])
        self._launch(plans.column_sums(1, m * n)[0], kind, shares, c, slices, m * n)  # in one band, into one sum
        if bias is not None:
            self._launch(plans.bias_activation(m, n), kind, c, bias, m, n, activation)

    def oriented(self, a: Array) -> tuple[Array, int]:
        """Return a matrix whose numbers stand side by side, by rows or (then 1) by columns: products take both."""
        if a.flags.c_contiguous:
            return a, 0
        return (a, 1) if a.flags.f_contiguous else (self.cupy.ascontiguousarray(a), 0)

    def _column_sums(
        self, kind: str, operands: tuple[Array, ...], shape: tuple[int, int], sums: Array, kernel: str = "column_sums"
    ) -> None:
        """Add up columns by a kernel that takes these operands, the sums and the shape; in two rounds if tall."""
        first, *second = plans.column_sums(*shape, kernel)
        if not second:
            self._launch(first, kind, *operands, sums, *shape)
            return
        bands = first.grid[1]
        parts = self._scratch(bands * shape[1], kind)
        self._launch(first, kind, *operands, parts, *shape)
        self._launch(second[0], kind, parts, sums, bands, shape[1])

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
