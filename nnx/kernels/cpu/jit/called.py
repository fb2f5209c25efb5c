# mypy: ignore-errors
# (What @intrinsic takes has no types for Python.)
"""Functions that compiled code calls by their address: compiled when first needed, and kept on disk.

A function that is linked into a kernel is compiled together with it, once for each kernel. Functions that few networks
need, or that several kernels share, are instead compiled by themselves, once and only if needed; a call takes some
nanoseconds.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nnx.kernels.cpu.jit.cache import typed


@cache
def address_of(function: Any, *operands: Any) -> int:
    """Return the address of a function compiled for these types of operands; it returns nothing, and is `CALLED`."""
    code = typed(function, *operands).overloads[operands]
    address = int(code.library.get_pointer_to_function(code.fndesc.llvm_func_name))
    assert address > 0
    return address


@intrinsic
def call(typing, address, *operands):
    """Call the function at an address, with operands of exactly the types that `address_of` was given."""
    kinds = tuple(types.unliteral(operand) for operand in operands)

    def codegen(context, builder, signature, args):
        function = context.call_conv.get_function_type(types.none, kinds)
        target = builder.inttoptr(args[0], function.as_pointer())
        context.call_conv.call_function(builder, target, types.none, kinds, cgutils.unpack_tuple(builder, args[1]))
        return context.get_dummy_value()

    return types.void(types.int64, types.StarArgTuple(kinds)), codegen
