# mypy: ignore-errors
"""Numba compilers that do less work: a helper, which is inlined into kernels, is compiled to LLVM's IR and no further.

Numba optimises every function by itself and translates it to machine code, also one that becomes part of all its
callers, where it is optimised and translated again: the first time was for nothing. `LinkedCompiler` leaves it out.
Cold, in float32 on one core of a Zen 3, when all operations were part of them, `run_lanes` and `run_rows` took 20.1 s
without it, 13.6 s with it. (Translation
also rewrites a helper's code in place, which can make accesses by address disappear from its callers; not here.)

`LeanCompiler`, for what Python calls, only skips steps that find nothing to do in kernels. Both have `WideCode`.

Both stand on undocumented parts of Numba, so simd.py imports them for the versions that they were tried with. With
others everything is compiled in full.
"""

from __future__ import annotations

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import InlineOverloads, NativeLowering, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes

# Closures and comprehensions, expressions of whole arrays, and overloads to be inlined: kernels have none.
NEEDLESS = InlineClosureLikes, NopythonRewrites, InlineOverloads


class WideCode(JITCodeLibrary):
    """LLVM's code, in whose loops the widest vectors are used that the processor has.

    LLVM takes half of AVX-512 on most of Intel's processors, lest its clock slow down, which the products of the same
    step do anyway. Of 65536 numbers on an Emerald Rapids, in us: sigmoid 31 -> 25, softmax 38 -> 29, dropout 60 -> 34.
    """

    def add_ir_module(self, ir_module):
        """Add code, and say so to LLVM, function by function; llvmlite knows no attributes that have a value."""
        for function in ir_module.functions:
            if not function.is_declaration:
                set.add(function.attributes, '"prefer-vector-width"="512"')
        super().add_ir_module(ir_module)


class LinkedCode(WideCode):
    """The code of one helper. It is complete when what it calls has been linked in."""

    def _optimize_final_module(self):
        """Leave it to the callers."""

    def _finalize_final_module(self):
        """No machine code."""
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class WideLowering(NativeLowering):
    """Numba's last step, which writes LLVM's code."""

    _name = "wide_lowering"

    def run_pass(self, state):
        """Write the code of the function that `state` is about."""
        state.library = WideCode(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().run_pass(state)


@register_pass(mutates_CFG=True, analysis_only=False)
class LinkedLowering(NativeLowering):
    """The same, less what makes a function of it that Python can call."""

    _name = "linked_lowering"

    def run_pass(self, state):
        """Write the code of the function that `state` is about."""
        library = state.library = LinkedCode(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        what, name = state.cr.fndesc, state.cr.fndesc.qualname.rpartition(".")[2]
        # Numba tells compiled functions apart by what Python calls; there is no address behind this one.
        function = _dynfunc.make_function(what.lookup_module(), name, "", 0, state.cr.env, (library,))
        state.targetctx.insert_user_function(function, what, [library])
        state.cr = state.cr._replace(cfunc=function)
        return True


class LeanCompiler(CompilerBase):
    """Numba's own steps but for those that would find nothing to do, and another last one."""

    lowering = WideLowering

    def define_pipelines(self):
        """Return the one list of steps."""
        steps = DefaultPassBuilder.define_nopython_pipeline(self.state)
        needed = [(step, why) for step, why in steps.passes if step not in NEEDLESS]
        steps.passes = [(self.lowering if step is NativeLowering else step, why) for step, why in needed]
        steps.finalize()
        return [steps]


class LinkedCompiler(LeanCompiler):
    """The same with a last step for helpers."""

    lowering = LinkedLowering
