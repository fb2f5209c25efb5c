"""Classes that a script defines itself under the book's names, so that they are used instead of those of nnx.nnfs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from nnx.kernels.user_warnings import warn


def _names() -> dict[str, object]:
    """Return the package's public objects by name, without importing it, since the package imports this module."""
    package = sys.modules["nnx.nnfs"]
    return {name: getattr(package, name) for name in package.__all__}


def warn_of_own_classes() -> None:
    """Warn if the running script defines classes with the book's names that are not derived from nnx's.

    A script calls `init` before it defines anything, so its source is searched as well as the names that exist by now.
    """
    names = sorted({*_defined(), *_written()})
    if names:
        few = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        warn(
            f"this script defines {few} itself, so those run and not nnx's: remove the definitions to run on nnx "
            "(docs/book.md)",
            UserWarning,
        )


def _defined() -> Iterator[str]:
    """Yield the names of such classes that exist already, as in a notebook."""
    book = _names()
    for name, value in list(vars(sys.modules["__main__"]).items()):
        if name in book and isinstance(value, type) and value.__module__ == "__main__":
            own = book[name]
            if not (isinstance(own, type) and issubclass(value, own)):
                yield name


def _written() -> Iterator[str]:
    """Yield the names of such classes that the script's source defines; none if the source cannot be read."""
    try:
        text = Path(sys.modules["__main__"].__file__ or "").read_bytes()
        found = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    except (AttributeError, OSError, SyntaxError, ValueError):
        return
    book = _names()
    for node in found:
        bases = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
        # A class derived from nnx's class of the same name is meant to replace it.
        if node.name in book and node.name not in bases:
            yield node.name
