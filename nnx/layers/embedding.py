"""Embedding: codes, which stand for categories, are replaced by vectors that are learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from nnx import checks
from nnx.errors import InputError, InputTypeError
from nnx.layers.base import Layer
from nnx.layers.blocks import Block
from nnx.layers.flatten import Flatten

Array = Any
EXACT = {"float32": 1 << 24, "float64": 1 << 53}  # the type holds every integer up to this exactly


class Embedding(Layer):
    """Replace the codes in some columns of x by learned vectors; the other columns stay as they are.

    It must be the first layer of a model, since only the data contain codes: integers from 0 on, stored as floats like
    the other columns. Anything else in such a column is refused when the data come in. If categories are words, use
    their indices in a list as codes.

    Args:
        columns: {column: (categories, width)}: for each column with codes, how many categories there are, and the
            length of their vectors. Or, if x is a single column of codes, just the number of categories.
        width: the length of the vectors, if `columns` is a number.
        inputs: the number of columns of x, if `columns` is a dict.
        init: the standard deviation of the normal distribution that the vectors are drawn from.

    Attributes:
        weights: {column: [categories, width]}, the vectors. In a model's `parameters()`, those of column 3 are called
            "0.3.weights" if this is layer 0.
        dweights: {column: [categories, width]}, their gradients.
        inputs: [N, inputs]. output: [N, O], with each vector in the place of its code. dinputs: [N, inputs], 0 for
            codes.

    Raises:
        InputError: an argument cannot be used, or inputs do not fit.
    """

    operation: ClassVar[str] = "embed"
    _facts: ClassVar[dict[str, str]] = dict.fromkeys(
        ("columns", "n_inputs", "init"), "the parameters are made by it; make a new Embedding"
    )

    def __init__(
        self, columns: Mapping[int, Sequence[int]] | int, width: int | None = None, inputs: int | None = None,
        init: float = 1.0,
    ) -> None:  # fmt: skip
        if not isinstance(columns, Mapping):
            if width is None:
                raise InputTypeError(
                    f"Embedding({columns!r}): expected {{column: (categories, width)}}, or a width too"
                )
            columns, inputs = {0: (columns, width)}, 1 if inputs is None else inputs
        elif width is not None:
            raise InputTypeError(f"Embedding: width={width!r} was given beside columns, which have their own")
        self.n_inputs = checks.integer(inputs, "Embedding: inputs")
        self.init = checks.real(init, "Embedding: init")
        self.columns = dict(sorted(self._column(*item) for item in columns.items()))
        if not self.columns:
            raise InputError("Embedding: no columns given, expected {column: (categories, width)}")
        self.shapes = {f"{column}.weights": shape for column, shape in self.columns.items()}

    def _column(self, column: Any, shape: Any) -> tuple[int, tuple[int, int]]:
        column = int(column) if isinstance(column, str) and column.isdecimal() else column  # JSON's keys are strings
        column = checks.integer(column, "Embedding: a column", low=0)
        if column >= self.n_inputs:
            raise InputError(f"Embedding: column {column} of inputs={self.n_inputs}; they are counted from 0")
        if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) != 2:
            raise InputTypeError(f"Embedding: column {column} is {shape!r}, expected (categories, width)")
        categories, width = (
            checks.integer(n, f"Embedding: {what} of column {column}")
            for n, what in zip(shape, ("categories", "width"), strict=True)
        )
        return column, (categories, width)

    @property
    def weights(self) -> dict[int, Array]:
        """The vectors of each column: {column: [categories, width]}."""
        return {column: self.parameter(f"{column}.weights") for column in self.columns}

    @property
    def dweights(self) -> dict[int, Array]:
        """The gradients of the vectors: {column: [categories, width]}."""
        return {column: self.gradient(f"{column}.weights") for column in self.columns}

    def draw(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Return vectors drawn as `init` says."""
        return {name: random.normal(0.0, self.init, shape) for name, shape in self.shapes.items()}

    def check_values(self, dtype: str) -> None:
        """Refuse more categories than the type has exact integers for."""
        for column, (categories, _) in self.columns.items():
            if categories > EXACT[dtype]:
                raise InputError(
                    f"{self}: column {column} has {categories} categories, but {dtype} holds whole numbers up to "
                    f"{EXACT[dtype]} only; use dtype='float64'"
                )
        super().check_values(dtype)

    def check_codes(self, a: np.ndarray, what: str, where: Callable[[int], str] | None = None) -> None:
        """Raise InputError if a code is not an integer within range; `where` returns a row's place, for the message."""
        for column, (categories, _) in self.columns.items():
            codes = a[:, column]
            bad = np.flatnonzero(~((codes >= 0) & (codes < categories) & (codes == np.floor(codes))))
            if len(bad):
                row, value = int(bad[0]), f"{codes[bad[0]]:g}"
                found = f"column {column} holds {value} in row {row}, one of {len(bad)} that are no codes"
                if where is not None:
                    found = f"{where(row)}, column {column} is {value}, which is no code"
                raise InputError(f"{what}: {found}; {self} expects whole numbers from 0 to {categories - 1} there")

    def forward(self, inputs: Array, training: bool = False) -> Array:
        """Return the inputs with vectors in place of codes: [N, O]. An invalid code becomes nan."""
        x = self._accept(inputs)
        if x.shape[1] != self.n_inputs:
            raise InputError(f"{self}: inputs have {x.shape[1]} columns, expected {self.n_inputs}")
        self.inputs = x
        self.output = self._room("output", (x.shape[0], self.output_width(None)), x)
        for column, count, to in self._pieces():
            if column in self.columns:
                self.backend.embed(x, self.parameter(f"{column}.weights"), column, to, self.output)
            else:
                room = self._room(f"from {column}", (x.shape[0], count), x)
                self.backend.put_columns(self.backend.take_columns(x, column, count, out=room), to, self.output)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Return the gradient of the inputs, 0 for codes, and write those of the vectors."""
        dvalues = self._accept_gradient(dvalues)
        self.backward_parameters(dvalues)
        self.dinputs = self._room("dinputs", tuple(self.inputs.shape), dvalues)
        self.dinputs[...] = 0
        for column, count, to in self._pieces():
            if column not in self.columns:
                self.dinputs[:, column : column + count] = dvalues[:, to : to + count]
        return self.dinputs

    def backward_parameters(self, dvalues: Array) -> None:
        """Write the gradients of the vectors: for each, the sum over the samples with its code."""
        dvalues = self._accept_gradient(dvalues)
        for column, _, to in self._pieces() if self.trainable else ():
            if column in self.columns:
                self.backend.embed_gradients(self.inputs, dvalues, self.gradient(f"{column}.weights"), column, to)

    def _pieces(self) -> Iterator[tuple[int, int, int]]:
        """Yield (first column, columns, first output column) for each code, and for each run of other columns."""
        at = to = 0
        while at < self.n_inputs:
            if at in self.columns:
                yield at, 1, to
                at, to = at + 1, to + self.columns[at][1]
            else:
                end = min((column for column in self.columns if column > at), default=self.n_inputs)
                yield at, end - at, to
                at, to = end, to + end - at

    def output_width(self, width: int | None) -> int:
        """Return the number of output columns; refuse a width other than `inputs`."""
        if width not in (None, self.n_inputs):
            raise InputError(f"{self} takes {self.n_inputs} columns, but the layers before it give {width}")
        return self.n_inputs - len(self.columns) + sum(vector for _, vector in self.columns.values())

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this layer again."""
        columns = {str(column): list(shape) for column, shape in self.columns.items()}
        return {"columns": columns, "inputs": self.n_inputs, "init": self.init}

    def __repr__(self) -> str:
        if self.n_inputs == 1:
            return f"{type(self).__name__}{self.columns[0]}"
        return f"{type(self).__name__}({self.columns}, inputs={self.n_inputs})"


def fronts(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Yield the layers that get the model's inputs unchanged."""
    for layer in layers:
        yield layer
        if isinstance(layer, Block):
            for path in layer.paths:
                yield from fronts(path)
        if not isinstance(layer, Flatten):
            return
