"""Operations that are measured: their operands at each size, the correct results, and the least work they need."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from nnx.kernels.elementwise import FUNCTIONS, Elementwise
from nnx.kernels.step_state import STEP
from nnx.testing.compare import CLASS
from nnx.testing.reference import formula, optimizers
from nnx.testing.reference.results import Results, Wanted

Shape = tuple[int, ...]
DENSE = ((300, 2, 64), (128, 784, 512), (512, 2048, 2048))  # rows, inputs, neurons: layers of the networks
ROWS = ((300, 64), (128, 512), (4096, 2048))
CLASSES = ((300, 3), (1024, 10), (1024, 1000))
PARAMETERS = ((448,), (669_760,), (8_388_608,))
QUICK = ("relu_backward", "sigmoid")  # of the activations, those of a short run
HYPER = {  # rate, decay, beta_1 (momentum, rho), beta_2, epsilon, weight decay
    "sgd": (1e-3, 0, 0.9, 0, 0, 0),
    "adagrad": (1e-3, 0, 0, 0, 1e-7, 0),
    "rmsprop": (1e-3, 0, 0.9, 0, 1e-7, 0),
    "adam": (1e-3, 0, 0.9, 0.999, 1e-7, 0),
}


@dataclass(frozen=True)
class Operation:
    """How an operation is measured.

    Attributes:
        shapes: small, medium, large. operands: a function that makes the operands it reads.
        written: shapes of the operands that are only written; "out" is the result.
        numbers: how many float32 must be read and written at least. flops: those of its multiply-adds.
        quick: the sizes of a short run. suite: the suite that lists it.
    """

    shapes: tuple[Shape, ...]
    operands: Callable[..., dict[str, Any]]
    numbers: Callable[..., int]
    written: Callable[..., dict[str, Shape]] = lambda n, c: {"out": (n, c)}
    flops: Callable[..., int] = lambda *shape: 0
    quick: str = ""
    suite: str = "ops"
    in_place: int = 0  # arrays as large as the shape that are both read and written

    def resident(self, *shape: int) -> int:
        """Return the number of float32 that are touched, each counted once."""
        return self.numbers(*shape) - self.in_place * prod(shape)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Return numbers that are the same every time."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def labels(rows: int, classes: int) -> np.ndarray:
    """Return classes [rows]."""
    return np.random.default_rng(2).integers(0, classes, rows)


def shares(rows: int, classes: int) -> np.ndarray:
    """Return probabilities [rows, classes]."""
    e = np.exp(normal(rows, classes))
    p: np.ndarray = e / e.sum(axis=1, keepdims=True)
    return p


def one(n: int, c: int) -> dict[str, Any]:
    """Return the operand of an activation."""
    return {"x": normal(n, c)}


def function(row: Elementwise) -> Operation:
    """Return an activation function."""
    setting = {"a": row.default} if row.parameter else {}
    quick = "M" if row.name in QUICK else ""
    return Operation(ROWS, lambda n, c: {**one(n, c), **setting}, lambda n, c: 2 * n * c, quick=quick)


def function_gradient(row: Elementwise) -> Operation:
    """Return its gradient."""
    setting = {"a": row.default} if row.parameter else {}

    def operands(n: int, c: int) -> dict[str, Any]:
        x = normal(n, c)
        y = formula(row.name)(x.astype(np.float64), **setting)["out"].value.astype(np.float32)
        return {row.of: x if row.of == "x" else y, "dy": normal(n, c, seed=1), **setting}

    return Operation(ROWS, operands, lambda n, c: 3 * n * c, quick="M" if row.gradient in QUICK else "")


def dense(n: int, i: int, o: int) -> dict[str, Any]:
    """Return inputs, weights and biases."""
    return {"x": normal(n, i), "w": normal(i, o, seed=1), "b": normal(1, o, seed=2)}


def dense_backward(n: int, i: int, o: int) -> dict[str, Any]:
    """Return inputs, weights and the gradient that comes back."""
    return {"x": normal(n, i), "w": normal(i, o, seed=1), "dy": normal(n, o, seed=2)}


def softmax_backward(n: int, c: int) -> dict[str, Any]:
    """Return probabilities, and the gradient that comes back."""
    return {"y": shares(n, c), "dy": normal(n, c, seed=1)}


def regression(n: int, c: int) -> dict[str, Any]:
    """Return outputs and targets."""
    return {"prediction": normal(n, c), "target": normal(n, c, seed=1)}


def rows_of(n: int, c: int) -> dict[str, Any]:
    """Return a data set, and an order of its rows."""
    order = np.random.default_rng(3).permutation(8 * n)
    return {"source": normal(8 * n, c), "order": order, "counters": np.zeros(3, np.int64)}


def optimizer(kind: str, *states: str) -> Operation:
    """Return an optimizer over the flat buffer, with these arrays for its state."""

    def operands(size: int) -> dict[str, Any]:
        arrays = {name: np.abs(normal(size, seed=seed)) for seed, name in enumerate(states)}
        hyper = np.array(HYPER[kind], np.float64)
        return {"p": normal(size, seed=7), "g": normal(size, seed=5), **arrays, "hyper": hyper,
                "counters": np.zeros(3, np.int64)}  # fmt: skip

    return Operation(
        PARAMETERS,
        operands,
        lambda size: size * (3 + 2 * len(states)),
        lambda size: {},
        quick="SM" if kind == "adam" else "",
        in_place=1 + len(states),
    )


OPERATIONS: dict[str, Operation] = {
    "dense": Operation(
        DENSE, dense, lambda n, i, o: n * i + i * o + o + n * o,
        lambda n, i, o: {"out": (n, o)}, lambda n, i, o: 2 * n * i * o, "M",
    ),
    "dense_backward": Operation(
        DENSE, dense_backward, lambda n, i, o: 2 * n * i + 2 * i * o + n * o + o,
        lambda n, i, o: {"dw": (i, o), "db": (1, o), "out": (n, i)}, lambda n, i, o: 4 * n * i * o, "SM",
    ),
    **{row.name: function(row) for row in FUNCTIONS},
    **{row.gradient: function_gradient(row) for row in FUNCTIONS},
    "softmax": Operation(CLASSES, one, lambda n, c: 2 * n * c, quick="M"),
    "cross_entropy": Operation(
        CLASSES, lambda n, c: {"p": shares(n, c), "target": labels(n, c)}, lambda n, c: 4 * n,
        lambda n, c: {"out": (n,)},
    ),
    "softmax_cross_entropy": Operation(
        CLASSES, lambda n, c: {"logits": normal(n, c), "target": labels(n, c)}, lambda n, c: 2 * n * c,
        lambda n, c: {"losses": (n,), "out": (n, c)}, quick="M",
    ),
    "mean_squared_error": Operation(ROWS, regression, lambda n, c: 2 * n * c + n, lambda n, c: {"out": (n,)}),
    "mean_squared_error_backward": Operation(ROWS, regression, lambda n, c: 3 * n * c),
    "dropout": Operation(  # no large one: what it must give is computed in plain Python
        ROWS[:2], lambda n, c: {**one(n, c), "rate": 0.1, "seed": 3, "layer": 1, "counters": np.zeros(3, np.int64)},
        lambda n, c: 2 * n * c,
    ),
    "gather_rows": Operation(((300, 2), (128, 784), (1024, 784)), rows_of, lambda n, c: 2 * n * c + 2 * n),
    "sgd": optimizer("sgd", "m"),
    "adagrad": optimizer("adagrad", "v"),
    "rmsprop": optimizer("rmsprop", "v"),
    "adam": optimizer("adam", "m", "v"),
    "softmax_backward": Operation(
        ((300, 3), (1024, 10), (1024, 1000), (256, 10000)), softmax_backward, lambda n, c: 3 * n * c,
        quick="SM", suite="softmax",
    ),
    "jacobian_product": Operation(  # of nnx, no operation of its own: softmax_jacobian, then the product
        ((300, 3), (1024, 10), (256, 100)), softmax_backward, lambda n, c: 2 * n * c * c + 3 * n * c,
        flops=lambda n, c: 2 * n * c * c, quick="S", suite="softmax",
    ),
}  # fmt: skip


def expected(kind: str, shape: Shape) -> Results:
    """Return the correct results of an operation, by operand, computed by NumPy in float64."""
    operands = {name: _wide(value) for name, value in OPERATIONS[kind].operands(*shape).items()}
    if kind in HYPER:
        return _after_a_step(kind, operands)
    if kind in ("softmax_backward", "jacobian_product"):
        return _gradient_of_softmax(**operands)
    reference = formula(kind)
    given = operands | {"kind": np.float32, "batch": shape[0]}
    results: Results = reference(
        **{name: given[name] for name in inspect.signature(reference).parameters if name in given}
    )
    return {name: wanted for name, wanted in results.items() if name in OPERATIONS[kind].written(*shape)}


def tolerance_class(kind: str) -> str:
    """Return the tolerance of a result: a class of nnx/testing/compare.py."""
    if kind in HYPER:
        return "function"  # of one step, relative to the number changed: a thousandth of the change itself
    return CLASS.get(kind, "sum")


def _gradient_of_softmax(y: np.ndarray, dy: np.ndarray) -> Results:
    """Return the closed form: the reference's Jacobians would take gigabytes."""
    along = (y * dy).sum(axis=1, keepdims=True)
    return {"out": Wanted(y * (dy - along), y * (np.abs(dy) + (y * np.abs(dy)).sum(axis=1, keepdims=True)))}


def _after_a_step(kind: str, operands: dict[str, Any]) -> Results:
    arrays = {name: operands[name] for name in "pgmv" if name in operands}
    unused = np.zeros(0)
    optimizers.descend(
        kind, arrays["p"], arrays["g"], arrays.get("m", unused), arrays.get("v", unused), operands["hyper"],
        int(operands["counters"][STEP]),
    )  # fmt: skip
    return {name: Wanted(value, 1 + np.abs(value)) for name, value in arrays.items() if name != "g"}


def _wide(value: Any) -> Any:
    floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return value.astype(np.float64) if floats else value
