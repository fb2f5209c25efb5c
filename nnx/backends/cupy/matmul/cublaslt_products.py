"""Large matrix products by cuBLASLt: in CUDA graphs, as CuPy's cuBLAS cannot be captured, and in TF32 and bf16.

A kind of product is planned, and the plan tried, when it first occurs. Products that cuBLASLt cannot do are done in
full precision by nnx's kernel, in a captured step, or else by cuBLAS. For a graph, which runs many times, the fastest
of cuBLASLt's proposals is found by trials (trials.py) and kept (choices.py); elsewhere its first proposal is used.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from nnx.backends.cupy.matmul.choices import Choice, Choices
from nnx.backends.cupy.matmul.cublaslt import (
    ALIGNED,
    BIAS,
    BIAS_GRADIENT,
    NONE,
    RELU_BIAS,
    WORD,
    Lt,
    LtError,
    Plan,
    Product,
    alignment,
)
from nnx.backends.cupy.matmul.dispatch import CudaMatmul
from nnx.backends.cupy.matmul.timing import Way
from nnx.backends.cupy.matmul.trials import Operands, Trial, run
from nnx.kernels import cuda as plans
from nnx.kernels.cuda import ACTIVATIONS

Array = Any
# Up to so many multiply-adds in a step's large products, nnx's kernel does them if cuBLASLt cannot. An estimate: there
# the time lost against cuBLAS is about that of launching a step's operations one by one.
MOST_OWN_WORK = 1 << 26
CANDIDATES = 8  # proposals of cuBLASLt that are timed for a product in a graph
PLANS = 256  # kinds of products that are remembered outside of graphs
EPILOGUES = {ACTIVATIONS[None]: BIAS, ACTIVATIONS["relu"]: RELU_BIAS}


class NotCaptured(RuntimeError):
    """A step cannot be one CUDA graph; the message says why."""


class LtProducts:
    """Products by cuBLASLt, on the stream and in the precision of the calling backend.

    Args:
        lt: cuBLASLt, or the reason why it is missing.

    Attributes:
        notes: texts on what cuBLASLt could not do.
    """

    def __init__(self, lt: Lt | str) -> None:
        self._lt = lt
        self._plans: dict[Product, Plan | None] = {}
        self.notes: list[str] = []

    def __call__(
        self, backend: CudaMatmul, kind: str, a: Array, b: Array, c: Array, bias: Array | None, activation: int
    ) -> None:
        """c = activation(a @ b + bias), on the current stream.

        Raises:
            LtError: cuBLASLt fails at something that it has done before.
        """
        # A bias that is not aligned is added by nnx's own kernel.
        epilogue = NONE if bias is None or bias.data.ptr % WORD else EPILOGUES.get(activation, NONE)
        plan = self._multiply(backend, kind, a, b, c, bias, (epilogue, NONE))
        if plan is None:
            self._fall_back(backend, kind, a, b, c, bias, activation)
        elif bias is not None and plan.product.epilogue == NONE:
            backend._launch(plans.bias_activation(*c.shape), kind, c, bias, *c.shape, activation)

    def with_column_sums(self, backend: CudaMatmul, kind: str, a: Array, b: Array, c: Array, sums: Array) -> bool:
        """c = a @ b, and sums = b's column sums: the gradients of weights and biases in one; False if not possible.

        It is not done with rounded factors, since the sums would be of rounded numbers too.
        """
        if sums.data.ptr % WORD or (kind == "float32" and backend.precision != "full"):
            return False
        return self._multiply(backend, kind, a, b, c, sums, (BIAS_GRADIENT,)) is not None

    def _multiply(
        self, backend: CudaMatmul, kind: str, a: Array, b: Array, c: Array, bias: Array | None,
        epilogues: tuple[int, ...],
    ) -> Plan | None:  # fmt: skip
        """Multiply with the first of the epilogues that cuBLASLt can do; return the plan, or None if it can do none."""
        (a, a_transposed), (b, b_transposed) = backend.oriented(a), backend.oriented(b)
        (m, n), k = c.shape, a.shape[1]
        precision = backend.precision if kind == "float32" else "full"
        factors = a, b
        begin, other, end = (alignment(matrix.data.ptr) for matrix in (a, b, c))
        if precision == "bf16":
            a, b = rounded(backend, a, b)
            begin = other = WORD  # the scratch's real alignment may differ next time: another kind of product
        operands, aligned = Operands(a, b, c, bias, factors), (begin, other, end)
        product = Product(m, n, k, a_transposed, b_transposed, kind, precision, epilogues[0], aligned)
        if product not in self._plans:
            self._plans[product] = self._plan(backend, product, epilogues, operands)
        plan = self._plans[product]
        if plan is not None:
            run(backend, plan, operands)
        return plan

    def _plan(
        self, backend: CudaMatmul, wanted: Product, epilogues: tuple[int, ...], operands: Operands
    ) -> Plan | None:
        """Return a plan with the first epilogue that cuBLASLt can do; None if it can do none."""
        if isinstance(self._lt, str):
            return None
        for product in [replace(wanted, epilogue=epilogue) for epilogue in dict.fromkeys(epilogues)]:
            try:
                return self._tried(backend, Plan(self._lt, product, self._most()), operands)
            except LtError as error:
                self.notes.append(str(error))
        return None

    def _tried(self, backend: CudaMatmul, plan: Plan, operands: Operands) -> Plan | None:
        """Return a plan that has worked once; None if another way is better."""
        try:
            if self._choose(backend, plan, operands):
                run(backend, plan, operands)
                return plan
        except BaseException:
            plan.close()
            raise
        plan.close()
        return None

    def _most(self) -> int:
        """Return how many algorithms to ask cuBLASLt for."""
        return 1

    def _choose(self, backend: CudaMatmul, plan: Plan, operands: Operands) -> bool:
        """Set a plan to the best of its proposals; return False if another way is better."""
        return True

    def _fall_back(
        self, backend: CudaMatmul, kind: str, a: Array, b: Array, c: Array, bias: Array | None, activation: int
    ) -> None:
        """Do a product that cuBLASLt cannot do."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all plans."""
        for plan in self._plans.values():
            if plan is not None:
                plan.close()
        self._plans.clear()


class GraphProducts(LtProducts):
    """The products of a step that is captured. A first run of the step plans them; then it may be captured.

    Args:
        lt: cuBLASLt, or the reason why it is missing. choices: the kept choices of algorithms; None: cuBLASLt's first
            proposal is used for all products.

    Attributes:
        planning: whether this is the first run.
    """

    def __init__(self, lt: Lt | str, choices: Choices | None = None) -> None:
        super().__init__(lt)
        self._choices = choices
        self._own = 0  # multiply-adds done by nnx's kernel
        self.planning = True

    def _most(self) -> int:
        return CANDIDATES if self._choices is not None and self.planning else 1

    def _choose(self, backend: CudaMatmul, plan: Plan, operands: Operands) -> bool:
        """Set the kept or, after timing, the fastest proposal; return False if separate column sums are faster.

        Raises:
            LtError: no proposal works.
        """
        product, of = str(plan.product), len(plan.proposals)
        summed = plan.product.epilogue == BIAS_GRADIENT
        choices = self._choices
        if choices is None or not self.planning or (of == 1 and not summed):
            return True
        choice = choices.get(product, of)
        taken = 0
        try:
            if choice is None and choices.ready():
                others = self._apart(backend, plan.product, operands) if summed else []
                choice = choices.keep(product, of, Trial(backend, plan, operands).fastest(others))
                taken = choice.taken if choice else 0
            elif choice is not None:
                taken = self._place(backend, plan, choice)
                if 0 < taken < of and not Trial(backend, plan, operands).still_works(taken, choice):
                    taken = 0
                    backend.note(f"cuBLASLt's first algorithm is taken, for the kept one does not work: {product}")
        except LtError:
            raise
        except Exception as error:  # an error of CUDA, or no memory for what only a trial needs
            taken = 0
            backend.note(f"cuBLASLt's first algorithm is taken untried ({type(error).__name__}: {error}): {product}")
        plan.take(taken if taken < of else 0)
        return taken < of or not summed

    def _place(self, backend: CudaMatmul, plan: Plan, choice: Choice) -> int:
        """Return the index of the chosen proposal, found by its fingerprint, as cuBLASLt may change the order."""
        known = plan.fingerprints()
        if choice.taken < len(known) and choice.algorithm != known[choice.taken]:
            if choice.algorithm in known:
                return known.index(choice.algorithm)
            backend.note(f"cuBLASLt names other algorithms than when they were timed, for {plan.product}")
        return choice.taken

    def _apart(self, backend: CudaMatmul, wanted: Product, operands: Operands) -> list[Way]:
        """Return the way that multiplies and then sums the columns, if it is possible."""
        if not operands.b.flags.c_contiguous:
            return []
        product, alone = replace(wanted, epilogue=NONE), operands._replace(bias=None)
        if product not in self._plans:
            self._plans[product] = self._plan(backend, product, (NONE,), alone)
        plain = self._plans[product]
        if plain is None:
            return []

        def both(plain: Plan = plain) -> None:
            run(backend, plain, alone)
            backend._column_sums(wanted.dtype, (operands.b,), operands.b.shape, operands.bias)

        return [both]

    def _fall_back(
        self, backend: CudaMatmul, kind: str, a: Array, b: Array, c: Array, bias: Array | None, activation: int
    ) -> None:
        """Do a product by nnx's kernel.

        Raises:
            NotCaptured: that would cost more time than the graph saves.
        """
        self._count(backend, c.size * a.shape[1])
        backend.own_product(kind, a, b, c, bias, activation)

    def _count(self, backend: CudaMatmul, work: int) -> None:
        if not self.planning:
            return
        self._own += work
        if self._own > MOST_OWN_WORK or backend.gemm_rule == "blas":
            why = self._lt if isinstance(self._lt, str) else "; ".join(dict.fromkeys(self.notes))
            raise NotCaptured(
                f"its products need cuBLAS, which cannot be captured ({self._own:,} multiply-adds; nnx's kernel does "
                f"up to {MOST_OWN_WORK:,} of a graph's large ones), and cuBLASLt does not do them: {why}"
            )


class RoundedProducts(LtProducts):
    """The products of operations that are called one by one, in TF32 or bf16."""

    def __init__(self, lt: Lt | str) -> None:
        super().__init__(lt)
        self._lock = threading.Lock()  # a plan holds the address of one bias at a time

    def _multiply(self, *product: Any) -> Plan | None:
        with self._lock:
            plan = super()._multiply(*product)
            if len(self._plans) > PLANS:
                oldest = self._plans.pop(next(iter(self._plans)))
                if oldest is not None:
                    oldest.close()
        return plan

    def _fall_back(self, backend: CudaMatmul, *product: Any) -> None:
        """Do a product by cuBLAS, and note it."""
        why = "; ".join(dict.fromkeys(self.notes)) if isinstance(self._lt, Lt) else self._lt
        backend.note(f"products are in full precision where cuBLASLt cannot do them in {backend.precision}: {why}")
        backend.blas_product(*product)


def rounded(backend: CudaMatmul, a: Array, b: Array) -> tuple[Array, Array]:
    """Return both factors in bf16, stored in the same order; the next product overwrites them."""
    begin = -(-a.size // ALIGNED) * ALIGNED
    scratch = backend._scratch(begin + b.size, "uint16")
    a_rounded, b_rounded = scratch[: a.size], scratch[begin:]
    launch = plans.elementwise("round_to_bfloat16", max(a.size, b.size))
    flat = [f.T if not f.flags.c_contiguous else f for f in (a, b)]
    backend._launch(launch, "float32", *flat, a_rounded, b_rounded, a.size, b.size)
    return a_rounded, b_rounded
