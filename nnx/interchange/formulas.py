"""Activation functions as formulas of ONNX operators. The writer writes them, and the reader recognises them.

A formula is a function of `call`, which applies an operator, and `x`. In the writer `x` is a node of the graph that is
being written, in the reader it is a `Polynomial`. To recognise a function, the reader multiplies out both the formula
and what the file computes, and compares the two polynomials. So the order and the number of the nodes that an exporter
used do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

Value = Any  # a node's output, or a Polynomial: what can be added and multiplied
Call = Callable[[str, Value], Value]
Formula = Callable[..., Value]  # of call, x, and the function's parameter, if it has one
Atom = tuple[str, float, Any]  # an operator, its parameter and the key of what it is applied to
LARGEST = 64  # atoms and terms, nested ones counted: three times as many as any function below has


# ---- formulas --------------------------------------------------------------------------------------------------------


def silu(call: Call, x: Value) -> Value:
    """x * sigmoid(x)."""
    return x * call("Sigmoid", x)


def leaky_relu(call: Call, x: Value, slope: float) -> Value:
    """x, or slope * x below 0."""
    return call("Relu", x) + call("Relu", x * -1.0) * -slope


def elu(call: Call, x: Value, alpha: float) -> Value:
    """x, or alpha * (exp(x) - 1) below 0."""
    return call("Relu", x) + (call("Exp", call("Relu", x * -1.0) * -1.0) + -1.0) * alpha


def softplus(call: Call, x: Value) -> Value:
    """log(1 + exp(x)), computed from exp(-|x|) so that nothing overflows."""
    return call("Relu", x) + call("Log", call("Exp", call("Abs", x) * -1.0) + 1.0)


def plain_softplus(call: Call, x: Value) -> Value:
    """log(1 + exp(x)), as other exporters write it."""
    return call("Log", call("Exp", x) + 1.0)


def bent_softplus(call: Call, x: Value) -> Value:
    """Softplus as PyTorch has it: x itself above 20, where the two differ by 2e-9."""
    above, inside = call("Greater", x + -20.0), call("Softplus", x)
    return above * x + inside + above * inside * -1.0


def mish(call: Call, x: Value) -> Value:
    """x * tanh(softplus(x))."""
    return x * call("Tanh", softplus(call, x))


def plain_mish(call: Call, x: Value) -> Value:
    """x * tanh(softplus(x)), where softplus is an operator."""
    return x * call("Tanh", call("Softplus", x))


def gelu(call: Call, x: Value) -> Value:
    """x times the share of the normal distribution that lies below x."""
    return x * (call("Erf", x * math.sqrt(0.5)) + 1.0) * 0.5


def gelu_tanh(call: Call, x: Value) -> Value:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3)))."""
    return x * (call("Tanh", (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1.0) * 0.5


# By the names of nnx's operations: the operators that are a whole function, which of them onnxruntime has in float64
# too, and how the others are written.
OPERATORS = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "leaky_relu": "LeakyRelu", "elu": "Elu", "gelu": "Gelu",
    "gelu_tanh": "GeluTanh", "softplus": "Softplus", "mish": "Mish",
}  # fmt: skip
IN_FLOAT64 = ("relu", "sigmoid", "tanh", "gelu_tanh")
COMPOSED: dict[str, Formula] = {
    "silu": silu, "leaky_relu": leaky_relu, "elu": elu, "softplus": softplus, "mish": mish, "gelu": gelu,
}  # fmt: skip
KNOWN: list[tuple[str, Formula]] = [
    *COMPOSED.items(),
    *(("softplus", formula) for formula in (plain_softplus, bent_softplus)),
    ("mish", plain_mish),
    ("gelu_tanh", gelu_tanh),
]


# ---- recognising them ------------------------------------------------------------------------------------------------


class TooLarge(Exception):
    """Raised when a polynomial is larger than that of any activation function."""


def _terms(value: Polynomial | float) -> dict[tuple[Atom, ...], float]:
    return value.terms if isinstance(value, Polynomial) else {(): float(value)}


def _size(terms: Iterable[tuple[tuple[Atom, ...], float]]) -> int:
    return sum(1 + sum(1 + _size(of) for _, _, of in atoms) for atoms, _ in terms)


class Polynomial:
    """A sum of products of operators' results, multiplied out.

    Attributes:
        terms: the coefficient of each product, which is a sorted tuple of atoms.
    """

    def __init__(self, terms: dict[tuple[Atom, ...], float]) -> None:
        self.terms = {atoms: number for atoms, number in terms.items() if number != 0}
        if _size(self.terms.items()) > LARGEST:
            raise TooLarge

    def __add__(self, other: Polynomial | float) -> Polynomial:
        terms = dict(self.terms)
        for atoms, number in _terms(other).items():
            terms[atoms] = terms.get(atoms, 0.0) + number
        return Polynomial(terms)

    def __mul__(self, other: Polynomial | float) -> Polynomial:
        terms: dict[tuple[Atom, ...], float] = {}
        for mine, factor in self.terms.items():
            for others, number in _terms(other).items():
                atoms = tuple(sorted(mine + others))
                terms[atoms] = terms.get(atoms, 0.0) + factor * number
        return Polynomial(terms)

    @property
    def key(self) -> tuple[Any, ...]:
        """A key that is the same for two polynomials which differ by no more than rounding."""
        return tuple(sorted((atoms, float(f"{number:.5g}")) for atoms, number in self.terms.items()))

    def is_x(self) -> bool:
        """Whether the polynomial is x itself."""
        return self.terms == X.terms

    def number(self) -> float | None:
        """Return the number that the polynomial is, or None if it depends on x."""
        return self.terms.get((), 0.0) if self.terms.keys() <= {()} else None


X = Polynomial({(("x", 0.0, ()),): 1.0})


def constant(number: float) -> Polynomial:
    """Return a number as a polynomial."""
    return Polynomial({(): number})


def applied(operator: str, x: Polynomial, parameter: float = 0.0) -> Polynomial:
    """Return the result of an operator, as a polynomial of a single atom."""
    return Polynomial({((operator, parameter, x.key),): 1.0})


def recognised(given: Polynomial) -> tuple[str, float] | None:
    """Return the name of the activation function that a polynomial is, and its parameter; None if it is not one."""
    if len(given.terms) == 1:
        for name, operator in OPERATORS.items():
            for parameter in (atoms[0][1] for atoms in given.terms if atoms):
                if same(given, applied(operator, X, parameter)):
                    return name, parameter
    for name, formula in KNOWN:
        takes = formula.__code__.co_argcount == 3
        for parameter in sorted({abs(number) for number in given.terms.values()}) if takes else [0.0]:
            if same(given, formula(applied, X, parameter) if takes else formula(applied, X)):
                return name, parameter
    return None


def same(a: Polynomial, b: Polynomial) -> bool:
    """Tell whether two polynomials are the same, apart from the rounding of their coefficients to float32."""
    return a.terms.keys() == b.terms.keys() and all(
        math.isclose(number, b.terms[atoms], rel_tol=1e-6) for atoms, number in a.terms.items()
    )
