"""Maker of cases: operands of all kinds, and the correct results for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnx.backends.operation_table import OPERATIONS
from nnx.testing import reference
from nnx.testing.reference.activations import exponentials
from nnx.testing.reference.results import Results

Array = np.ndarray
WIDE = "penalty", "means", "spreads"  # what is float64 whatever the operands are
SHAPES = ((1, 1), (7, 1), (1, 2), (33, 3), (5, 10), (64, 17), (3, 300))


@dataclass(frozen=True)
class Case:
    """One call of one operation.

    Attributes:
        operation: its name. name: what is special about the case.
        operands: by name, in the order of the signature, without `out`.
        wanted: the correct result for each operand that is written. out: the shape of the result, if there is one.
    """

    operation: str
    name: str
    operands: dict[str, Any]
    wanted: Results
    out: tuple[int, ...] | None


class Maker:
    """Makes the cases of one float type."""

    def __init__(self, dtype: str) -> None:
        self.kind: Any = np.dtype(dtype).type
        self.random = np.random.default_rng(20)

    def case(self, operation: str, name: str, batch: int = 0, **operands: Any) -> Case:
        """Return a case. Operands that are only written are made here, filled with nan.

        Args:
            batch: rows of `out`, for the operation whose operands don't determine its result's size.
        """
        spec = OPERATIONS[operation]
        formula = reference.formula(operation)
        known = {**operands, "kind": self.kind, "batch": batch}
        with np.errstate(all="ignore"):
            wanted: Results = formula(
                **{p: wide(known[p]) for p in inspect.signature(formula).parameters if p in known}
            )
        for written in wanted.keys() - operands.keys() - {"out"}:
            value = wanted[written].value
            kind = np.float64 if written in WIDE else self.kind
            operands[written] = np.full(value.shape, np.nan, kind)
        wanted = {written: result for written, result in wanted.items() if operands.get(written, 0) is not None}
        shape = next((a.shape for a in operands.values() if isinstance(a, Array)), ())
        ordered = {p: operands[p] for p in spec.signature.parameters if p in operands}
        out = wanted["out"].value.shape if "out" in wanted else None
        return Case(operation, f"{'x'.join(map(str, shape))} {name}", ordered, wanted, out)

    # ---- numbers -----------------------------------------------------------------------------------------------------

    def normal(self, *shape: int) -> Array:
        """Normal numbers."""
        return self.random.normal(size=shape).astype(self.kind)

    def huge_row(self, a: Array, factor: float = 1e30) -> Array:
        """Return `a` with its first row multiplied by `factor`."""
        a = a.copy()
        a[0] *= self.kind(factor)
        return a

    def logits(self, shape: tuple[int, int]) -> Iterator[tuple[str, Array]]:
        """Outputs before a softmax: plain, equal, huge and infinite ones."""
        a = 3 * self.normal(*shape)
        yield "plain", a
        yield "all the same", np.full(shape, 2.5, self.kind)
        yield "+-1e4", np.where(self.random.random(shape) < 0.5, self.kind(1e4), self.kind(-1e4)) + a
        yield "one huge row", self.huge_row(a)
        if shape[1] > 1:  # a row of nothing but -inf has no softmax
            gone = self.random.random(shape) < 0.5
            gone[np.arange(shape[0]), np.arange(shape[0]) % shape[1]] = False
            yield "-inf entries", np.where(gone, self.kind(-np.inf), a)

    def probabilities(self, shape: tuple[int, int]) -> Iterator[tuple[str, Array]]:
        """Rows that add up to 1, with exact zeros and ones among them."""
        for name, logits in self.logits(shape):
            with np.errstate(all="ignore"):
                yield name, exponentials(logits.astype(np.float64))[0].astype(self.kind)

    def shares(self, shape: tuple[int, int]) -> Iterator[tuple[str, Array]]:
        """Numbers within 0 .. 1, with any sum."""
        yield "plain", self.random.random(shape).astype(self.kind)
        yield "0, 1/2 and 1", self.random.choice([0, 0.5, 1], shape).astype(self.kind)

    def labels(self, shape: tuple[int, int]) -> Iterator[tuple[str, Array]]:
        """Class indices, some of them invalid; one-hot rows; distributions with zeros."""
        indices = self.random.integers(0, shape[1], shape[0])
        yield "indices", indices
        wrong = indices.copy()
        wrong[::2] = np.resize([shape[1], -1, 2**62, -(2**62), 2**31, 2**32], len(wrong[::2]))
        yield "indices of no class", wrong
        yield "one-hot", np.eye(shape[1], dtype=self.kind)[indices]
        soft = self.random.random(shape) * (self.random.random(shape) < 0.5) + np.eye(shape[1])[indices]
        yield "distributions", (soft / soft.sum(axis=1, keepdims=True)).astype(self.kind)


Named = tuple[str, Array]


def combined(left: Iterable[Named], right: Iterable[Named], turn: int) -> Iterator[tuple[Named, Named]]:
    """Pair each of `left` with one of `right`, a different one in each `turn`: all turns together give all pairs."""
    choices = list(right)
    return ((one, choices[(number + turn) % len(choices)]) for number, one in enumerate(left))


def wide(operand: Any) -> Any:
    """Return a float operand in float64, anything else as it is."""
    return operand.astype(np.float64) if isinstance(operand, Array) and operand.dtype.kind == "f" else operand


Cases = dict[str, Callable[[Maker], Iterator[Case]]]  # by operation
