"""Sources of the CUDA kernels: the text to compile, its headers in it, and the compiler's options."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from nnx.kernels.cuda.formulas import HEADERS
from nnx.kernels.cuda.kernel import REALS

FOLDER = files("nnx.kernels.cuda")


@cache
def source(file: str, own: str = "") -> str:
    """Return the text to compile, with all headers included: caches of compiled kernels do not follow `#include`.

    Args:
        file: the name of the file. own: the header with a user-defined formula (`formulas.own`), for formula.cu.
    """
    return _with_headers(file, set(), own)


def _with_headers(file: str, there: set[str], own: str) -> str:
    """Return a file's text with each `#include` replaced by its header, the first time; line numbers are kept."""
    lines = []
    for number, line in enumerate(_text(file, own).splitlines(), 1):
        header = line.removeprefix('#include "').rstrip('"') if line.startswith('#include "') else ""
        if not header:
            lines.append(line)
        elif header not in there:
            there.add(header)
            lines += [f'#line 1 "{header}"', _with_headers(header, there, own), f'#line {number + 1} "{file}"']
        else:
            lines.append("")
    return "\n".join(lines) + "\n"


def _text(file: str, own: str) -> str:
    """Return the text of a file, or of a generated header."""
    if own and file == "own.cuh":
        return own
    return HEADERS[file] if file in HEADERS else (FOLDER / file).read_text(encoding="utf-8")


def options(dtype: str) -> tuple[str, ...]:
    """Return the compiler's options for "float32" or "float64"; without fast math, since infinities and NaN matter."""
    return ("-std=c++17", f"-DREAL={REALS[dtype]}")
