# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""SIMD vectors of 16 numbers, parts of arrays, and compiler options: the basic functions of the CPU kernels.

Everything works for float32 and float64: Numba compiles the same source for either. Functions take arrays, with
positions as indices into them, never as addresses: LLVM does not know to which object an access through an integer
belongs, and may delete it once the code has been linked into a caller.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from nnx.kernels.cpu.jit.span import Span, data_of, make_matrix, make_span, size_of

WIDTH = 16  # numbers in a vector; LLVM uses as many registers as it needs (AVX-512 1, AVX2 2, NEON 4)
ALIGNED = 64  # alignment in bytes: vectors across two cache lines take twice as long

TRIED = (0, 61), (0, 68)  # the first and the last version of Numba with which compilers.py was tried
LEAN: dict[str, Any] = {}
ONLY_LINKED: dict[str, Any] = {}
if TRIED[0] <= numba.version_info.short <= TRIED[1]:
    from nnx.kernels.cpu.jit.compilers import LeanCompiler, LinkedCompiler

    LEAN["pipeline_class"], ONLY_LINKED["pipeline_class"] = LeanCompiler, LinkedCompiler

# How a kernel is compiled. Sums may be reordered and multiply-adds fused; NaN and infinity keep their meaning.
OPTIONS: dict[str, Any] = {
    **LEAN,
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "boundscheck": False,
    "no_cfunc_wrapper": True,  # it need not be callable from C
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}
# For a function that only other kernels call: not cached by itself, nor callable from Python.
PART: dict[str, Any] = {**OPTIONS, **ONLY_LINKED, "cache": False, "no_cpython_wrapper": True}
# The same for a function that need not be compiled again for each constant that callers give.
ONCE: dict[str, Any] = {**PART, "literals": False}
# For a function that kernels call by its address: see called.py.
CALLED: dict[str, Any] = {**OPTIONS, "no_cpython_wrapper": True}
# For a function that must be inlined into its callers, since a loop with a call in it is not vectorised.
INLINED: dict[str, Any] = {**PART, "forceinline": True}
# The same for a function like exp in which the order of operations matters: no sum may be reordered.
EXACT: dict[str, Any] = {**INLINED, "fastmath": {"contract"}}
# The same for a function that need not be inlined.
IN_ORDER: dict[str, Any] = {**PART, "fastmath": {"contract"}}


# ---- parts of arrays -------------------------------------------------------------------------------------------------


@intrinsic
def view(typing, array, start, length):
    """`array[start : start + length]` of a span, or of a contiguous array of any shape.

    Bounds are not checked and references not counted, for which an ordinary slice needs two atomic additions.
    """

    def codegen(context, builder, signature, args):
        data = data_of(context, builder, signature.args[0], args[0])
        return make_span(context, builder, signature.return_type, builder.gep(data, [args[1]]), args[2])

    return Span(array.dtype)(array, types.intp, types.intp), codegen


@intrinsic
def matrix(typing, array, start, rows, columns):
    """The numbers from `start` on of a span or a flat array as a matrix [rows, columns] that owns no memory."""

    def codegen(context, builder, signature, args):
        kind, (source, start, rows, columns) = signature.return_type, args
        data = builder.gep(data_of(context, builder, signature.args[0], source), [start])
        return make_matrix(context, builder, kind, data, [rows, columns], [columns, columns.type(1)])

    return types.Array(array.dtype, 2, "C")(array, types.intp, types.intp, types.intp), codegen


@intrinsic
def flat(typing, array):
    """All numbers of a contiguous array."""

    def codegen(context, builder, signature, args):
        source = context, builder, signature.args[0], args[0]
        return make_span(context, builder, signature.return_type, data_of(*source), size_of(*source))

    return Span(array.dtype)(array), codegen


@intrinsic
def row(typing, array, index):
    """`array[index]` of a contiguous matrix."""

    def codegen(context, builder, signature, args):
        source = context.make_array(signature.args[0])(context, builder, args[0])
        columns = builder.extract_value(source.shape, 1)
        data = builder.gep(source.data, [builder.mul(args[1], columns)])
        return make_span(context, builder, signature.return_type, data, columns)

    return Span(array.dtype)(array, types.intp), codegen


@intrinsic
def numbers_at(typing, address, dtype):
    """The numbers of a type from an address on, as a span of unknown length."""

    def codegen(context, builder, signature, args):
        kind = signature.return_type
        data = builder.inttoptr(args[0], context.get_data_type(kind.dtype).as_pointer())
        return make_span(context, builder, kind, data, args[0].type(0))

    return Span(dtype.dtype)(address, dtype), codegen


@intrinsic(prefer_literal=True)
def on_stack(typing, dtype, count):
    """A buffer on the stack, until the calling function ends, for `count` numbers of a type; `count` is a constant."""
    numbers = count.literal_value

    def codegen(context, builder, signature, args):
        size = ir.Constant(ir.IntType(64), numbers)
        data = cgutils.alloca_once(builder, context.get_data_type(signature.return_type.dtype), size)
        data.align = ALIGNED
        return make_span(context, builder, signature.return_type, data, size)

    return Span(dtype.dtype)(dtype, count), codegen


@intrinsic
def claim(typing, numbers):
    """Prefetch the cache lines of a span for writing, all at once.

    A store has to wait for a line that is not in the cache; that slows down a loop which does little else.
    """

    def codegen(context, builder, signature, args):
        byte, word, flag = ir.IntType(8).as_pointer(), ir.IntType(64), ir.IntType(32)
        kind, wanted = signature.args[0], ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], wanted)
        data = builder.bitcast(data_of(context, builder, kind, args[0]), byte)
        size = builder.mul(size_of(context, builder, kind, args[0]), word(kind.dtype.bitwidth // 8))
        with cgutils.for_range_slice(builder, word(0), size, word(ALIGNED)) as (at, _):
            builder.call(fetch, [builder.gep(data, [at]), flag(1), flag(3), flag(1)])  # of data, to write, and to keep
        return context.get_dummy_value()

    return types.void(numbers), codegen


# ---- integers --------------------------------------------------------------------------------------------------------
# Numba's min, max and int would be compiled again for each set of options, for 16 ms each time.


@intrinsic
def smaller(typing, a, b):
    """The smaller of two integers."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.icmp_signed("<", *args), *args)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def larger(typing, a, b):
    """The larger of two integers."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.icmp_signed(">", *args), *args)

    return types.int64(types.int64, types.int64), codegen


# ---- vectors ---------------------------------------------------------------------------------------------------------


class Vector(types.Type):
    """WIDTH numbers held in registers."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """How LLVM holds it."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(manager.lookup(vector.dtype).get_value_type(), WIDTH))


def _address(context, builder, array_type, args):
    data = data_of(context, builder, array_type, args[0])
    element = context.get_value_type(array_type.dtype)
    return builder.bitcast(builder.gep(data, [args[1]]), ir.VectorType(element, WIDTH).as_pointer())


def _declare(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _suffix(vector_type):
    return f"v{WIDTH}f{32 if vector_type.element == ir.FloatType() else 64}"


@intrinsic
def vload(typing, array, start):
    """The vector at `array[start : start + WIDTH]`, which need not be aligned."""

    def codegen(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], args)
        return builder.load(address, align=signature.args[0].dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.intp), codegen


@intrinsic
def vstore(typing, array, start, value):
    """Write a vector to `array[start : start + WIDTH]`, which need not be aligned."""

    def codegen(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], args)
        builder.store(args[2], address, align=signature.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def vfill(typing, number):
    """The same number in every lane."""

    def codegen(context, builder, signature, args):
        undefined = ir.Constant(ir.VectorType(args[0].type, WIDTH), ir.Undefined)
        first = builder.insert_element(undefined, args[0], ir.IntType(32)(0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
        return builder.shuffle_vector(first, undefined, lanes)

    return Vector(number)(number), codegen


@intrinsic
def vfma(typing, a, b, c):
    """a * b + c, rounded once."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        return builder.call(_declare(builder, f"llvm.fma.{_suffix(kind)}", kind, [kind] * 3), args)

    return a(a, a, a), codegen


@intrinsic
def vmul(typing, a, b):
    """a * b."""

    def codegen(context, builder, signature, args):
        return builder.fmul(*args)

    return a(a, a), codegen


@intrinsic
def vadd(typing, a, b):
    """a + b."""

    def codegen(context, builder, signature, args):
        return builder.fadd(*args)

    return a(a, a), codegen


@intrinsic
def vsub(typing, a, b):
    """a - b."""

    def codegen(context, builder, signature, args):
        return builder.fsub(*args)

    return a(a, a), codegen


@intrinsic
def vfirst(typing, a, count, other):
    """The first `count` lanes of a, and those of `other` after them."""

    def codegen(context, builder, signature, args):
        integers = ir.VectorType(ir.IntType(64), WIDTH)
        undefined = ir.Constant(integers, ir.Undefined)
        one = builder.insert_element(undefined, args[1], ir.IntType(32)(0))
        limit = builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))
        kept = builder.icmp_signed("<", ir.Constant(integers, list(range(WIDTH))), limit)
        return builder.select(kept, args[0], args[2])

    return a(a, types.int64, a), codegen


@intrinsic(prefer_literal=True)
def vrow_sums(typing, a, columns):
    """In each lane the sum of its row, if a holds consecutive rows of `columns` numbers, a constant."""
    c = columns.literal_value
    lanes = WIDTH // c * c  # lanes of whole rows; the others are undefined

    def codegen(context, builder, signature, args):
        total, undefined = args[0], ir.Constant(args[0].type, ir.Undefined)
        for turn in range(1, c):
            places = [i // c * c + (i + turn) % c if i < lanes else i for i in range(WIDTH)]
            order = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), places)
            total = builder.fadd(total, builder.shuffle_vector(args[0], undefined, order))
        return total

    return a(a, columns), codegen


@intrinsic
def vmax(typing, a, b):
    """The larger of each two numbers, b where one is NaN; as a loop, LLVM would not vectorise this."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return a(a, a), codegen


@intrinsic
def vtop(typing, a):
    """The largest of the lanes."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        reduce = _declare(builder, f"llvm.vector.reduce.fmax.{_suffix(kind)}", kind.element, [kind])
        return builder.call(reduce, args)

    return a.dtype(a), codegen


@intrinsic
def vsum(typing, a):
    """The sum of the lanes."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        reduce = _declare(builder, f"llvm.vector.reduce.fadd.{_suffix(kind)}", kind.element, [kind.element, kind])
        return builder.call(reduce, [ir.Constant(kind.element, -0.0), args[0]], fastmath=["reassoc"])

    return a.dtype(a), codegen


@intrinsic
def vfolded(typing, a):
    """The sum of the lanes, in the same order on every processor: the second half is added to the first, and so on."""

    def codegen(context, builder, signature, args):
        total, half = args[0], WIDTH // 2
        while half:
            order = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [(i + half) % WIDTH for i in range(WIDTH)])
            total = builder.fadd(total, builder.shuffle_vector(total, ir.Constant(total.type, ir.Undefined), order))
            half //= 2
        return builder.extract_element(total, ir.IntType(32)(0))

    return a.dtype(a), codegen
