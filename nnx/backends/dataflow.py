"""Data flow of a recorded step, the first pass of compiling it: which operation reads which value. For CPUs and GPUs.

A buffer is known by its address and may be written several times in a step. Each write makes a new `Value`, so that
work that is put off to the end of the step (weight gradients) finds what it would have found at its turn.
"""

# ruff: noqa: D102 - what an operation or a layout does is described once, where it is declared

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import addressof, c_char
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnx.backends.errors import NotReplayable
from nnx.backends.formula import Formula, compilable
from nnx.backends.recorder import UPDATES, Call
from nnx.kernels.elementwise import BY_NAME, FUNCTIONS
from nnx.kernels.losses import LOSSES, Loss, bounds
from nnx.kernels.philox import keep_threshold

Array = Any  # NumPy's or CuPy's
GRADIENTS_OF_PARAMETERS = ("dense_backward", "dense_gradients", "norm_gradients", "regularize")
# What is done to each number by itself has a name, its kind: one of nnx/kernels/elementwise.py's KINDS.
GRADIENTS = {row.gradient: row for row in FUNCTIONS}
LOSSES_BY_NAME = {row.name: row for row in LOSSES}
LOSS_GRADIENTS = {row.gradient: row for row in LOSSES}


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
    """What is known of each feature of all samples, [3, width]: see nnx/kernels/cpu/program/shared_norm.py."""

    width: int


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


first_byte: Any = c_char.from_buffer


def address(a: Array) -> int:
    """Where an array begins, in the memory that it is in. A recording asks 90 times, and NumPy takes a microsecond."""
    if type(a) is np.ndarray:
        try:
            return addressof(first_byte(a))
        except (TypeError, ValueError):  # it is read-only, not contiguous, or empty
            pass
    interface = getattr(a, "__cuda_array_interface__", None) or a.__array_interface__
    return int(interface["data"][0])


def same(a: Array | None, b: Array) -> bool:
    """Whether both are the same numbers in memory."""
    if a is b:
        return True
    return a is not None and a.shape == b.shape and a.dtype == b.dtype and address(a) == address(b)


class Reader:
    """Turns calls into a `Step`; raises NotReplayable with the reason where it cannot."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.step = Step()
        self.current: dict[int, Value] = {}
        self.hot: dict[int, Value] = {}  # labels as rows, by the labels' value
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.moments: dict[int, Moments] = {}  # by where 1 over the standard deviations stands
        ends = [call for call in calls if call.name == "end_step"]
        optimizers = [call for call in calls if call.name in UPDATES]
        if len(ends) != 1 or not optimizers:
            raise NotReplayable(
                f"a step has one optimizer and one end; recorded were {len(optimizers)} and {len(ends)}"
            )
        self.step.end, self.step.optimizer, self.step.updates = ends[0], optimizers[0], optimizers
        for call in optimizers[1:]:
            if call.name != optimizers[0].name or any(
                not same(call.operands[name], optimizers[0].operands[name]) for name in ("hyper", "counters")
            ):
                raise NotReplayable("a step has one optimizer, with one set of numbers; recorded were several")
        self.step.rows, self.step.counters = int(ends[0].operands["rows"]), ends[0].operands["counters"]
        self.step.dtype = optimizers[0].operands["p"].dtype.name
        self.dtype = np.dtype(self.step.dtype)
        self.updated = False
        for call in calls:
            self.call = call
            if self.updated and call.name not in ("average", "tally", "weighted_tally", "end_step", *UPDATES):
                raise NotReplayable(f"{call.name} comes after the optimizer: nothing but the step's end may")
            if self.step.before and call.name in GRADIENTS_OF_PARAMETERS:
                raise NotReplayable(f"{call.name} comes after {self.step.before[-1].name}, which takes all gradients")
            self.updated = self.updated or call is self.step.optimizer
            method: Callable[..., None] | None = getattr(self, f"on_{call.name}", None)
            if method is not None:
                method(**call.operands)
            elif call.name in BY_NAME:
                self.function(**call.operands)
            elif call.name in GRADIENTS:
                self.function_gradient(GRADIENTS[call.name].of, **call.operands)
            elif call.name in LOSSES_BY_NAME:
                self.loss(LOSSES_BY_NAME[call.name], *call.operands.values())
            elif call.name in LOSS_GRADIENTS:
                row = LOSS_GRADIENTS[call.name]
                self.loss_gradient(row, *call.operands.values())
            elif call is not self.step.end and call.name not in UPDATES:
                raise NotReplayable(f"no compiled kernel replays {call.name}")
        if self.step.losses is None:
            raise NotReplayable("the step tells nobody its loss: no tally was recorded")

    # ---- values ------------------------------------------------------------------------------------------------------

    def floats(self, a: Array) -> None:
        """Refuse an array that the compiled step cannot read."""
        if a.dtype != self.dtype:  # which its name would be in the other byte order, too
            raise NotReplayable(f"{self.call.name}: an operand is {a.dtype}, the parameters are {self.step.dtype}")
        if not a.flags.c_contiguous:
            raise NotReplayable(f"{self.call.name}: an operand {a.shape} is not contiguous")

    def read(self, a: Array) -> Value:
        """The value that stands in a buffer now."""
        self.floats(a)
        if a.shape[0] != self.step.rows or a.ndim > 2:
            raise NotReplayable(f"{self.call.name}: an operand has shape {a.shape}, the step has {self.step.rows} rows")
        place = address(a)  # asked for once: NumPy takes a microsecond
        value = self.current.get(place)
        if value is None:
            value = self.current[place] = Value(1 if a.ndim == 1 else a.shape[1], a)
            self.shapes[place] = a.shape
        if self.shapes[place] != a.shape:
            raise NotReplayable(f"{self.call.name} reads {a.shape} of a buffer that holds {self.shapes[place]}")
        return value

    def write(self, a: Array) -> Value:
        """A new value in a buffer."""
        self.floats(a)
        if a.shape[0] != self.step.rows or a.ndim > 2:
            raise NotReplayable(f"{self.call.name} writes {a.shape}; the step has {self.step.rows} rows")
        place = address(a)
        value = self.current[place] = Value(1 if a.ndim == 1 else a.shape[1])
        self.shapes[place] = a.shape
        return value

    def add(self, op: str, x: Value, *args: Any, **kwargs: Any) -> Node:
        """Note an operation."""
        node = Node(op, x, *args, **kwargs)
        self.step.nodes.append(node)
        return node

    def target(self, a: Array) -> Value:
        """The value of a target: labels as numbers of the step's type, or a matrix."""
        if a.dtype.kind == "f":
            return self.read(a)
        place = address(a)
        if place not in self.current:
            self.current[place] = self.labels(a, None)
        return self.current[place]

    def labels(self, source: Array, order: Array | None) -> Value:
        """Class numbers from an int64 array, in an order or as they lie."""
        if source.dtype != np.int64 or source.ndim != 1 or not source.flags.c_contiguous:
            raise NotReplayable(f"{self.call.name}: targets are {source.dtype} {source.shape}, expected int64 [N]")
        if self.step.labels is not None and not same(self.step.labels, source):
            raise NotReplayable(f"{self.call.name}: the step reads a second array of labels")
        self.step.labels = source
        value = Value(1)
        self.add("labels", value, None, value, ordered=order is not None, once=order is None)
        return value

    # ---- the way in, and dense layers --------------------------------------------------------------------------------

    def on_gather_rows(self, source: Array, order: Array, counters: Array, out: Array) -> None:
        self.count(counters)
        if self.step.order is not None and not same(self.step.order, order):
            raise NotReplayable("gather_rows: the step reads a second order of rows")
        if order.dtype != np.int64 or not order.flags.c_contiguous:
            raise NotReplayable(f"gather_rows: the order is {order.dtype}, expected int64, contiguous")
        self.step.order = order
        if source.dtype.kind != "f":
            self.current[address(out)] = self.labels(source, order)
            return
        self.floats(source)
        if source.ndim != 2:
            raise NotReplayable(f"gather_rows: rows of {source.shape}, expected a matrix")
        self.add("gather", Value(source.shape[1], source), None, self.write(out), ordered=True)

    def count(self, counters: Array) -> None:
        if not same(self.step.counters, counters):
            raise NotReplayable(f"{self.call.name} counts by other counters than the step's")

    def on_dense(self, x: Array, w: Array, b: Array, activation: str | None, out: Array) -> None:
        self.floats(w)
        self.floats(b)
        inputs = self.read(x)
        self.add("dense", inputs, None, self.write(out), weights=w, biases=b)
        if activation is not None:
            self.elementwise(activation, out, None, out)

    def on_dense_backward(self, x: Array, w: Array, dy: Array, dw: Array, db: Array, out: Array) -> None:
        self.on_dense_gradients(x, dy, dw, db)
        self.on_dense_dinputs(w, dy, out)

    def on_dense_dinputs(self, w: Array, dy: Array, out: Array) -> None:
        self.floats(w)
        d = self.read(dy)
        self.add("dense_dx", d, None, self.write(out), weights=w)

    def on_dense_gradients(self, x: Array, dy: Array, dw: Array, db: Array) -> None:
        self.floats(dw)
        self.floats(db)
        self.step.gradients.append(Gradient(self.read(x), self.read(dy), dw, db))

    # ---- activations and dropout -------------------------------------------------------------------------------------

    def elementwise(
        self, kind: str, x: Array, y: Array | None, out: Array, constants: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        reads = self.read(x), None if y is None else self.read(y)
        self.add("elementwise", *reads, self.write(out), kind=kind, constants=constants)

    def function(self, x: Array, out: Array, a: float = 0.0) -> None:
        self.elementwise(self.call.name, x, None, out, (a, 0.0))

    def function_gradient(self, of: str, dy: Array, out: Array, a: float = 0.0, **operands: Array) -> None:
        self.elementwise(self.call.name, operands[of], dy, out, (a, 0.0))

    def on_apply_formula(self, x: Array, of: Formula, out: Array) -> None:
        values = self.read(x)
        self.add("elementwise", values, None, self.write(out), kind=of.name, formula=compilable(of.layer))

    def on_apply_formula_backward(self, x: Array, y: Array, dy: Array, of: Formula, out: Array) -> None:
        values, kind = (self.read(x), self.read(dy)), f"{of.name}_backward"
        self.add("elementwise", *values, self.write(out), kind=kind, formula=compilable(of.layer_backward))

    def on_softmax(self, x: Array, out: Array) -> None:
        value = self.read(x)
        self.add("softmax", value, None, self.write(out))

    def on_softmax_backward(self, y: Array, dy: Array, out: Array) -> None:
        values = self.read(y), self.read(dy)
        self.add("softmax_backward", *values, self.write(out))

    def on_dropout(self, x: Array, rate: float, seed: int, layer: int, counters: Array, out: Array) -> None:
        self.count(counters)
        value, details = self.read(x), (layer, key_of(seed), keep_threshold(rate))
        self.add("dropout", value, None, self.write(out), constants=(1 / (1 - rate), 0.0), details=details)

    # ---- blocks of layers --------------------------------------------------------------------------------------------

    def on_add(self, x: Array, y: Array, out: Array) -> None:
        self.elementwise("add", x, y, out)

    def on_put_columns(self, x: Array, first: int, y: Array) -> None:
        source = self.read(x)
        self.add("columns", source, None, self.part_of(y, first), details=(0, first, source.width))

    def on_take_columns(self, x: Array, first: int, count: int, out: Array) -> None:
        source = self.read(x)
        self.add("columns", source, None, self.write(out), details=(first, 0, count))

    def on_embed(self, x: Array, w: Array, column: int, first: int, y: Array) -> None:
        self.floats(w)
        self.add("embed", self.read(x), None, self.part_of(y, first), details=(column, first), table=w)

    def on_embed_gradients(self, x: Array, dy: Array, dw: Array, column: int, first: int) -> None:
        self.floats(dw)
        self.step.scatters.append(Scatter(self.read(x), self.read(dy), dw, column, first))

    def part_of(self, y: Array, first: int) -> Value:
        """A new value in a buffer of which some columns are written: the first ones, or more beside those before."""
        before = self.current.get(address(y))
        value = self.write(y)
        if first:
            if before is None or before.width != value.width:
                raise NotReplayable(f"{self.call.name}: nothing stands in the columns before number {first}")
            read = [value for node in self.step.nodes for value in node.reads]
            read += [value for each in self.step.by_parameter for value in (each.x, each.d)]
            if any(before is value for value in (*read, *(one.d for one in self.step.sums))):
                raise NotReplayable(f"{self.call.name} writes columns of what was read before")
            value.source = before
        return value

    # ---- normalization -----------------------------------------------------------------------------------------------

    def on_layer_norm(
        self, x: Array, gamma: Array, beta: Array, epsilon: float, normalized: Array, scales: Array, out: Array
    ) -> None:
        self.floats(gamma)
        self.floats(beta)
        inputs = self.read(x)
        results = self.write(out), self.write(normalized), self.write(scales)
        self.add("layer_norm", inputs, None, *results, weights=gamma, biases=beta, constants=(epsilon, 0.0))

    def on_layer_norm_backward(self, normalized: Array, scales: Array, gamma: Array, dy: Array, out: Array) -> None:
        self.floats(gamma)
        values, known = (self.read(normalized), self.read(dy)), self.read(scales)
        self.add("layer_norm_backward", *values, self.write(out), weights=gamma, z=known)

    def on_norm_gradients(self, normalized: Array, dy: Array, dgamma: Array, dbeta: Array) -> None:
        self.floats(dgamma)
        self.floats(dbeta)
        d, products = self.read(dy), Value(dy.shape[1])
        self.add("elementwise", self.read(normalized), d, products, kind="times")
        self.step.sums += [Sum(products, dgamma), Sum(d, dbeta)]

    def on_batch_norm(
        self, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float, momentum: float,
        normalized: Array, scales: Array, out: Array,
    ) -> None:  # fmt: skip
        self.moments_of(x, (gamma, beta, mean, variance, scales), (epsilon, momentum), False)
        self.by_moments(x, gamma, beta, normalized, scales, out)

    def on_fixed_norm(
        self, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float, normalized: Array,
        scales: Array, out: Array,
    ) -> None:  # fmt: skip
        self.moments_of(x, (gamma, beta, mean, variance, scales), (epsilon, 0.0), True)
        self.by_moments(x, gamma, beta, normalized, scales, out)

    def moments_of(self, x: Array, arrays: tuple[Array, ...], constants: tuple[float, float], fixed: bool) -> None:
        """Work out the moments of each feature, or take the running ones."""
        for a in arrays:
            self.floats(a)
        _, _, mean, variance, scales = arrays
        moments = self.moments[address(scales)] = Moments(x.shape[1])
        of = {"weights": mean, "biases": variance, "moments": moments}
        self.add("moments", self.read(x), constants=constants, details=(int(fixed),), whole=True, **of)

    def by_moments(self, x: Array, gamma: Array, beta: Array, normalized: Array, scales: Array, out: Array) -> None:
        inputs, of = self.read(x), {"weights": gamma, "biases": beta, "moments": self.moments[address(scales)]}
        self.add("batch_norm", inputs, None, self.write(out), self.write(normalized), **of)

    def on_batch_norm_backward(
        self, normalized: Array, scales: Array, gamma: Array, dy: Array, dgamma: Array, dbeta: Array, out: Array
    ) -> None:
        sums = [one for a in (dgamma, dbeta) for one in self.step.sums if same(one.out, a)]
        if len(sums) != 2:
            raise NotReplayable("batch_norm_backward reads gradients that no norm_gradients wrote before it")
        for one in sums:  # at once, and not at the end
            self.step.sums.remove(one)
            self.add("sum", one.d, arrays=(one.out,), whole=True)
        self.backward_by_moments(normalized, scales, gamma, dy, (dgamma, dbeta), out, False)

    def on_fixed_norm_backward(self, scales: Array, gamma: Array, dy: Array, out: Array) -> None:
        self.backward_by_moments(dy, scales, gamma, dy, (gamma, gamma), out, True)

    def backward_by_moments(
        self, normalized: Array, scales: Array, gamma: Array, dy: Array, sums: tuple[Array, Array], out: Array,
        fixed: bool,
    ) -> None:  # fmt: skip
        self.floats(gamma)
        moments = self.moments.get(address(scales))
        if moments is None:
            raise NotReplayable(f"{self.call.name} reads scales that no normalization wrote before it")
        values = self.read(normalized), self.read(dy)
        of = {"weights": gamma, "arrays": sums, "moments": moments, "details": (int(fixed),)}
        self.add("batch_norm_backward", *values, self.write(out), **of)

    def on_gaussian_noise(self, x: Array, stddev: float, seed: int, layer: int, counters: Array, out: Array) -> None:
        self.count(counters)
        value, details = self.read(x), (layer, key_of(seed))
        self.add("gaussian_noise", value, None, self.write(out), constants=(stddev, 0.0), details=details)

    # ---- losses ------------------------------------------------------------------------------------------------------

    def loss(self, row: Loss, prediction: Array, target: Array, *more: Any) -> None:
        (*parameter, out), each = more, Value(prediction.shape[1])
        constants = (0.0, *(parameter or (0.0,)))
        self.add("elementwise", self.read(prediction), self.read(target), each, kind=row.part, constants=constants)
        self.add("mean", each, None, self.write(out), constants=(1 / each.width, 0.0))

    def loss_gradient(self, row: Loss, prediction: Array, target: Array, *more: Any) -> None:
        (*parameter, out), scale = more, row.factor / (prediction.shape[0] * prediction.shape[1])
        self.elementwise(row.slope, prediction, target, out, (scale, *(parameter or (0.0,))))

    def on_formula_loss(self, prediction: Array, target: Array, of: Formula, out: Array) -> None:
        values, each = (self.read(prediction), self.read(target)), Value(prediction.shape[1])
        self.add("elementwise", *values, each, kind=of.name, formula=compilable(of.loss))
        self.add("mean", each, None, self.write(out), constants=(1 / each.width, 0.0))

    def on_formula_loss_backward(self, prediction: Array, target: Array, of: Formula, out: Array) -> None:
        values, scale = (self.read(prediction), self.read(target)), 1 / (prediction.shape[0] * prediction.shape[1])
        formula, kind = compilable(of.loss_backward), f"{of.name}_backward"
        self.add("elementwise", *values, self.write(out), kind=kind, formula=formula, constants=(scale, 0.0))

    def on_sigmoid_cross_entropy(
        self, logits: Array, target: Array, losses: Array, probabilities: Array | None, clip: float, out: Array
    ) -> None:
        x, t, each = self.read(logits), self.read(target), Value(logits.shape[1])
        self.add("elementwise", x, t, each, kind="logit", constants=bounds(clip))
        self.add("mean", each, None, self.write(losses), constants=(1 / each.width, 0.0))
        if probabilities is not None:
            self.add("elementwise", x, None, self.write(probabilities), kind="sigmoid")
        scale = 1 / (logits.shape[0] * logits.shape[1])
        self.add("elementwise", x, t, self.write(out), kind="logit_backward", constants=(scale, 0.0))

    def on_softmax_cross_entropy(
        self, logits: Array, target: Array, losses: Array, probabilities: Array | None, clip: float, out: Array
    ) -> None:
        x, t = self.read(logits), self.target(target)
        if probabilities is not None:
            self.add("softmax", x, None, self.write(probabilities))
        op = "cross_entropy" if target.ndim == 1 else "cross_entropy_soft"
        each, gradient = self.write(losses), self.write(out)
        self.add(op, x, t, gradient, each, constants=(1 / len(logits), *bounds(clip)))

    def rows_of(self, target: Array, width: int) -> Value:
        """A categorical target as a distribution for every sample."""
        value = self.target(target)
        if target.ndim == 2:
            return value
        key = id(value)
        if key not in self.hot:
            self.hot[key] = Value(width)
            self.add("one_hot", value, None, self.hot[key])
        return self.hot[key]

    def on_cross_entropy(self, p: Array, target: Array, out: Array) -> None:
        each, classes = Value(p.shape[1]), p.shape[1]
        self.add("elementwise", self.read(p), self.rows_of(target, classes), each, kind="nll")
        if target.ndim == 2:
            self.add("mean", each, None, self.write(out), constants=(1.0, 0.0))
            return
        total = Value(1)
        self.add("mean", each, None, total, constants=(1.0, 0.0))
        wanted = self.target(target)  # a label that is no class has no share of any: its loss is nan, not 0
        self.add("elementwise", total, wanted, self.write(out), kind="known", constants=(classes, 0.0))

    def on_cross_entropy_backward(self, p: Array, target: Array, out: Array) -> None:
        x, t = self.read(p), self.rows_of(target, p.shape[1])
        self.add("elementwise", x, t, self.write(out), kind="nll_backward", constants=(1 / len(p), 0.0))

    # ---- the end of the step -----------------------------------------------------------------------------------------

    def on_tally(
        self, losses: Array, outputs: Array, target: Array, metric: str | None, tolerance: float, stats: Array
    ) -> None:
        if self.step.losses is not None or self.step.end is None or not same(self.step.end.operands["stats"], stats):
            raise NotReplayable("tally: the step tells its loss twice, or where nobody logs it")
        self.step.losses = self.read(losses)
        if metric is None:
            return
        x, hits, self.step.counts = self.read(outputs), Value(1), True
        self.step.hits = hits
        if metric == "categorical":
            wanted = self.target(target)
            if target.ndim == 2:
                place = Value(1)
                self.add("argmax", wanted, None, place)
                wanted = place
            for node in self.step.nodes:
                if node.op == "cross_entropy" and node.x is x and node.y is wanted:
                    node.hits = hits  # it knows the largest logit anyway
                    return
            best = Value(1)
            self.add("argmax", x, None, best)
            self.add("elementwise", best, wanted, hits, kind="equal")
            return
        right = Value(x.width)
        kind = "near" if metric == "regression" else "above"
        limit = tolerance if metric == "regression" else 0.0 if metric == "logits" else 0.5
        self.add("elementwise", x, self.read(target), right, kind=kind, constants=(limit, 0.0))
        self.add("mean", right, None, hits, constants=(1 / x.width, 0.0))

    def on_weighted_tally(
        self, losses: Array, outputs: Array, target: Array, weights: Array, metric: str | None, tolerance: float,
        stats: Array,
    ) -> None:  # fmt: skip
        self.on_tally(losses, outputs, target, metric, tolerance, stats)
        step, factors = self.step, self.read(weights)
        assert step.losses is not None
        step.losses = self.weighed(step.losses, factors, Value(1))
        if step.hits is not None:
            step.hits = self.weighed(step.hits, factors, Value(1))

    def on_weigh(self, x: Array, weights: Array, out: Array) -> None:
        values = self.read(x), self.read(weights)
        self.weighed(*values, self.write(out))

    def weighed(self, x: Value, weights: Value, out: Value) -> Value:
        """Each sample's numbers times its weight."""
        if weights.width != 1:
            raise NotReplayable(f"{self.call.name}: {weights.width} weights a sample, expected one")
        self.add("weigh", x, weights, out)
        return out

    def on_regularize(self, w: Array, dw: Array, l1: float, l2: float, penalty: Array) -> None:
        self.floats(w)
        self.floats(dw)
        self.step.penalties.append({"w": w, "dw": dw, "l1": l1, "l2": l2, "penalty": penalty})

    def on_collect(self, g: Array, m: Array) -> None:
        self.floats(m)
        self.of_all("g", g)
        self.step.before.append(self.call)

    def on_clip(self, g: Array, norm: float, value: float) -> None:
        self.of_all("g", g)
        self.step.before.append(self.call)

    def on_average(self, a: Array, p: Array, counters: Array, decay: float, since: int) -> None:
        self.count(counters)
        self.floats(a)
        self.of_all("p", p)
        if not self.updated:
            raise NotReplayable("average: the mean of parameters is taken before the optimizer moves them")
        self.step.after.append(self.call)

    def of_all(self, operand: str, a: Array) -> None:
        """Refuse to do to some of the optimizer's gradients or parameters what is done to all of them."""
        assert self.step.optimizer is not None
        parts = [call.operands[operand] for call in self.step.updates]  # of those that are trained
        if not all(address(a) <= address(p) and address(p) + p.nbytes <= address(a) + a.nbytes for p in parts):
            raise NotReplayable(f"{self.call.name} takes other {operand} than the optimizer")


def key_of(seed: int) -> int:
    """Return a seed as int64: Philox takes 64 bits of it."""
    key = seed & (1 << 64) - 1
    return key - (1 << 64) if key >= 1 << 63 else key


def fuse(step: Step) -> None:
    """Let operations work in place, and fold ReLU or its gradient into the product before it.

    Both only where nobody else looks at what is lost.
    """
    readers: dict[int, int] = {}
    makers: dict[int, Node] = {}
    for node in step.nodes:
        for value in node.reads:
            readers[id(value)] = readers.get(id(value), 0) + 1
        if node.out is not None:
            makers[id(node.out)] = node
    for gradient in step.by_parameter:
        for value in (gradient.x, gradient.d):
            readers[id(value)] = readers.get(id(value), 0) + 1
    for kept in (step.losses, step.hits, *(one.d for one in step.sums)):
        readers[id(kept)] = readers.get(id(kept), 0) + 1
    for node in list(step.nodes):
        if node.op not in ("elementwise", "dropout", "weigh", "gaussian_noise") or node.out is None:
            continue
        used_up = node.x if node.y is None or node.op == "weigh" else node.y
        if used_up.array is not None or readers[id(used_up)] > 1 or used_up.width != node.out.width:
            continue
        maker = makers.get(id(used_up))
        if maker is None or maker.op == "labels":
            continue
        node.out.source = used_up
        if maker.op == "dense" and node.op == "elementwise" and node.kind == "relu":
            maker.relu = True
        elif maker.op == "dense_dx" and node.op == "elementwise" and node.kind == "relu_backward" and not maker.relu:
            maker.y, maker.relu = node.x, True
        else:
            continue
        makers[id(node.out)] = maker
        step.nodes.remove(node)
