"""Formulas of the user's own: NumPy's functions of numbers, run on arrays, or traced into compiled code.

A formula is run on whole arrays as it is. For a compiled step it is run once more, on a `Symbol`, which stands for one
number: NumPy asks it what `np.exp` of it is, and it asks the mathematics `m` of whatever is to be written
(nnx/kernels/elementwise.py): LLVM's code or C's.
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
WHOLE_POWERS = 8  # up to which x**n is written as multiplications


@dataclass(frozen=True, eq=False)
class Formula:
    """A function of the user's own and its slope.

    Attributes:
        name: what it is called where a program is shown.
        value, slope: of (x) and (x, y) for a layer; of (prediction, target) for a loss.
    """

    name: str
    value: Callable[..., Any]
    slope: Callable[..., Any]

    def on_arrays(self, formula: Callable[..., Any], *arrays: Array) -> Any:
        """Return what a formula makes of whole arrays; of what works on single numbers alone say so."""
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

    # As kinds of nnx/kernels/elementwise.py: of the mathematics, two numbers, and two constants.

    def layer(self, m: Any, x: Any, *_: Any) -> Any:
        """The value."""
        return self._traced(m, lambda x: self.value(x), x)

    def layer_backward(self, m: Any, x: Any, dy: Any, *_: Any) -> Any:
        """The slope, times what comes back."""
        return self._traced(m, lambda x, dy: dy * self.slope(x, self.value(x)), x, dy)

    def loss(self, m: Any, prediction: Any, target: Any, *_: Any) -> Any:
        """The cost of one output."""
        return self._traced(m, lambda *both: self.value(*both), prediction, target)

    def loss_backward(self, m: Any, prediction: Any, target: Any, scale: Any, _: Any) -> Any:
        """Its slope, scaled."""
        return self._traced(m, lambda *both: self.slope(*both[:2]) * both[2], prediction, target, scale)

    def _traced(self, m: Any, formula: Callable[..., Any], *numbers: Any) -> Any:
        symbols = [Symbol(m, number) for number in numbers]
        try:
            result = symbols[0].made(formula(*symbols))
        except NotReplayable as reason:
            raise NotReplayable(f"{self.name}: {reason}") from None
        except Exception as error:  # whatever the user's code does with what is no array
            raise NotReplayable(f"{self.name}: its formula takes arrays alone ({error})") from error
        return result.number


def text(formula: Callable[..., Any]) -> tuple[str, list[str]]:
    """Return a formula of `Formula` as C, a function `own`, and which of x, y, a, b it takes; the same if it is alike.

    Raises:
        NotReplayable: it holds what cannot be traced; the message says what.
    """
    from nnx.kernels.cuda.written import function  # here, for most programs have no formula of their own

    return function("own", formula, ("x", "y", "a", "b"))


def compilable(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Return a formula of `Formula`, if it can be compiled; raise NotReplayable as `text` does."""
    text(formula)
    return formula


class Symbol(NDArrayOperatorsMixin):
    """Stands for one number, or for the answer to a question, of compiled code.

    Args:
        m: the mathematics. value: what stands for it there.
    """

    def __init__(self, m: Any, value: Any, answer: bool = False) -> None:
        self.m, self.value, self.answer = m, value, answer

    @property
    def number(self) -> Any:
        """The value, 1 or 0 for an answer."""
        return self.m.where(self.value, 1.0, 0.0) if self.answer else self.value

    def made(self, result: Any) -> Symbol:
        """A formula's result, which may be a plain number."""
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
    """Return a number that is no symbol."""
    if np.ndim(value):
        raise NotReplayable(f"it uses an array {np.shape(value)}, and each number is to go by itself")
    return float(value)


def number(value: Any) -> Any:
    """Return what compiled code holds for an operand."""
    return value.number if isinstance(value, Symbol) else plain(value)


def condition(m: Any, value: Any) -> Any:
    """Return the same for what is asked."""
    if isinstance(value, Symbol):
        return value.value if value.answer else value.value != 0
    raise NotReplayable("np.where asks something that does not depend on its operands: use if")


def numeric(work: Callable[..., Any]) -> Callable[..., Symbol]:
    """Make a function of the mathematics and numbers one of operands."""
    return lambda m, *operands: Symbol(m, work(m, *map(number, operands)))


def question(work: Callable[..., Any]) -> Callable[..., Symbol]:
    """The same for what is answered by yes or no."""
    return lambda m, *operands: Symbol(m, work(*map(number, operands)), answer=True)


def called(name: str) -> Callable[..., Symbol]:
    """A function that the mathematics have."""
    return numeric(lambda m, x: getattr(m, name)(x))


def where(m: Any, asked: Any, a: Any, b: Any) -> Symbol:
    """np.where."""
    return Symbol(m, m.where(condition(m, asked), number(a), number(b)))


def both(m: Any, a: Any, b: Any) -> Symbol:
    """Whether two answers are yes."""
    return Symbol(m, condition(m, a) & condition(m, b), answer=True)


def inverse(m: Any, a: Any) -> Symbol:
    """Whether an answer is no."""
    return Symbol(m, m.where(condition(m, a), 0.0, 1.0) > 0.5, answer=True)


def either(m: Any, a: Any, b: Any) -> Symbol:
    """Whether one of two answers is yes, or both."""
    return inverse(m, both(m, inverse(m, a), inverse(m, b)))


def extreme(m: Any, a: Any, b: Any, takes: Callable[[Any, Any], Any]) -> Any:
    """The one of two that is larger or smaller; nan if one is."""
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
    """x**n for whole n near 0, and the square root."""
    if n == 0.5:
        return m.sqrt(x)
    if not isinstance(n, float) or n != round(n) or not 1 <= abs(n) <= WHOLE_POWERS:
        raise NotReplayable(f"x**n is compiled for n = 0.5 and whole n from 1 to {WHOLE_POWERS}, or -1 to -8")
    product = x
    for _ in range(int(abs(n)) - 1):
        product = product * x
    return product if n > 0 else 1.0 / product


def log1p(m: Any, x: Any) -> Any:
    """log(1 + x) for any x: the mathematics have that of 0 .. 1 alone. What 1 + x rounds off is made up for."""
    u = 1.0 + x
    near = m.log(u) * (x / m.where(u == 1.0, 1.0, u - 1.0))
    return m.where(u == 1.0, x, m.where(abs(x) < 0.5, near, m.log(u)))


def logaddexp(m: Any, a: Any, b: Any) -> Any:
    """log(exp(a) + exp(b)), which does not overflow."""
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
