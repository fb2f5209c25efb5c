"""Who multiplies large matrices while a step is captured, where CuPy's cuBLAS cannot: cuBLASLt, or nnx's own kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nnx.backends.cuda_lt import BIAS, NONE, RELU_BIAS, Lt, LtError, Plan, Product, alignment
from nnx.kernels import cuda as plans
from nnx.kernels.cuda import ACTIVATIONS

if TYPE_CHECKING:
    from nnx.backends.cuda_dense import CudaDense

Array = Any
# Multiply-adds of a step's large products up to which nnx's kernel does them where cuBLASLt cannot. A guess: about what
# costs as much more than cuBLAS as launching a step's operations one by one does.
MOST = 1 << 26
WORD = 16  # bytes: a bias that begins elsewhere is added by a kernel of ours
EPILOGUES = {ACTIVATIONS[None]: BIAS, ACTIVATIONS["relu"]: RELU_BIAS}


class NotCaptured(RuntimeError):
    """A step cannot be one CUDA graph; the message says why."""


class GraphProducts:
    """The large products of one step. Its first run plans them, and tries each plan; then the step may be captured.

    Args:
        lt: cuBLASLt, or why it is not there.

    Attributes:
        notes: what cuBLASLt could not do.
    """

    def __init__(self, lt: Lt | str) -> None:
        self._lt = lt
        self._plans: dict[Product, Plan | None] = {}
        self._own = 0  # multiply-adds that nnx's kernel does
        self.planning = True
        self.notes: list[str] = []

    def __call__(
        self, backend: CudaDense, kind: str, a: Array, b: Array, c: Array, bias: Array | None, activation: int
    ) -> None:
        """c = activation(a @ b + bias), on the current stream.

        Raises:
            NotCaptured: nnx's kernel would have to do more than it should. LtError: cuBLASLt fails in a capture.
        """
        (a_, a_transposed), (b_, b_transposed) = backend.oriented(a), backend.oriented(b)
        operands = a_, b_, c, bias
        epilogue = NONE if bias is None or bias.data.ptr % WORD else EPILOGUES.get(activation, NONE)
        aligned = alignment(a_.data.ptr), alignment(b_.data.ptr), alignment(c.data.ptr)
        (m, n), k, tf32 = c.shape, a.shape[1], kind == "float32" and backend.tf32
        product = Product(m, n, k, a_transposed, b_transposed, kind, tf32, epilogue, aligned)
        if product not in self._plans:
            self._plans[product] = self._plan(backend, product, operands)
        plan = self._plans[product]
        if plan is None:
            self._count(backend, m * n * k)
            backend.own_product(kind, a, b, c, bias, activation)
            return
        self._run(backend, plan, operands)
        if bias is not None and plan.product.epilogue == NONE:
            backend._launch(plans.bias_activation(m, n), kind, c, bias, m, n, activation)

    def _plan(self, backend: CudaDense, wanted: Product, operands: tuple[Array, ...]) -> Plan | None:
        """Return a plan that cuBLASLt can run, with the epilogue or else without one; None if it can do neither."""
        if isinstance(self._lt, str):
            return None
        for product in dict.fromkeys((wanted, replace(wanted, epilogue=NONE))):
            try:
                return self._tried(backend, Plan(self._lt, product), operands)
            except LtError as error:
                self.notes.append(str(error))
        return None

    def _tried(self, backend: CudaDense, plan: Plan, operands: tuple[Array, ...]) -> Plan:
        """Return a plan that has worked once."""
        try:
            self._run(backend, plan, operands)
        except BaseException:
            plan.close()
            raise
        return plan

    def _run(self, backend: CudaDense, plan: Plan, operands: tuple[Array, ...]) -> None:
        a, b, c, bias = operands
        room = backend._scratch(plan.workspace, "uint8").data.ptr if plan.workspace else 0
        stream = backend.cupy.cuda.get_current_stream().ptr
        plan.run(a.data.ptr, b.data.ptr, c.data.ptr, 0 if bias is None else bias.data.ptr, room, stream)

    def _count(self, backend: CudaDense, work: int) -> None:
        """Refuse the graph where nnx's kernel would cost more than the graph saves; the first run tells."""
        if not self.planning:
            return
        self._own += work
        if self._own > MOST or backend.gemm_rule == "blas":
            why = self._lt if isinstance(self._lt, str) else "; ".join(dict.fromkeys(self.notes))
            raise NotCaptured(
                f"its products need cuBLAS, which cannot be captured ({self._own:,} multiply-adds; nnx's kernel does "
                f"up to {MOST:,} of a graph's large ones), and cuBLASLt does not do them: {why}"
            )

    def close(self) -> None:
        """Give the plans up, once the step is captured."""
        for plan in self._plans.values():
            if plan is not None:
                plan.close()
        self._plans.clear()
