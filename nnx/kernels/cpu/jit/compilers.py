# mypy: ignore-errors
"""Numba compilers that do less work: a helper that is inlined into kernels is compiled only to LLVM's IR.

Numba optimises every function and translates it to machine code, even a function that is inlined into all its callers,
where it is optimised and translated again. `LinkedCompiler` leaves out the first, useless time. Compiling `run_lanes`
and `run_rows`, when all operations were part of them, in float32 on one core of a Zen 3, took 20.1 s without it and
13.6 s with it. (Translation also rewrites a helper's code in place, which can make accesses by address disappear from
its callers; this cannot happen here.)

`LeanCompiler`, for functions that Python calls, only skips steps that find nothing to do in kernels. Both use
`WideCode`.

Both use undocumented parts of Numba, so simd.py imports them only for the versions that they were tried with. With
others everything is compiled in full.
"""

from __future__ import annotations

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import InlineOverloads, NativeLowering, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes

# Passes for closures and comprehensions, array expressions, and inlined overloads, none of which kernels have.
NEEDLESS = InlineClosureLikes, NopythonRewrites, InlineOverloads


class WideCode(JITCodeLibrary):
    """LLVM code whose loops use the widest vectors that the processor has.

    On most of Intel's processors LLVM uses only half of AVX-512, to keep the clock from slowing down, which the
    products of the same step do anyway. For 65536 numbers on an Emerald Rapids, in us: sigmoid 31 -> 25, softmax 38 ->
    29, dropout 60 -> 34.
    """

    def add_ir_module(self, ir_module):
        """Add code, with an attribute for each function, as text, since llvmlite has no attributes with values."""
        for function in ir_module.functions:
            if not function.is_declaration:
                set.add(function.attributes, '"prefer-vector-width"="512"')
        super().add_ir_module(ir_module)


class LinkedCode(WideCode):
    """The code of a helper, complete once the functions that it calls have been linked in."""

    def _optimize_final_module(self):
        """Do nothing: the callers' code is optimised."""

    def _finalize_final_module(self):
        """Make no machine code."""
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class WideLowering(NativeLowering):
    """Numba's last pass, which writes LLVM code, with `WideCode`."""

    _name = "wide_lowering"

    def run_pass(self, state):
        """Write the code of the function that `state` is about."""
        state.library = WideCode(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().run_pass(state)


@register_pass(mutates_CFG=True, analysis_only=False)
class LinkedLowering(NativeLowering):
    """The last pass for helpers, without the wrapper by which Python calls a function."""

    _name = "linked_lowering"

    def run_pass(self, state):
        """Write the code of the function that `state` is about."""
        library = state.library = LinkedCode(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        what, name = state.cr.fndesc, state.cr.fndesc.qualname.rpartition(".")[2]
        # Numba identifies compiled functions by what Python calls; this object has no code behind it.
        function = _dynfunc.make_function(what.lookup_module(), name, "", 0, state.cr.env, (library,))
        state.targetctx.insert_user_function(function, what, [library])
        state.cr = state.cr._replace(cfunc=function)
        return True


class LeanCompiler(CompilerBase):
    """Numba's passes without those that would find nothing to do, and with another last one."""

    lowering = WideLowering

    def define_pipelines(self):
        """Return the single list of passes."""
        steps = DefaultPassBuilder.define_nopython_pipeline(self.state)
        needed = [(step, why) for step, why in steps.passes if step not in NEEDLESS]
        steps.passes = [(self.lowering if step is NativeLowering else step, why) for step, why in needed]
        steps.finalize()
        return [steps]


class LinkedCompiler(LeanCompiler):
    """The same with the last pass for helpers."""

    lowering = LinkedLowering
