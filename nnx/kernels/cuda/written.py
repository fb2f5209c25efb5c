"""C code generation from the formulas of nnx/kernels/elementwise.py: each is traced, run once on symbolic numbers.

    function("tanh_backward_of", lambda m, y, dy: dy * (1 - y * y), ("y", "dy"))

Every function is given those parameters that it needs. What is used more than once, or is long, has a name of its own.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

WIDTH = 120  # of a line
LONG = 80  # characters of what is not a line of its own
# How tightly C's operators bind, loosest first.
CHOICE, AND, EQUAL, ORDER, SUM, PRODUCT, SIGN, WHOLE = range(8)


def operator(form: str, level: int, swapped: bool = False) -> Any:
    """Return a method that makes a number of two; `swapped`: of which the own one is the second."""

    def method(self: Written, other: Any) -> Written:
        return self.math.made(form, level, *((other, self) if swapped else (self, other)))

    return method


class Written:
    """A number, or the answer to a question, that C code will hold.

    Attributes:
        form: its text, with {} for each operand. level: how tightly that binds. operands: other numbers.
    """

    def __init__(self, math_: WrittenMath, form: str, level: int, *operands: Written) -> None:
        self.math, self.form, self.level, self.operands = math_, form, level, operands

    @property
    def answers(self) -> bool:
        """Whether it is the answer to a question."""
        return AND <= self.level <= ORDER

    __add__, __radd__ = operator("{} + {}", SUM), operator("{} + {}", SUM, True)
    __sub__, __rsub__ = operator("{} - {}", SUM), operator("{} - {}", SUM, True)
    __mul__, __rmul__ = operator("{} * {}", PRODUCT), operator("{} * {}", PRODUCT, True)
    __truediv__, __rtruediv__ = operator("{} / {}", PRODUCT), operator("{} / {}", PRODUCT, True)
    __lt__, __le__ = operator("{} < {}", ORDER), operator("{} <= {}", ORDER)
    __gt__, __ge__ = operator("{} > {}", ORDER), operator("{} >= {}", ORDER)
    __eq__, __ne__, __and__ = operator("{} == {}", EQUAL), operator("{} != {}", EQUAL), operator("{} && {}", AND)
    __hash__ = object.__hash__

    def __neg__(self) -> Written:
        return self.math.made("-{}", SIGN, self)

    def __abs__(self) -> Written:
        return self.math.made("magnitude({})", WHOLE, self)


class WrittenMath:
    """The mathematics of written numbers: see nnx/kernels/elementwise.py.

    Args:
        is_single: whether the numbers are float32.
    """

    def __init__(self, is_single: bool) -> None:
        self.is_single = is_single
        self._made: dict[tuple[Any, ...], Written] = {}

    def made(self, form: str, level: int, *operands: Any) -> Written:
        """Return a number; the same one, if it has been made before."""
        numbers = [self.number(operand) for operand in operands]
        key = (form, *map(id, numbers))
        if key not in self._made:
            self._made[key] = Written(self, form, level, *numbers)
        return self._made[key]

    def number(self, value: Any, typed: bool = False) -> Written:
        """Return a Python number as a written one; `typed`: as a REAL, even if it is whole."""
        if isinstance(value, Written):
            return value
        if not math.isfinite(value):
            text = "not_a_number()" if math.isnan(value) else "infinity()" if value > 0 else "-infinity()"
        elif value == int(value) and abs(value) < 1 << 31:
            text = f"(REAL){int(value)}" if typed else str(int(value))
        else:
            text = f"(REAL){float(value)!r}"
        return self.made(text, SIGN if value < 0 else WHOLE)

    def where(self, condition: Written, a: Any, b: Any) -> Written:
        """a where the condition holds, else b."""
        return self.made("{} ? {} : {}", CHOICE, condition, self.number(a, True), self.number(b, True))

    def single(self, x: Written) -> bool:
        """Whether the numbers are float32."""
        return self.is_single

    def exp(self, x: Any) -> Written:
        """e**x."""
        return self.made("exponential({})", WHOLE, x)

    def expm1(self, x: Any) -> Written:
        """e**x - 1."""
        return self.made("exponential_less_1({})", WHOLE, x)

    def log(self, x: Any) -> Written:
        """The natural logarithm."""
        return self.made("logarithm({})", WHOLE, x)

    def log1p(self, x: Any) -> Written:
        """log(1 + x)."""
        return self.made("logarithm_of_1_plus({})", WHOLE, x)

    def tanh(self, x: Any) -> Written:
        """The hyperbolic tangent."""
        return self.made("hyperbolic_tangent({})", WHOLE, x)

    # For formulas of the user's own; C++ has one name for both types.

    def sqrt(self, x: Any) -> Written:
        """The square root."""
        return self.made("sqrt({})", WHOLE, x)

    def sin(self, x: Any) -> Written:
        """The sine."""
        return self.made("sin({})", WHOLE, x)

    def cos(self, x: Any) -> Written:
        """The cosine."""
        return self.made("cos({})", WHOLE, x)


# ---- text ------------------------------------------------------------------------------------------------------------


def function(name: str, formula: Callable[..., Any], parameters: Sequence[str]) -> tuple[str, list[str]]:
    """Return a device function made of a formula, and those of its parameters that it needs."""
    single, double = (Text(formula, parameters, is_single) for is_single in (True, False))
    head = f"__device__ __forceinline__ REAL {name}({', '.join(f'REAL {each}' for each in single.needed)}) {{"
    line = f"{head} {' '.join(single.lines)} }}"
    if single.lines != double.lines:
        lines = ["if constexpr (sizeof(REAL) == sizeof(float)) {", *indented(single.lines)]
        lines += ["} else {", *indented(double.lines), "}"]
    elif len(single.lines) == 1 and len(line) <= WIDTH:
        return line, single.needed
    else:
        lines = single.lines
    return "\n".join([head, *indented(lines), "}"]), single.needed


def indented(lines: list[str]) -> list[str]:
    """Return lines two spaces further in."""
    return [f"  {line}" for line in lines]


class Text:
    """A formula as C statements.

    Attributes:
        lines: of the function's body. needed: the parameters in them.
    """

    def __init__(self, formula: Callable[..., Any], parameters: Sequence[str], is_single: bool) -> None:
        m = WrittenMath(is_single)
        result = m.number(formula(m, *(m.made(name, WHOLE) for name in parameters)), True)
        order = [*each_once(result, set())]
        uses = Counter(id(operand) for number in order for operand in number.operands)
        self._names: dict[int, str] = {}
        self.lines: list[str] = []
        self.needed = [name for name in parameters if any(number.form == name for number in order)]
        for number in order[:-1]:
            text, name = self._text(number), f"r{len(self._names) + 1}"
            if number.operands and (uses[id(number)] > 1 or len(text) > LONG):
                self._line(f"{'bool' if number.answers else 'REAL'} {name} = {text};")
                self._names[id(number)] = name
        self._line(f"return {self._text(result)};")

    def _line(self, text: str) -> None:
        self.lines += textwrap.wrap(text, WIDTH - 4, subsequent_indent="    ", break_on_hyphens=False)

    def _text(self, number: Written) -> str:
        """Return a number's text: operands in parentheses where C would else take them otherwise."""
        operands = []
        for place, operand in enumerate(number.operands):
            text = self._names.get(id(operand))
            if text is None:
                text = self._text(operand)
                # Of two that bind as tightly C takes the left one first; two signs in a row are something else to it. A
                # function's argument stands by itself.
                looser = operand.level < number.level + (place > 0 or number.level in (CHOICE, SIGN))
                if number.level < WHOLE and (looser or (number.level == EQUAL and operand.answers)):
                    text = f"({text})"
            operands.append(text)
        return number.form.format(*operands)


def each_once(number: Written, seen: set[int]) -> Iterator[Written]:
    """Yield all that a number is made of, each after what it is made of itself."""
    if id(number) not in seen:
        seen.add(id(number))
        for operand in number.operands:
            yield from each_once(operand, seen)
        yield number
