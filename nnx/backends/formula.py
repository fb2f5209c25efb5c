"""User-defined formulas: Python functions that use NumPy, run on arrays, or traced into compiled code.

A formula can run on whole arrays as it is. For a compiled step it is called once with a `Symbol`, which stands for one
number: NumPy hands a call such as `np.exp(symbol)` to the symbol, which calls the function of that name of `m`, an
object that writes LLVM or C code (nnx/kernels/elementwise.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from nnx.backends.errors import InputError, InputTypeError, NotReplayable
from nnx.backends.inputs import unwritable, written_into

Array = Any
WHOLE_POWERS = 8  # x**n is written as multiplications for integers n up to this


@dataclass(frozen=True, eq=False)
class Formula:
    """A user-defined function and its derivative.

    Attributes:
        name: its name in descriptions of programs.
        value, slope: the function and its derivative: of (x) and (x, y) for a layer; of (prediction, target) for a
            loss.
    """

    name: str
    value: Callable[..., Any]
    slope: Callable[..., Any]

    def on_arrays(self, formula: Callable[..., Any], *arrays: Array) -> Any:
        """Return a formula's result for whole arrays; raise an error if it only works on single numbers."""
        try:
            return formula(*map(unwritable, arrays))
        except (TypeError, ValueError) as error:
            if "truth value of an array" in str(error):
                raise InputError(
                    f"{self.name}: its formula asks by `if`, `and`, `max` or the like, but is given whole arrays: "
                    "choose by np.where, join by & and |, take np.maximum"
                ) from error
            if "converted to Python scalars" in str(error):
                raise InputTypeError(
                    f"{self.name}: its formula takes single numbers, as those of `math` do, but is given whole arrays: "
                    "take NumPy's functions, np.exp for math.exp"
                ) from error
            if written_into(error):
                raise InputError(
                    f"{self.name}: its formula writes into what it is given: compute new arrays, as by x = x * 2 for "
                    "x *= 2"
                ) from error
            raise

    # In the form of nnx/kernels/elementwise.py: functions of `m`, two numbers and two constants.

    def layer(self, m: Any, x: Any, *_: Any) -> Any:
        """Return the value of the function."""
        return self._traced(m, lambda x: self.value(x), x)

    def layer_backward(self, m: Any, x: Any, dy: Any, *_: Any) -> Any:
        """Return the derivative times the gradient of the output."""
        return self._traced(m, lambda x, dy: dy * self.slope(x, self.value(x)), x, dy)

    def loss(self, m: Any, prediction: Any, target: Any, *_: Any) -> Any:
        """Return the loss of one output."""
        return self._traced(m, lambda *both: self.value(*both), prediction, target)

    def loss_backward(self, m: Any, prediction: Any, target: Any, scale: Any, _: Any) -> Any:
        """Return the derivative of the loss of one output, times `scale`."""
        return self._traced(m, lambda *both: self.slope(*both[:2]) * both[2], prediction, target, scale)

    def _traced(self, m: Any, formula: Callable[..., Any], *numbers: Any) -> Any:
        symbols = [Symbol(m, number) for number in numbers]
        try:
            result = symbols[0].made(formula(*symbols))
        except NotReplayable as reason:
            raise NotReplayable(f"{self.name}: {reason}") from None
        except Exception as error:  # user code may fail in any way with something that is no array
            raise NotReplayable(f"{self.name}: its formula takes arrays alone ({error})") from error
        return result.number


def text(formula: Callable[..., Any]) -> tuple[str, list[str]]:
    """Return a method of `Formula` as C code for a function `own`, and which of x, y, a, b it takes.

    Formulas that do the same have the same code, so it also serves as a key.

    Raises:
        NotReplayable: it calls something that cannot be traced; the message says what.
    """
    from nnx.kernels.cuda.written import function  # here, since most programs have no user-defined formula

    return function("own", formula, ("x", "y", "a", "b"))


def compilable(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Return the given method of `Formula` after checking that it can be compiled; else raise NotReplayable."""
    text(formula)
    return formula


class Symbol(NDArrayOperatorsMixin):
    """Stands for one number, or for a truth value, in compiled code.

    Args:
        m: writes the code. value: the number in that code. answer: whether it is a truth value.
    """

    def __init__(self, m: Any, value: Any, answer: bool = False) -> None:
        self.m, self.value, self.answer = m, value, answer

    @property
    def number(self) -> Any:
        """The value; for a truth value, 1 or 0."""
        return self.m.where(self.value, 1.0, 0.0) if self.answer else self.value

    def made(self, result: Any) -> Symbol:
        """Return a formula's result as a symbol; it may be a plain number."""
        if isinstance(result, Symbol):
            return result
        constant = plain(result)
        return Symbol(self.m, self.m.where(self.value == self.value, constant, constant))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Symbol:
        if method != "__call__" or options or ufunc not in UFUNCS:
            name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
            raise NotReplayable(f"np.{name} is not compiled; these are: {COMPILED}")
        return UFUNCS[ufunc](self.m, *inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in FUNCTIONS:
            raise NotReplayable(f"np.{function.__name__} is not compiled; these are: {COMPILED}")
        return FUNCTIONS[function](self.m, *args, **kwargs)

    def __bool__(self) -> bool:
        raise NotReplayable("it branches by the numbers in an array: choose by np.where instead")


def plain(value: Any) -> float:
    """Return a plain number as a float; raise NotReplayable for an array."""
    if np.ndim(value):
        raise NotReplayable(f"it uses an array {np.shape(value)}, and each number is to go by itself")
    return float(value)


def number(value: Any) -> Any:
    """Return the value, in compiled code, of an operand that is a symbol or a number."""
    return value.number if isinstance(value, Symbol) else plain(value)


def condition(m: Any, value: Any) -> Any:
    """Return the truth value, in compiled code, of an operand."""
    if isinstance(value, Symbol):
        return value.value if value.answer else value.value != 0
    raise NotReplayable("np.where asks something that does not depend on its operands: use if")


def numeric(work: Callable[..., Any]) -> Callable[..., Symbol]:
    """Turn a function of `m` and its values into a function of `m` and operands that returns a number."""
    return lambda m, *operands: Symbol(m, work(m, *map(number, operands)))


def question(work: Callable[..., Any]) -> Callable[..., Symbol]:
    """Turn a function of `m` and its values into a function of `m` and operands that returns a truth value."""
    return lambda m, *operands: Symbol(m, work(*map(number, operands)), answer=True)


def called(name: str) -> Callable[..., Symbol]:
    """Return the function of operands that calls the function of `m` with this name."""
    return numeric(lambda m, x: getattr(m, name)(x))


def where(m: Any, asked: Any, a: Any, b: Any) -> Symbol:
    """np.where(asked, a, b)."""
    return Symbol(m, m.where(condition(m, asked), number(a), number(b)))


def both(m: Any, a: Any, b: Any) -> Symbol:
    """a and b, of truth values."""
    return Symbol(m, condition(m, a) & condition(m, b), answer=True)


def inverse(m: Any, a: Any) -> Symbol:
    """not a, of a truth value."""
    return Symbol(m, m.where(condition(m, a), 0.0, 1.0) > 0.5, answer=True)


def either(m: Any, a: Any, b: Any) -> Symbol:
    """a or b, of truth values."""
    return inverse(m, both(m, inverse(m, a), inverse(m, b)))


def extreme(m: Any, a: Any, b: Any, takes: Callable[[Any, Any], Any]) -> Any:
    """The one of two numbers for which `takes` is true; nan if either is."""
    if isinstance(b, float):
        return m.where(takes(b, a), b, a)
    if isinstance(a, float):
        return m.where(takes(a, b), a, b)
    return m.where(a != a, a, m.where(takes(a, b), a, b))


def maximum(m: Any, a: Any, b: Any) -> Any:
    """np.maximum of numbers."""
    return extreme(m, a, b, lambda a, b: a > b)


def minimum(m: Any, a: Any, b: Any) -> Any:
    """np.minimum of numbers."""
    return extreme(m, a, b, lambda a, b: a < b)


def clip(m: Any, x: Any, low: Any = None, high: Any = None) -> Any:
    """np.clip."""
    x = number(x)
    x = x if low is None else maximum(m, x, number(low))
    return Symbol(m, x if high is None else minimum(m, x, number(high)))


def power(m: Any, x: Any, n: Any) -> Any:
    """x**n for integers n near 0, and for n = 0.5."""
    if n == 0.5:
        return m.sqrt(x)
    if not isinstance(n, float) or n != round(n) or not 1 <= abs(n) <= WHOLE_POWERS:
        raise NotReplayable(f"x**n is compiled for n = 0.5 and whole n from 1 to {WHOLE_POWERS}, or -1 to -8")
    product = x
    for _ in range(int(abs(n)) - 1):
        product = product * x
    return product if n > 0 else 1.0 / product


def log1p(m: Any, x: Any) -> Any:
    """log(1 + x) for any x, since `m` has it only for 0 .. 1; the rounding error of 1 + x is corrected."""
    u = 1.0 + x
    near = m.log(u) * (x / m.where(u == 1.0, 1.0, u - 1.0))
    return m.where(u == 1.0, x, m.where(abs(x) < 0.5, near, m.log(u)))


def logaddexp(m: Any, a: Any, b: Any) -> Any:
    """log(exp(a) + exp(b)), without overflow."""
    return maximum(m, a, b) + m.log1p(m.exp(-abs(a - b)))


def sign(m: Any, x: Any) -> Any:
    """-1, 0 or 1."""
    return m.where(x > 0, 1.0, m.where(x < 0, -1.0, x))


UFUNCS: dict[Any, Callable[..., Symbol]] = {
    np.add: numeric(lambda m, a, b: a + b),
    np.subtract: numeric(lambda m, a, b: a - b),
    np.multiply: numeric(lambda m, a, b: a * b),
    np.divide: numeric(lambda m, a, b: a / b),
    np.negative: numeric(lambda m, a: -a),
    np.positive: numeric(lambda m, a: a),
    np.absolute: numeric(lambda m, a: abs(a)),
    np.fabs: numeric(lambda m, a: abs(a)),
    np.square: numeric(lambda m, a: a * a),
    np.reciprocal: numeric(lambda m, a: 1.0 / a),
    np.power: numeric(power),
    np.maximum: numeric(maximum),
    np.minimum: numeric(minimum),
    np.sign: numeric(sign),
    np.log1p: numeric(log1p),
    np.logaddexp: numeric(logaddexp),
    **{ufunc: called(ufunc.__name__) for ufunc in (np.exp, np.expm1, np.log, np.tanh, np.sqrt, np.sin, np.cos)},
    np.less: question(lambda a, b: a < b),
    np.less_equal: question(lambda a, b: a <= b),
    np.greater: question(lambda a, b: a > b),
    np.greater_equal: question(lambda a, b: a >= b),
    np.equal: question(lambda a, b: a == b),
    np.not_equal: question(lambda a, b: a != b),
    **dict.fromkeys((np.logical_and, np.bitwise_and), both),
    **dict.fromkeys((np.logical_or, np.bitwise_or), either),
    **dict.fromkeys((np.logical_not, np.invert), inverse),
}
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: where,
    np.clip: clip,
    np.zeros_like: lambda m, x: 0.0,
    np.ones_like: lambda m, x: 1.0,
    np.full_like: lambda m, x, value: plain(value),
}
COMPILED = ", ".join(sorted({each.__name__ for each in (*UFUNCS, *FUNCTIONS)}))
