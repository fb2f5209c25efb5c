# mypy: ignore-errors
# (What @njit and @intrinsic take has no types for Python.)
"""Checks of alignment, byte order and aliasing, which compiled code makes before it touches arrays.

Once Numba has seen an unaligned array, in any function, its types do not distinguish alignment and byte order any more:
an array in the other byte order would be read as if it were in this machine's. So kernels look into NumPy's own array
object, to which Numba's array has a pointer. The places of flags and byte order are part of NumPy's binary interface,
on which all compiled extensions rely. This takes a nanosecond; from Python it would take a hundred for each array.
"""

from __future__ import annotations

import ctypes
import sys
from functools import reduce

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# PyArrayObject: the head of every object, then data, the number of dimensions, shape, strides, base, descr, flags.
# PyArray_Descr: the head, a type, and single characters, the third of which is the byte order.
HEAD, POINTER = object.__basicsize__, ctypes.sizeof(ctypes.c_void_p)
DESCR, FLAGS, BYTE_ORDER = HEAD + 5 * POINTER, HEAD + 6 * POINTER, HEAD + POINTER + 2
ALIGNED, FOREIGN = 0x0100, ord(">" if sys.byteorder == "little" else "<")
BYTE, INT32, YES = ir.IntType(8), ir.IntType(32), ir.Constant(ir.IntType(1), 1)


@intrinsic
def behaved(typing, *arrays):
    """Whether all arrays are aligned and in this machine's byte order, as those made in compiled code always are."""

    def at(builder, pointer, offset, kind):
        place = builder.gep(pointer, [ir.Constant(ir.IntType(64), offset)])
        return builder.load(builder.bitcast(place, kind.as_pointer()))

    def codegen(context, builder, signature, args):
        answer = cgutils.alloca_once_value(builder, YES)
        for kind, value in zip(arrays, cgutils.unpack_tuple(builder, args[0]), strict=True):
            given = builder.bitcast(context.make_array(kind)(context, builder, value).parent, BYTE.as_pointer())
            with builder.if_then(cgutils.is_not_null(builder, given), likely=True):
                descr, flags = at(builder, given, DESCR, BYTE.as_pointer()), at(builder, given, FLAGS, INT32)
                aligned = builder.icmp_unsigned("!=", builder.and_(flags, INT32(ALIGNED)), INT32(0))
                native = builder.icmp_unsigned("!=", at(builder, descr, BYTE_ORDER, BYTE), BYTE(FOREIGN))
                builder.store(builder.and_(builder.load(answer), builder.and_(aligned, native)), answer)
        return builder.load(answer)

    return types.boolean(types.StarArgTuple(arrays)), codegen


def _separate(out, others, of_same_start):
    """Whether contiguous arrays share no memory with `out`; for one that begins where `out` does: `of_same_start`."""

    def codegen(context, builder, signature, args):
        word, spans = ir.IntType(8 * POINTER), []
        values = args[0], *cgutils.unpack_tuple(builder, args[1])
        for kind, value in zip((out, *others), values, strict=True):
            array = context.make_array(kind)(context, builder, value)
            begin = builder.ptrtoint(array.data, word)
            spans.append((begin, builder.add(begin, builder.mul(array.nitems, array.itemsize))))
        begin, end = spans[0]
        answers = [YES]
        for first, last in spans[1:]:
            before = builder.icmp_unsigned("<=", last, begin)
            apart = builder.or_(before, builder.icmp_unsigned("<=", end, first))
            answers.append(builder.or_(apart, builder.icmp_unsigned("==", begin, first)) if of_same_start else apart)
        return reduce(builder.and_, answers)

    return types.boolean(out, types.StarArgTuple(others)), codegen


@intrinsic
def apart(typing, out, *others):
    """Whether the others share no memory with `out`."""
    return _separate(out, others, False)


@intrinsic
def apart_or_same(typing, out, *others):
    """Whether each of the others shares no memory with `out`, or begins where `out` does, for work in place."""
    return _separate(out, others, True)
