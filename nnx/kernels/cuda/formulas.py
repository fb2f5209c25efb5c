"""CUDA text made from the table of elementwise functions (nnx/kernels/elementwise.py), so that no `.cu` names them.

Two headers, which `#include` finds in `HEADERS` as it finds others in this folder; `print(HEADERS["elementwise.cuh"])`
shows one:

- elementwise.cuh: a number for each kind, a function for each, `activate` for what follows a dense layer, and `with_kind`
  for what a program does to samples;
- activations.cuh: the kernels `relu_forward`, `relu_backward` and so on. Their table is `SIGNATURES`.
"""

from __future__ import annotations

import re
import textwrap

from nnx.kernels.elementwise import FUNCTIONS, KINDS, PARTS, Elementwise

WIDTH = 120  # of a line
FIRST, SECOND, CONSTANTS = ("x", "y"), ("dy", "t"), ("a", "b")  # what a formula may name, in this order
ACTIVATIONS = {None: -1, **{row.name: KINDS.index(row.name) for row in FUNCTIONS if not row.parameter}}

FORMULAS: dict[str, str] = {
    **{row.name: row.cuda for row in FUNCTIONS},
    **{row.gradient: row.cuda_gradient for row in FUNCTIONS},
    **{part.name: part.cuda for part in PARTS},
}


def named(kind: str, some: tuple[str, ...]) -> list[str]:
    """Return which of some names a kind's formula has in it."""
    return [name for name in some if re.search(rf"\b{name}\b", FORMULAS[kind])]


def definition(kind: str) -> str:
    """Return the function of a kind, of those operands and constants that it needs."""
    parameters = ", ".join(f"REAL {name}" for name in named(kind, (*FIRST, *SECOND, *CONSTANTS)))
    head = f"__device__ __forceinline__ REAL {kind}_of({parameters}) {{"
    line = f"{head} return {FORMULAS[kind]}; }}"
    if len(line) <= WIDTH:
        return line
    body = textwrap.wrap(f"return {FORMULAS[kind]};", WIDTH, initial_indent="  ", subsequent_indent="         ")
    return "\n".join([head, *body, "}"])


def called(kind: str) -> str:
    """Return the call of that function."""
    return f"{kind}_of({', '.join(named(kind, (*FIRST, *SECOND, *CONSTANTS)))})"


def mapped(kind: str) -> str:
    """Return it as a function of two operands, whether it needs both or not."""
    first, second = (" ".join(["REAL", *named(kind, names)]) for names in (FIRST, SECOND))
    constants = "=" if named(kind, CONSTANTS) else ""
    return f"[{constants}]({first}, {second}) {{ return {called(kind)}; }}"


def _elementwise() -> str:
    """Return elementwise.cuh."""
    numbers = textwrap.fill(
        ", ".join(["NONE = -1", *map(str.upper, KINDS)]), WIDTH, initial_indent="  ", subsequent_indent="  "
    )
    after_dense = [f"    case Kind::{name.upper()}: return {called(name)};" for name in ACTIVATIONS if name is not None]
    for_samples = [f"    case Kind::{kind.upper()}: return map({mapped(kind)});" for kind in KINDS]
    return "\n".join(
        [
            "// What is done to each number by itself: made by formulas.py from nnx/kernels/elementwise.py.",
            '#include "common.cuh"',
            "",
            "enum class Kind {",
            numbers,
            "};",
            "",
            "// x: the number; y: what was made of it; dy: the gradient of that; t: what x should be; a, b: constants.",
            *map(definition, KINDS),
            "",
            "// What a dense layer does to its own result. A kind that takes a parameter is none of that, and stops the kernel.",
            "__device__ __forceinline__ REAL activate(REAL x, int kind) {",
            "  switch ((Kind)kind) {",
            "    case Kind::NONE: return x;",
            *after_dense,
            "    default: __trap();",
            "  }",
            "  return x;",
            "}",
            "",
            "// Call map(f) with what a kind makes of one number, or of two. A kind that there is not stops the kernel.",
            "template <class Map>",
            "__device__ __forceinline__ void with_kind(i64 kind, REAL a, REAL b, Map map) {",
            "  switch ((Kind)kind) {",
            *for_samples,
            "    default: __trap();",
            "  }",
            "}",
            "",
        ]
    )


# ---- kernels ---------------------------------------------------------------------------------------------------------


def signatures(row: Elementwise) -> dict[str, str]:
    """Return the parameters of a function's two kernels, by their names."""
    parameter = ", REAL a" if row.parameter else ""
    return {
        f"{row.name}_forward": f"const REAL* x, REAL* y, long long n{parameter}",
        row.gradient: f"const REAL* {row.of}, const REAL* dy, REAL* dx, long long n{parameter}",
    }


def _kernels(row: Elementwise) -> str:
    """Return a function's two kernels."""
    by = "=" if row.parameter else ""
    (forward, its), (backward, own) = signatures(row).items()
    one = f"[{by}](REAL x) {{ return {called(row.name)}; }}"
    two = f"[{by}](REAL {row.of}, REAL dy) {{ return {called(row.gradient)}; }}"
    return "\n".join(
        [
            f'extern "C" __global__ void {forward}({its}) {{',
            f"  map(x, y, n, {one});",
            "}",
            f'extern "C" __global__ void {backward}({own}) {{',
            f"  map({row.of}, dy, dx, n, {two});",
            "}",
        ]
    )


def _activations() -> str:
    """Return activations.cuh."""
    about = (
        "// Two kernels for each function, forward and backward: made by formulas.py from nnx/kernels/elementwise.py."
    )
    return "\n".join([about, '#include "elementwise.cuh"', "", *map(_kernels, FUNCTIONS), ""])


HEADERS = {"elementwise.cuh": _elementwise(), "activations.cuh": _activations()}
