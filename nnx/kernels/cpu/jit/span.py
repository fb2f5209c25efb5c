# mypy: ignore-errors
# (What Numba's decorators take has no types for Python.)
"""Spans: a pointer to numbers and how many there are. Kernels pass them to each other in the place of arrays.

An array in compiled code is seven values (owner, parent, size, item size, data, shape, strides), and each access tests
whether the index is negative. All of that goes through Numba and LLVM before it is optimised away. A span is two
values, without a test of the index; it has only `s[i]`, `len(s)`, `s.size` and `s.dtype`. With spans `run_rows`
compiles in 13% less time.

A span owns no memory, so the array that it was made from must outlive it.
"""

from __future__ import annotations

import operator
from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_getattr
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import lower_builtin, models, register_model, type_callable


class Span(types.CPointer):
    """The type of spans: a pointer with the number of elements that follow, as a subclass of Numba's pointer type."""

    def __init__(self, dtype: Any) -> None:
        super().__init__(dtype)
        self.name = f"Span({dtype})"


@register_model(Span)
class SpanModel(models.StructModel):
    """The representation of spans in LLVM."""

    def __init__(self, manager: Any, span: Span) -> None:
        super().__init__(manager, span, [("data", types.CPointer(span.dtype)), ("size", types.intp)])


# ---- for intrinsics, which write LLVM code ---------------------------------------------------------------------------


def make_span(context, builder, kind, data, size):
    """A span of `size` numbers from the pointer `data` on."""
    span = cgutils.create_struct_proxy(kind)(context, builder)
    span.data, span.size = data, size
    return span._getvalue()


def make_matrix(context, builder, kind, data, shape, steps):
    """An array [rows, columns] that owns no memory; `steps`: distances, in numbers, of the next row and column."""
    result = context.make_array(kind)(context, builder)
    size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides = [builder.mul(step, size) for step in steps]
    context.populate_array(result, data=data, shape=list(shape), strides=strides, itemsize=size, meminfo=None)
    return result._getvalue()


def data_of(context, builder, kind, value):
    """The pointer to the first number of a span or an array."""
    return _proxy(context, builder, kind, value).data


def size_of(context, builder, kind, value):
    """How many numbers a span or an array has."""
    source = _proxy(context, builder, kind, value)
    return source.size if isinstance(kind, Span) else source.nitems


def _proxy(context, builder, kind, value):
    made = cgutils.create_struct_proxy(kind) if isinstance(kind, Span) else context.make_array(kind)
    return made(context, builder, value)


# ---- for kernels -----------------------------------------------------------------------------------------------------


@type_callable(len)
def _type_len(context):
    def typer(span):
        if isinstance(span, Span):
            return types.intp

    return typer


@infer_getattr
class SpanAttributes(AttributeTemplate):
    """`size` and `dtype`."""

    key = Span

    def resolve_size(self, span):
        """The type of `size`."""
        return types.intp

    def resolve_dtype(self, span):
        """The type of `dtype`."""
        return types.DType(span.dtype)


@lower_builtin(operator.getitem, Span, types.Integer)
def _getitem(context, builder, signature, args):
    kind = signature.args[0]
    place = _place(context, builder, kind, *args)
    return context.unpack_value(builder, kind.dtype, place)


@lower_builtin(operator.setitem, Span, types.Integer, types.Any)
def _setitem(context, builder, signature, args):
    kind, _, given = signature.args
    value = context.cast(builder, args[2], given, kind.dtype)
    context.pack_value(builder, kind.dtype, value, _place(context, builder, kind, args[0], args[1]))
    return context.get_dummy_value()


def _place(context, builder, kind, span, index):
    return builder.gep(data_of(context, builder, kind, span), [index], inbounds=True)


@lower_builtin(len, Span)
def _len(context, builder, signature, args):
    return size_of(context, builder, signature.args[0], args[0])


@lower_getattr(Span, "size")
def _size(context, builder, kind, value):
    return size_of(context, builder, kind, value)


@lower_getattr(Span, "dtype")
def _dtype(context, builder, kind, value):
    return context.get_dummy_value()
