"""Nodes of a recorded step's data flow: values, the operations on them, and the whole step.

A buffer is identified by its address and may be written several times in a step. Each write makes a new `Value`, so
that work that is postponed to the end of the step (weight gradients) reads the same numbers as in its original place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nnx.backends.addresses import Array, same
from nnx.backends.recorder import Call


@dataclass(eq=False)
class Value:
    """Numbers for every sample: those that one operation wrote to a buffer, or an array given from outside.

    Attributes:
        width: how many numbers a sample has.
        array: the given array, or None for a value of the step's own.
        source: the value whose memory this one reuses, if `fuse` has found that nothing else needs it.
    """

    width: int
    array: Array | None = None
    source: Value | None = None

    @property
    def home(self) -> Value:
        """The value in whose memory this one is."""
        return self if self.source is None else self.source.home


@dataclass(eq=False)
class Moments:
    """The moments of each feature over all samples, [3, width]: see nnx/kernels/cpu/program/shared_norm.py.

    Attributes:
        pooled: the arrays of means and spreads that are pooled with other processes, if they are.
    """

    width: int
    pooled: list[Array] = field(default_factory=list)


@dataclass(eq=False)
class Node:
    """One operation on samples.

    Attributes:
        x, y, z: the values that it reads. out: the value that it writes. also: a second result (losses), hits: a third.
        kind: for an operation on each number separately. formula: the user's formula if the kind is user-defined.
        ordered: whether it reads its samples in the shuffled order.
        constants: float64 arguments of its kernel. details: integer arguments. weights, biases: parameters.
        table: the table in which codes are looked up.
        relu: whether ReLU, or the mask of its gradient by y, is applied in the same pass.
        arrays: more arrays of the flat buffer. moments: the moments that it writes or reads.
        once: whether it depends on nothing that changes within a call of `run`.
        whole: whether it needs all samples at once, so that later operations wait for all earlier ones.
        pooled: for a stop, where the host has something to do: the arrays that it pools there, in order.
    """

    op: str
    x: Value
    y: Value | None = None
    out: Value | None = None
    also: Value | None = None
    hits: Value | None = None
    kind: str = ""
    formula: Callable[..., Any] | None = None
    ordered: bool = False
    relu: bool = False
    constants: tuple[float, ...] = (0.0, 0.0)
    details: tuple[int, ...] = ()
    weights: Array | None = None
    biases: Array | None = None
    table: Array | None = None
    arrays: tuple[Array, ...] = ()
    moments: Moments | None = None
    z: Value | None = None
    once: bool = False
    whole: bool = False
    pooled: tuple[Array, ...] = ()

    @property
    def reads(self) -> list[Value]:
        """The values it reads."""
        return [value for value in (self.x, self.y, self.z) if value is not None]


@dataclass(eq=False)
class Gradient:
    """The gradients of one dense layer's parameters, from its inputs x and its output's gradient d."""

    x: Value
    d: Value
    dw: Array
    db: Array


@dataclass(eq=False)
class Scatter:
    """The gradient of a table: its codes are in `column` of x, its vectors' gradients in d from feature `first` on."""

    x: Value
    d: Value
    dw: Array
    column: int
    first: int


@dataclass(eq=False)
class Sum:
    """The gradient of a parameter [1, width] that is the sum of a value over all samples."""

    d: Value
    out: Array


@dataclass
class Step:
    """A recorded step, read.

    Attributes:
        updates: the optimizer's calls, one for each run of trained parameters. optimizer: the first of them.
        before, after: the operations on all gradients before the optimizer, and on all parameters after it.
    """

    rows: int = 0
    dtype: str = ""
    nodes: list[Node] = field(default_factory=list)
    gradients: list[Gradient] = field(default_factory=list)
    scatters: list[Scatter] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    penalties: list[dict[str, Any]] = field(default_factory=list)
    optimizer: Call | None = None
    updates: list[Call] = field(default_factory=list)
    before: list[Call] = field(default_factory=list)
    after: list[Call] = field(default_factory=list)
    end: Call | None = None
    losses: Value | None = None
    hits: Value | None = None
    counts: bool = False
    order: Array | None = None
    labels: Array | None = None
    counters: Array | None = None

    @property
    def work(self) -> int:
        """The approximate number of multiply-adds in a step: three products for each dense layer."""
        gradients = sum(int(gradient.dw.size) for gradient in self.gradients)
        products = sum(int(weights.size) for weights in self.weights)
        return self.rows * max(3 * gradients, gradients + products)  # the second if many layers are not trained

    @property
    def all_trained(self) -> bool:
        """Whether operations on all gradients, or parameters, only concern those that the optimizer updates."""
        names = {"average": "p"}
        return len(self.updates) == 1 and all(
            same(self.updates[0].operands[name], call.operands[name])
            for call in (*self.before, *self.after)
            for name in [names.get(call.name, "g")]
        )

    @property
    def by_parameter(self) -> list[Gradient | Scatter]:
        """The gradients of all parameters, which are sums over samples."""
        return [*self.gradients, *self.scatters]

    @property
    def weights(self) -> list[Array]:
        """The weights by which samples are multiplied, product after product."""
        return [node.weights for node in self.nodes if node.op in ("dense", "dense_dx") and node.weights is not None]
