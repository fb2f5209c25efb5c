"""Nodes of a recorded step's data flow: values, what is done to them, and the step that they make up.

A buffer is known by its address and may be written several times in a step. Each write makes a new `Value`, so that
work that is put off to the end of the step (weight gradients) finds what it would have found at its turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nnx.backends.addresses import Array, same
from nnx.backends.recorder import Call


@dataclass(eq=False)
class Value:
    """Numbers for every sample: what one write left in a buffer, or an array given from outside.

    Attributes:
        width: numbers a sample.
        array: the array given, or None for the step's own.
        source: the value whose memory this one takes over, once `fuse` has found that nobody else needs it.
    """

    width: int
    array: Array | None = None
    source: Value | None = None

    @property
    def home(self) -> Value:
        """The value whose memory this is."""
        return self if self.source is None else self.source.home


@dataclass(eq=False)
class Moments:
    """What is known of each feature of all samples, [3, width]: see nnx/kernels/cpu/program/shared_norm.py.

    Attributes:
        pooled: where the means and the spreads stand that are pooled with other processes', if they are.
    """

    width: int
    pooled: list[Array] = field(default_factory=list)


@dataclass(eq=False)
class Node:
    """One operation on samples.

    Attributes:
        x, y, z: what it reads. out: what it writes. also: a second result (losses), hits: a third.
        kind: of an operation on each number by itself. formula: that of a kind of the user's own.
        ordered: whether it takes its samples in the shuffled order.
        constants: float64 that its kernel takes. details: whole numbers that it takes. weights, biases: parameters.
        table: what codes are looked up in.
        relu: ReLU, or the mask of its gradient by y, follows in the same pass.
        arrays: more arrays of the flat buffer. moments: what it writes, or reads, of each feature.
        once: depends on nothing that changes within a call of `run`.
        whole: it takes all samples at once, so whatever comes after it waits for all that comes before.
        pooled: of a stop, where the host comes in: what it pools there, in order.
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
    """The gradients of what codes are looked up in: of those in `column` of x, by the features of d from `first` on."""

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
        updates: the optimizer's calls, one for each run of parameters that are trained. optimizer: the first of them.
        before, after: what is done to all gradients before the optimizer takes them, and to all parameters after it.
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
        """Multiply-adds in a step, roughly: three products for each dense layer."""
        gradients = sum(int(gradient.dw.size) for gradient in self.gradients)
        products = sum(int(weights.size) for weights in self.weights)
        return self.rows * max(3 * gradients, gradients + products)  # the second where many layers are not trained

    @property
    def all_trained(self) -> bool:
        """Whether what is done to all gradients, or parameters, is done to those that the optimizer takes."""
        names = {"average": "p"}
        return len(self.updates) == 1 and all(
            same(self.updates[0].operands[name], call.operands[name])
            for call in (*self.before, *self.after)
            for name in [names.get(call.name, "g")]
        )

    @property
    def by_parameter(self) -> list[Gradient | Scatter]:
        """What is added up over samples: the gradients of all parameters."""
        return [*self.gradients, *self.scatters]

    @property
    def weights(self) -> list[Array]:
        """What samples are multiplied by, product after product."""
        return [node.weights for node in self.nodes if node.op in ("dense", "dense_dx") and node.weights is not None]
