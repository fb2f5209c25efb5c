"""Test cases for every operation: ugly operands, and what it must make of them.

Sizes are odd, rows and columns are single, numbers are huge, infinite or equal. `CASES` names every operation but the
optimizers, which are run over many steps instead (optimizers.py).
"""

# ruff: noqa: D102, D103 - a function here is named after the operation, which is described where its default is

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, product
from typing import Any

import numpy as np

from nnx.backends.formula import Formula
from nnx.backends.operation_table import OPERATIONS
from nnx.kernels.elementwise import FUNCTIONS, Elementwise
from nnx.testing import reference
from nnx.testing.reference import Results

Array = np.ndarray
SHAPES = ((1, 1), (7, 1), (1, 2), (33, 3), (5, 10), (64, 17), (3, 300))
DENSE = ((1, 1, 1), (1, 3, 2), (7, 2, 3), (33, 17, 10), (64, 300, 3), (5, 10, 300), (300, 2, 64))


@dataclass(frozen=True)
class Case:
    """One call of one operation.

    Attributes:
        operation: its name. name: what is special.
        operands: by name, in the order of the signature, without `out`.
        wanted: what must have been written, by operand. out: the shape of the result, where there is one.
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
        """Return a case: operands that are only written are made here, full of nan.

        Args:
            batch: rows of `out`, for the operation whose result's size nothing else tells.
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
            kind = np.float64 if written == "penalty" else self.kind
            operands[written] = np.full(value.shape, np.nan, kind)
        wanted = {written: result for written, result in wanted.items() if operands.get(written, 0) is not None}
        shape = next((a.shape for a in operands.values() if isinstance(a, Array)), ())
        ordered = {p: operands[p] for p in spec.signature.parameters if p in operands}
        out = wanted["out"].value.shape if "out" in wanted else None
        return Case(operation, f"{'x'.join(map(str, shape))} {name}", ordered, wanted, out)

    # ---- numbers -----------------------------------------------------------------------------------------------------

    def normal(self, *shape: int) -> Array:
        return self.random.normal(size=shape).astype(self.kind)

    def huge_row(self, a: Array, factor: float = 1e30) -> Array:
        """Return `a` with its first row blown up."""
        a = a.copy()
        a[0] *= self.kind(factor)
        return a

    def logits(self, shape: tuple[int, int]) -> Iterator[tuple[str, Array]]:
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
                yield name, reference.exponentials(logits.astype(np.float64))[0].astype(self.kind)

    def shares(self, shape: tuple[int, int]) -> Iterator[tuple[str, Array]]:
        """Numbers within 0 .. 1 of no sum."""
        yield "plain", self.random.random(shape).astype(self.kind)
        yield "0, 1/2 and 1", self.random.choice([0, 0.5, 1], shape).astype(self.kind)

    def labels(self, shape: tuple[int, int]) -> Iterator[tuple[str, Array]]:
        """Class indices, with some that are no class; one-hot rows, and distributions with zeros."""
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
    """Pair each of `left` with one of `right`, in another `turn` with another: together the turns make all pairs."""
    choices = list(right)
    return ((one, choices[(number + turn) % len(choices)]) for number, one in enumerate(left))


def wide(operand: Any) -> Any:
    """Return a float operand in float64, anything else as it is."""
    return operand.astype(np.float64) if isinstance(operand, Array) and operand.dtype.kind == "f" else operand


# ---- dense -----------------------------------------------------------------------------------------------------------


def dense(make: Maker) -> Iterator[Case]:
    activations = cycle((None, *(row.name for row in FUNCTIONS if not row.parameter)))
    for n, i, o in DENSE * 3:
        x, w, b = make.normal(n, i), make.normal(i, o), make.normal(1, o)
        name = next(activations)
        yield make.case("dense", f"-> {o}, {name}", x=x, w=w, b=b, activation=name)
    yield make.case(
        "dense", "one huge row", x=make.huge_row(make.normal(7, 3)), w=make.normal(3, 2), b=make.normal(1, 2)
    )


def dense_backward(make: Maker) -> Iterator[Case]:
    for n, i, o in DENSE:
        x, w, dy = make.normal(n, i), make.normal(i, o), make.normal(n, o)
        yield make.case("dense_backward", f"-> {o}", x=x, w=w, dy=dy)
        yield make.case("dense_backward", f"-> {o}, one huge row", x=x, w=w, dy=make.huge_row(dy))


def dense_dinputs(make: Maker) -> Iterator[Case]:
    for n, i, o in DENSE:
        w, dy = make.normal(i, o), make.normal(n, o)
        yield make.case("dense_dinputs", f"-> {o}", w=w, dy=dy)
        yield make.case("dense_dinputs", f"-> {o}, one huge row", w=w, dy=make.huge_row(dy))


def dense_gradients(make: Maker) -> Iterator[Case]:
    for n, i, o in DENSE:
        yield make.case("dense_gradients", f"-> {o}", x=make.normal(n, i), dy=make.normal(n, o))


def regularize(make: Maker) -> Iterator[Case]:
    for shape, (l1, l2) in product(SHAPES, ((0.1, 0.0), (0.0, 5e-4), (0.01, 0.02))):
        w = make.normal(*shape)
        w.flat[::3] = 0
        w.flat[::6] *= -1  # -0.0 counts as 0
        yield make.case("regularize", f"l1={l1} l2={l2}", w=w, dw=make.normal(*shape), l1=l1, l2=l2)


# ---- activations -----------------------------------------------------------------------------------------------------


def softmax(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        for name, x in make.logits(shape):
            yield make.case("softmax", name, x=x)


def softmax_backward(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        y, dy = next(iter(make.probabilities(shape)))[1], make.normal(*shape)
        yield make.case("softmax_backward", "plain", y=y, dy=dy)
        yield make.case("softmax_backward", "one huge row", y=y, dy=make.huge_row(dy))


def function(row: Elementwise) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        settings = cycle(settings_of(row))
        for shape in SHAPES:
            for name, x in make.logits(shape):
                yield make.case(row.name, name, x=x, **next(settings))
        yield make.case(row.name, "signed zeros, infinities, nan", x=edges(make), **next(settings))

    return cases


def function_gradient(row: Elementwise) -> Callable[[Maker], Iterator[Case]]:
    def operands(x: Array, setting: dict[str, float]) -> dict[str, Any]:
        return {row.of: x if row.of == "x" else outputs(row, x, setting), **setting}

    def cases(make: Maker) -> Iterator[Case]:
        settings = cycle(settings_of(row))
        for shape in SHAPES:
            given, dy = operands(4 * make.normal(*shape), next(settings)), make.normal(*shape)
            yield make.case(row.gradient, "plain", dy=dy, **given)
            yield make.case(row.gradient, "one huge row", dy=make.huge_row(dy), **given)
        x = edges(make)
        yield make.case(row.gradient, "infinities, nan", dy=make.normal(*x.shape), **operands(x, next(settings)))
        if row.name == "relu":
            y = np.array([[0, 1, 0], [2, -0.0, 3]], make.kind)
            dy = np.array([[np.inf, np.inf, np.nan], [np.nan, -np.inf, 1]], make.kind)
            yield make.case(row.gradient, "what is not finite, masked and not", y=y, dy=dy)

    return cases


def settings_of(row: Elementwise) -> list[dict[str, Any]]:
    """Values of a function's parameter, if it has one."""
    return [{"a": row.default}, {"a": 0.3}, {"a": 2.0}] if row.parameter else [{}]


def outputs(row: Elementwise, x: Array, setting: dict[str, float]) -> Array:
    with np.errstate(all="ignore"):
        y: Array = reference.formula(row.name)(wide(x), **setting)["out"].value.astype(x.dtype)
    return y


def edges(make: Maker) -> Array:
    return np.array([[0, -0.0, np.inf], [-np.inf, 1e-30, -1e-30], [np.nan, 1, -1]], make.kind)


def softmax_jacobian(make: Maker) -> Iterator[Case]:
    for shape in SHAPES[:-1]:
        for name, y in make.probabilities(shape):
            yield make.case("softmax_jacobian", name, y=y)


# ---- losses ----------------------------------------------------------------------------------------------------------


def cross_entropy(operation: str) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        for turn, shape in enumerate(SHAPES):
            for (name, p), (kind, target) in combined(make.probabilities(shape), make.labels(shape), turn):
                yield make.case(operation, f"{name}, {kind}", p=p, target=target)

    return cases


def fused(
    operation: str, targets: Callable[[Maker, tuple[int, int]], Iterable[Named]]
) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        clips, nothing = cycle((0.0, 1e-7, 0.1)), dict[str, Any]()
        for turn, shape in enumerate(SHAPES):
            for without in nothing, {"probabilities": None}:
                for (name, logits), (kind, target) in combined(make.logits(shape), targets(make, shape), turn):
                    clip = next(clips)
                    what = f"{name}, {kind}, clip={clip}{', no probabilities' if without else ''}"
                    yield make.case(operation, what, logits=logits, target=target, clip=clip, **without)
        if operation == "sigmoid_cross_entropy":
            logits = np.array([[np.inf, -np.inf], [np.inf, -np.inf]], make.kind)
            target = np.array([[1, 0], [0, 1]], make.kind)  # the first row costs nothing, the second everything
            yield make.case(operation, "infinite logits", logits=logits, target=target)

    return cases


def binary(operation: str) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        for shape in SHAPES:
            for (name, p), (kind, target) in product(make.shares(shape), make.shares(shape)):
                yield make.case(operation, f"{name}, targets {kind}", p=p, target=target)

    return cases


def regression(operation: str, *settings: dict[str, Any]) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        for shape in SHAPES:
            prediction, target = make.normal(*shape), make.normal(*shape)
            target.flat[::3] = prediction.flat[::3]
            huge = make.huge_row(prediction, 1e15)
            for setting in settings:
                given = {"target": target, **setting}
                yield make.case(operation, "plain", prediction=prediction, **given)
                yield make.case(operation, "one huge row", prediction=huge, **given)

    return cases


# ---- one training step -----------------------------------------------------------------------------------------------


def gather_rows(make: Maker) -> Iterator[Case]:
    for columns, rows, cursor in ((1, 1, 0), (3, 4, 0), (17, 5, 9), (300, 11, 22), (2, 33, 0)):
        order = np.concatenate([make.random.permutation(11) for _ in range(3)])
        counters = np.array([5, cursor, 2])
        for name, source in (
            ("floats", make.normal(11, columns)),
            ("indices", make.random.integers(0, 9, 11)),
            ("what is not finite", np.full((11, columns), np.nan, make.kind)),
        ):
            yield make.case("gather_rows", name, rows, source=source, order=order, counters=counters)
    source, far = make.normal(4, 3), np.array([2**62, -1, 4, -(2**62), 3])
    for cursor in (-2, 0, 3, 2**40):
        name, counters = f"rows that are not there, from {cursor} on", np.array([0, cursor, 0])
        yield make.case("gather_rows", name, 7, source=source, order=far, counters=counters)


def dropout(make: Maker) -> Iterator[Case]:
    shapes = ((1, 1), (7, 1), (1, 2), (33, 3), (5, 10), (16, 17), (3, 300))
    rates, seeds = cycle((0.5, 0.0, 0.1, 0.9, 0.999)), cycle((0, 1, 2**32 - 1, 2**40 + 7, 2**64 - 1, 42))
    steps = cycle(((0, 0), (1, 3), (2**31, 1), (2**32 + 1, 0), (2**47 + 2**33, 3)))
    for (step, layer), shape in zip(steps, shapes * 2, strict=False):
        rate, seed, counters = next(rates), next(seeds), np.array([step, 4, 9])
        x = make.normal(*shape)
        x.flat[::7] = (np.inf, np.nan)[step % 2]  # the dropped ones must be 0 all the same
        name = f"rate={rate} seed={seed} layer={layer} step={step}"
        yield make.case("dropout", name, x=x, rate=rate, seed=seed, layer=layer, counters=counters)
    for row, column in ((0, 0), (0, 1), (2, 2), (1, 3), (2, 6)):
        # An element is kept from its own word on: these two rates lie on both sides of it.
        word = reference.dropout_word(row, column, 3, 1, 0)
        for rate in (word / 2**32, (word + 1) / 2**32):
            name = f"rate={rate} at the word of element {row}, {column}"
            operands: dict[str, Any] = {"rate": rate, "seed": 0, "layer": 1, "counters": np.array([3, 0, 0])}
            yield make.case("dropout", name, x=np.ones((3, 7), make.kind), **operands)


def add(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        yield make.case("add", "plain", x=make.normal(*shape), y=make.normal(*shape))
        huge = make.huge_row(make.normal(*shape))
        yield make.case("add", "one huge row", x=huge, y=make.normal(*shape))


def columns_of(make: Maker) -> Iterator[tuple[Array, int, int]]:
    """A matrix, and some columns of it: the first ones, those between and the last."""
    for rows, columns in SHAPES:
        x = make.normal(rows, columns)
        x.flat[::7] = np.nan
        for first, last in {
            (0, columns),
            (0, 1),
            (columns // 3, columns // 3 + (columns + 1) // 2),
            (columns - 1, columns),
        }:
            yield x, first, min(last, columns)


def put_columns(make: Maker) -> Iterator[Case]:
    for y, first, last in columns_of(make):
        x = make.normal(len(y), last - first)
        yield make.case("put_columns", f"to {first} .. {last}", x=x, first=first, y=y)


def take_columns(make: Maker) -> Iterator[Case]:
    for x, first, last in columns_of(make):
        yield make.case("take_columns", f"from {first} .. {last}", x=x, first=first, count=last - first)


def codes(make: Maker) -> Iterator[tuple[str, Array, int, int]]:
    """Codes in a column of a matrix, how many there are, and which column it is."""
    for (rows, columns), count in zip(SHAPES, cycle((1, 2, 5, 3, 300, 7, 4)), strict=False):
        for column in {0, columns - 1}:
            x = make.normal(rows, columns)
            x[:, column] = make.random.integers(0, count, rows)
            yield f"{count} codes", x, count, column
            wrong = x.copy()
            wrong[::2, column] = np.resize([np.nan, -1, count, 0.5, np.inf, -np.inf, 1e30, -0.0], len(wrong[::2]))
            yield f"{count} codes, and what is none", wrong, count, column


def embed(make: Maker) -> Iterator[Case]:
    for width, (name, x, count, column) in zip(cycle((3, 1, 17)), codes(make), strict=False):
        w, y = make.normal(count, width), make.normal(len(x), width + 4)
        yield make.case("embed", name, x=x, w=w, column=column, first=column % 5, y=y)


def embed_gradients(make: Maker) -> Iterator[Case]:
    for width, (name, x, count, column) in zip(cycle((3, 1, 17)), codes(make), strict=False):
        dy, dw = make.normal(len(x), width + 4), np.full((count, width), 9, make.kind)
        yield make.case("embed_gradients", name, x=x, dy=dy, dw=dw, column=column, first=column % 5)


def gaussian_noise(make: Maker) -> Iterator[Case]:
    shapes = ((1, 1), (7, 1), (1, 2), (33, 3), (5, 10), (16, 17), (3, 300))
    seeds, steps = cycle((0, 2**32 - 1, 2**64 - 1, 42)), cycle(((0, 0), (1, 3), (2**32 + 1, 0), (2**47 + 2**33, 3)))
    for (step, layer), shape, stddev in zip(steps, shapes, cycle((0.1, 1.0, 30.0)), strict=False):
        seed, counters = next(seeds), np.array([step, 4, 9])
        name = f"stddev={stddev} seed={seed} layer={layer} step={step}"
        operands: dict[str, Any] = {
            "x": make.normal(*shape),
            "stddev": stddev,
            "seed": seed,
            "layer": layer,
            "counters": counters,
        }
        yield make.case("gaussian_noise", name, **operands)


def weights_of(make: Maker, rows: int) -> Array:
    """One of each row, zeros among them."""
    weights = make.random.random((rows, 1)).astype(make.kind)
    weights[1::3] = 0
    return weights


def weigh(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        x, weights = make.normal(*shape), weights_of(make, shape[0])
        yield make.case("weigh", "plain", x=x, weights=weights)
        x[1::3] = np.resize([np.nan, np.inf], x[1::3].shape)
        yield make.case("weigh", "nothing in what does not count", x=x, weights=weights)


def weighted_tally(make: Maker) -> Iterator[Case]:
    for case in tally(make):
        losses, operands = case.operands["losses"].copy(), case.operands
        weights = weights_of(make, len(losses))
        losses[1::3] = np.nan
        yield make.case("weighted_tally", case.name, **operands | {"losses": losses, "weights": weights})


def tally(make: Maker) -> Iterator[Case]:
    stats = np.array([7.0, 8.0, 9.0])
    for turn, shape in enumerate(SHAPES):
        given = make.normal(*shape)
        close = (given + 0.1 * make.normal(*shape)).astype(make.kind)
        metrics: tuple[tuple[str | None, Iterable[Named], Iterable[Named]], ...] = (
            ("categorical", make.probabilities(shape), make.labels(shape)),
            ("binary", make.shares(shape), make.shares(shape)),
            ("logits", make.logits(shape), make.shares(shape)),
            ("regression", [("numbers", given)], [("numbers", close)]),
            (None, [("numbers", given)], make.labels(shape)),
        )
        for metric, outputs, targets in metrics:
            for (name, values), (kind, target) in combined(outputs, targets, turn):
                operands: dict[str, Any] = {"outputs": values, "target": target, "metric": metric, "tolerance": 0.05}
                losses = np.abs(make.normal(shape[0]))
                yield make.case("tally", f"{metric}, {name}, targets {kind}", losses=losses, stats=stats, **operands)


def clip(make: Maker) -> Iterator[Case]:
    for size, (norm, value) in product((1, 7, 5000), ((1.5, np.inf), (np.inf, 0.5), (3.0, 1.0), (1e9, 1e9))):
        yield make.case("clip", f"norm={norm} value={value}", g=make.normal(size), norm=norm, value=value)
    small = make.normal(200) * make.kind(1e-30)  # whose squares are nothing in float32
    yield make.case("clip", "tiny", g=small, norm=1e-31, value=np.inf)
    yield make.case("clip", "large", g=make.normal(200) * make.kind(1e30), norm=1.0, value=np.inf)
    yield make.case("clip", "nothing but 0", g=np.zeros(5, make.kind), norm=1.0, value=1.0)
    for name, what in (("infinite", np.inf), ("nan", np.nan)):
        g = make.normal(300)
        g[123] = what
        yield make.case("clip", f"{name}, by norm", g=g, norm=1.0, value=np.inf)
        yield make.case("clip", f"{name}, by value", g=g, norm=np.inf, value=1.0)


def collect(make: Maker) -> Iterator[Case]:
    for size in (1, 7, 5000):
        yield make.case("collect", "plain", g=make.normal(size), m=make.normal(size))


def average(make: Maker) -> Iterator[Case]:
    for size, decay, (step, since) in product((1, 7, 5000), (0.0, 0.9, 0.999, 1.0), ((0, 0), (7, 7), (25, 5))):
        operands: dict[str, Any] = {"counters": np.array([step, 4, 9]), "decay": decay, "since": since}
        yield make.case("average", f"decay={decay}", a=make.normal(size), p=make.normal(size), **operands)


def far(make: Maker, shape: tuple[int, int]) -> Iterator[tuple[str, Array]]:
    """Numbers to normalize: their means far from 0, next to one another, or all the same."""
    a = make.normal(*shape)
    yield "plain", a
    yield "far from 0", a + make.kind(1000)
    yield "all the same", np.full(shape, -2.5, make.kind)
    yield "tiny", make.kind(1e-12) * a
    yield "one huge row", make.huge_row(a, 1e10)


def affine(make: Maker, columns: int) -> dict[str, Any]:
    return {"gamma": make.normal(1, columns), "beta": make.normal(1, columns)}


def running(make: Maker, columns: int) -> dict[str, Any]:
    return {"mean": make.normal(1, columns), "variance": np.square(make.normal(1, columns)) + make.kind(0.01)}


def layer_norm(make: Maker) -> Iterator[Case]:
    for shape, epsilon in zip(SHAPES, cycle((1e-5, 1e-3)), strict=False):
        for name, x in far(make, shape):
            operands = {"x": x, **affine(make, shape[1]), "epsilon": epsilon}
            yield make.case("layer_norm", name, **operands)
            yield make.case("layer_norm", f"{name}, nothing kept", **operands, normalized=None, scales=None)


def layer_norm_backward(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        scales, gamma = np.abs(make.normal(shape[0])), make.normal(1, shape[1])
        operands = {"normalized": make.normal(*shape), "scales": scales, "gamma": gamma, "dy": make.normal(*shape)}
        yield make.case("layer_norm_backward", "plain", **operands)


def norm_gradients(make: Maker) -> Iterator[Case]:
    for shape in (*SHAPES, (300, 5)):
        yield make.case("norm_gradients", "plain", normalized=make.normal(*shape), dy=make.normal(*shape))


def batch_norm(make: Maker) -> Iterator[Case]:
    for shape, momentum in zip((*SHAPES, (300, 40)), cycle((0.9, 0.0, 0.99)), strict=False):
        for name, x in far(make, shape):
            columns = shape[1]
            operands = {"x": x, **affine(make, columns), **running(make, columns), "epsilon": 1e-5}
            yield make.case("batch_norm", name, **operands, momentum=momentum)


def fixed_norm(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        for name, x in far(make, shape):
            operands = {"x": x, **affine(make, shape[1]), **running(make, shape[1]), "epsilon": 1e-3}
            yield make.case("fixed_norm", name, **operands)
            yield make.case("fixed_norm", f"{name}, nothing kept", **operands, normalized=None, scales=None)


def batch_norm_backward(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        kept = {"normalized": make.normal(*shape), "scales": np.abs(make.normal(1, shape[1]))}
        sums = {"dgamma": make.normal(1, shape[1]), "dbeta": make.normal(1, shape[1])}
        operands: dict[str, Any] = {**kept, "gamma": make.normal(1, shape[1]), "dy": make.normal(*shape), **sums}
        yield make.case("batch_norm_backward", "plain", **operands)


def fixed_norm_backward(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        scales, gamma = np.abs(make.normal(1, shape[1])), make.normal(1, shape[1])
        yield make.case("fixed_norm_backward", "plain", scales=scales, gamma=gamma, dy=make.normal(*shape))


def end_step(make: Maker) -> Iterator[Case]:
    for penalties, done, capacity in product((0, 1, 5), (0, 3, 9), (1, 4)):
        operands: dict[str, Any] = {
            "stats": np.array([0.25, 3.0, np.nan]),
            "penalties": make.random.random(penalties),
            "history": make.random.random((capacity, 3)),
            "counters": np.array([12, 300, done]),
        }
        yield make.case("end_step", f"{penalties} penalties, row {done} of {capacity}", rows=17, **operands)


# ---- formulas of the user's own, made of arithmetic that any array has -----------------------------------------------

SOFTSIGN = Formula("softsign", lambda x: x / (1 + abs(x)), lambda x, y: 1 / ((1 + abs(x)) * (1 + abs(x))))
ROBUST = Formula("robust", lambda p, t: squared(p, t) / (1 + squared(p, t)), lambda p, t: robust_slope(p, t))


def squared(p: Any, t: Any) -> Any:
    return (p - t) * (p - t)


def robust_slope(p: Any, t: Any) -> Any:
    return 2 * (p - t) / ((1 + squared(p, t)) * (1 + squared(p, t)))


def apply_formula(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        for name, x in make.logits(shape):
            yield make.case("apply_formula", name, x=x, of=SOFTSIGN)


def apply_formula_backward(make: Maker) -> Iterator[Case]:
    for shape in SHAPES:
        for name, x in make.logits(shape):
            yield make.case("apply_formula_backward", name, x=x, y=np.tanh(x), dy=make.normal(*shape), of=SOFTSIGN)


def formula_loss(operation: str) -> Callable[[Maker], Iterator[Case]]:
    def cases(make: Maker) -> Iterator[Case]:
        for shape in SHAPES:
            yield make.case(operation, "plain", prediction=make.normal(*shape), target=make.normal(*shape), of=ROBUST)

    return cases


CASES: dict[str, Callable[[Maker], Iterator[Case]]] = {
    "dense": dense,
    "dense_backward": dense_backward,
    "dense_gradients": dense_gradients,
    "regularize": regularize,
    **{row.name: function(row) for row in FUNCTIONS},
    **{row.gradient: function_gradient(row) for row in FUNCTIONS},
    "softmax": softmax,
    "softmax_backward": softmax_backward,
    "softmax_jacobian": softmax_jacobian,
    "cross_entropy": cross_entropy("cross_entropy"),
    "cross_entropy_backward": cross_entropy("cross_entropy_backward"),
    "softmax_cross_entropy": fused("softmax_cross_entropy", Maker.labels),
    "binary_cross_entropy": binary("binary_cross_entropy"),
    "binary_cross_entropy_backward": binary("binary_cross_entropy_backward"),
    "sigmoid_cross_entropy": fused("sigmoid_cross_entropy", Maker.shares),
    "mean_squared_error": regression("mean_squared_error", {}),
    "mean_squared_error_backward": regression("mean_squared_error_backward", {}),
    "mean_absolute_error": regression("mean_absolute_error", {}),
    "mean_absolute_error_backward": regression("mean_absolute_error_backward", {}),
    "huber_loss": regression("huber_loss", {"delta": 1.0}, {"delta": 0.3}),
    "huber_loss_backward": regression("huber_loss_backward", {"delta": 1.0}, {"delta": 0.3}),
    "gather_rows": gather_rows,
    "dropout": dropout,
    "weigh": weigh,
    "tally": tally,
    "weighted_tally": weighted_tally,
    "end_step": end_step,
    "dense_dinputs": dense_dinputs,
    "add": add,
    "put_columns": put_columns,
    "take_columns": take_columns,
    "embed": embed,
    "embed_gradients": embed_gradients,
    "gaussian_noise": gaussian_noise,
    "layer_norm": layer_norm,
    "layer_norm_backward": layer_norm_backward,
    "norm_gradients": norm_gradients,
    "batch_norm": batch_norm,
    "fixed_norm": fixed_norm,
    "batch_norm_backward": batch_norm_backward,
    "fixed_norm_backward": fixed_norm_backward,
    "apply_formula": apply_formula,
    "apply_formula_backward": apply_formula_backward,
    "formula_loss": formula_loss("formula_loss"),
    "formula_loss_backward": formula_loss("formula_loss_backward"),
    "clip": clip,
    "collect": collect,
    "average": average,
}
