"""Classes that a script defines itself under the names of the book's: they run, and not those of nnx.nnfs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from nnx.kernels.user_warnings import warn


def _names() -> dict[str, object]:
    """Return what the package offers, by name; not imported, for the package imports this."""
    package = sys.modules["nnx.nnfs"]
    return {name: getattr(package, name) for name in package.__all__}


def warn_of_own_classes() -> None:
    """Warn where the script that runs defines classes of the book's names, by hand and not from nnx's.

    A script calls `init` before it defines anything, so its text is looked through as well as what it has by now.
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
    """Give the names of such classes that are there already, as in a notebook."""
    book = _names()
    for name, value in list(vars(sys.modules["__main__"]).items()):
        if name in book and isinstance(value, type) and value.__module__ == "__main__":
            own = book[name]
            if not (isinstance(own, type) and issubclass(value, own)):
                yield name


def _written() -> Iterator[str]:
    """Give the names of such classes that the script's text defines; none where it has no text, or cannot be read."""
    try:
        text = Path(sys.modules["__main__"].__file__ or "").read_bytes()
        found = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    except (AttributeError, OSError, SyntaxError, ValueError):
        return
    book = _names()
    for node in found:
        bases = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
        # Made from nnx's class of the same name, it is meant to be another.
        if node.name in book and node.name not in bases:
            yield node.name
