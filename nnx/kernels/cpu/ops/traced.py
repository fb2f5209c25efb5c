# mypy: ignore-errors
# (What @intrinsic takes has no types for Python.)
"""Tracing of the formulas of nnx/kernels/elementwise.py into compiled loops: each is run once, on symbolic numbers.

`Traced` stands for a number in a loop: each operation with it adds an instruction to the loop. So a formula is written
once for arrays and for compiled code, without generating source text, and Numba need not spend time on inferring its
types. A Python number takes the type of the other operand, as in NumPy.

Each array of a loop either is the result itself or shares no memory with it, and LLVM is told so
(`llvm.loop.parallel_accesses`). Otherwise it would use a scalar loop if the result is written in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from llvmlite.ir.values import MDValue
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.span import data_of, size_of
from nnx.kernels.cpu.ops import math as kernels

EXACT = ("contract",)  # only multiply-adds may be fused, as in simd.py
ADDRESSES = 1 << 16  # a kind from this on is not the number of a formula but the address of a compiled one
REORDERED = (*EXACT, "reassoc")  # for sums, which may be reordered


class Traced:
    """A number, or a truth value, in the compiled code."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def beside(self, other):
        """Another operand as a value of this number's type."""
        return other.value if isinstance(other, Traced) else ir.Constant(self.value.type, other)

    def _binary(name, swapped=False):
        def operation(self, other):
            pair = self.value, self.beside(other)
            return Traced(self.builder, getattr(self.builder, name)(*(pair[::-1] if swapped else pair), flags=EXACT))

        return operation

    def _question(sign):
        def question(self, other):
            value, other = self.value, self.beside(other)
            if isinstance(value.type, ir.IntType):  # two truth values: whether they are equal
                return Traced(self.builder, self.builder.icmp_unsigned(sign, value, other))
            ask = self.builder.fcmp_unordered if sign == "!=" else self.builder.fcmp_ordered  # NaN equals nothing
            return Traced(self.builder, ask(sign, value, other))

        return question

    __add__, __radd__ = _binary("fadd"), _binary("fadd", True)
    __sub__, __rsub__ = _binary("fsub"), _binary("fsub", True)
    __mul__, __rmul__ = _binary("fmul"), _binary("fmul", True)
    __truediv__, __rtruediv__ = _binary("fdiv"), _binary("fdiv", True)
    __lt__, __le__, __gt__, __ge__ = _question("<"), _question("<="), _question(">"), _question(">=")
    __eq__, __ne__ = _question("=="), _question("!=")
    __hash__ = None

    def __and__(self, other):
        """Whether both are true."""
        return Traced(self.builder, self.builder.and_(self.value, other.value))

    def __neg__(self):
        """The negative of the number."""
        return Traced(self.builder, self.builder.fneg(self.value))

    def __abs__(self):
        """The absolute value of the number."""
        kind = self.value.type
        name = f"llvm.fabs.f{32 if kind == ir.FloatType() else 64}"
        function = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(kind, [kind]), name)
        return Traced(self.builder, self.builder.call(function, [self.value]))


class TracedMath:
    """The functions that formulas call, for traced numbers: see nnx/kernels/elementwise.py."""

    def __init__(self, context, builder, kind):
        self.context, self.builder, self.kind = context, builder, kind
        self.zero = ir.Constant(context.get_value_type(kind), 0.0)

    def where(self, condition, a, b):
        """a where the condition holds, else b; both are computed, so that there is no branch."""
        like = Traced(self.builder, self.zero)
        return Traced(self.builder, self.builder.select(condition.value, like.beside(a), like.beside(b)))

    def single(self, x):
        """Whether the numbers are float32."""
        return self.zero.type == ir.FloatType()

    def _call(function):
        def call(self, x):
            typing = self.context.typing_context
            callee = typing.resolve_value_type(function)
            signature = typing.resolve_function_type(callee, (self.kind,), {})
            return Traced(self.builder, self.context.get_function(callee, signature)(self.builder, [x.value]))

        return call

    def _intrinsic(name):
        def call(self, x):
            function = self.builder.module.declare_intrinsic(f"llvm.{name}", [x.value.type])
            return Traced(self.builder, self.builder.call(function, [x.value]))

        return call

    sqrt, sin, cos = map(_intrinsic, ("sqrt", "sin", "cos"))
    exp, expm1, log, log1p, tanh = map(_call, (kernels.exp, kernels.expm1, kernels.log, kernels.log1p, kernels.tanh))


class Distinct(MDValue):
    """A distinct node of metadata, which may refer to itself; llvmlite lacks this."""

    __eq__, __ne__, __hash__ = object.__eq__, object.__ne__, object.__hash__

    def __init__(self, module, operands=(), itself=False):
        super().__init__(module, operands, name=str(len(module.metadata)))
        self.operands = (self, *self.operands) if itself else self.operands

    def descr(self, text):
        """Write the node as LLVM text."""
        text += (f"distinct !{{ {', '.join(each.get_reference() for each in self.operands)} }}", "\n")


@contextmanager
def loop(builder, count):
    """A loop over 0 .. count - 1 whose iterations are independent; yields the index and a mark for memory accesses."""
    group = Distinct(builder.module)
    accesses = builder.module.add_metadata(["llvm.loop.parallel_accesses", group])
    before, body, after = builder.block, *(builder.append_basic_block(name) for name in ("number", "done"))
    builder.cbranch(builder.icmp_signed(">", count, count.type(0)), body, after)
    builder.position_at_end(body)
    index = builder.phi(count.type)
    index.add_incoming(count.type(0), before)
    yield index, lambda access: access.set_metadata("llvm.access.group", group)
    following = builder.add(index, count.type(1), flags=("nsw",))
    index.add_incoming(following, builder.block)
    more = builder.cbranch(builder.icmp_signed("<", following, count), body, after)
    more.set_metadata("llvm.loop", Distinct(builder.module, [accesses], itself=True))
    builder.position_at_end(after)


def made_of(formulas: dict[int, Callable[..., Any]], more: bool = False) -> Any:
    """Return `apply(kind, x, y, out, c0, c1)` for kernels: out = formulas[kind](m, x, y, c0, c1), number by number.

    x and y have the length of `out`; each is `out` itself or shares no memory with it. An unknown kind gives NaN.

    Args:
        formulas: by kind. more: whether a kind may also be the address of a user-defined formula: see formula.py.
    """

    @intrinsic
    def apply(typing, kind, x, y, out, c0, c1):
        def codegen(context, builder, signature, args):
            kinds = signature.args
            sources = Numbers(context, builder, kinds, args, (1, 2), (4, 5))
            result = data_of(context, builder, kinds[3], args[3])

            def fill(formula):
                with loop(builder, sources.count) as (index, mark):
                    value, reads = sources.at(index, formula)
                    written = builder.store(value, builder.gep(result, [index], inbounds=True))
                    for access in (*reads, written):
                        mark(access)

            for formula in cases(builder, args[0], formulas):
                if more and formula is nothing:
                    beyond = builder.icmp_signed(">", args[0], args[0].type(ADDRESSES))
                    with builder.if_else(beyond) as (at_address, neither):
                        with at_address:
                            call_at(builder, args[0], (*sources.data, result), sources)
                        with neither:
                            fill(formula)
                else:
                    fill(formula)
            return context.get_dummy_value()

        return types.void(kind, x, y, out, c0, c1), codegen

    return apply


def call_at(builder, address, pointers, sources):
    """Call a formula compiled by formula.py: void(x, y, out, count, c0, c1)."""
    values = (*pointers, sources.count, *(constant.value for constant in sources.constants))
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    builder.call(builder.inttoptr(address, kind.as_pointer()), values)


def nothing(m, x, *others):
    """The result of an unknown kind: NaN."""
    return Traced(x.builder, ir.Constant(x.value.type, math.nan))


def total_of(formulas: dict[int, Callable[..., Any]]) -> Any:
    """Return `add_up(kind, x, y, c0, c1)` for kernels: the sum of formulas[kind](m, x, y, c0, c1) over all numbers."""

    @intrinsic
    def add_up(typing, kind, x, y, c0, c1):
        def codegen(context, builder, signature, args):
            sources = Numbers(context, builder, signature.args, args, (1, 2), (3, 4))
            total = cgutils.alloca_once_value(builder, sources.m.zero)
            for formula in cases(builder, args[0], formulas):
                with loop(builder, sources.count) as (index, _):
                    value, _ = sources.at(index, formula)
                    builder.store(builder.fadd(builder.load(total), value, flags=REORDERED), total)
            return builder.load(total)

        return x.dtype(kind, x, y, c0, c1), codegen

    return add_up


class Numbers:
    """The arrays that a loop reads, the first of which determines type and length, and the constants."""

    def __init__(self, context, builder, kinds, args, arrays, constants):
        self.builder, number = builder, kinds[arrays[0]].dtype
        self.m = TracedMath(context, builder, number)
        self.count = size_of(context, builder, kinds[arrays[0]], args[arrays[0]])
        self.data = [data_of(context, builder, kinds[place], args[place]) for place in arrays]
        self.constants = [
            Traced(builder, context.cast(builder, args[place], kinds[place], number)) for place in constants
        ]

    def at(self, index, formula):
        """A formula's result for the numbers at an index, and the instructions that read them."""
        reads = [self.builder.load(self.builder.gep(data, [index], inbounds=True)) for data in self.data]
        result = formula(self.m, *(Traced(self.builder, read) for read in reads), *self.constants)
        assert result.value.type == self.m.zero.type
        return result.value, reads


def cases(builder, kind, formulas):
    """Write a switch over the kinds, and yield each formula where its code belongs; `nothing` for an unknown kind."""
    end, unknown = (builder.append_basic_block(name) for name in ("end", "unknown"))
    switch = builder.switch(kind, unknown)
    for number, formula in (*formulas.items(), (None, nothing)):
        block = unknown if number is None else builder.append_basic_block("kind")
        if number is not None:
            switch.add_case(kind.type(number), block)
        builder.position_at_end(block)
        yield formula
        builder.branch(end)
    builder.position_at_end(end)


def scalar(formula: Callable[..., Any]) -> Any:
    """Return `apply(*numbers)` for kernels: formula(m, *numbers), for numbers of one type."""

    @intrinsic
    def apply(typing, *numbers):
        kind = numbers[0]

        def codegen(context, builder, signature, args):
            given = cgutils.unpack_tuple(builder, args[0])
            return formula(TracedMath(context, builder, kind), *(Traced(builder, number) for number in given)).value

        return kind(types.StarArgTuple([kind] * len(numbers))), codegen

    return apply
