"""CUDA code generated from the tables in nnx/kernels/elementwise.py and losses.py: no `.cu` file names a function.

It consists of four headers, which `#include` finds like the files in this folder; `print(HEADERS["elementwise.cuh"])`
shows one:

- elementwise.cuh: a number and a function for each kind, `activate` for the end of a dense layer, `with_kind` for the
  persistent kernel;
- own.cuh: a user-defined formula (nnx/backends/formula.py), or a stand-in for one;
- activations.cuh, losses.cuh: two kernels for each function and each loss, with the parameters that `signatures` lists.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from nnx.kernels.cuda.written import WIDTH, function
from nnx.kernels.elementwise import FUNCTIONS, KINDS, Elementwise
from nnx.kernels.losses import LOSSES, PARTS, Loss


def parameter(row: Elementwise) -> tuple[str, ...]:
    """Return the C name of a function's parameter, if it has one."""
    return ("a",) if row.parameter else ()


# The numbers of the functions that a dense layer can apply to its own result.
ACTIVATIONS: dict[str | None, int] = {None: -1}
ACTIVATIONS |= {row.name: row.number for row in FUNCTIONS if not row.parameter}
# For each kind, its function's code, and which of x, y, dy, t, a, b it takes (as ELEMENTWISE says).
WRITTEN = {
    **{row.name: function(f"{row.name}_of", row.forward, ("x", *parameter(row))) for row in FUNCTIONS},
    **{
        row.gradient: function(f"{row.gradient}_of", row.backward, (row.of, "dy", *parameter(row))) for row in FUNCTIONS
    },
    **{kind: function(f"{kind}_of", formula, ("x", "t", "a", "b")) for kind, formula in PARTS.items()},
}

ELEMENTWISE = """\
// What is done to each number by itself: made by formulas.py from nnx/kernels/elementwise.py and losses.py.
#include "common.cuh"

enum class Kind {{
{numbers}
}};

// x: the number; y: what was made of it; dy: the gradient of that; t: what x should be; a, b: constants.
{functions}

// What a dense layer does to its own result. Any other kind, such as one with a parameter, stops the kernel.
__device__ __forceinline__ REAL activate(REAL x, int kind) {{
  switch ((Kind)kind) {{
    case Kind::NONE: return x;
{activations}
    default: __trap();
  }}
  return x;
}}

// Call map(f) with what a kind makes of one number, or of two. Any other kind stops the kernel.
template <class Map>
__device__ __forceinline__ void with_kind(i64 kind, REAL a, REAL b, Map map) {{
  switch ((Kind)kind) {{
{kinds}
    default: __trap();
  }}
}}
"""

ACTIVATION = """
extern "C" __global__ void {forward}({its}) {{
  map(x, y, n, [{by}](REAL x) {{ return {function}; }});
}}

extern "C" __global__ void {backward}({own}) {{
  map({of}, dy, dx, n, [{by}](REAL {of}, REAL dy) {{ return {gradient}; }});
}}
"""

LOSS = """
extern "C" __global__ void {forward}({its}) {{
  mean_of_rows({outputs}, target, losses, rows, columns, [=](REAL x, REAL t) {{ return {cost}; }});
}}

extern "C" __global__ void {backward}({own}) {{
  REAL a = (REAL)({factor} / (double)n);
  map({outputs}, target, gradient, n, [=](REAL x, REAL t) {{ return {gradient}; }});
}}
"""


def elementwise() -> str:
    """Return elementwise.cuh."""
    numbers = ", ".join(["NONE = -1", *map(str.upper, KINDS)])
    after_dense = [name for name in ACTIVATIONS if name is not None]
    return ELEMENTWISE.format(
        numbers=textwrap.fill(numbers, WIDTH, initial_indent="  ", subsequent_indent="  "),
        functions="\n".join(WRITTEN[kind][0] for kind in KINDS),
        activations="\n".join(f"    case Kind::{kind.upper()}: return {called(kind)};" for kind in after_dense),
        kinds="\n".join(f"    case Kind::{kind.upper()}: return map({of_two(kind)});" for kind in KINDS),
    )


def called(kind: str) -> str:
    """Return the call of a kind's function."""
    return f"{kind}_of({', '.join(WRITTEN[kind][1])})"


def of_two(kind: str) -> str:
    """Return the call of a kind's function with two operands, whether it needs both or not."""
    needed = WRITTEN[kind][1]
    first, second = (
        " ".join(["REAL", *(name for name in needed if name in some)]) for some in (("x", "y"), ("dy", "t"))
    )
    return f"[{'=' if {'a', 'b'} & {*needed} else ''}]({first}, {second}) {{ return {called(kind)}; }}"


# ---- kernels ---------------------------------------------------------------------------------------------------------


def signatures(row: Elementwise | Loss) -> dict[str, str]:
    """Return the parameters of the two kernels of a function or of a loss, by their names."""
    if isinstance(row, Loss):
        read, parameter = f"const REAL* {row.outputs}, const REAL* target", ", REAL b" if row.parameter else ""
        return {
            row.name: f"{read}, REAL* losses, long long rows, long long columns{parameter}",
            row.gradient: f"{read}, REAL* gradient, long long n{parameter}",
        }
    parameter = ", REAL a" if row.parameter else ""
    return {
        f"{row.name}_forward": f"const REAL* x, REAL* y, long long n{parameter}",
        row.gradient: f"const REAL* {row.of}, const REAL* dy, REAL* dx, long long n{parameter}",
    }


def kernels(row: Elementwise | Loss) -> str:
    """Return the two kernels of a function or of a loss."""
    (forward, its), (backward, own) = signatures(row).items()
    names = {"forward": forward, "its": its, "backward": backward, "own": own}
    if isinstance(row, Loss):
        cost, gradient = called(row.part), called(row.slope)
        return LOSS.format(**names, outputs=row.outputs, factor=row.factor, cost=cost, gradient=gradient)
    function, gradient = called(row.name), called(row.gradient)
    return ACTIVATION.format(**names, of=row.of, by="=" if row.parameter else "", function=function, gradient=gradient)


def own(text: str, needed: Sequence[str]) -> str:
    """Return the header with a user-defined formula, given the code and the needed operands from `written.function`."""
    return (
        f"// A formula of the user's own: see formulas.py.\n{text}\n"
        "__device__ __forceinline__ REAL own_of(REAL x, REAL y, REAL a) {\n"
        f"  return own({', '.join(needed)});\n}}\n"
    )


def header(rows: Sequence[Elementwise | Loss]) -> str:
    """Return a header with the kernels of the given rows."""
    about = "// Two kernels for each row of a table: made by formulas.py from the tables in nnx/kernels.\n"
    return about + '#include "elementwise.cuh"\n' + "".join(map(kernels, rows))


HEADERS = {
    "elementwise.cuh": elementwise(),
    "activations.cuh": header(FUNCTIONS),
    "losses.cuh": header(LOSSES),
    "own.cuh": own(*function("own", lambda m, x, y, a: x + y * a, ("x", "y", "a"))),  # a stand-in for user-defined ones
}
