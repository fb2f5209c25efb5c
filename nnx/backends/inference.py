"""Stages of a forward pass, for inference: dense products with their activations, normalizations, in a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from nnx.backends.operation_table import loud
from nnx.kernels.elementwise import BY_NAME

Array = Any
# What `Backend.compile_forward` returns: new outputs for a NumPy array, or None where it does not take this one. It may
# have a `description`, which says what it is.
Forward = Callable[[np.ndarray], np.ndarray | None]


@dataclass(frozen=True)
class Scored:
    """What an evaluation makes of outputs.

    Attributes:
        operation: the name of the loss's operation. numbers: what it is given besides arrays.
        metric: what counts as right: see `Operations.tally`.
    """

    operation: str
    numbers: tuple[float, ...]
    metric: str | None


class Scores(Protocol):
    """What `Backend.compile_scores` returns.

    Attributes:
        few: how many rows are as quick by operations.
    """

    few: int

    def __call__(
        self, x: np.ndarray, target: np.ndarray, factors: np.ndarray | None, tolerance: float, run: int
    ) -> tuple[float, float] | None:
        """Return the sums over all samples of their losses, and of what is right of them, each times its factor.

        Args:
            x: [N, I]. target: class indices int64 [N], or [N, O]. factors: [N, 1], or None: all 1.
            tolerance: how near a number must be to be right.
            run: so many samples are added up, then those sums: the same bits as of a call for each run.

        Returns:
            None where it does not take these as they are, or a number is not what it may be: inputs and targets finite,
            labels classes, shares within 0 .. 1.
        """


@dataclass(frozen=True)
class Norm:
    """A normalization.

    Attributes:
        gamma, beta: [1, C]. epsilon: is added to variances.
        mean, variance: the running ones [1, C] of each feature; None: each row has its own.
    """

    gamma: Array
    beta: Array
    epsilon: float
    mean: Array | None = None
    variance: Array | None = None

    def bound(self, backend: Any) -> Callable[[Array, Array | None], Array]:
        """Return the same as `Stage.bound`."""
        if self.mean is None:
            row = loud(backend.layer_norm)
            return lambda x, out: row(x, self.gamma, self.beta, self.epsilon, out=out)
        fixed, known = loud(backend.fixed_norm), (self.gamma, self.beta, self.mean, self.variance, self.epsilon)
        return lambda x, out: fixed(x, *known, out=out)


@dataclass(frozen=True)
class Stage:
    """activation(x @ weights + biases), or a normalization.

    Attributes:
        weights: [I, O], or None: only the activation is applied. biases: [1, O]. Both are views of a model's
            parameters, so they change as it is trained.
        activation: the name of an operation, or None. With weights it is one that `dense` takes; "softmax", and a
            function that has a parameter of its own, stand by themselves.
        parameter: that parameter (nnx/kernels/elementwise.py); 0 where there is none.
        norm: a normalization, in place of all of these.
    """

    weights: Array | None
    biases: Array | None
    activation: str | None
    parameter: float = 0.0
    norm: Norm | None = None

    def bound(self, backend: Any) -> Callable[[Array, Array | None], Array]:
        """Return a function that gives the outputs for x, in `out` if there is one, by a backend's operations.

        Ignoring NumPy's floating-point errors is left to the caller, who does it once for all stages.
        """
        if self.norm is not None:
            return self.norm.bound(backend)
        weights, biases, activation = self.weights, self.biases, self.activation
        if weights is None:
            operation, row = loud(getattr(backend, str(activation))), BY_NAME.get(str(activation))
            more = (self.parameter,) if row is not None and row.parameter else ()
            return lambda x, out: operation(x, *more, out=out)
        dense = loud(backend.dense)
        return lambda x, out: dense(x, weights, biases, activation, out=out)


Bound = Callable[[Array, Array | None], Array]


@dataclass(frozen=True)
class Branches:
    """Rows of stages, each from x on: what the one gives is added to x, or what all give stands side by side.

    Attributes:
        paths: the stages of each row. added: whether it is added; there is one row then.
    """

    paths: tuple[tuple[AnyStage, ...], ...]
    added: bool
    weights: ClassVar[None] = None

    def bound(self, backend: Any) -> Bound:
        """Return a function that gives the outputs for x."""
        paths = [[stage.bound(backend) for stage in path] for path in self.paths]

        def run(x: Array, out: Array | None) -> Array:
            ends = [through(path, x) for path in paths]
            return backend.add(x, ends[0], out=out) if self.added else beside(backend, x, ends)

        return run


@dataclass(frozen=True)
class Lookup:
    """Vectors in place of codes.

    Attributes:
        pieces: (first column, how many, what they name rows of; None: they stay as they are) for all columns in order.
    """

    pieces: tuple[tuple[int, int, Array | None], ...]
    weights: ClassVar[None] = None

    def bound(self, backend: Any) -> Bound:
        """Return a function that gives the outputs for x."""

        def run(x: Array, out: Array | None) -> Array:
            widths = [count if table is None else int(table.shape[1]) for _, count, table in self.pieces]
            y, to = backend.empty((x.shape[0], sum(widths)), x.dtype), 0
            for (column, count, table), width in zip(self.pieces, widths, strict=True):
                if table is None:
                    backend.put_columns(backend.take_columns(x, column, count), to, y)
                else:
                    backend.embed(x, table, column, to, y)
                to += width
            return y

        return run


AnyStage = Stage | Branches | Lookup


def through(path: Sequence[Bound], x: Array) -> Array:
    """Return what a row of stages gives for x, in new arrays."""
    for stage in path:
        x = stage(x, None)
    return x


def beside(backend: Any, x: Array, parts: Sequence[Array]) -> Array:
    """Return matrices side by side."""
    joined, first = backend.empty((x.shape[0], sum(int(part.shape[1]) for part in parts)), x.dtype), 0
    for part in parts:
        backend.put_columns(part, first, joined)
        first += int(part.shape[1])
    return joined
