"""Dispatch of matrix products (GEMM): nnx's own kernel does small ones, cuBLAS or cuBLASLt the large ones.

NNX_GEMM=own or NNX_GEMM=blas selects one of them for all products. `CudaMatmul.products` replaces cuBLAS while a step
is captured as a CUDA graph, and for products that round to TF32 or bf16 (cublaslt_products.py).
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from nnx.backends.cupy.diagnosis import kernel_cache
from nnx.backends.cupy.matmul import cublaslt
from nnx.backends.cupy.matmul.choices import Choices
from nnx.backends.cupy.matmul.cublaslt import Lt, LtError
from nnx.backends.cupy.operands import CudaOperands
from nnx.backends.environment import cublas_overrides, gemm_rule, tuned
from nnx.kernels import cuda as plans
from nnx.kernels.cuda import ACTIVATIONS

Array = Any
SMALL = 1 << 20  # up to so many multiply-adds nnx's kernel does a product, with bias and activation, in one launch


class LargeProducts(Protocol):
    """Does large products in the place of cuBLAS."""

    def __call__(
        self, backend: CudaMatmul, kind: str, a: Array, b: Array, c: Array, bias: Array | None, activation: int
    ) -> None:
        """c = activation(a @ b + bias), on the current stream."""

    def with_column_sums(self, backend: CudaMatmul, kind: str, a: Array, b: Array, c: Array, sums: Array) -> bool:
        """c = a @ b, and sums = b's column sums, in one; False, with nothing done, if not possible."""


class CudaMatmul(CudaOperands):
    """Matrix products, with a bias and an activation at their end.

    Attributes:
        gemm_rule: the value of NNX_GEMM, or "auto".
        tuned: whether cuBLASLt's algorithms may be timed to find the fastest: not if NNX_TUNE=off.
        products: does large products in the place of cuBLAS, or None.
    """

    products: LargeProducts | None = None

    def __init__(self, cupy: Any, number: int = 0, gpu_memory_limit: Any = None) -> None:
        super().__init__(cupy, number, gpu_memory_limit)
        self.gemm_rule, self.tuned = gemm_rule(), tuned()
        self._lt: Lt | str | None = None
        self._choices: Choices | None = None

    def lt(self) -> Lt | str:
        """Return cuBLASLt, which is loaded at the first call, or the reason why it is missing."""
        if self._lt is None:
            try:
                with self.on_device():
                    self._lt = Lt(cublaslt.load(self.cupy))
            except LtError as error:
                self._lt = str(error)
        return self._lt

    def choices(self) -> Choices | None:
        """Return the kept choices of cuBLASLt's algorithms on this GPU; None: its first proposal is to be used."""
        lt = self.lt()
        if isinstance(lt, str) or not self.tuned:
            return None
        if self._choices is None:
            driver = self.cupy.cuda.runtime.driverGetVersion()
            machine = ", ".join([self.model, f"driver {driver}", f"cuBLASLt {lt.version}", *cublas_overrides()])
            in_memory = os.environ.get("CUPY_CACHE_IN_MEMORY", "").strip() == "1"
            self._choices = Choices(machine, None if in_memory else kernel_cache())
        return self._choices

    def product_rule(self) -> str:
        """Return in words which products nnx's kernel does, and which cuBLAS."""
        by_size = f"nnx's kernel up to {SMALL:,} multiply-adds, else cuBLAS"
        return {"own": "nnx's kernel", "blas": "cuBLAS"}.get(self.gemm_rule, by_size)

    def _product(
        self, kind: str, a: Array, b: Array, c: Array, bias: Array | None = None, activation: int = ACTIVATIONS[None]
    ) -> None:
        """c = activation(a @ b + bias): a small one in one kernel, else by cuBLAS with a kernel for the rest."""
        (m, n), k = c.shape, a.shape[1]
        if self._is_small(m * n * k):
            self.own_product(kind, a, b, c, bias, activation)
            return
        if self.products is not None:
            self.products(self, kind, a, b, c, bias, activation)
            return
        self.blas_product(kind, a, b, c, bias, activation)

    def _is_small(self, work: int) -> bool:
        """Return whether nnx's kernel does a product of so many multiply-adds."""
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

    def _column_sums(
        self, kind: str, operands: tuple[Array, ...], shape: tuple[int, int], sums: Array, kernel: str = "column_sums"
    ) -> None:
        """Sum columns by a kernel that takes operands, sums and shape; in two rounds if there are many rows."""
        first, *second = plans.column_sums(*shape, kernel)
        if not second:
            self._launch(first, kind, *operands, sums, *shape)
            return
        bands = first.grid[1]
        parts = self._scratch(bands * shape[1], kind)
        self._launch(first, kind, *operands, parts, *shape)
        self._launch(second[0], kind, parts, sums, bands, shape[1])

    def oriented(self, a: Array) -> tuple[Array, int]:
        """Return a contiguous matrix, and 0 if it is stored by rows, 1 if by columns; products take both."""
        if a.flags.c_contiguous:
            return a, 0
        return (a, 1) if a.flags.f_contiguous else (self.cupy.ascontiguousarray(a), 0)
