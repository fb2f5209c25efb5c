"""What the stand-in for CuPy claims of it, and what the oldest CuPy that nnx takes says to that (cupy_api.txt).

python tests/cupy_api.py > tests/cupy_api.txt      # where that CuPy is installed; it needs no GPU
"""

from __future__ import annotations

import inspect
import operator
import warnings
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("cupy_api.txt")
# By what is read from CuPy: a name alone, its parameters where it tells them ("ufunc" is one too), or its number.
Api = dict[str, tuple[str, ...] | int | None]
OWN = ("asarray", "ascontiguousarray", "asnumpy", "astype", "empty", "matmul", "get_default_memory_pool", "RawModule")
FOLDERS = ("cuda", "cuda.runtime", "_core", "_core._routines_linalg")
KINDS = ("ndarray", "RawKernel", "cuda.Stream", "cuda.Event", "cuda.Graph", "cuda.MemoryPool")


class Plain:
    """What each class has, whichever Python it is."""

    number: int


def claimed() -> list[str]:
    """Return the names, from `cupy.` on, of all that the stand-in has in CuPy's place."""
    import fake_cupy

    names = [*fake_cupy.FUNCTIONS, *OWN]
    for folder in FOLDERS:
        names += [f"{folder}.{name}" for name in vars(operator.attrgetter(folder)(fake_cupy))]
    for kind in KINDS:
        own = vars(getattr(fake_cupy, kind.rpartition(".")[2])).keys() - vars(Plain).keys()
        if kind != "ndarray":  # whose operators count
            own = {name for name in own if name[0] != "_"}
        names += [f"{kind}.{name}" for name in own - {"__deepcopy__", "_a", "_device"}]
    return sorted(names)


def read(cupy: Any, names: list[str]) -> Api:
    """Return what a CuPy has of these names."""
    found: Api = {}
    for name in names:
        try:
            value = operator.attrgetter(name)(cupy)
        except AttributeError:
            continue
        if isinstance(value, int):
            found[name] = int(value)
        else:  # of methods the name alone: each Python tells another signature
            found[name] = None if name.startswith(KINDS) else parameters(value, cupy)
    return found


def parameters(value: Any, cupy: Any) -> tuple[str, ...] | None:
    """Return a function's parameters; None where it is compiled and tells none, or takes whatever comes."""
    if isinstance(value, cupy.ufunc):
        return ("ufunc",)
    try:
        names = tuple(inspect.signature(value).parameters)
    except (TypeError, ValueError):
        return None
    return None if {"args", "kwargs"} & set(names) else names


def oldest() -> tuple[str, Api]:
    """Return the version that was read, and what it has."""
    version, *lines = FILE.read_text(encoding="utf-8").splitlines()
    found: Api = {}
    for line in lines:
        name, number, value = line.partition(" = ")
        name, takes, rest = name.partition("(")
        found[name] = int(value) if number else tuple(rest.rstrip(")").split()) if takes else None
    return version, found


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cupy
    print(cupy.__version__)
    for name, value in read(cupy, claimed()).items():
        how = f" = {value}" if isinstance(value, int) else "" if value is None else f"({' '.join(value)})"
        print(f"{name}{how}")


if __name__ == "__main__":
    main()
