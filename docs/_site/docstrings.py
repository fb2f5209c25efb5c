"""Docstrings as reStructuredText: they are plain text, in which a star or an underscore is no mark."""

from __future__ import annotations

import re
from typing import Any

# Between backticks, and in indented code, nothing is escaped.
MARKED = re.compile(r"(``[^`]+``|`[^`]+`)")


def plain(text: str) -> str:
    """Escape what reStructuredText would take for a mark."""
    parts = MARKED.split(text)
    parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def process(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Escape a docstring's lines, paragraphs of it at a time, since code may break over two lines."""
    lines[:] = plain("\n".join(lines)).split("\n")


def setup(app: Any) -> dict[str, bool]:
    """Run before napoleon, which reads Google's sections."""
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
